"""The image viewer: one picture under the label maps of several steps, drawn and read out in the browser.

Everything that follows the pointer (zoom, swipe, opacity, class on/off, confidence threshold, the read-out
of class probabilities at every step) happens in the browser; the server receives a chosen pixel, and
settings if it asks for them. The script is in the files that _SCRIPTS lists.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import streamlit as st

from dashboard.components.assets import source
from dashboard.components.payload import Payload, forget_missing
from lag_core.data.undecided import LEAST, UNDECIDED, none_words

RIGHT = (0, 114, 178)
WRONG = (213, 94, 0)
"""Blue and vermilion of Okabe and Ito: told apart with any colour vision."""
NOT_KNOWN = (204, 204, 204)
"""Light grey: the pixel's class comes later, so the step is neither right nor wrong."""

NOTHING = 254
"""Label of a pixel for which no class stands out: drawn as "none"."""

PENDING = "being computed"
"""The text of a layer that is not ready yet."""

Mode = Literal["classes", "errors"]
Split = Literal["swipe", "side"]


@dataclass(frozen=True)
class Layer:
    """A named map to lay over the picture: a label map, or a coloured map with its values.

    labels: uint8 [H,W], class indices, 254 (NOTHING) = no class stands out, 255 = no label.
    rgba: uint8 [H,W,4], a map already coloured (relevance, similarity), used where there are no labels.
    values: float [h,w], the numbers behind `rgba`; the read-out shows the one under the pointer, with `unit`.
    note: a few characters under the name in the strip ("61 % right").
    known: class indices that the layer's step knows (None: all). Pixels of other true classes are neither right nor
    wrong.
    group: layers that follow one another with the same group (a run) stand under its name.
    step: the layer is shown as soon as the reader chooses this step, if the layer of another step was shown.
    pending: the map is not ready yet, and the viewer says so.
    clear: class indices that leave the photograph as it is (the background), unless the legend points at them.
    """

    name: str
    labels: np.ndarray | None = None
    rgba: np.ndarray | None = None
    values: np.ndarray | None = None
    unit: str = ""
    note: str = ""
    group: str = ""
    known: tuple[int, ...] | None = None
    step: int | None = None
    pending: bool = False
    clear: tuple[int, ...] = ()


@dataclass(frozen=True)
class ProbabilityGrid:
    """Class probabilities of the layer with the same name and group, quantised: uint8 [h,w,K], 255 = 100 %.

    Cell (i,j) is centred on the picture's ((j+.5)·W/w, (i+.5)·H/h); the browser interpolates bilinearly.
    Where the network interpolates logits, the two differ by little, and the label map stays the network's
    own.
    """

    name: str
    values: np.ndarray
    group: str = ""


@dataclass(frozen=True)
class ViewerEvent:
    """A click on pixel (x, y) of the picture, over `layer`; or `layer` chosen in the strip."""

    kind: Literal["click", "layer"]
    x: int
    y: int
    layer: int


@dataclass(frozen=True)
class ViewerSettings:
    """The viewer's settings, as far as the user changed them in the browser (`viewer(..., report=True)`)."""

    opacity: float
    threshold: float
    hidden: tuple[int, ...]
    outlines: bool
    mode: Mode
    split: Split


_SCRIPTS = (
    "mount", "dom", "turning", "payload", "paint", "stage", "panel", "strip", "tools", "sheet", "steps", "viewer",
)  # fmt: skip

_component = st.components.v2.component(
    "lag.viewer",
    css=source("base.css", "viewer.css"),
    js=source(*(f"{name}.js" for name in _SCRIPTS)),
)


def quantise(probabilities: np.ndarray) -> np.ndarray:
    """Probabilities 0..1 of any shape as uint8, 255 = 100 %, for `ProbabilityGrid`."""
    return np.rint(np.clip(probabilities, 0.0, 1.0) * 255).astype(np.uint8)


def viewer(
    image: bytes,
    layers: Sequence[Layer],
    palette: np.ndarray,
    names: Sequence[str],
    *,
    key: str,
    active: int = 0,
    second: int | None = None,
    opacity: float = 0.55,
    hidden: Collection[int] = (),
    threshold: float = 0.0,
    probabilities: Sequence[ProbabilityGrid] | None = None,
    marker: tuple[int, int] | None = None,
    height: int = 420,
    title: str = "",
    size: tuple[int, int] | None = None,
    truth: int | None = None,
    strip: bool = False,
    outlines: bool = False,
    mode: Mode = "classes",
    split: Split = "swipe",
    report: bool = False,
    filename: str = "picture",
    least: float = LEAST,
    play: bool = False,
    plain: bool = False,
) -> ViewerEvent | None:
    """Show `image` (JPEG or PNG) under `layers`; returns what the user did since the last run, once.

    palette: uint8 [K,3]; names: K class names. active: index of the layer shown, -1 for the picture alone;
    second: the layer on the other side of the divider. hidden: class indices switched off. threshold:
    pixels whose own class has a lower probability are left transparent (layers with a grid only). marker:
    the chosen pixel (x, y). size: (W, H) of the picture, needed only if no layer has labels or rgba. truth:
    index of the ground-truth layer, offers to colour right and wrong. strip: a row of small pictures of all
    layers above. report: settings changed in the browser cause a rerun and can be read by
    `viewer_settings(key)`. filename: stem of the PNG that is saved. least: the probability above which a class stood
    out where labels hold NOTHING; the read-out and the threshold keep to it. play: go once through the layers of the
    steps up to the one that is active, in the browser, when the viewer first has its pictures. plain: the picture and
    its legend alone.

    A value given here (active, opacity, …) wins over what was set in the browser only when it changes
    between runs. Raises ValueError, as a sentence, where shapes and counts do not fit together.
    """
    width, rows = size or _size(layers)
    _check(layers, palette, names, probabilities or (), (rows, width))
    payload = Payload()
    grids = {(grid.group, grid.name): grid for grid in probabilities or ()}
    props: dict[str, Any] = {
        "image": payload.picture(image),
        "size": [width, rows],
        "layers": [_layer_props(payload, layer, grids.get((layer.group, layer.name))) for layer in layers],
        "palette": np.asarray(palette, np.uint8).tolist(),
        "names": [str(name) for name in names],
        "settings": {
            "active": int(np.clip(active, -1, len(layers) - 1)),
            "second": second if second is not None and 0 <= second < len(layers) else None,
            "opacity": float(np.clip(opacity, 0, 1)),
            "threshold": float(np.clip(threshold, 0, 1)),
            "hidden": sorted(int(c) for c in hidden),
            "outlines": bool(outlines),
            "mode": mode,
            "split": split,
            "marker": list(marker) if marker is not None else None,
        },
        "truth": truth,
        "strip": strip,
        "play": play,
        "plain": plain,
        "report": report,
        "height": height,
        "title": title,
        "filename": filename,
        "colours": {"right": list(RIGHT), "wrong": list(WRONG), "notKnown": list(NOT_KNOWN)},
        "nothing": {"label": NOTHING, "name": none_words(least), "colour": list(UNDECIDED), "least": float(least)},
    }
    result = _component(
        key=key,
        data=payload.pack(props),
        on_choose_change=_ignore,
        on_view_change=_ignore,
        on_missing_change=lambda: forget_missing(key),
    )
    return _event(result.get("choose"), len(layers), (width, rows))


def viewer_settings(key: str) -> ViewerSettings | None:
    """The settings of viewer `key` as the user left them in the browser; None if unchanged."""
    state = st.session_state.get(key)
    view = state.get("view") if isinstance(state, Mapping) else None
    return _settings(view)


def _ignore() -> None:
    """The value is read from the component's result; Streamlit delivers only values that have a callback."""


def _size(layers: Sequence[Layer]) -> tuple[int, int]:
    """(W, H) of the first layer that has a map."""
    for layer in layers:
        array = layer.labels if layer.labels is not None else layer.rgba
        if array is not None:
            return array.shape[1], array.shape[0]
    raise ValueError("viewer: give size=(width, height), since no layer has labels or rgba")


def _check(
    layers: Sequence[Layer],
    palette: np.ndarray,
    names: Sequence[str],
    grids: Sequence[ProbabilityGrid],
    shape: tuple[int, int],
) -> None:
    """Refuse arrays that do not fit together."""
    if np.shape(palette) != (len(names), 3):
        raise ValueError(f"viewer: {len(names)} names need a palette [{len(names)},3], not {np.shape(palette)}")
    for layer in layers:
        if layer.labels is not None and (layer.labels.shape != shape or layer.labels.dtype != np.uint8):
            raise ValueError(
                f"viewer: layer {layer.name!r} must be uint8 {shape}, not {layer.labels.dtype} {layer.labels.shape}"
            )
        if layer.rgba is not None and (layer.rgba.shape != (*shape, 4) or layer.rgba.dtype != np.uint8):
            raise ValueError(
                f"viewer: rgba of layer {layer.name!r} must be uint8 {(*shape, 4)}, "
                f"not {layer.rgba.dtype} {layer.rgba.shape}"
            )
    for grid in grids:
        if grid.values.ndim != 3 or grid.values.dtype != np.uint8 or grid.values.shape[2] != len(names):
            raise ValueError(
                f"viewer: grid {grid.name!r} must be uint8 [h,w,{len(names)}], "
                f"not {grid.values.dtype} {grid.values.shape}"
            )


def _layer_props(payload: Payload, layer: Layer, grid: ProbabilityGrid | None) -> dict[str, Any]:
    props: dict[str, Any] = {"name": layer.name, "note": layer.note, "unit": layer.unit, "group": layer.group}
    if layer.step is not None:
        props["step"] = layer.step
    if layer.pending:
        props["pending"] = PENDING
    props["clear"] = sorted(int(c) for c in layer.clear)
    if layer.known is not None:
        props["known"] = list(layer.known)
    if layer.labels is not None:
        props["labels"] = payload.array(layer.labels)
    elif layer.rgba is not None:
        props["rgba"] = payload.array(layer.rgba)
    if layer.values is not None:
        values = np.asarray(layer.values, np.float32)
        props["values"] = {"name": payload.array(values), "shape": list(values.shape)}
    if grid is not None:
        props["grid"] = {"name": payload.array(grid.values), "shape": list(grid.values.shape)}
    return props


def _event(value: object, layers: int, size: tuple[int, int]) -> ViewerEvent | None:
    """The event that the browser reports, None if it is invalid: a browser may send anything."""
    if not isinstance(value, Mapping) or value.get("kind") not in ("click", "layer"):
        return None
    try:
        x, y, layer = (int(value[name]) for name in ("x", "y", "layer"))
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    if not (0 <= x < size[0] and 0 <= y < size[1] and -1 <= layer < layers):
        return None
    return ViewerEvent(value["kind"], x, y, layer)


def _settings(view: object) -> ViewerSettings | None:
    """The settings that the browser reports, None if they are unusable."""
    if not isinstance(view, Mapping):
        return None
    try:
        return ViewerSettings(
            opacity=_fraction(view["opacity"]),
            threshold=_fraction(view["threshold"]),
            hidden=tuple(sorted({int(c) for c in view["hidden"] if 0 <= int(c) < 255})),
            outlines=bool(view["outlines"]),
            mode="errors" if view["mode"] == "errors" else "classes",
            split="side" if view["split"] == "side" else "swipe",
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _fraction(value: Any) -> float:
    """The number, clamped to 0..1; ValueError if it is not a number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return min(max(number, 0.0), 1.0)

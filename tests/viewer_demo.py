"""A tiny app that shows the viewer and the gallery on a picture made here; the browser tests serve it."""

from __future__ import annotations

import io

import numpy as np
import streamlit as st
from PIL import Image

from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.components.viewer import NOTHING, Layer, ProbabilityGrid, quantise, viewer, viewer_settings

NAMES = ("impervious", "building", "low vegetation", "tree", "car", "<b>clutter</b>")
PALETTE = np.array(
    [(205, 205, 205), (60, 90, 220), (120, 220, 200), (40, 150, 60), (240, 220, 60), (210, 60, 50)], np.uint8
)
SIZE = 96
UNSURE = (slice(84, 88), slice(50, 60))
"""Where no class stands out at step 0, in the grass."""


def truth() -> np.ndarray:
    """uint8 [96,128]: grass, a road, two houses, a wood, two cars, a strip without label on the right."""
    rows, columns = np.mgrid[:SIZE, :128]
    labels = np.full((SIZE, 128), 2, np.uint8)
    labels[np.abs(rows - 62 - columns // 10) < 7] = 0
    labels[12:40, 14:44] = 1
    labels[20:46, 60:82] = 1
    labels[(rows - 22) ** 2 + (columns - 102) ** 2 < 260] = 3
    labels[64:68, 30:38] = 4
    labels[70:74, 92:100] = 4
    labels[80:92, 8:30] = 5
    labels[:, 122:] = 255
    return labels


def photo(labels: np.ndarray) -> np.ndarray:
    """uint8 [H,W,3]: the scene with some texture."""
    rng = np.random.default_rng(0)
    road, roof, grass, leaves = (128, 126, 122), (150, 92, 74), (112, 140, 84), (52, 88, 50)
    look = np.array([road, roof, grass, leaves, (190, 40, 40), (150, 140, 120), (90, 90, 90)])
    picture = look[np.minimum(labels, 6)] + rng.normal(0, 9, (*labels.shape, 1))
    return np.clip(picture, 0, 255).astype(np.uint8)


def png(array: np.ndarray) -> bytes:
    """The array as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def probabilities(labels: np.ndarray, lost: float) -> np.ndarray:
    """float [24,32,6]: sure of the truth, but buildings leak to clutter by `lost`."""
    coarse = np.minimum(labels[2::4, 2::4], 5)
    one_hot = np.eye(6)[coarse]
    smooth = one_hot * 0.86 + 0.14 / 6
    leak = (coarse == 1)[..., None] * lost
    smooth = smooth * (1 - leak) + leak * np.eye(6)[5]
    return smooth / smooth.sum(-1, keepdims=True)


def prediction(grid: np.ndarray) -> np.ndarray:
    """uint8 [96,128]: the most probable class, each cell 4x4 pixels."""
    return np.repeat(np.repeat(grid.argmax(-1), 4, 0), 4, 1).astype(np.uint8)


def scene() -> tuple[bytes, list[Layer], list[ProbabilityGrid]]:
    """Picture, layers (truth and three steps, then a coloured map), probabilities of the steps."""
    labels = truth()
    layers, grids = [Layer("Ground truth", labels)], []
    for step, lost in enumerate((0.05, 0.45, 0.9)):
        grid = probabilities(labels, lost)
        predicted = prediction(grid)
        predicted[UNSURE] = NOTHING if step == 0 else predicted[UNSURE]
        share = (predicted == labels)[labels != 255].mean()
        known = (0, 1, 2, 3, 5) if step == 1 else None
        layers.append(Layer(f"Step {step}", predicted, note=f"{share:.0%} right", known=known))
        grids.append(ProbabilityGrid(f"Step {step}", quantise(grid)))
    heat = np.linspace(-1, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    rgba = np.zeros((*labels.shape, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 255, np.abs(heat) * 255
    layers.append(Layer("Relevance", rgba=rgba, values=heat, unit="per pixel"))
    return png(photo(labels)), layers, grids


def viewer_part() -> None:
    """The viewer under a step slider."""
    image, layers, grids = scene()
    columns = st.columns(3)
    step = columns[0].slider("Step", 0, 2, 1, key="step")
    compare = columns[1].toggle("Compare with step 0", key="compare")
    opacity = columns[2].select_slider("Server opacity", (0.25, 0.55, 1.0), 0.55, key="server_opacity")
    event = viewer(
        image,
        layers,
        PALETTE,
        NAMES,
        key="scene",
        active=step + 1,
        second=1 if compare else None,
        opacity=opacity,
        probabilities=grids,
        marker=st.session_state.get("marker"),
        height=440,
        title="Demo scene",
        truth=0,
        strip=True,
        report=True,
    )
    if event and event.kind == "click":
        st.session_state["marker"] = (event.x, event.y)
    if event:
        st.session_state["events"] = [*st.session_state.get("events", []), event]
    st.code("\n".join(map(str, st.session_state.get("events", []))) or "no event", language=None)
    st.caption(f"settings: {viewer_settings('scene')}")


def gallery_part() -> None:
    """Eleven thumbnails on two pages."""
    picture = png(photo(truth()))
    items = [
        Thumbnail(
            id=f"tile-{i}",
            image=picture,
            caption=f"tile {i}",
            badge=f"−{40 - 3 * i} %",
            tone="bad" if i < 4 else "neutral",
            version=f"demo {i}",
        )
        for i in range(11)
    ]
    chosen = thumbnails(items, key="tiles", selected=st.session_state.get("tile", "tile-1"), page_size=8, label="Tiles")
    if chosen:
        st.session_state["tile"] = chosen
    st.caption(f"chosen: {st.session_state.get('tile')}")


st.set_page_config(layout="wide")
viewer_part()
gallery_part()

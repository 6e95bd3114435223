"""Relevance of a picture for a class at a step, with what the Relevance page says of it beside the map.

A result is found by what it depends on (run, picture, step, channel, asked pixels, method, depth), first in memory,
then on disk (lag_core.explain.cache), and computed once. Networks are read under the run's lock; what takes long
runs on a private copy, so that no session waits for another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import SHELF, Shelf, shelved
from dashboard.picture import predictions
from lag_core.capabilities import capabilities
from lag_core.explain.attribution_methods import ATTRIBUTION_METHODS, Depth
from lag_core.explain.cache import ResultCache, key_of
from lag_core.explain.latent_maps import on_image
from lag_core.runs import Run

if TYPE_CHECKING:
    from torch import Tensor

    from lag_core.explain.attribution import FoldedSegmenter, Method, Recording, Target
    from lag_core.explain.attribution_checks import Randomised
    from lag_core.explain.networks import Networks
    from lag_core.explain.trace import Trace
    from lag_core.model.segmenter import Segmenter

About = Literal["true", "predicted", "pixel"]
Tick = Callable[[], None]
"""Called after each pass of a network; what it raises ends the computation."""

METHODS: tuple[str, ...] = tuple(ATTRIBUTION_METHODS)


def methods(*runs: Run | None) -> tuple[str, ...]:
    """The methods that the networks of all these runs support."""
    covered = all("lrp" in capabilities(run) for run in runs if run is not None)
    return METHODS if covered else tuple(name for name in METHODS if not ATTRIBUTION_METHODS[name].needs_rules)


DEPTHS: dict[str, tuple[Depth, ...]] = {name: one.depths for name, one in ATTRIBUTION_METHODS.items()}
"""Where a method's map can be drawn."""

LONG = tuple(name for name, one in ATTRIBUTION_METHODS.items() if one.many_passes)
"""Methods of many passes: run on demand."""

SHUFFLED_MAPS = 8
"""Maps of the check with shuffled weights: the true one, heads, ASPP and the five stages of the backbone."""


class Asked(NamedTuple):
    """What is explained: the logit of a class, summed over pixels, after a step of a run."""

    run: Run
    picture: Picture
    step: int
    cls: int
    mask: np.ndarray
    """bool `inside`: the asked pixels at the size at which the network sees the picture."""
    method: str = "lrp"
    depth: Depth = "latent"

    @property
    def key(self) -> str:
        return self._key(self.method)

    @property
    def check_key(self) -> str:
        """Of the check with shuffled weights."""
        return self._key(f"{self.method}, weights shuffled")

    def _key(self, method: str) -> str:
        settings: dict[str, Any] = {
            "step": self.step, "cls": self.cls, "depth": self.depth, "mask": loaders.array_digest(self.mask)
        }  # fmt: skip
        return key_of(self.run.digest, self.picture.digest, method, **settings)


@dataclass(frozen=True)
class Explained:
    """A map and the numbers that belong to it."""

    map: np.ndarray
    """float32 [h, w] over the picture as the network sees it."""
    channels: np.ndarray
    """float32 [C], relevance of each latent channel."""
    score: float
    """The explained sum of logits."""
    pixels: int
    """Asked pixels."""
    absorbed: float
    """What biases and stabilisers keep of the score; LRP alone, else 0."""
    conservation: float | None
    """As Attribution.conservation; None where the method promises nothing."""

    @property
    def mean_logit(self) -> float:
        return self.score / self.pixels


@dataclass(frozen=True)
class Refused:
    """A map that must not be drawn, and why."""

    why: str


Result = Explained | Refused


# ---------------------------------------------------------------------- what is asked


def asked_mask(
    run: Run,
    picture: Picture,
    step: int,
    cls: int,
    about: About,
    truth: np.ndarray | None,
    pixel: tuple[int, int] | None,
) -> np.ndarray:
    """The asked pixels, bool `inside`; empty where there are none.

    cls: in the indices of `run`. truth: bool [H, W], where the picture shows the class. pixel: (x, y) of the
    picture as it is shown.
    """
    trace = loaders.trace(run, picture)
    if about == "predicted":
        return _sampled(trace.prediction(step) == cls, trace.inside)
    if about == "true":
        return np.zeros(trace.inside, bool) if truth is None else _sampled(truth, trace.inside)
    mask = np.zeros(trace.inside, bool)
    if pixel is not None:
        size = predictions.shown_size(picture)
        row, column = (
            int((place + 0.5) * inside / shown)
            for place, inside, shown in zip(pixel[::-1], trace.inside, size, strict=True)
        )
        mask[row, column] = True
    return mask


def _sampled(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [H, W] at another size, nearest pixel."""
    rows, columns = (
        ((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(size, values.shape, strict=True)
    )
    return values[np.ix_(rows, columns)]


def truth_inside(run: Run, picture: Picture, truth: np.ndarray) -> np.ndarray:
    """A map [H, W] over the picture at the size at which the network of `run` sees it."""
    return _sampled(truth, loaders.trace(run, picture).inside)


def as_shown(picture: Picture, values: np.ndarray) -> np.ndarray:
    """A map over the picture at the size at which it is shown, bilinear. Shape: float [h, w] -> float32 [H, W]."""
    from PIL import Image

    size = predictions.shown_size(picture)
    if values.shape == size:
        return values.astype(np.float32)
    resized = Image.fromarray(values.astype(np.float32)).resize(size[::-1], Image.Resampling.BILINEAR)
    return np.asarray(resized)


@shelved
def grey(digest: str, *, _encoded: bytes) -> bytes:
    """The shown picture in grey, as JPEG, so that all colours on it are the map's. `digest`: the picture's."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.open(io.BytesIO(_encoded)).convert("L").save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


# ---------------------------------------------------------------------- results


def _remembered(key: str, unpack: Callable[[dict[str, np.ndarray]], Any]) -> Any:
    """What was computed under `key`: from the shelf, else from the disk; None if it is in neither."""
    found = SHELF.find(key)
    if found is None and (arrays := ResultCache().get(key)) is not None:
        found = unpack(arrays)
        SHELF.put(key, found)
    return found


def known(asked: Asked) -> Result | None:
    """The result if it was computed before, else None."""
    return cast("Result | None", _remembered(asked.key, _unpacked))


def explain(asked: Sequence[Asked], tick: Tick | None = None) -> list[Result]:
    """The result of each question; those of one run and picture share what they can."""
    recordings: dict[str, Recording] = {}
    return [known(one) or _computed(one, recordings, tick) for one in asked]


def _computed(asked: Asked, recordings: dict[str, Recording], tick: Tick | None) -> Result:
    from lag_core.explain.attribution import NotFinite

    result: Result
    try:
        result = _by_method(asked, recordings, tick)
        ResultCache().put(asked.key, _packed(result))
    except NotFinite as error:
        result = Refused(f"{error}.")
    SHELF.put(asked.key, result)
    return result


def _packed(found: Explained) -> dict[str, np.ndarray]:
    conservation = np.nan if found.conservation is None else found.conservation
    numbers = np.array([found.score, found.pixels, found.absorbed, conservation], np.float64)
    return {"map": found.map, "channels": found.channels, "numbers": numbers}


def _unpacked(arrays: dict[str, np.ndarray]) -> Explained:
    score, pixels, absorbed, conservation = (float(x) for x in arrays["numbers"])
    kept = None if np.isnan(conservation) else conservation
    return Explained(arrays["map"], arrays["channels"], score, int(pixels), absorbed, kept)


# ---------------------------------------------------------------------- computing


def _by_method(asked: Asked, recordings: dict[str, Recording], tick: Tick | None) -> Explained:
    import torch

    trace = loaders.trace(asked.run, asked.picture)
    with torch.enable_grad():  # each rerun is a thread of its own, with its own grad mode
        if asked.method in LONG:
            with _counted(_private(asked), tick) as model:
                return _attributed(asked, trace, model)
        with loaders.network_lock(asked.run.digest):
            if asked.method.startswith("lrp"):
                return _lrp(asked, trace, _recording(asked, trace, recordings))
            return _attributed(asked, trace, trace.networks.steps[asked.step], trace.features(asked.step))


def _attributed(asked: Asked, trace: Trace, model: Segmenter, features: Tensor | None = None) -> Explained:
    """Any method by a network that is the step's own or a copy. features: of its trunk, if available."""
    from lag_core.adapters.adapted_step import AdaptedStep
    from lag_core.explain.attribution import FoldedSegmenter, attribute

    target, images = _target(asked, trace), _images(trace)
    inputs = images
    if asked.depth == "latent":
        inputs = (model.trunk(images) if features is None else features).detach()
    if asked.method.startswith("lrp"):
        if isinstance(model, AdaptedStep):
            return _lrp(asked, trace, model.recording(images))
        return _lrp(asked, trace, FoldedSegmenter(model).record(inputs))
    if asked.method == "gradient-x-input" and asked.depth == "latent":
        return _gradient_at_latent(asked, trace, model, inputs)
    found = attribute(model, images, target, cast("Method", asked.method))
    values = found.map[: trace.inside[0], : trace.inside[1]].copy()
    return Explained(values, found.channels, found.score, _count(asked), found.absorbed, found.conservation)


def _lrp(asked: Asked, trace: Trace, recording: Recording) -> Explained:
    composite = "composite" if asked.method == "lrp" else "epsilon"
    found = recording.relevance(_target(asked, trace), composite, asked.depth)
    return Explained(
        _inside(trace, found.map[0]),
        found.channels[0].cpu().numpy(),
        float(found.score),
        _count(asked),
        float(found.absorbed),
        float(found.error),
    )


def _gradient_at_latent(asked: Asked, trace: Trace, model: Segmenter, features: Tensor) -> Explained:
    from lag_core.explain.attribution import gap, latent_relevance

    target, output = _target(asked, trace), model.behind_trunk(features)
    weights = target.weights(output.logits)
    heads = trace.passes.heads(asked.step)
    found = latent_relevance(heads, output.latent.detach(), target.channel, weights[:, target.channel])
    score = float((weights * output.logits).double().sum().detach())
    channels = found.sum((2, 3))[0].cpu().numpy()
    return Explained(_inside(trace, found.sum(1)[0]), channels, score, _count(asked), 0.0, gap(found, score))


def _recording(asked: Asked, trace: Trace, recordings: dict[str, Recording]) -> Recording:
    """The step's forward pass; a trunk that steps share runs once per call, or not at all."""
    if asked.run.kind != "segmenter":
        return trace.networks.steps[asked.step].recording(_images(trace))
    view = _view(asked.run, asked.step)
    if asked.depth == "latent":
        return view.record(trace.features(asked.step))
    trunk = f"{asked.run.digest}/{trace.networks.trunks[asked.step]}"
    found = view.record(_images(trace), recordings.get(trunk))
    recordings.setdefault(trunk, found)
    return found


@dataclass(frozen=True)
class _View:
    """A step's network as LRP sees it."""

    view: FoldedSegmenter
    nbytes: int
    """About the size of its folded weights, without a shared trunk."""


VIEWS = Shelf(512 * 2**20)
"""The views used last."""


def _view(run: Run, step: int) -> FoldedSegmenter:
    """The network of one step as LRP sees it; views of steps that share a trunk hold it once."""
    found = VIEWS.get((run.digest, step), lambda: _new_view(loaders.networks(run), step))
    return found.view


def _new_view(networks: Networks, step: int) -> _View:
    from lag_core.explain.attribution import FoldedSegmenter

    trunk, digest = networks.trunk(step), networks.run.digest
    model = networks.steps[step]
    others = ((t, VIEWS.find((digest, t))) for t in range(len(networks)))
    like = next((one for t, one in others if one is not None and networks.trunk(t) == trunk), None)
    shared = model.trunk_names() if like else ()
    size = sum(v.nbytes for n, v in model.state_dict().items() if not (shared and n.startswith(shared)))
    return _View(FoldedSegmenter(model, like.view if like else None), size)


def _private(asked: Asked) -> Segmenter:
    """A copy of the step's network that is this session's alone."""
    networks = loaders.networks(asked.run)
    with loaders.network_lock(asked.run.digest):
        return copy.deepcopy(networks.steps[asked.step])


@contextmanager
def _counted(model: Segmenter, tick: Tick | None) -> Iterator[Segmenter]:
    """The private `model`, `tick` called before each of its passes."""
    handle = model.register_forward_pre_hook(lambda module, inputs: tick() if tick else None)
    try:
        yield model
    finally:
        handle.remove()


def passes(asked: Asked) -> int:
    """Passes of the network that a long method takes, about; for the progress."""
    from lag_core.explain.attribution import PATH_STEPS, STRIDE, WINDOW

    if asked.method == "integrated-gradients":
        return 2 + PATH_STEPS // 4
    windows = -(-max(0, asked.run.config.data.size - WINDOW) // STRIDE) + 1
    return 1 + -(-(windows**2) // 8)


def _images(trace: Trace) -> Tensor:
    return trace.inputs()


def _target(asked: Asked, trace: Trace) -> Target:
    import torch

    from lag_core.explain.attribution import Target

    mask = np.zeros((trace.square, trace.square), np.float32)
    mask[: trace.inside[0], : trace.inside[1]] = asked.mask
    return Target(asked.cls + asked.run.labels.offset, torch.from_numpy(mask))


def _inside(trace: Trace, found: Tensor) -> np.ndarray:
    """A map of the latent grid or of the network's square, over the picture as the network sees it."""
    values = found.detach().float().cpu().numpy()
    if values.shape == (trace.square, trace.square):
        return values[: trace.inside[0], : trace.inside[1]].copy()
    return on_image(values[None], trace.square, trace.inside, trace.inside)[0]


def _count(asked: Asked) -> int:
    return int(asked.mask.sum())


# ---------------------------------------------------------------------- shuffled weights


def known_check(asked: Asked) -> tuple[Randomised, ...] | Refused | None:
    """The check with shuffled weights if it was made before, else None."""
    return cast("tuple[Randomised, ...] | Refused | None", _remembered(asked.check_key, _check_unpacked))


def check(asked: Asked, tick: Tick | None = None) -> tuple[Randomised, ...] | Refused:
    """The map against those of networks whose weights are shuffled, part after part (attribution_checks).

    `tick` is called for each map, and for each pass of a long method.
    """
    import torch

    from lag_core.explain.attribution import NotFinite
    from lag_core.explain.attribution_checks import randomised

    trace = loaders.trace(asked.run, asked.picture)

    def of_network(network: Segmenter) -> np.ndarray:
        if tick:
            tick()
        with _counted(network, tick if asked.method in LONG else None):
            return _attributed(asked, trace, network).map

    found: tuple[Randomised, ...] | Refused
    try:
        with torch.enable_grad():
            found = randomised(_private(asked), of_network)
        ResultCache().put(asked.check_key, _check_packed(found))
    except NotFinite as error:
        found = Refused(f"{error}.")
    SHELF.put(asked.check_key, found)
    return found


def _check_packed(found: Sequence[Randomised]) -> dict[str, np.ndarray]:
    names = "\n".join(one.part for one in found)
    return {
        "parts": np.frombuffer(names.encode(), np.uint8),
        "signed": np.array([one.signed for one in found]),
        "absolute": np.array([one.absolute for one in found]),
    }


def _check_unpacked(arrays: dict[str, np.ndarray]) -> tuple[Randomised, ...]:
    from lag_core.explain.attribution_checks import Randomised

    names = arrays["parts"].tobytes().decode().split("\n")
    rows = zip(names, arrays["signed"].tolist(), arrays["absolute"].tolist(), strict=True)
    return tuple(Randomised(*row) for row in rows)

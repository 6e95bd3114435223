"""One picture and the predictions of a run's steps, in the size and form in which pages show them.

Everything is keyed by digests and computed once for all sessions. Large pictures are shown, and their label
maps sampled, at a long side of LONG_SIDE pixels.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dashboard.cache import loaders
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import SHELF, shelved, size_of
from dashboard.components.viewer import NOTHING, PENDING, Layer, ProbabilityGrid, quantise
from dashboard.picture import kept_answers
from dashboard.ui import untrusted
from lag_core.data.undecided import least_probability
from lag_core.protocol import IGNORE
from lag_core.runs import Run

if TYPE_CHECKING:
    from lag_core.explain.trace import Trace

LONG_SIDE = 1024
"""Pixels; a larger picture is shown smaller."""

GRID_SIDE = 64
"""Cells of the long side of the probability grids."""


CERTAINTY = 200
"""Parts of a probability of 1 in which certainties are kept: steps of half a percent."""


@dataclass(frozen=True)
class Shown:
    """A picture as it is shown."""

    encoded: bytes
    """JPEG."""
    size: tuple[int, int]
    """(W, H)."""
    truth: np.ndarray | None
    """Class indices uint8 [H, W], 255 where nothing is annotated; None without annotation."""
    full_size: tuple[int, int]
    """(W, H) of the file."""


@dataclass(frozen=True)
class Answers:
    """The predictions of a run's steps, in the class indices of the open run."""

    predictions: tuple[np.ndarray, ...]
    """uint8 [H, W] for each step, at the shown size."""
    grids: tuple[np.ndarray, ...]
    """uint8 [h, w, K] for each step, 255 = 100 %; 0 for classes that the step does not know yet."""
    certainty: tuple[np.ndarray, ...] = ()
    """uint8 [H, W] for each step, probability of the predicted class in parts of CERTAINTY, rounded up; empty for a
    softmax network, which always decides."""
    known: tuple[tuple[int, ...], ...] = ()
    """The classes that each step knows."""
    pending: frozenset[int] = frozenset()
    """Steps that are not computed yet: their entries mean nothing."""

    def drawn(self, step: int, least: float) -> np.ndarray:
        """The label map as it is drawn, uint8 [H, W]: NOTHING where no class has a probability above `least`."""
        labels = self.predictions[step]
        return undecided(labels, self.certainty[step], least) if self.certainty else labels


def shown(run: Run, picture: Picture) -> Shown:
    """The picture for the viewer. The run decides the class indices of the ground truth."""
    return _shown(run.digest, picture.digest, picture.truth is None, _picture=picture)


@shelved
def _shown(run_digest: str, digest: str, blind: bool, *, _picture: Picture) -> Shown:
    from PIL import Image

    height, width = _picture.pixels.shape[:2]
    rows, columns = sampling(height, width, LONG_SIDE)
    image = Image.fromarray(_picture.pixels)
    size = len(columns), len(rows)
    if size != image.size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92, subsampling=0)
    truth = None if _picture.truth is None else np.ascontiguousarray(_picture.truth[np.ix_(rows, columns)])
    return Shown(buffer.getvalue(), size, truth, _picture.full_size)


def answers(run: Run, picture: Picture, space: Run | None = None) -> Answers:
    """Every step of `run` on the picture, in the class indices of `space` (the run itself if not given)."""
    space = space or run
    if run.digest == space.digest:
        return _own(run, picture)
    return _laid_over(run.digest, picture.digest, space.digest, _run=run, _picture=picture, _space=space)


@shelved
def _laid_over(
    run_digest: str, digest: str, space_digest: str, *, _run: Run, _picture: Picture, _space: Run
) -> Answers:
    return _translated(_own(_run, _picture), _run, _space)


def _own(run: Run, picture: Picture) -> Answers:
    kept = kept_answers_of(run, picture)
    return computed(run, picture) if kept is None else kept


def kept_answers_of(run: Run, picture: Picture) -> Answers | None:
    """The predictions computed in advance; None if there are none."""
    return _kept(run.digest, picture.digest, _run=run) if picture.shipped else None


@shelved
def _kept(run_digest: str, digest: str, *, _run: Run) -> Answers | None:
    kept = kept_answers.find(run_digest, digest)
    if kept is None:
        return None
    labels, grids, certainty = (list(kept[name]) for name in kept_answers.NAMES)
    return _answers_of(_run, labels, grids, certainty)


def computed(run: Run, picture: Picture) -> Answers:
    """The predictions of the run's networks, in its own class indices."""
    return _computed(run, picture, range(len(run.steps)))


def answers_at(run: Run, picture: Picture, steps: Collection[int], space: Run | None = None) -> Answers:
    """As `answers`, but no network runs for any but these steps; the others are `pending`.

    A pending step has no label anywhere (255), and no probabilities.
    """
    kept = kept_answers_of(run, picture)
    own = _computed(run, picture, steps) if kept is None else kept
    return own if space is None or space.digest == run.digest else _translated(own, run, space)


def _computed(run: Run, picture: Picture, steps: Collection[int]) -> Answers:
    found = _steps_of(run, picture, steps)
    height, width = shown_size(picture)
    lacking = _StepAnswer(
        np.broadcast_to(np.uint8(IGNORE), (height, width)),
        np.broadcast_to(np.uint8(0), (1, 1, len(run.classes))),
        np.broadcast_to(np.uint8(0), (height, width)),
    )
    rows = [found.get(step, lacking) for step in range(len(run.steps))]
    return _answers_of(
        run, [row.labels for row in rows], [row.grid for row in rows],
        [row.certainty for row in rows if row.certainty is not None] if doubts(run) else (),
        frozenset(range(len(rows))) - set(steps),
    )  # fmt: skip


@dataclass(frozen=True)
class _StepAnswer:
    """The prediction of one step; see `Answers`."""

    labels: np.ndarray
    grid: np.ndarray
    certainty: np.ndarray | None


class _StepAnswers:
    """The predictions of a run's steps for one picture, as far as they are computed. It grows."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.found: dict[int, _StepAnswer] = {}

    @property
    def nbytes(self) -> int:
        return size_of(tuple(self.found.values()))


def _steps_of(run: Run, picture: Picture, steps: Collection[int]) -> dict[int, _StepAnswer]:
    """The answers of these steps, computed if missing; all in one entry of the shelf."""
    key = (__name__, "steps", run.digest, picture.digest, picture.id if run.kind == "stored" else "")
    here = SHELF.get(key, _StepAnswers)
    missing = [step for step in steps if step not in here.found]
    if missing:
        trace = loaders.trace(run, picture)
        for step in missing:
            if trace.stored is None:
                trace.output(step)  # before the lock: the networks have their own
            with here.lock:
                if step not in here.found:
                    here.found[step] = _step_answer(run, picture, trace, step)
        SHELF.put(key, here)
    return {step: here.found[step] for step in steps}


def _step_answer(run: Run, picture: Picture, trace: Trace, step: int) -> _StepAnswer:
    sampled = np.ix_(*sampling(picture.pixels.shape[0], picture.pixels.shape[1], LONG_SIDE))
    return _StepAnswer(
        trace.prediction(step)[sampled].astype(np.uint8),
        _grid(trace.scores(step, GRID_SIDE), len(run.classes)),
        quantised_certainty(trace.certainty(step)[sampled]) if doubts(run) else None,
    )


def _answers_of(
    run: Run,
    predictions: Sequence[np.ndarray],
    grids: Sequence[np.ndarray],
    certainty: Sequence[np.ndarray],
    pending: frozenset[int] = frozenset(),
) -> Answers:
    known = tuple(known_classes(run, step, run) for step in range(len(predictions)))
    return Answers(tuple(predictions), tuple(grids), tuple(certainty), known, pending)


def _translated(own: Answers, run: Run, space: Run) -> Answers:
    """The answers of `run` in the class indices of `space`."""
    table = class_table(run, space)
    there = np.flatnonzero(table[: len(run.classes)] != IGNORE)
    grids = []
    for grid in own.grids:
        grids.append(np.zeros((*grid.shape[:2], len(space.classes)), np.uint8))
        grids[-1][..., table[there]] = grid[..., there]
    known = tuple(known_classes(run, step, space) for step in range(len(own.predictions)))
    return Answers(tuple(table[labels] for labels in own.predictions), tuple(grids), own.certainty, known, own.pending)


def doubts(run: Run) -> bool:
    """Whether the run's network scores each class by itself, so that none may stand out."""
    return least_probability(run.config.method.loss) > 0


def quantised_certainty(certainty: np.ndarray) -> np.ndarray:
    """Parts of CERTAINTY, rounded up: what is above a whole number of them stays above. Float 0..1 -> uint8."""
    return np.ceil(certainty * CERTAINTY).astype(np.uint8)


def undecided(labels: np.ndarray, certainty: np.ndarray, least: float) -> np.ndarray:
    """The labels, NOTHING where the certainty (parts of CERTAINTY) is not above `least`; 255 stays."""
    return np.where((certainty <= round(least * CERTAINTY)) & (labels != IGNORE), NOTHING, labels).astype(np.uint8)


def known_classes(run: Run, step: int, space: Run) -> tuple[int, ...]:
    """The classes that `run` knows after `step`, in the class indices of `space`."""
    table = class_table(run, space)[: run.labels.seen(step)]
    return tuple(int(k) for k in table if k != IGNORE)


def sampling(height: int, width: int, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels that are kept, evenly, so that the long side has at most `long_side`."""
    factor = min(1.0, long_side / max(height, width))
    counts = max(1, round(height * factor)), max(1, round(width * factor))
    return tuple(  # type: ignore[return-value]
        ((np.arange(count) + 0.5) * size / count).astype(int)
        for count, size in zip(counts, (height, width), strict=True)
    )


def shown_size(picture: Picture) -> tuple[int, int]:
    """(H, W) at which the picture is shown."""
    height, width = picture.pixels.shape[:2]
    rows, columns = sampling(height, width, LONG_SIDE)
    return len(rows), len(columns)


def class_table(run: Run, space: Run) -> np.ndarray:
    """uint8 [256]: class index of `run` -> class index of `space`; 255 for what `space` does not have."""
    table = np.full(256, IGNORE, np.uint8)
    for index, dataset_id in enumerate(run.labels.order):
        if dataset_id in space.labels.order:
            table[index] = space.labels.index_of(dataset_id)
    return table


def _grid(scores: np.ndarray, classes: int) -> np.ndarray:
    """float [seen, h, w] -> uint8 [h, w, classes], 0 for classes that are not seen yet."""
    grid = np.zeros((*scores.shape[1:], classes), np.uint8)
    for index, plane in enumerate(scores):
        grid[..., index] = quantise(plane)
    return grid


def palette(run: Run) -> np.ndarray:
    """uint8 [K, 3]: the dataset's own colours, by class index."""
    return np.array([c.color for c in run.classes], np.uint8)


def class_names(run: Run) -> list[str]:
    """Names by class index, made safe to show as text."""
    return [untrusted.plain(c.name, 60) for c in run.classes]


def step_layers(
    found: Answers, notes: list[str], least: float, group: str = ""
) -> tuple[list[Layer], list[ProbabilityGrid]]:
    """A layer and a probability grid for each step, for the viewer."""
    known = found.known or (None,) * len(notes)
    layers = [
        Layer(f"Step {t}", note=PENDING, group=group, step=t, pending=True)
        if t in found.pending
        else Layer(f"Step {t}", found.drawn(t, least), note=note, group=group, known=known[t], step=t)
        for t, note in enumerate(notes)
    ]
    there = [(t, grid) for t, grid in enumerate(found.grids) if t not in found.pending]
    return layers, [ProbabilityGrid(f"Step {t}", grid, group) for t, grid in there]


def right_shares(prediction: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """float [classes]: of each class's annotated pixels, the share whose class is right;

    NaN if it has none.
    """
    annotated = truth < classes
    total = np.bincount(truth[annotated], minlength=classes)
    right = np.bincount(truth[annotated & (prediction == truth)], minlength=classes)
    return np.where(total > 0, right / np.maximum(total, 1), np.nan)


def probability_at(grid: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    """float [K]: the grid, interpolated bilinearly at pixel (x, y) of a picture of size (W, H), as in the
    browser."""
    low_y, high_y, wy = _between(y, size[1], grid.shape[0])
    low_x, high_x, wx = _between(x, size[0], grid.shape[1])
    cells = grid.astype(float) / 255
    top = cells[low_y, low_x] * (1 - wx) + cells[low_y, high_x] * wx
    bottom = cells[high_y, low_x] * (1 - wx) + cells[high_y, high_x] * wx
    return top * (1 - wy) + bottom * wy


def _between(position: int, size: int, cells: int) -> tuple[int, int, float]:
    """The two cells around a pixel's middle, and the weight of the second."""
    at = min(max((position + 0.5) * cells / size - 0.5, 0.0), cells - 1.0)
    low = int(at)
    return low, min(low + 1, cells - 1), at - low

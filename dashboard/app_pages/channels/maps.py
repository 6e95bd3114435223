"""Maps of the channels of Z, and predictions with changed channels, for the Channels page.

Everything is keyed by digests and computed once for all sessions. Networks are decoded only under the run's
lock; nothing in them is changed, as an intervention replaces Z and leaves the weights alone.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from dashboard.cache import loaders
from dashboard.cache.background import Pieces
from dashboard.cache.loaders import Picture
from dashboard.cache.memory_cache import SHELF, shelved
from dashboard.picture import predictions
from lag_core.explain import channels
from lag_core.explain.controls import Matched, alive, energy
from lag_core.explain.latent_maps import covered, on_image
from lag_core.protocol import IGNORE
from lag_core.runs import Run

if TYPE_CHECKING:
    from torch import Tensor

    from lag_core.explain.interventions import Curve, Intervention
    from lag_core.explain.trace import Trace


AT_ONCE = 50
"""Random sets that are measured without a pause, some tenths of a second."""

How = Literal["zero", "mean", "old"]
"""What takes a channel's place: 0, its mean over the validation set, or an earlier step's activation."""


# ---------------------------------------------------------------------- maps


def latent(run: Run, picture: Picture, step: int) -> np.ndarray:
    """Z of a picture, float32 [C, h, w], only the cells that touch the picture."""
    trace = loaders.trace(run, picture)
    found = trace.latent(step)
    rows, columns = covered((found.shape[1], found.shape[2]), trace.square, trace.inside)
    return found[:, :rows, :columns]


def over_picture(run: Run, picture: Picture, maps: np.ndarray) -> np.ndarray:
    """Latent maps [n, h, w] of the whole square over the picture as it is shown, float32 [n, H, W]."""
    trace = loaders.trace(run, picture)
    return on_image(maps, trace.square, trace.inside, predictions.shown_size(picture))


def channel_on_image(run: Run, picture: Picture, step: int, channel: int) -> np.ndarray:
    """One channel's activation over the picture as it is shown, float32 [H, W]."""
    return over_picture(run, picture, loaders.trace(run, picture).latent(step)[channel : channel + 1])[0]


def energy_on_image(run: Run, picture: Picture, step: int, group: np.ndarray) -> np.ndarray:
    """Mean of Z² over a group of channels, bool [C], over the picture as it is shown, float32 [H, W]."""
    energy = channels.energy_map(loaders.trace(run, picture).latent(step), group)
    return over_picture(run, picture, energy[None])[0]


def relevance(run: Run, picture: Picture, step: int, cls: int) -> tuple[np.ndarray, str]:
    """Relevance of each channel for a class known at `step`, float32 [C], and the pixels asked about in words."""
    return _relevance(run.digest, picture.digest, picture.truth is None, step, cls, _run=run, _picture=picture)


@shelved
def _relevance(
    digest: str, image: str, blind: bool, step: int, cls: int, *, _run: Run, _picture: Picture
) -> tuple[np.ndarray, str]:
    import torch

    from lag_core.explain.evidence import channel_profile, latent_relevance

    trace = loaders.trace(_run, _picture)
    mask, words = _asked(trace, _picture, step, cls)
    square = np.zeros((trace.square, trace.square), np.float32)
    square[: trace.inside[0], : trace.inside[1]] = mask
    with loaders.network_lock(digest):
        output = trace.output(step)
        small = torch.nn.functional.adaptive_avg_pool2d(
            torch.from_numpy(square)[None], (output.latent.shape[2], output.latent.shape[3])
        )
        found = latent_relevance(
            trace.passes.heads(step), output.latent, cls + _run.labels.offset, small.to(output.latent)
        )
    return channel_profile(found)[0].cpu().numpy(), words


def _asked(trace: Trace, picture: Picture, step: int, cls: int) -> tuple[np.ndarray, str]:
    """The pixels of a class as a mask bool `inside`: its true ones, else those predicted as it, else all."""
    truth = truth_inside(trace, picture)
    if truth is not None and (truth == cls).any():
        return truth == cls, "its true pixels"
    predicted = _sampled(trace.prediction(step), trace.inside)
    if (predicted == cls).any():
        return predicted == cls, "the pixels predicted as it"
    return np.ones(trace.inside, bool), "the whole picture, as the class is not in it"


def _sampled(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map [H, W] at another size, nearest pixel."""
    rows, columns = (
        ((np.arange(n) + 0.5) * whole / n).astype(int) for n, whole in zip(size, labels.shape, strict=True)
    )
    return labels[np.ix_(rows, columns)]


def truth_inside(trace: Trace, picture: Picture) -> np.ndarray | None:
    """The truth at the size at which the network sees the picture, uint8 `inside`; None without annotation."""
    return None if picture.truth is None else _sampled(picture.truth, trace.inside)


# ---------------------------------------------------------------------- interventions


def changed(run: Run, picture: Picture, step: int, how: How, old: int, chosen: Sequence[int]) -> np.ndarray:
    """The prediction of `step` with these channels changed, class indices uint8 [H, W] as the picture is shown.

    old: the step that `how` = "old" takes them from.
    """
    return _changed_by(run, picture, step, how, old, chosen)[0]


def changed_drawn(
    run: Run, picture: Picture, step: int, how: How, old: int, chosen: Sequence[int], least: float
) -> np.ndarray:
    """The same as it is drawn: NOTHING where no class has a probability above `least` (predictions.Answers.drawn)."""
    labels, certainty = _changed_by(run, picture, step, how, old, chosen)
    return labels if certainty is None else predictions.undecided(labels, certainty, least)


def _changed_by(
    run: Run, picture: Picture, step: int, how: How, old: int, chosen: Sequence[int]
) -> tuple[np.ndarray, np.ndarray | None]:
    key = tuple(int(c) for c in chosen)
    return _changed(run.digest, picture.digest, step, how, old if how == "old" else -1, key, _run=run, _picture=picture)


@shelved
def _changed(
    digest: str, image: str, step: int, how: How, old: int, chosen: tuple[int, ...], *, _run: Run, _picture: Picture
) -> tuple[np.ndarray, np.ndarray | None]:
    """Label map, and certainty as predictions.Answers has it; None for a network that always decides."""
    import torch

    trace = loaders.trace(_run, _picture)
    asked = _intervention(_run, trace, step, how, old)
    with loaders.network_lock(digest), torch.no_grad():
        logits = asked.decode(asked.change(chosen))
        found = trace.prediction(step, logits)
        certainty = trace.certainty(step, logits) if predictions.doubts(_run) else None
    sampled = np.ix_(*predictions.sampling(found.shape[0], found.shape[1], predictions.LONG_SIDE))
    sure = None if certainty is None else predictions.quantised_certainty(certainty[sampled])
    return np.ascontiguousarray(found[sampled]), sure


def control_sets(run: Run, picture: Picture, step: int) -> int:
    """Number of random sets of channels that are drawn for a tested one at `step`."""
    from lag_core.explain import interventions

    return interventions.control_sets(loaders.trace(run, picture).passes.decoder(step))


def _intervention(run: Run, trace: Trace, step: int, how: How, old: int) -> Intervention:
    """ValueError if the mean is asked for and was never measured."""
    import torch

    from lag_core.explain.interventions import ablation, transplantation

    decode = trace.passes.decoder(step)
    own = trace.output(step).latent
    if how == "old":
        return transplantation(own, trace.output(old).latent, decode)
    if how == "zero":
        return ablation(own, decode)
    survey = loaders.survey(run)
    if survey is None:
        raise ValueError("only a run with a survey knows the mean of a channel")
    return ablation(own, decode, torch.from_numpy(survey.channel_mean[step].copy()))


@dataclass(frozen=True)
class Measured:
    """What the curves of a picture measure, by index in a curve's last axis.

    0: share of all pixels that have another class than before. 1: right among those of old classes. 2: right
    among those of known classes. 3 + k: right among those of class k. Without annotation only the first.
    """

    curve: Curve
    old_pixels: int
    """Annotated pixels of old classes, at the size at which the network sees the picture."""


@dataclass(frozen=True)
class Change:
    """A question about sets of channels: the first k of `ranked` changed, for each k of `counts`."""

    run: Run
    picture: Picture
    step: int
    how: How
    old: int
    """The step that `how` = "old" takes channels from."""
    ranked: np.ndarray
    """int [C]."""
    counts: tuple[int, ...]

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What the answer depends on."""
        source, image = self.old if self.how == "old" else -1, (self.picture.digest, self.picture.truth is None)
        return self.run.digest, *image, self.step, self.how, source, loaders.array_digest(self.ranked), self.counts


def effect(asked: Change) -> Measured:
    """The effect of the sets."""
    return SHELF.get(("effect", *asked.key), lambda: _effect(asked))


def _effect(asked: Change) -> Measured:
    from lag_core.explain.interventions import curve

    trace = loaders.trace(asked.run, asked.picture)
    question = _intervention(asked.run, trace, asked.step, asked.how, asked.old)
    truth = truth_inside(trace, asked.picture)
    newest = asked.run.labels.class_indices(asked.step).start
    with loaders.network_lock(asked.run.digest):
        measure = PictureMeasure(trace, asked.step, truth)
        found = curve(question, asked.ranked, asked.counts, measure, 0)
    return Measured(found, 0 if truth is None else int((truth < newest).sum()))


def known_controls(asked: Change) -> Curve | None:
    """The sets next to random ones, if `draw_controls` has measured them."""
    found: Curve | None = SHELF.find(("controls", *asked.key))
    return found


def draw_controls(asked: Change) -> Pieces:
    """Measure `control_sets` random sets of each size: seconds of work, in pieces. `known_controls` returns them.

    The networks are free between two pieces, so that an open page need not wait.
    """
    from lag_core.explain.interventions import Curve, drawn_sets, measured

    trace, lock = loaders.trace(asked.run, asked.picture), loaders.network_lock(asked.run.digest)
    question = _intervention(asked.run, trace, asked.step, asked.how, asked.old)
    with lock:
        measure = PictureMeasure(trace, asked.step, truth_inside(trace, asked.picture))
        draw = _fair(trace, asked.step, asked.how, asked.old)
        untouched = measure(trace.output(asked.step).logits)
    seed, controls = asked.run.config.optim.seed, control_sets(asked.run, asked.picture, asked.step)
    sets = [one for k in asked.counts for one in drawn_sets(asked.ranked, (k,), controls, seed, draw)[0]]
    values: list[np.ndarray] = []
    for first in range(0, len(sets), AT_ONCE):
        with lock:
            values += measured(question, sets[first : first + AT_ONCE], measure, untouched)
        yield len(values) / len(sets)
    found = np.stack(values).reshape(len(asked.counts), controls + 1, -1)
    curve = Curve(np.asarray(asked.counts), untouched, found[:, 0], found[:, 1:])
    SHELF.put(("controls", *asked.key), curve)


def _fair(trace: Trace, step: int, how: How, old: int) -> Matched:
    """Draws controls that are alive and of equal energy on this picture."""
    own = trace.output(step).latent.cpu().numpy()
    if how != "old":
        return Matched(energy(own), alive(own))
    other = trace.output(old).latent.cpu().numpy()
    return Matched(energy(own) + energy(other), channels.living(other, own).either)


def imbalance(run: Run, picture: Picture, step: int, how: How, old: int, chosen: np.ndarray) -> float:
    """How far the energy of `chosen` lies from that of its control sets, see controls.Matched.imbalance."""
    return _fair(loaders.trace(run, picture), step, how, old).imbalance(chosen)


def testable(run: Run, picture: Picture, step: int, how: How, old: int) -> np.ndarray:
    """bool [C], channels whose change can have an effect: alive on this picture at `step`; for "old", at either step.

    A channel that died in between is dead at `step`, but its loss may be the cause.
    """
    return _testable(run.digest, picture.digest, step, old if how == "old" else -1, run=run, picture=picture)


@shelved
def _testable(digest: str, image: str, step: int, old: int, *, run: Run, picture: Picture) -> np.ndarray:
    trace = loaders.trace(run, picture)
    own = trace.latent(step)[None]
    return alive(own) if old < 0 else channels.living(trace.latent(old)[None], own).either


def energies(run: Run, picture: Picture, step: int) -> np.ndarray:
    """Energy of each channel on this picture, float [C]."""
    return _energies(run.digest, picture.digest, step, run=run, picture=picture)


@shelved
def _energies(digest: str, image: str, step: int, *, run: Run, picture: Picture) -> np.ndarray:
    return channels.channel_energy(latent(run, picture, step))


def living(run: Run, picture: Picture | None, old: int, new: int) -> tuple[channels.Living | None, str]:
    """The channels alive at two steps, and the images that show it: all validation images, else this picture."""
    survey = loaders.survey(run)
    if survey is not None:
        found = channels.living_by_moments(survey.channel_mean[[old, new]], survey.channel_energy[[old, new]])
        return channels.Living(found[0], found[1]), "on the validation images"
    if picture is None:
        return None, ""
    trace = loaders.trace(run, picture)
    return channels.living(trace.latent(old)[None], trace.latent(new)[None]), "on this picture"


class PictureMeasure:
    """Measures of one picture's logits, see `Measured`, on a grid of at most GRID x GRID cells of the network's square.

    truth: uint8 `trace.inside`, or None. Called with logits [1, K, h, w] of the step.
    """

    def __init__(self, trace: Trace, step: int, truth: np.ndarray | None):
        from lag_core.explain.interventions import GRID

        self.trace, self.side = trace, min(trace.square, GRID)
        height, width = (max(1, size * self.side // trace.square) for size in trace.inside)
        self.inside = height, width
        self.truth = None if truth is None else _sampled(truth, self.inside)
        self.seen = trace.run.labels.seen(step)
        self.old = trace.run.labels.class_indices(step).start
        self.before = self.predict(trace.output(step).logits)

    def predict(self, logits: Tensor) -> np.ndarray:
        """Class indices on the grid, uint8 `inside`."""
        from lag_core.model.prediction import full_size, label_map

        full = full_size(logits, self.side, self.inside, self.inside)
        return label_map(full, self.trace.run.labels, self.trace.run.config.method.loss)[0].cpu().numpy()

    def __call__(self, logits: Tensor) -> np.ndarray:
        labels = self.predict(logits)
        moved = float((labels != self.before).mean())
        if self.truth is None:
            return np.array([moved])
        total = np.bincount(self.truth.ravel(), minlength=IGNORE + 1)[: self.seen]
        right = np.bincount(self.truth[labels == self.truth], minlength=IGNORE + 1)[: self.seen]
        groups = [(right[: self.old].sum(), total[: self.old].sum()), (right.sum(), total.sum())]
        pairs = [*groups, *zip(right, total, strict=True)]
        return np.array([moved, *(float(r / n) if n else np.nan for r, n in pairs)])


def counts(total: int) -> tuple[int, ...]:
    """Numbers of channels at which a curve is measured: none, and shares up to three quarters of them."""
    return tuple(sorted({0, *(max(1, round(total * share)) for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4))}))


def beside(chosen: Curve, controls: Curve) -> Curve:
    """A curve of other channels next to the random ones of `controls`, of the same numbers of channels."""
    from lag_core.explain.interventions import Curve

    return Curve(chosen.counts, chosen.untouched, chosen.chosen, controls.controls)

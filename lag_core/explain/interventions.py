"""Removing latent channels, and restoring old ones: the effect on a network, compared with random channels.

Two questions, kept apart (docs/method.md#channels). *Ablation* of channels: what carries the memory? *Transplant* of an
earlier step's channels into a later one: what was lost? The changed Z is decoded, so no network is
touched. Source of the comparison with random channels of equal number: docs/method.md#channels; its test is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from lag_core.explain.decoding import Decode, decoded, logits_of_sets, replaced
from lag_core.metrics import confusion, iou, seen_only
from lag_core.model.linear_start import HasLinearHeads
from lag_core.model.prediction import label_map
from lag_core.model.segmenter import upsample
from lag_core.protocol import LabelSpace

Channels = Sequence[int] | np.ndarray
"""Different numbers of latent channels, in any order."""

Measure = Callable[[Tensor], np.ndarray]
"""Logits [N, K, h, w] of all images -> float [M], such as each class's IoU; NaN where undefined."""

Draw = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Tested channels int [k], random numbers -> a control set int [k]."""

GRID = 128
"""Longest side of the grid on which IoUs are measured."""
CONTROLS = 200
"""Control sets beside each tested one: a p-value can be as small as 1 in 201."""
CONTROLS_REPLAYED = 39
"""The same if the pass is replayed for each set, which takes some tenths of a second: 1 in 40."""


def control_sets(decode: Decode) -> int:
    """How many control sets are drawn for a tested one."""
    return CONTROLS if isinstance(decode, HasLinearHeads) else CONTROLS_REPLAYED


def ablate(latent: Tensor, channels: Channels, mean: Tensor | None = None) -> Tensor:
    """Z without `channels`: zero, or `mean` [C] in their place. With none, Z itself. Shape: [B, C, h, w] -> same."""
    return _changed(latent, _constant(latent, mean), channels)


def transplant(latent: Tensor, source: Tensor, channels: Channels) -> Tensor:
    """Z with `channels` of another step's Z of the same images. With none, Z itself.

    Shape: [B, C, h, w], [B, C, h, w] -> [B, C, h, w]. ValueError if the shapes differ.
    """
    if latent.shape != source.shape:
        raise ValueError(f"latent maps of {tuple(latent.shape)} and {tuple(source.shape)} do not fit together")
    return _changed(latent, source, channels)


def _constant(latent: Tensor, values: Tensor | None) -> Tensor:
    """Maps of Z's shape: zero, or one value for each channel, [C]; they take no memory."""
    filling = latent.new_zeros(1) if values is None else values.to(latent).view(1, -1, 1, 1)
    return filling.expand(latent.shape)


def _changed(latent: Tensor, filling: Tensor, channels: Channels) -> Tensor:
    return replaced(latent, filling, _indices(channels, latent)) if len(channels) else latent


def _indices(channels: Channels, latent: Tensor) -> Tensor:
    """Channels as an index; ValueError for one that does not exist or occurs twice."""
    chosen = np.ascontiguousarray(channels, np.int64)  # torch accepts no reversed view
    count = latent.shape[1]
    if chosen.ndim != 1 or len(np.unique(chosen)) != len(chosen) or ((chosen < 0) | (chosen >= count)).any():
        raise ValueError(f"channels {list(channels)}: expected different numbers in 0..{count - 1}")
    return torch.from_numpy(chosen).to(latent.device)


class Intervention(NamedTuple):
    """A question about channels of one step's Z.

    latent: the unchanged Z. filling: the new values of changed channels, [N, C, h, w]. decode: the step's heads.
    """

    latent: Tensor
    filling: Tensor
    decode: Decode

    def change(self, channels: Channels) -> Tensor:
        """Z after the change, [N, C, h, w]; without channels Z itself."""
        return _changed(self.latent, self.filling, channels)


def ablation(latent: Tensor, decode: Decode, mean: Tensor | None = None) -> Intervention:
    """What carries the memory? Channels are set to zero, or to `mean` [C] (over the validation set)."""
    return Intervention(latent, _constant(latent, mean), decode)


def transplantation(latent: Tensor, source: Tensor, decode: Decode) -> Intervention:
    """What was lost? Channels of `source`, an earlier step's Z of the same images, are put into `latent`.

    ValueError if the shapes differ.
    """
    transplant(latent, source, ())
    return Intervention(latent, source, decode)


@dataclass(frozen=True)
class Curve:
    """A measure over the number of changed channels, next to random channels of the same number.

    counts: int [P]. untouched: [M]. chosen: [P, M]. controls: [P, n, M], each of its own random channels.
    """

    counts: np.ndarray
    untouched: np.ndarray
    chosen: np.ndarray
    controls: np.ndarray

    @property
    def effect(self) -> np.ndarray:
        """[P, M] change of the measure by the chosen channels."""
        return self.chosen - self.untouched

    @property
    def control_effect(self) -> np.ndarray:
        """[P, n, M] change of the measure by random channels."""
        return self.controls - self.untouched

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper bound [P, M] of the middle `level` of the random channels' effects."""
        tail = (1 - level) / 2
        low, high = np.quantile(self.control_effect, (tail, 1 - tail), axis=1)
        return low, high

    def p_value(self, side: Literal["below", "above"]) -> np.ndarray:
        """[P, M] probability that random channels do as much or more: (1 + how many of n do) / (1 + n).

        below: the chosen channels lower the measure more than random ones (ablation); above: they raise it more
        (transplant). With n controls no value is below 1 / (n + 1). NaN where the measure is not defined.
        """
        if side not in ("below", "above"):
            raise ValueError(f"side {side!r}: allowed are 'below' and 'above'")
        chosen, random = self.effect[:, None], self.control_effect
        as_much = random <= chosen if side == "below" else random >= chosen
        p = (1 + as_much.sum(1)) / (1 + random.shape[1])
        return np.where(np.isfinite(self.effect), p, np.nan)


def curve(
    intervention: Intervention,
    ranked: np.ndarray,
    counts: Sequence[int],
    measure: Measure,
    controls: int = CONTROLS,
    seed: int = 0,
    draw: Draw | None = None,
) -> Curve:
    """The measure after changing the first k of `ranked` (int [C], see channels.ranked), for each k of `counts`.

    `draw` draws a control set for tested channels (explain.controls.Matched); without, any channels may be drawn.
    At k = 0 nothing is changed and the value is that of the untouched network, bit for bit; at k = C random
    channels are all channels, and so are the controls. ValueError for a k outside 0..C.
    """
    sets = drawn_sets(ranked, counts, controls, seed, draw)
    untouched = measure(decoded(intervention.decode, intervention.latent, len(intervention.latent)))
    values = iter(measured(intervention, [s for row in sets for s in row], measure, untouched))
    found = np.stack([np.stack([next(values) for _ in row]) for row in sets])
    return Curve(np.asarray(counts), untouched, found[:, 0], found[:, 1:])


def drawn_sets(
    ranked: np.ndarray, counts: Sequence[int], controls: int, seed: int = 0, draw: Draw | None = None
) -> list[list[np.ndarray]]:
    """The sets that `curve` measures: for each k the first k of `ranked`, then `controls` random ones."""
    total = len(ranked)
    if len(counts) == 0 or min(counts) < 0 or max(counts) > total:
        raise ValueError(f"numbers of channels {list(counts)}: must lie in 0..{total}")
    rng = np.random.default_rng(seed)
    draw = draw or (lambda chosen, rng: rng.permutation(total)[: len(chosen)])
    sets = []
    for k in counts:
        chosen = np.asarray(ranked[:k])
        sets.append([chosen] + [draw(chosen, rng) for _ in range(controls)])
    return sets


def measured(
    intervention: Intervention, sets: Sequence[np.ndarray], measure: Measure, untouched: np.ndarray
) -> Iterator[np.ndarray]:
    """The measure of each set of channels; that of the untouched network where a set is empty."""
    asked = [_indices(one, intervention.latent).cpu().numpy() for one in sets if len(one)]
    logits = logits_of_sets(intervention.decode, intervention.latent, intervention.filling, asked)
    for one in sets:
        yield measure(next(logits)) if len(one) else untouched


def class_iou(truths: np.ndarray, labels: LabelSpace, loss: str) -> Measure:
    """Measures the IoU of each class seen so far, over all images together.

    Shape: truths uint8 [N, H, W], class indices in the network's square, 255 where nothing counts (padding too);
    the measure gives float64 [seen], NaN for a class that is neither true nor predicted.
    """
    size = (truths.shape[1], truths.shape[2])

    def measure(logits: Tensor) -> np.ndarray:
        predicted = label_map(upsample(logits, size), labels, loss).cpu().numpy()
        seen = logits.shape[1] - labels.offset
        return iou(seen_only(confusion(truths, predicted, len(labels.order)), seen))[:seen]

    return measure

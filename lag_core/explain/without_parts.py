"""What is left of a class when one part of a network is silenced: which parts it needs.

To silence a feature part (a stage of the backbone, the ASPP), its output is replaced by its mean over the pictures of
a pass and over all places, and the later parts run again. For a stage that also passes on its input
(`SkipStage`) only its own output is silenced. To silence heads, their logits are removed, so that they never win:
the class's own, those of the other old classes, that of unknown and background, those of newer classes. Without its own
head nothing is left of a class, by definition. Source: ours (docs/method.md#needed-parts).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from lag_core.explain.interventions import Measure
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.shares import ASPP, BACKBONE, COMPETITION, FEATURES, OLD_HEADS, OWN_HEAD, UNKNOWN_HEAD
from lag_core.model.backbone import STAGES, SkipStage
from lag_core.model.segmenter import Segmenter
from lag_core.protocol import LabelSpace


@torch.no_grad()
def left_without(
    networks: Networks, batches: Sequence[np.ndarray], cls: int, source: int, step: int, measure: Measure
) -> dict[str, float]:
    """IoU of a class at `step` by the silenced part. NaN where it is not defined.

    batches: float32 [n, 3, S, S] each. source: the step that introduced the class. measure: of the class's IoU, from
    the logits of all pictures.
    """
    found: dict[str, list[Tensor]] = {}
    for inputs in batches:
        for part, logits in _of_batch(networks, networks.passes(torch.from_numpy(inputs)), cls, source, step):
            found.setdefault(part, []).append(logits)
    return {part: float(measure(torch.cat(logits))[0]) for part, logits in found.items()}


def _of_batch(networks: Networks, passes: Passes, cls: int, source: int, step: int) -> Iterator[tuple[str, Tensor]]:
    """(part, logits [n, K, h, w] without it)."""
    output, decode, run = passes.output(step), passes.decoder(step), networks.run
    model = networks.steps[step]
    if isinstance(model, Segmenter):
        for part, features in _silent_stages(model, passes.inputs):
            yield part, decode(_like(model.aspp(features), output.latent))
        yield ASPP, decode(_silent(output.latent))
    else:
        yield FEATURES, decode(_silent(output.latent))
    for part, channels in _channels(run.labels, run.classes[cls].name, cls, source, step, run.config.method.loss):
        logits = output.logits.clone()
        logits[:, channels] = -math.inf
        yield part, logits


def _silent_stages(model: Segmenter, inputs: Tensor) -> Iterator[tuple[str, Tensor]]:
    """(part, features at the end of the backbone without it). Stages that do nothing are left out."""
    stages = model.backbone.stages_until(STAGES[-1])
    maps = inputs
    for place, (name, stage) in enumerate(zip(STAGES, stages, strict=True)):
        carried, maps = maps, stage(maps)
        if not any(True for _ in stage.children()):
            continue
        if isinstance(stage, SkipStage):
            rest = torch.cat([carried, _silent(maps[:, carried.shape[1] :])], 1)
        else:
            rest = _silent(maps)[:1]  # the same for every picture
        for later in stages[place + 1 :]:
            rest = later(rest)
        yield BACKBONE + name, rest


def _silent(maps: Tensor) -> Tensor:
    """Each channel's mean instead of its values. Shape: [n, C, h, w] -> same."""
    return maps.mean((0, 2, 3), keepdim=True).expand_as(maps)


def _like(latent: Tensor, other: Tensor) -> Tensor:
    """The one Z for every picture, where there is one. Shape: [1 or n, C, h, w] -> [n, C, h, w]."""
    return latent.expand_as(other)


def _channels(
    labels: LabelSpace, name: str, cls: int, source: int, step: int, rule: str
) -> Iterator[tuple[str, list[int]]]:
    """(part, training channels of it) for each head that has any and decides something."""
    offset, first = labels.offset, int(labels.background is not None)
    old, seen = labels.seen(source), labels.seen(step)
    yield OWN_HEAD + name, [cls + offset]
    others = [k + offset for k in range(first, old) if k != cls]
    if others:
        yield OLD_HEADS, others
    if first and cls != 0 and rule != "bce_foreground":  # there the background is what is left over, not a logit
        yield UNKNOWN_HEAD, list(range(offset + 1))
    if seen > old:
        yield COMPETITION, [k + offset for k in range(old, seen)]

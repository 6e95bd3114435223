"""Which parts of the network train at a step, how fast, and when they join."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lag_core.config import Config
from lag_core.model.segmenter import Segmenter
from lag_core.protocol import LabelSpace
from lag_core.training.sharpness import largest_rate


@dataclass(frozen=True)
class Part:
    """A trainable part: parameters under one name, one learning rate, joining after `delay` of the step."""

    name: str
    modules: tuple[nn.Module, ...]
    lr: float
    delay: float = 0.0

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in self.modules for p in module.parameters()]


def parts(model: Segmenter, config: Config, labels: LabelSpace, step: int) -> list[Part]:
    """The parts that train at `step`; everything else is frozen. Source: docs/method.md#schedule."""
    optim = config.optim
    if step == 0:
        return _present(
            [
                Part("heads", tuple(model.heads), optim.lr_head),
                Part("aspp", (model.aspp,), optim.lr_aspp),
                Part("backbone", tuple(model.backbone.stages_from(optim.first_stage)), optim.lr_stage),
            ]
        )
    found = [Part("heads", tuple(_trained_heads(model, config, labels)), optim.lr_head_later)]
    if config.method.extractor == "live":
        delay = optim.extractor_delay
        behind = tuple(model.backbone.stages_after(config.model.shared))
        found += [
            Part("aspp", (model.aspp,), optim.lr_aspp_later, delay),
            Part("stage", behind, optim.lr_stage_later, delay),
        ]
    return _present(found)


def _trained_heads(model: Segmenter, config: Config, labels: LabelSpace) -> Iterable[nn.Module]:
    """All heads, or the new head and the catch-all head (unknown, else step 0's with the background)."""
    if config.method.old_heads == "live":
        return model.heads
    first = [model.heads[0]] if labels.unknown else []
    return [*first, model.heads[-1]]


def _present(found: list[Part]) -> list[Part]:
    return [part for part in found if part.lr > 0 and part.parameters()]


def trunk_trains(found: Iterable[Part]) -> bool:
    """Whether the shared trunk itself trains (step 0 with a backbone learning rate)."""
    return any(part.name == "backbone" for part in found)


def freeze_all_but(model: Segmenter, found: Iterable[Part]) -> None:
    """Only `found` requires gradients."""
    model.requires_grad_(False).eval()
    for part in found:
        for module in part.modules:
            module.requires_grad_(True)


def set_modes(model: Segmenter, found: Iterable[Part], step: int, batch_norm: str = "first") -> None:
    """Batch norm uses a batch's statistics in the parts that train, when `batch_norm` (see `OptimConfig`) says so."""
    model.eval()
    if batch_norm == "always" or (batch_norm == "first" and step == 0):
        for part in found:
            for module in part.modules:
                module.train()


def _groups(part: Part, decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """The optimiser's groups of a part: one, or two if biases and norms have no weight decay."""
    if decay_norms:
        return [{"params": part.parameters(), "lr": part.lr, "name": part.name}]
    spared = [p for p in part.parameters() if p.dim() == 1]
    others = [p for p in part.parameters() if p.dim() != 1]
    pairs = [(others, decay), (spared, 0.0)]
    return [{"params": p, "lr": part.lr, "name": part.name, "weight_decay": d} for p, d in pairs if p]


def _optimiser(groups: list[dict[str, Any]], config: Config, step: int) -> torch.optim.Optimizer:
    """Nesterov SGD, or AdamW where step 0 asks for it."""
    optim = config.optim
    fused, foreach = (True, None) if optim.fused else (None, False)
    if step == 0 and optim.optimiser == "adamw":
        return torch.optim.AdamW(groups, weight_decay=optim.weight_decay, fused=fused, foreach=foreach)
    return torch.optim.SGD(
        groups,
        momentum=optim.momentum,
        weight_decay=optim.weight_decay,
        nesterov=optim.momentum > 0,
        fused=fused,
        foreach=foreach,
    )


class Schedule:
    """The optimiser under a poly schedule; each part joins after its delay, and after step 0 warms up.

    Step 0 uses SGD with momentum or AdamW (`optim.optimiser`), later steps SGD.

    lr(t) = lr * min(1, (t - delay) / warmup) * (1 - t)**power, t in [0, 1) the progress of the step. Source:
    docs/method.md#schedule; each part's delay and warm-up, the bound of its rate by the curvature and that of the
    gradients' norm are ours: otherwise the loss can jump when the ASPP joins.
    """

    def __init__(self, found: list[Part], config: Config, step: int = 0):
        self.found = found
        self.warmup = config.optim.warmup if step else 0.0
        self.power = config.optim.power
        self.clip = config.optim.clip if step else 0.0
        self.steadiness = config.optim.steadiness if step else 0.0
        self.curvature: float | None = None
        """Curvature of the loss when the first part joined the heads; None before it is measured."""
        self.momentum, self.decay = config.optim.momentum, config.optim.weight_decay
        self._norm: torch.Tensor | None = None
        self.batch_norm = config.optim.batch_norm
        groups = [group for part in found for group in _groups(part, self.decay, config.optim.decay_norms)]
        self.optimiser = _optimiser(groups, config, step)
        device = next(p.device.type for part in found for p in part.parameters())
        self.scaler = torch.amp.GradScaler(device, enabled=config.optim.amp == "fp16")
        """Keeps gradients within fp16's range: an update whose gradients overflow is left out, and the scale halved."""

    @property
    def factor(self) -> float:
        """The factor by which the last update scaled the gradients to keep within `clip`. Waits for the device."""
        return 1.0 if self._norm is None else min(1.0, self.clip / (self._norm.item() + 1e-6))

    def shared(self, progress: float) -> list[nn.Parameter]:
        """Parameters that old and new classes share and that have joined: everything that trains except heads."""
        joined = [part for part in self.found if part.name != "heads" and progress >= part.delay]
        return [parameter for part in joined for parameter in part.parameters()]

    def wants_curvature(self, progress: float) -> bool:
        """Whether a part has joined whose rate is to be bounded, and the bound is not known yet."""
        return self.steadiness > 0 and self.curvature is None and bool(self.shared(progress))

    def bound(self, part: Part) -> float:
        """Largest rate of a part."""
        if self.steadiness == 0 or self.curvature is None or part.name == "heads":
            return math.inf
        return self.steadiness * largest_rate(self.curvature, self.momentum)

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of a loss, scaled if fp16 needs it; `step` divides by the scale again."""
        self.scaler.scale(loss).backward()

    def step(self, progress: float) -> dict[str, float]:
        """Update the parts that have joined; returns each part's learning rate."""
        rates = {}
        by_name = {part.name: part for part in self.found}
        for group in self.optimiser.param_groups:
            part = by_name[group["name"]]
            joined = progress >= part.delay
            rate = min(part.lr, self.bound(part)) if joined else 0.0
            group["lr"] = rate * self._warm(progress - part.delay) * (1 - progress) ** self.power
            rates[part.name] = group["lr"]
            if not joined:
                for parameter in group["params"]:
                    parameter.grad = None
        self.scaler.unscale_(self.optimiser)
        if self.clip > 0:
            self._norm = nn.utils.clip_grad_norm_([p for part in self.found for p in part.parameters()], self.clip)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        return rates

    def _warm(self, since: float) -> float:
        """Factor of a part that joined `since` ago, as a share of the step."""
        return min(1.0, since / self.warmup) if self.warmup > 0 else 1.0

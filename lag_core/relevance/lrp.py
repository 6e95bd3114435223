"""Layer-wise relevance propagation on a `Segmenter`, with an exact account of relevance that the inputs do not get.

    view = FoldedSegmenter(model)                        # once per model; reads it, never touches it
    found = lrp(view, images, Target(channel, mask))     # or lrp(model, ...)
    found.map, found.channels, found.error

Source: docs/method.md#nsc (what to explain) and #relevance (conservation error); rules: `rules.py`. The engine is ours;
docs/adr/0002-lrp-engine.md says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lag_core.model.segmenter import Segmenter
from lag_core.relevance.layers import Back, Chain, Convolution, Flow, Input, Parallel, Way, chain_of
from lag_core.relevance.rules import Composite, Ledger, Rule, composite_named, zbox_rule
from lag_core.relevance.target import Target, weights_of

Depth = Literal["pixels", "latent", "trunk"]


class NotFinite(ArithmeticError):
    """Relevance that is not a number or infinite: it must not be drawn."""


@dataclass(frozen=True)
class Relevance:
    """Relevance of a target, and its conservation.

    values: [B, N, h, w] relevance of each entry of the chosen map: pixels (N = 3), latent map or trunk
    features.
    latent: [B, C, h', w'] relevance of the latent map, on the way.
    score: [B] the explained sum of logits. absorbed: [B] kept by biases and stabilisers, summed over the
    layers in closed form. Both float64.
    """

    values: Tensor
    latent: Tensor
    score: Tensor
    absorbed: Tensor

    @property
    def map(self) -> Tensor:
        """[B, h, w] relevance of each place, summed over its channels."""
        return self.values.sum(1)

    @property
    def channels(self) -> Tensor:
        """[B, C] relevance of each latent channel, summed over the map."""
        return self.latent.sum((2, 3))

    @property
    def error(self) -> Tensor:
        """[B] |sum of values + absorbed - score| / |score|; infinite where only the score is 0."""
        gap = (self.values.double().flatten(1).sum(1) + self.absorbed - self.score).abs()
        return torch.where(gap == 0, gap, gap / self.score.abs())


class FoldedSegmenter:
    """A `Segmenter` in evaluation mode with batch norm folded in, for any number of explanations.

    The model is only read, so there is nothing to undo: no hook, no flag, no tensor changes. The weights are
    copied at construction. `like` lends its trunk, so steps that share one hold it once.
    """

    def __init__(self, model: Segmenter, like: FoldedSegmenter | None = None):
        shared = model.config.shared
        with torch.no_grad():
            self.trunk: Chain = chain_of(model.backbone.stages_until(shared)) if like is None else like.trunk
            self.stage = chain_of(model.backbone.stages_after(shared))
            self.aspp = chain_of(model.aspp)
            self.heads = Parallel([chain_of(head) for head in model.heads])
        first, second, *_ = [*self.trunk.layers, *self.stage.layers]
        self.own_input = first.module if isinstance(first, Input) else None
        sees = second if isinstance(first, Input) else first
        assert isinstance(sees, Convolution)
        sees.sees_image = True
        self.trunk_channels = model.trunk_channels

    def image_rule(self, rule: Rule) -> Rule:
        """`rule` for the layer that sees the image: the z-box lies between black and white as the backbone has them."""
        if self.own_input is None or rule.name != "z-box":
            return rule
        return zbox_rule(*self.own_input.range())

    def record(self, inputs: Tensor, like: Recording | None = None) -> Recording:
        """Run forward on images [B, 3, H, W] or on trunk features [B, T, h, w], for many questions.

        `like`: a recording of the same images whose trunk this view shares; the trunk then does not run again.
        ValueError for another shape or another trunk.
        """
        if inputs.dim() != 4 or inputs.shape[1] not in (3, self.trunk_channels):
            raise ValueError(
                f"input {tuple(inputs.shape)}: expected images [B, 3, H, W] "
                f"or trunk features [B, {self.trunk_channels}, h, w]"
            )
        if like is None:
            return Recording(self, inputs.detach(), self._trunk_pass(inputs.detach()))
        if like.view.trunk is not self.trunk or like.inputs.shape != inputs.shape:
            raise ValueError("a trunk pass can be reused only for the same images and a shared trunk")
        return Recording(self, like.inputs, like.trunk_pass)

    @torch.no_grad()
    def _trunk_pass(self, inputs: Tensor) -> tuple[Flow, Back | None]:
        if inputs.shape[1] == 3:
            return self.trunk.run(Flow(inputs, False))
        # whether a feature is negative depends on the backbone
        return Flow(inputs, bool((inputs >= 0).all())), None


class Recording:
    """One forward pass: the logits, and the way back from them."""

    @torch.no_grad()
    def __init__(self, view: FoldedSegmenter, inputs: Tensor, trunk_pass: tuple[Flow, Back | None]):
        self.view, self.inputs, self.trunk_pass = view, inputs, trunk_pass
        features, self._back_trunk = trunk_pass
        stage, self._back_stage = view.stage.run(features)
        latent, self._back_aspp = view.aspp.run(stage)
        logits, self._back_heads = view.heads.run(latent)
        self.features, self.latent, self.logits = features.value, latent.value, logits.value

    @torch.no_grad()
    def relevance(
        self, target: Target | Tensor, composite: str | Composite = "epsilon", to: Depth = "pixels"
    ) -> Relevance:
        """Relevance of `target` (see `lrp`). ValueError for an unknown name, `NotFinite` for a bad result."""
        if to not in get_args(Depth):
            raise ValueError(f"to = {to!r}: allowed are {', '.join(get_args(Depth))}")
        rules = composite_named(composite)
        weights = weights_of(target, self.logits)
        ledger = Ledger(len(weights), weights.device)
        start = weights * self.logits
        decoder = Way(rules.decoder, ledger, rules.decoder)
        latent = self._back_heads(start, decoder)
        values = latent if to == "latent" else self._below_latent(latent, rules, decoder, to)
        found = Relevance(values, latent, start.double().flatten(1).sum(1), ledger.absorbed)
        return checked(found, rules.name)

    def _below_latent(self, latent: Tensor, rules: Composite, decoder: Way, to: Depth) -> Tensor:
        backbone = Way(rules.backbone, decoder.ledger, self.view.image_rule(rules.image))
        features = self._back_stage(self._back_aspp(latent, decoder), backbone)
        if to == "trunk":
            return features
        if self._back_trunk is None:
            raise ValueError("trunk features cannot be explained down to pixels: give the images")
        return self._back_trunk(features, backbone)


def checked(found: Relevance, composite: str) -> Relevance:
    """`found`. NotFinite where a value is not finite."""
    finite = all(bool(x.isfinite().all()) for x in (found.values, found.latent, found.score, found.absorbed))
    if not finite:
        raise NotFinite(
            f"LRP ({composite}) gave values that are not finite: look for nan or infinite numbers "
            "in the image and in the checkpoint"
        )
    return found


def lrp(
    model: Segmenter | FoldedSegmenter,
    inputs: Tensor,
    target: Target | Tensor,
    composite: str | Composite = "epsilon",
    to: Depth = "pixels",
) -> Relevance:
    """Relevance of `target` for images or trunk features.

    Shape: inputs images [B, 3, H, W] (normalised) or trunk features [B, T, h, w]; target a `Target` or the
    weights [B, K, h, w] of the logits. composite: "epsilon" (epsilon everywhere), "composite" (z-box at the
    image, alpha1-beta0 in the backbone, epsilon in ASPP and heads), or one of `rules.composites`
    ("composite-gamma" is for ResNets: in MobileNets its biases absorb nearly everything).
    Errors: ValueError for a shape, channel or name that does not fit; TypeError for a layer that LRP does not
    know; `NotFinite`.
    """
    view = model if isinstance(model, FoldedSegmenter) else FoldedSegmenter(model)
    return view.record(inputs).relevance(target, composite, to)


__all__ = ["Chain", "Depth", "FoldedSegmenter", "NotFinite", "Recording", "Relevance", "Target", "lrp"]

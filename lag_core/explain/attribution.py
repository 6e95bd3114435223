"""Where a network looks for a class: LRP and four methods of captum on one target.

An attribution is a map over the network's square, with its conservation error where one is promised; the other
checks of it are in `attribution_checks`. Source: docs/method.md#nsc.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from captum.attr import InputXGradient, IntegratedGradients, LayerGradCam, Occlusion
from torch import Tensor, nn

from lag_core.model.segmenter import Segmenter, upsample
from lag_core.relevance.latent import latent_relevance
from lag_core.relevance.lrp import FoldedSegmenter, NotFinite, Recording
from lag_core.relevance.tape import TapedPass
from lag_core.relevance.target import Target

Method = Literal["lrp", "lrp-epsilon", "gradient-x-input", "grad-cam", "integrated-gradients", "occlusion"]
"""The names of `ATTRIBUTION_METHODS`, which a test compares. `lrp` is the composite (z-box, alpha1-beta0, epsilon)."""

WINDOW, STRIDE = 32, 16
"""Occlusion: side of the grey square and how far it moves, in pixels. Ours."""
PATH_STEPS = 32
"""Integrated gradients: points on the way from the mean colour to the image. Ours."""


@dataclass(frozen=True)
class Attribution:
    """How much each place speaks for a target.

    map: float32 [H, W] over the network's square, in the score's unit except for Grad-CAM and occlusion.
    channels: float32 [C], relevance of each latent channel: by LRP, else gradient times input at the latent map.
    score: the sum of logits that is explained. absorbed: what biases and stabilisers keep (LRP alone, else 0).
    conservation: the map's gap, |sum + absorbed - owed| / |owed|, where `owed` is the score, or for integrated
    gradients the score less that of the mean colour; infinite where only that is 0. LRP and integrated gradients
    promise a small one; gradient times input and Grad-CAM promise nothing, and Grad-CAM's sum is taken at the cells of
    Z, after its ReLU. None for occlusion: each place is in several windows, so its sum is not a share of the score.
    """

    method: Method
    map: np.ndarray
    channels: np.ndarray
    score: float
    absorbed: float = 0.0
    conservation: float | None = None


class Subject(NamedTuple):
    """One image for one network: the input of every method.

    images: [1, 3, H, W] normalised. target: on `images`. recording: its forward pass, by LRP's rules where the network
    is this project's own. decode: from Z of these images to logits.
    """

    model: Segmenter
    images: Tensor
    target: Target
    recording: Recording | TapedPass | Forward
    decode: Callable[[Tensor], Tensor]


class Forward(NamedTuple):
    """A forward pass of a network that LRP does not know."""

    latent: Tensor
    logits: Tensor


def attribute(
    model: Segmenter,
    images: Tensor,
    target: Target,
    method: Method = "lrp",
    view: FoldedSegmenter | None = None,
) -> Attribution:
    """The attribution of `target` by `method`. The model is left as it was: nothing is hooked or changed.

    Shape: images [1, 3, H, W]. `view`: the model's, if there is one already. ValueError for an unknown method,
    several images or a model in training mode; `NotFinite` (relevance.lrp) for values that must not be drawn.
    """
    if method not in get_args(Method):
        raise ValueError(f"unknown attribution method {method!r}; known: {', '.join(get_args(Method))}")
    if len(images) != 1:
        raise ValueError(f"expected one image, found a batch of {len(images)}")
    if any(module.training for module in model.modules()):
        raise ValueError("the model is in training mode: call model.eval() first")
    return METHODS[method](_subject(model, images.detach(), target, view, method.startswith("lrp")))


def _subject(model: Segmenter, images: Tensor, target: Target, view: FoldedSegmenter | None, by_lrp: bool) -> Subject:
    if isinstance(model, Segmenter):
        seen = view or FoldedSegmenter(model)
        return Subject(model, images, target, seen.record(images), model.decode)
    if by_lrp:
        return Subject(model, images, target, model.recording(images), model.decoder(images))
    with torch.no_grad():
        found = model(images)
    return Subject(model, images, target, Forward(found.latent, found.logits), model.decoder(images))


def _lrp(composite: str) -> Callable[[Subject], Attribution]:
    def run(subject: Subject) -> Attribution:
        if isinstance(subject.recording, Forward):
            raise ValueError("LRP has no rules for this network; choose a gradient method")
        found = subject.recording.relevance(subject.target, composite)
        name: Method = "lrp" if composite == "composite" else "lrp-epsilon"
        return Attribution(
            name,
            _array(found.map[0]),
            _array(found.channels[0]),
            float(found.score),
            float(found.absorbed),
            float(found.error),
        )

    return run


def _gradient_x_input(subject: Subject) -> Attribution:
    found = InputXGradient(score_function(subject)).attribute(subject.images.clone().requires_grad_())
    return _plain("gradient-x-input", subject, found.sum(1)[0], gap(found, score_of(subject)))


def _integrated_gradients(subject: Subject) -> Attribution:
    score = score_function(subject)
    with torch.no_grad():
        owed = float(score(subject.images) - score(torch.zeros_like(subject.images)))
    found = IntegratedGradients(score).attribute(
        subject.images.clone().requires_grad_(), n_steps=PATH_STEPS, internal_batch_size=4
    )
    return _plain("integrated-gradients", subject, found.sum(1)[0], gap(found, owed))


@torch.no_grad()
def _occlusion(subject: Subject) -> Attribution:
    height, width = subject.images.shape[-2:]
    window = (3, min(WINDOW, height), min(WINDOW, width))
    found = Occlusion(score_function(subject)).attribute(
        subject.images, window, (3, STRIDE, STRIDE), perturbations_per_eval=8
    )
    return _plain("occlusion", subject, found[0, 0])


class _Decoder(nn.Module):
    """Latent map -> score, with its own layer for captum to hook, so that the model needs no hook."""

    def __init__(self, decode: Callable[[Tensor], Tensor], weights: Tensor):
        super().__init__()
        self.entry = nn.Identity()
        self._decode, self._weights = decode, weights

    def forward(self, latent: Tensor) -> Tensor:
        return (self._decode(self.entry(latent)) * self._weights).flatten(1).sum(1)


def _grad_cam(subject: Subject) -> Attribution:
    latent = subject.recording.latent
    decoder = _Decoder(subject.decode, subject.target.weights(subject.recording.logits))
    found = LayerGradCam(decoder, decoder.entry).attribute(latent.clone().requires_grad_(), relu_attributions=True)
    height, width = subject.images.shape[-2:]
    enlarged = upsample(found.detach(), (height, width))[0, 0]
    return _plain("grad-cam", subject, enlarged, gap(found, score_of(subject)))


METHODS: dict[str, Callable[[Subject], Attribution]] = {
    "lrp": _lrp("composite"),
    "lrp-epsilon": _lrp("epsilon"),
    "gradient-x-input": _gradient_x_input,
    "grad-cam": _grad_cam,
    "integrated-gradients": _integrated_gradients,
    "occlusion": _occlusion,
}


def score_function(subject: Subject) -> Callable[[Tensor], Tensor]:
    """Images [B, 3, H, W] -> score [B] of the subject's target."""
    weights = subject.target.weights(subject.recording.logits)
    return lambda images: (subject.model(images).logits * weights).flatten(1).sum(1)


def score_of(subject: Subject) -> float:
    """The sum of logits that is explained."""
    return float((subject.target.weights(subject.recording.logits) * subject.recording.logits).double().sum())


def gap(values: Tensor, owed: float) -> float:
    """Difference of a map's sum from what it should explain, as a share of that; infinite if only that is 0."""
    missing = abs(float(values.detach().double().sum()) - owed)
    return missing / abs(owed) if owed else (math.inf if missing else 0.0)


def _plain(method: Method, subject: Subject, found: Tensor, conservation: float | None = None) -> Attribution:
    """An attribution whose channel profile is gradient times input at the latent map."""
    weights = subject.target.weights(subject.recording.logits)
    score = score_of(subject)
    own = weights[:, subject.target.channel]
    profile = latent_relevance(subject.decode, subject.recording.latent, subject.target.channel, own)
    return Attribution(method, _finite(found, method), _array(profile.sum((2, 3))[0]), score, conservation=conservation)


def _finite(found: Tensor, method: str) -> np.ndarray:
    if not bool(found.isfinite().all()):
        raise NotFinite(f"{method} gave values that are not finite: check image and checkpoint for NaN")
    return _array(found)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().float().cpu().numpy()

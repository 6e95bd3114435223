"""The formats by name, with each one's network, prediction and evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from lag_core.importing import inplace_layout as inplace
from lag_core.importing import torchvision_layout as torchvision
from lag_core.importing.normalisation import Gamma
from lag_core.importing.source import Source
from lag_core.importing.torchvision_layout import Shapes


@dataclass(frozen=True)
class Format:
    """How checkpoints of one system become a run."""

    name: str
    title: str
    """In its authors' spelling."""
    step_sizes: Callable[[Source, int], list[int]]
    """Classes that each step introduced by the head sizes of a file, the background counted with step 0."""
    tensors: Callable[[Source, Shapes, Gamma], dict[str, Tensor]]
    """Our network's tensors."""
    network: dict[str, Any]
    """Its `config.model`, besides the backbone."""
    loss: Literal["bce", "bce_foreground", "ce"]
    """How probabilities come from logits: `config.method.loss`."""
    unknown: bool
    """Whether a channel of the unknown is added to the background's."""
    size: int
    """Side of the centre square that its evaluation cuts out."""
    layers: str
    """Key of the backbone's third layer, up to the block's number."""
    in_place: bool
    """Whether its norm may be InPlaceABN, which the file does not say."""


_COMMON = {"latent": 256, "head_width": 256, "head_kernel": 3, "aspp_rates": [6, 12, 18], "separable": False}
_IN_PLACE = {
    **_COMMON,
    "activation": "leaky_relu",
    "dilated_first_block": True,
    "pooling_window": 32,
    "head": "linear",
}


def _ssul_like(name: str, title: str) -> Format:
    return Format(
        name,
        title,
        torchvision.ssul_step_sizes,
        lambda source, shapes, gamma: torchvision.ssul_tensors(source, shapes),
        _COMMON,
        "bce",
        True,
        513,
        "backbone.layer3.",
        False,
    )


def _dkd_like(name: str, title: str, sizes: Callable, tensors: Callable) -> Format:
    return Format(
        name,
        title,
        sizes,
        lambda source, shapes, gamma: tensors(source, shapes),
        _COMMON,
        "bce_foreground",
        False,
        512,
        "backbone.layer3.",
        False,
    )


def _in_place(name: str, title: str, names: inplace.Names, layers: str, rcil: bool = False) -> Format:
    return Format(
        name,
        title,
        lambda source, step: inplace.step_sizes(source, names),
        lambda source, shapes, gamma: inplace.tensors(source, shapes, names, gamma, rcil),
        {**_IN_PLACE, "stem_activation": not rcil},
        "ce",
        False,
        512,
        layers,
        True,
    )


_ALL = (
    _ssul_like("ssul", "SSUL"),
    _ssul_like("lag", "LAG"),
    _dkd_like("dkd", "DKD", torchvision.dkd_step_sizes, torchvision.dkd_tensors),
    _dkd_like("star", "STAR", torchvision.star_step_sizes, torchvision.star_tensors),
    _in_place("mib", "MiB", inplace.MAPILLARY, "body.mod4.block"),
    _in_place("plop", "PLOP", inplace.MAPILLARY, "body.mod4.block"),
    _in_place("rcil", "RCIL", inplace.MAPILLARY, "body.mod4.block", rcil=True),
    _in_place("csseg", "CSSegmentation", inplace.CSSEG, "encoder.layer3."),
)
FORMATS: dict[str, Format] = {one.name: one for one in _ALL}

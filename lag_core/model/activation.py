"""The activation function of a network: ReLU, or the leaky ReLU of the networks built on InPlaceABN."""

from __future__ import annotations

from typing import Literal

from torch import nn

Activation = Literal["relu", "leaky_relu"]

SLOPE = 0.01
"""Slope of the leaky ReLU below zero."""


def activation(name: Activation) -> nn.Module:
    """A new activation function."""
    return nn.ReLU() if name == "relu" else nn.LeakyReLU(SLOPE)


def replace_relus(module: nn.Module, name: Activation) -> None:
    """Give `module` (in place) the activation function `name` wherever it has a ReLU, after sums, too."""
    for key, child in list(module.named_children()):
        if isinstance(child, nn.ReLU):
            setattr(module, key, activation(name))
        else:
            replace_relus(child, name)

"""Propagation rules of layer-wise relevance propagation (LRP), as data.

A linear layer computes z_j = sum_i a_i w_ij + b_j. Every rule passes the relevance R_j back in proportion to
contributions c_ij, a sum of products f(a_i) * g(w_ij):

    R_i = sum_j c_ij / (z'_j + eps * sign(z'_j)) * R_j        with  z'_j = sum_i c_ij + b'_j

so a rule is a list of such products. What does not reach the inputs is the share of the bias b' and of the
stabiliser eps; `propagate` counts both in closed form, not as the difference of two sums, so that the
conservation error measures something.

Sources: epsilon and alpha-beta, Bach et al. 2015 (10.1371/journal.pone.0130140); gamma and the composite,
Montavon et al. 2019 (10.1007/978-3-030-28954-6_10); gamma for outputs of either sign, Andeol et al. 2021
(2102.01668); z-box, Montavon et al. 2017 (10.1016/j.patcog.2016.11.008); flat, Lapuschkin et al. 2019
(1902.10178).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

TensorMap = Callable[[Tensor], Tensor]
"""Elementwise map of inputs or of weights; hashable, so that mapped weights can be kept."""


def identity(x: Tensor) -> Tensor:
    """x"""
    return x


def positive(x: Tensor) -> Tensor:
    """max(x, 0)"""
    return x.clamp(min=0)


def negative(x: Tensor) -> Tensor:
    """min(x, 0)"""
    return x.clamp(max=0)


def ones(x: Tensor) -> Tensor:
    """1"""
    return torch.ones_like(x)


def zeros(x: Tensor) -> Tensor:
    """0"""
    return torch.zeros_like(x)


@dataclass(frozen=True)
class Favour:
    """x + gamma * part(x): one sign has more weight than the other."""

    gamma: float
    part: TensorMap

    def __call__(self, x: Tensor) -> Tensor:
        return x + self.gamma * self.part(x)


@dataclass(frozen=True)
class From:
    """x - bound, the distance from the bound of each input channel. Shape: x [B, C, H, W], bound (C,)."""

    bound: tuple[float, ...]

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.bound):
            raise ValueError(f"the z-box bounds {len(self.bound)} channels, but the input has {x.shape[1]}")
        return x - x.new_tensor(self.bound).view(1, -1, 1, 1)


class Product(NamedTuple):
    """One product f(a) * g(w) of the contributions."""

    inputs: TensorMap
    weights: TensorMap

    def vanishes(self, nonnegative: bool) -> bool:
        """Whether the product is zero for inputs that are not negative."""
        return nonnegative and self.inputs is negative

    def of_inputs(self, a: Tensor, nonnegative: bool) -> Tensor:
        """f(a); what is known not to be negative is its own positive part."""
        return a if self.inputs is identity or (nonnegative and self.inputs is positive) else self.inputs(a)


class Share(NamedTuple):
    """`coefficient` times the relevance, passed back in proportion to `products`.

    aligned: z' of this share has the sign of the layer's output, wherever that is not zero.
    spread: the stabiliser's part is passed back evenly to all inputs that the output sees. It is
    negligible, except for an output that no input supports and only the bias makes positive: then it is everything.
    """

    coefficient: float
    products: tuple[Product, ...]
    bias: TensorMap
    aligned: bool = True
    spread: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether z' is the layer's own output."""
        return self.products == (Product(identity, identity),) and self.bias is identity

    @property
    def is_one_signed(self) -> bool:
        """Whether all contributions have one sign, so that z' has it too."""
        signs = (positive, negative)
        return all(product.inputs in signs and product.weights in signs for product in self.products)


@dataclass(frozen=True)
class Rule:
    """How one layer passes relevance back. The coefficients of `shares` add up to one.

    shares: for outputs that are not negative, or for all outputs where `shares_below` is None.
    shares_below: for negative outputs. Their relevance goes to the contributions that pushed them down.
    epsilon: stabiliser, relative to the mean |z'| of the layer.
    """

    name: str
    shares: tuple[Share, ...]
    shares_below: tuple[Share, ...] | None = None
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        if not self.epsilon > 0:
            raise ValueError(f"rule {self.name}: epsilon = {self.epsilon!r}, but a denominator needs epsilon > 0")

    @property
    def is_plain(self) -> bool:
        """Whether every output passes all its relevance back in proportion to its own summands."""
        return self.shares_below is None and len(self.shares) == 1 and self.shares[0].is_plain


def epsilon_rule(epsilon: float = 1e-6) -> Rule:
    """LRP-epsilon: every contribution counts with its sign."""
    return Rule("epsilon", (Share(1.0, (Product(identity, identity),), identity),), None, epsilon)


def _signed(coefficient: float, same: TensorMap, other: TensorMap, bias: bool = True) -> Share:
    """Positive inputs see same(w), negative inputs other(w): f(a) g(w) has the sign of `same`."""
    products = (Product(positive, same), Product(negative, other))
    return Share(coefficient, products, same if bias else zeros, aligned=coefficient > 0, spread=not bias)


def gamma_rule(gamma: float = 0.25, epsilon: float = 1e-6) -> Rule:
    """LRP-gamma: contributions with the sign of the output weigh (1 + gamma) times as much."""
    if gamma < 0:
        raise ValueError(f"gamma = {gamma!r}: must not be negative")
    up, down = Favour(gamma, positive), Favour(gamma, negative)
    return Rule("gamma", (_signed(1.0, up, down),), (_signed(1.0, down, up),), epsilon)


def alpha_beta_rule(alpha: float = 1.0, beta: float = 0.0, bias: bool = True, epsilon: float = 1e-6) -> Rule:
    """LRP-alpha-beta: alpha times in proportion to agreeing contributions, minus beta times to opposing ones.

    bias: if True, biases take part and absorb relevance; if False, all of it reaches the inputs (see
    `Share.spread`): in MobileNets most of it would otherwise end in depthwise outputs that are positive by bias alone.
    """
    if abs(alpha - beta - 1) > 1e-9 or beta < 0:
        raise ValueError(f"alpha = {alpha!r}, beta = {beta!r}: needs beta >= 0 and alpha - beta = 1")
    agree, oppose = (positive, negative), (negative, positive)
    above = [_signed(alpha, *agree, bias)] + ([_signed(-beta, *oppose, bias)] if beta else [])
    below = [_signed(alpha, *oppose, bias)] + ([_signed(-beta, *agree, bias)] if beta else [])
    return Rule(f"alpha{alpha:g}-beta{beta:g}", tuple(above), tuple(below), epsilon)


def zbox_rule(low: Sequence[float], high: Sequence[float], epsilon: float = 1e-6) -> Rule:
    """z-box, for inputs x within [low, high] of their channel: (x - low) w+ + (x - high) w- >= 0."""
    products = (Product(From(tuple(low)), positive), Product(From(tuple(high)), negative))
    return Rule("z-box", (Share(1.0, products, zeros, aligned=False),), None, epsilon)


def flat_rule(epsilon: float = 1e-6) -> Rule:
    """Flat: every input in the receptive field gets the same."""
    return Rule("flat", (Share(1.0, (Product(ones, ones),), zeros, aligned=False),), None, epsilon)


@dataclass(frozen=True)
class Composite:
    """Which rule acts where: on the image, in the backbone, in ASPP and heads."""

    name: str
    image: Rule
    backbone: Rule
    decoder: Rule


IMAGENET_LOW = (-2.1180, -2.0358, -1.8045)
"""Black, after the normalisation by ImageNet's mean and standard deviation (rounded away from zero)."""
IMAGENET_HIGH = (2.2490, 2.4286, 2.6401)
"""White, likewise."""


def composites() -> dict[str, Composite]:
    """The composites by name."""
    eps = epsilon_rule()
    pixels = zbox_rule(IMAGENET_LOW, IMAGENET_HIGH)
    return {
        "epsilon": Composite("epsilon", eps, eps, eps),
        "composite": Composite("composite", pixels, alpha_beta_rule(bias=False), eps),
        "composite-gamma": Composite("composite-gamma", pixels, gamma_rule(), eps),
        "composite-flat": Composite("composite-flat", flat_rule(), alpha_beta_rule(bias=False), eps),
    }


def composite_named(composite: str | Composite) -> Composite:
    """A composite by its name; one that is already one passes. ValueError lists the names."""
    if isinstance(composite, Composite):
        return composite
    known = composites()
    if composite not in known:
        raise ValueError(f"unknown composite {composite!r}; known: {', '.join(known)}")
    return known[composite]


class LinearMap(Protocol):
    """A linear layer as `propagate` needs it."""

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        """sum_i x_i g(w_ij) + bias_j, a new tensor."""

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        """sum_j g(w_ij) s_j, a new tensor in the shape of the input `like`."""

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        """g(b), [channels]; None where there is no bias."""

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        """Each s_j in equal parts to the inputs that output j sees, in the shape of the input `like`."""


class Passing(NamedTuple):
    """Input and output of a layer in the forward pass.

    inputs, outputs: before any activation function; outputs of a rectified layer are given rectified.
    nonnegative: no input is below zero. rectified: relevance arrives only where the output is above zero.
    """

    inputs: Tensor
    outputs: Tensor
    nonnegative: bool
    rectified: bool


class Ledger:
    """Relevance that biases and stabilisers have kept, per image. Shape: absorbed [B], float64."""

    def __init__(self, batch: int, device: torch.device):
        self.absorbed = torch.zeros(batch, dtype=torch.float64, device=device)

    def book(self, kept: Tensor) -> None:
        """Add `kept` [B, ...], summed over everything but the batch."""
        self.absorbed += kept.double().flatten(1).sum(1)


NEGLIGIBLE = 1e-4
"""Share of a layer's relevance that a stabiliser may keep in spite of `spread`; it is booked."""


class Quotient(NamedTuple):
    """S = R / (z + eps sign z), and eps sign z: [B, 1, 1, 1] where no z is negative, else of z's shape."""

    s: Tensor
    stabiliser: Tensor

    def book(self, ledger: Ledger, bias: Tensor | None) -> None:
        """The parts kept by the stabiliser, S eps sign z, and by the bias, S b."""
        uniform = self.stabiliser.shape[1:] == (1, 1, 1)
        if not uniform:
            ledger.book(torch.linalg.vecdot(self.s.flatten(1), self.stabiliser.flatten(1))[:, None])
        if uniform or bias is not None:
            rate = self.stabiliser[:, :, 0, 0] if uniform else self.s.new_zeros(())
            ledger.book(self.s.sum((2, 3)) * (rate if bias is None else rate + bias))

    def unsupported(self, relevance: Tensor, ledger: Ledger) -> Tensor | None:
        """Relevance of outputs that no input supports, taken back from the stabiliser; None if there is little.

        Shape: relevance [B, D, h, w] -> [B, D, h, w].
        """
        kept = self.s * self.stabiliser
        limit = NEGLIGIBLE * relevance.abs().sum((1, 2, 3), keepdim=True)
        much = kept.abs().sum((1, 2, 3), keepdim=True) > limit
        if not much.any():
            return None
        kept *= much
        ledger.book(-kept)
        return kept


def quotient(
    relevance: Tensor, z: Tensor, epsilon: float, *, upward: bool = False, overwrite: bool = False
) -> Quotient:
    """R divided by z, stabilised.

    eps is `epsilon` times the mean |z| of each image, and never so small that S would overflow. upward: no z
    is below zero, which saves the signs. overwrite: the result may take z's place.
    """
    total = (z if upward else z.abs()).sum((1, 2, 3), keepdim=True)
    eps = (total * (epsilon / z[0].numel())).clamp(min=torch.finfo(z.dtype).tiny ** 0.5)
    signed = eps if upward else torch.copysign(eps, z)
    s = torch.add(z, signed, out=z if overwrite else None)
    return Quotient(torch.div(relevance, s, out=s), signed)


def propagate(layer: LinearMap, rule: Rule, passing: Passing, relevance: Tensor, ledger: Ledger) -> Tensor:
    """Relevance of the layer's inputs; books what is absorbed. Shape: [B, D, h', w'] -> [B, C, h, w]."""
    parts = []
    for shares, part, rectified in _by_sign(rule, passing.outputs, relevance, passing.rectified):
        at = passing._replace(rectified=rectified)
        parts += [_propagate_share(layer, rule.epsilon, share, at, part, ledger) for share in shares]
    return _total(parts)


def _total(parts: Sequence[Tensor]) -> Tensor:
    """Sum of new tensors, in place of the first."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _by_sign(
    rule: Rule, outputs: Tensor, relevance: Tensor, rectified: bool
) -> list[tuple[tuple[Share, ...], Tensor, bool]]:
    """Relevance in two parts, of outputs from zero up and below, each with its shares; or all in one."""
    if rule.shares_below is None or rectified:
        return [(rule.shares, relevance, rectified)]
    # floats instead of masks of bool, which are several times slower on a CPU
    low, high = outputs.clamp(max=0).mul_(relevance).aminmax()
    if low == 0 and high == 0:
        return [(rule.shares, relevance, True)]
    downward = outputs.sign().clamp_(max=0).neg_().mul_(relevance)
    return [(rule.shares, relevance - downward, True), (rule.shares_below, downward, False)]


def _propagate_share(
    layer: LinearMap, epsilon: float, share: Share, passing: Passing, relevance: Tensor, ledger: Ledger
) -> Tensor:
    a, nonnegative = passing.inputs, passing.nonnegative
    products = [product for product in share.products if not product.vanishes(nonnegative)]
    mapped = [product.of_inputs(a, nonnegative) for product in products]
    bias = None if share.bias is zeros else layer.bias_with(share.bias)
    upward = passing.rectified and share.aligned
    z = passing.outputs if share.is_plain else _outputs_of(layer, share, products, mapped, bias, upward)
    if share.coefficient != 1:
        relevance = relevance * share.coefficient
    found = quotient(relevance, z, epsilon, upward=upward, overwrite=not share.is_plain)
    found.book(ledger, bias)
    parts = [
        layer.backward_with(found.s, product.weights, a).mul_(value)
        for product, value in zip(products, mapped, strict=True)
    ]
    if share.spread and (alone := found.unsupported(relevance, ledger)) is not None:
        parts.append(layer.spread(alone, a))
    return _total(parts)


def _outputs_of(
    layer: LinearMap, share: Share, products: list[Product], mapped: list[Tensor], bias: Tensor | None, upward: bool
) -> Tensor:
    """z' of a share: its contributions and its bias. upward: only z' > 0 gets relevance, the rest is 0."""
    z = layer.forward_with(mapped[0], products[0].weights, bias)
    for product, value in zip(products[1:], mapped[1:], strict=True):
        z += layer.forward_with(value, product.weights)
    return z.clamp_(min=0) if upward and not share.is_one_signed else z


def propagate_sum(
    rule: Rule, parts: Sequence[Tensor], total: Tensor, rectified: bool, relevance: Tensor, ledger: Ledger
) -> list[Tensor]:
    """Relevance of the summands of `total` (rectified, if so): a linear layer whose weights are 1.

    Shape: parts and relevance [B, C, h, w] -> one [B, C, h, w] per part.
    """
    found: list[list[Tensor]] = [[] for _ in parts]
    for shares, of_sign, upward in _by_sign(rule, total, relevance, rectified):
        for share in shares:
            plain = share.is_plain
            mapped = list(parts) if plain else [_with_weight_one(share, part) for part in parts]
            z = total if plain else _total([mapped[0].clone(), *mapped[1:]])
            upward_share = upward and share.aligned
            if upward_share and not (plain or share.is_one_signed):
                z.clamp_(min=0)
            weighted = of_sign if share.coefficient == 1 else of_sign * share.coefficient
            shared = quotient(weighted, z, rule.epsilon, upward=upward_share, overwrite=not plain)
            shared.book(ledger, None)
            alone = shared.unsupported(weighted, ledger) if share.spread else None
            for results, value in zip(found, mapped, strict=True):
                results.append(value * shared.s if plain else value.mul_(shared.s))
                if alone is not None:
                    results.append(alone / len(parts))
    return [_total(results) for results in found]


def _with_weight_one(share: Share, x: Tensor) -> Tensor:
    """The contribution of x through a weight of 1: sum of f(x) g(1), a new tensor."""
    one = x.new_ones(())
    factors = [float(product.weights(one)) for product in share.products]
    kept = [(product.inputs(x), factor) for product, factor in zip(share.products, factors, strict=True) if factor]
    result = kept[0][0] * kept[0][1] if kept[0][1] != 1 or kept[0][0] is x else kept[0][0]
    for value, factor in kept[1:]:
        result = result.add(value, alpha=factor)
    return result

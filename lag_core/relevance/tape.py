"""LRP on any network of layers that have a rule: one forward pass is recorded operation by operation.

PyTorch's operations are recorded while they run, so it does not matter how the network is written. There are rules
for convolutions (grouped and transposed, too), batch norm (folded into the convolution before it), ReLU-like
activations, sums, concatenations, bilinear and nearest resizing, pooling, and factors between 0 and 1 (gates), which
are held constant. Any other operation has no rule here that accounts for all relevance; `NoRule` names it. So
attention, layer norm and GELU are refused. Source: ours (docs/method.md#relevance); rules: `rules.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as trees

from lag_core.relevance.lrp import Depth, Relevance, checked
from lag_core.relevance.rules import Composite, Ledger, Rule, composite_named, propagate, propagate_sum, zbox_rule
from lag_core.relevance.tape_layers import Filter, Passing, layer_of
from lag_core.relevance.target import Target, weights_of


class NoRule(ValueError):
    """An operation that LRP has no rule for; `operation` is its name."""

    def __init__(self, operation: str):
        super().__init__(f"LRP has no rule for {operation}")
        self.operation = operation


Back = Callable[[Tensor, Rule, Ledger], list[Tensor]]
"""Relevance of an operation's output -> relevance of each of its inputs."""


class Node(NamedTuple):
    """The output of one operation, and the way back from it."""

    value: Tensor
    inputs: tuple[int, ...]
    back: Back
    layer: Filter | None = None
    """Its layer if it is a convolution: a batch norm after it is folded in."""


def unchanged(relevance: Tensor, rule: Rule, ledger: Ledger) -> list[Tensor]:
    """Activations and constant factors pass relevance on."""
    return [relevance]


ACTIVATIONS = frozenset(
    ("relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "hardswish", "hardtanh", "hardtanh_", "relu6_")
)
SAME = frozenset(
    ("dropout", "dropout2d", "feature_dropout", "contiguous", "clone", "detach", "to", "float", "alpha_dropout")
)
GATES = frozenset(("sigmoid", "hardsigmoid", "sigmoid_"))
SUMS = frozenset(("add", "add_", "__add__", "__iadd__", "__radd__"))
PRODUCTS = frozenset(("mul", "mul_", "__mul__", "__imul__", "__rmul__"))
POOLINGS = frozenset(("avg_pool2d", "adaptive_avg_pool2d", "interpolate", "upsample", "expand", "mean", "pad"))


class Tape(TorchFunctionMode):
    """Records the operations on `images`; in-place operations write into new tensors."""

    def __init__(self, images: Tensor):
        super().__init__()
        self.nodes = [Node(images, (), lambda *_: [])]
        self._places = {id(images): 0}
        self._gates: dict[int, Tensor] = {}
        self.latent: int | None = None

    def place(self, value: Any) -> int | None:
        """Number of a tensor's node; None for constants."""
        return self._places.get(id(value)) if isinstance(value, Tensor) else None

    def mark(self, value: Any) -> None:
        """This tensor is Z."""
        self.latent = self.place(value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        leaves = [leaf for leaf in trees.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        gated = any(id(leaf) in self._gates for leaf in leaves)
        if not gated and all(self.place(leaf) is None for leaf in leaves):
            return func(*args, **kwargs)
        name = getattr(func, "__name__", str(func))
        handler = None if gated and name not in PRODUCTS else HANDLERS.get(name)
        if handler is not None:
            return handler(self, name, func, args, kwargs)
        found = func(*args, **kwargs)
        if any(isinstance(leaf, Tensor) for leaf in trees.tree_leaves(found)):
            raise NoRule(name.strip("_"))
        return found  # a size, a type

    def add(self, value: Tensor, inputs: Sequence[int], back: Back, layer: Filter | None = None) -> Tensor:
        """Record one operation."""
        self._places[id(value)] = len(self.nodes)
        self.nodes.append(Node(value, tuple(inputs), back, layer))
        return value

    # ------------------------------------------------------------------ operations

    def filtered(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Convolutions, pooling and resizing: linear layers."""
        source = self._only_input(name, args, kwargs)
        layer = layer_of(name, func, args, kwargs)
        if layer is None:
            raise NoRule(f"{name} with these arguments")
        value = func(*args, **kwargs)
        return self.add(value, (source,), self._through(layer, source, value), layer)

    def _through(self, layer: Filter, source: int, value: Tensor) -> Back:
        inputs = self.nodes[source].value
        passing = Passing(inputs, value, bool((inputs >= 0).all()), False)
        return lambda relevance, rule, ledger: [propagate(layer, rule, passing, relevance, ledger)]

    def normalised(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Batch norm: part of the convolution before it, unless Z lies between them."""
        source = self._only_input(name, args, kwargs)
        layer = layer_of(name, func, args, kwargs)
        if layer is None:
            raise NoRule("batch_norm of the batch's own statistics")
        value = func(*args, **kwargs)
        before = self.nodes[source]
        folded = None if before.layer is None or source == self.latent else before.layer.followed_by(layer)
        if folded is not None:
            source, layer = before.inputs[0], folded
        return self.add(value, (source,), self._through(layer, source, value))

    def activated(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        source = self._only_input(name, args, kwargs)
        value = func(self.nodes[source].value.clone(), *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        return self.add(value, (source,), unchanged)

    def gate(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """A factor: its inputs get no relevance."""
        value = func(self.nodes[self._only_input(name, args, kwargs)].value.clone())
        self._gates[id(value)] = value
        return value

    def scaled(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """A product with a gate or a constant, which is held constant."""
        tracked = [place for place in map(self.place, args[:2]) if place is not None]
        if len(tracked) != 1:
            raise NoRule("a product of two maps")
        first, second = (one.clone() if isinstance(one, Tensor) else one for one in args[:2])
        value = torch.mul(first, second)
        if value.shape != self.nodes[tracked[0]].value.shape:
            raise NoRule("a product that changes a map's size")
        return self.add(value, tracked, unchanged)

    def summed(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        places = [self.place(one) for one in args[:2]]
        alpha = kwargs.get("alpha", 1)
        if len(args) != 2 or None in places or alpha != 1:
            raise NoRule("a sum with a constant")
        known = [place for place in places if place is not None]
        parts = [self.nodes[place].value for place in known]
        if parts[0].shape != parts[1].shape:
            raise NoRule("a sum of maps of two sizes")
        value = parts[0] + parts[1]

        def back(relevance: Tensor, rule: Rule, ledger: Ledger) -> list[Tensor]:
            return propagate_sum(rule, parts, value, False, relevance, ledger)

        return self.add(value, known, back)

    def joined(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """A concatenation along the channels."""
        tensors = args[0] if args else kwargs["tensors"]
        dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        places = [self.place(one) for one in tensors]
        if dim not in (1, -3) or None in places:
            raise NoRule("a concatenation with a constant, or not along the channels")
        sizes = [one.shape[1] for one in tensors]
        value = torch.cat(list(tensors), 1)
        known = [place for place in places if place is not None]
        return self.add(value, known, lambda relevance, rule, ledger: list(relevance.split(sizes, 1)))

    def won(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Maximum pooling: the winner takes all."""
        source = self._only_input(name, args, kwargs)
        settings = {k: v for k, v in kwargs.items() if k not in ("input", "return_indices")}
        inputs = self.nodes[source].value
        value, winners = nn.functional.max_pool2d(inputs, *args[1:6], **settings, return_indices=True)

        def back(relevance: Tensor, rule: Rule, ledger: Ledger) -> list[Tensor]:
            result = relevance.new_zeros(*inputs.shape[:2], inputs.shape[2] * inputs.shape[3])
            return [result.scatter_add_(2, winners.flatten(2), relevance.flatten(2)).view(inputs.shape)]

        return self.add(value, (source,), back)

    def same(self, name: str, func: Any, args: Any, kwargs: Any) -> Tensor:
        source = self._only_input(name, args, kwargs)
        before = self.nodes[source].value
        value = func(*args, **kwargs)
        if value is before:
            return value
        if not torch.equal(value.to(before), before):
            raise NoRule(f"{name} that changes its values")
        return self.add(value, (source,), unchanged, self.nodes[source].layer)

    def _only_input(self, name: str, args: Any, kwargs: Any) -> int:
        source = self.place(args[0] if args else kwargs.get("input"))
        others = [leaf for leaf in trees.tree_leaves((args[1:], {**kwargs, "input": None}))]
        if source is None or any(self.place(leaf) is not None for leaf in others):
            raise NoRule(f"{name} whose weights depend on the picture")
        return source


HANDLERS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("conv2d", "conv_transpose2d", *POOLINGS), Tape.filtered),
    "batch_norm": Tape.normalised,
    **dict.fromkeys(ACTIVATIONS, Tape.activated),
    **dict.fromkeys(GATES, Tape.gate),
    **dict.fromkeys(PRODUCTS, Tape.scaled),
    **dict.fromkeys(SUMS, Tape.summed),
    **dict.fromkeys(("cat", "concat", "concatenate"), Tape.joined),
    "max_pool2d": Tape.won,
    **dict.fromkeys(SAME, Tape.same),
}
"""Name of an operation -> how it is recorded."""


class TapedPass:
    """One recorded pass of a network on normalised images [B, 3, H, W], for many questions.

    `latent`: the module whose output is Z. `mean`, `std`: the images' normalisation. `hidden`: channels that
    targets count before the network's own, such as an unknown class that it does not have. `NoRule` for an unknown
    operation, or if the recording gives other logits than the network.
    """

    @torch.no_grad()
    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        latent: nn.Module,
        images: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        hidden: int = 0,
    ):
        self.inputs, self.hidden = images.detach().clone(), hidden
        black, white = ([(end - m) / s for m, s in zip(mean, std, strict=True)] for end in (0.0, 1.0))
        self.pixels = zbox_rule(black, white)
        tape = Tape(self.inputs)
        handle = latent.register_forward_hook(lambda _, __, output: tape.mark(output))
        try:
            with tape:
                logits = run(self.inputs)
        finally:
            handle.remove()
        place = tape.place(logits)
        if place is None or tape.latent is None:
            raise NoRule("a network whose logits or Z do not come from its layers alone")
        plain = run(self.inputs)
        if not torch.allclose(plain, logits, rtol=1e-4, atol=1e-4 * float(plain.abs().max())):
            raise NoRule("operations that write into each other's maps")
        self.nodes, self.logits_at, self.latent_at = tape.nodes[: place + 1], place, tape.latent
        self.logits, self.latent = logits, tape.nodes[tape.latent].value

    @torch.no_grad()
    def relevance(
        self, target: Target | Tensor, composite: str | Composite = "epsilon", to: Depth = "pixels"
    ) -> Relevance:
        """Relevance of `target`; see `lrp`. Layers after Z use the decoder's rule, those before it the backbone's."""
        if to == "trunk":
            raise ValueError("a recorded network has no trunk of its own: ask for pixels or latent")
        rules = composite_named(composite)
        counted = nn.functional.pad(self.logits, (0, 0, 0, 0, self.hidden, 0))
        weights = weights_of(target, counted)[:, self.hidden :]
        start = weights * self.logits
        ledger = Ledger(len(start), start.device)
        found: dict[int, Tensor] = {self.logits_at: start}
        latent = torch.zeros_like(self.latent)
        beside = torch.zeros(len(start), dtype=torch.float64, device=start.device)
        for place in range(self.logits_at, 0, -1):
            relevance = found.pop(place, None)
            if relevance is None:
                continue
            if place == self.latent_at:
                latent = relevance
            if to == "latent" and place <= self.latent_at:
                beside += 0 if place == self.latent_at else _sum(relevance)
                continue
            self._step_back(place, relevance, rules, ledger, found)
        if to == "latent":
            ledger.absorbed += beside + _sum(found.get(0, torch.zeros_like(start[:, :1, :1, :1])))
            values = latent
        else:
            values = found.get(0, torch.zeros_like(self.inputs))
        return checked(Relevance(values, latent, _sum(start), ledger.absorbed), rules.name)

    def _step_back(
        self, place: int, relevance: Tensor, rules: Composite, ledger: Ledger, found: dict[int, Tensor]
    ) -> None:
        node = self.nodes[place]
        rule = rules.decoder if place > self.latent_at else rules.backbone
        if 0 in node.inputs:
            rule = self.pixels if rules.image.name == "z-box" else rules.image
        for source, part in zip(node.inputs, node.back(relevance, rule, ledger), strict=True):
            found[source] = found[source] + part if source in found else part


def _sum(x: Tensor) -> Tensor:
    """Over everything but the batch, float64 [B]."""
    return x.double().flatten(1).sum(1)

"""A network as LRP sees it: batch norm folded in; layers keep their inputs and pass relevance back.

`chain_of` translates modules; the modules themselves are only read. Each layer's `run` returns its output and
a function that carries relevance from there to the input. Activation functions are part of the layer before
them and pass relevance on unchanged; so do gates (squeeze-and-excitation): their factor is held constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.mobilenetv2 import InvertedResidual as InvertedResidualV2
from torchvision.models.mobilenetv3 import InvertedResidual as InvertedResidualV3
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import SqueezeExcitation

from lag_core.model.aspp import ASPP, ImagePooling
from lag_core.model.backbone import SkipStage
from lag_core.model.efficientnet_lite import InvertedResidual as InvertedResidualLite
from lag_core.model.efficientnet_lite import Rescaled, SameConv2d
from lag_core.model.heads import Head
from lag_core.relevance.rules import (
    Ledger,
    Passing,
    Rule,
    TensorMap,
    identity,
    propagate,
    propagate_sum,
    quotient,
)


class Flow(NamedTuple):
    """A feature map in the forward pass. nonnegative: no value is below zero."""

    value: Tensor
    nonnegative: bool


class Way(NamedTuple):
    """How relevance is passed back: the rule, and the ledger of absorbed relevance."""

    rule: Rule
    ledger: Ledger
    first: Rule
    """Rule of the layer that sees the image."""


Back = Callable[[Tensor, Way], Tensor]
"""Relevance of a layer's output -> relevance of its input. May be called many times."""


class Layer(Protocol):
    """Runs forward and returns the way back."""

    def run(self, x: Flow) -> tuple[Flow, Back]:
        """Output and way back."""


class Convolution:
    """Convolution with batch norm folded in, and the activation function after it."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, activation: nn.Module | None):
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise TypeError(f"LRP knows convolutions with a number of zeros as padding, not {conv}")
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        self.weight, self.bias = _copied(weight, bias) if norm is None else fold(weight, bias, norm)
        self.stride, self.padding = conv.stride, conv.padding
        self.dilation, self.groups = conv.dilation, conv.groups
        self.activation = activation
        self.rectified = isinstance(activation, nn.ReLU | nn.ReLU6)
        self.sees_image = False
        self._mapped: dict[TensorMap, Tensor] = {}

    def weights(self, how: TensorMap) -> Tensor:
        """g(w), computed once."""
        if how is identity:
            return self.weight
        if how not in self._mapped:
            self._mapped[how] = how(self.weight)
        return self._mapped[how]

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        return None if self.bias is None else weights(self.bias)

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        w = self.weights(weights)
        return F.conv2d(x, w, bias, self.stride, self.padding, self.dilation, self.groups)

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        w = self.weights(weights)
        if like.shape[1] <= 4 and self.groups == 1:
            # Few input channels: a matrix product and a fold take half the time of a transposed convolution.
            columns = w.flatten(1).t() @ s.flatten(2)
            shape = like.shape[-2:]
            return F.fold(columns, shape, w.shape[-2:], self.dilation, self.padding, self.stride)
        return F.conv_transpose2d(
            s, w, None, self.stride, self.padding, self._left_over(like, s), self.groups, self.dilation
        )

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        kernel = self.weight.new_ones(self.groups, 1, *self.weight.shape[-2:])
        geometry = (self.stride, self.padding)
        seen = F.conv2d(torch.ones_like(like[:1, :1]), kernel[:1], None, *geometry, self.dilation)
        per_group = s.unflatten(1, (self.groups, -1)).sum(2) / (seen * self.weight.shape[1])
        even = F.conv_transpose2d(
            per_group, kernel, None, *geometry, self._left_over(like, s), self.groups, self.dilation
        )
        return even.unsqueeze(2).expand(-1, -1, self.weight.shape[1], -1, -1).flatten(1, 2)

    def _left_over(self, like: Tensor, s: Tensor) -> list[int]:
        """Rows and columns at the input's far edge that no output has seen."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.weight.shape[-2:], strict=True)]
        seen = [(n - 1) * t + r for n, t, r in zip(s.shape[-2:], self.stride, reach, strict=True)]
        return [n + 2 * p - m for n, p, m in zip(like.shape[-2:], self.padding, seen, strict=True)]

    def run(self, x: Flow) -> tuple[Flow, Back]:
        z = self.forward_with(x.value, identity, self.bias)
        y = activate(self.activation, z)
        outputs = z.relu_() if self.rectified and y is not z else z  # a plain ReLU has rectified z already
        passing = Passing(x.value, outputs, x.nonnegative, self.rectified)

        def back(relevance: Tensor, way: Way) -> Tensor:
            rule = way.first if self.sees_image else way.rule
            return propagate(self, rule, passing, relevance, way.ledger)

        return Flow(y, self.rectified), back


class SameConvolution(Convolution):
    """A strided convolution with TensorFlow's zero padding, which is part of the layer and gets no relevance."""

    def __init__(self, conv: SameConv2d, norm: nn.BatchNorm2d | None, activation: nn.Module | None):
        super().__init__(conv, norm, activation)
        self.padding, self.margins = (0, 0), conv.margins

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        return super().forward_with(self._padded(x), weights, bias)

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        return self._inside(super().backward_with(s, weights, self._padded(like)), like)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        kernel = self.weight.new_ones(self.groups, 1, *self.weight.shape[-2:])
        ones = self._padded(torch.ones_like(like[:1, :1]))
        seen = F.conv2d(ones, kernel[:1], None, self.stride, 0, self.dilation) * self.weight.shape[1]
        per_group = s.unflatten(1, (self.groups, -1)).sum(2) / seen
        left_over = self._left_over(self._padded(like), s)
        even = F.conv_transpose2d(per_group, kernel, None, self.stride, 0, left_over, self.groups, self.dilation)
        return self._inside(even, like).repeat_interleave(self.weight.shape[1], 1)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, self.margins(x.shape[-2:]))

    def _inside(self, x: Tensor, like: Tensor) -> Tensor:
        """Without the zeros; a map of its own, that may be written to."""
        left, _, above, _ = self.margins(like.shape[-2:])
        return x[..., above : above + like.shape[-2], left : left + like.shape[-1]].contiguous()


class Input:
    """A backbone's own normalisation: the same pixels in other units, so that relevance passes unchanged."""

    def __init__(self, module: Rescaled):
        self.module = module

    def run(self, x: Flow) -> tuple[Flow, Back]:
        return Flow(self.module(x.value), False), lambda relevance, way: relevance


def _copied(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Copies, so that later training of a model does not change a view of it."""
    return weight.clone(), None if bias is None else bias.clone()


def fold(weight: Tensor, bias: Tensor | None, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution followed by batch norm in evaluation mode."""
    if norm.running_mean is None or norm.running_var is None:
        raise TypeError("LRP needs batch norm with running statistics")
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach()
    shift = -norm.running_mean * scale if bias is None else (bias - norm.running_mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias.detach()
    return weight * scale.view(-1, 1, 1, 1), shift


def activate(activation: nn.Module | None, z: Tensor) -> Tensor:
    """The activation function, into a new tensor unless it is a plain ReLU."""
    if activation is None:
        return z
    if type(activation) is nn.ReLU:
        return z.relu_()
    if isinstance(activation, nn.ReLU6):
        return z.clamp(0, 6)
    if isinstance(activation, nn.LeakyReLU):
        return F.leaky_relu(z, activation.negative_slope)
    return F.hardswish(z)


class Chain:
    """Layers one after another."""

    def __init__(self, layers: Sequence[Layer]):
        self.layers = layers

    def run(self, x: Flow) -> tuple[Flow, Back]:
        backs = []
        for layer in self.layers:
            x, back = layer.run(x)
            backs.append(back)

        def back_all(relevance: Tensor, way: Way) -> Tensor:
            for back in reversed(backs):
                relevance = back(relevance, way)
            return relevance

        return x, back_all


class MaxPool:
    """Maximum pooling: the winner takes all."""

    def __init__(self, pool: nn.MaxPool2d):
        self.pool = pool

    def run(self, x: Flow) -> tuple[Flow, Back]:
        p, shape = self.pool, x.value.shape
        y, winners = F.max_pool2d(
            x.value, p.kernel_size, p.stride, p.padding, p.dilation, p.ceil_mode, return_indices=True
        )

        def back(relevance: Tensor, way: Way) -> Tensor:
            result = relevance.new_zeros(*shape[:2], shape[2] * shape[3])
            return result.scatter_add_(2, winners.flatten(2), relevance.flatten(2)).view(shape)

        return Flow(y, x.nonnegative), back


class Residual:
    """body(x) + skip(x), and an activation function in the ResNets. Without a skip layer, x itself is added.

    Body and skip end in a convolution without activation function. Under a plain rule these and the addition are one
    linear layer: a single quotient on the block's widest maps instead of two or three.
    """

    def __init__(self, body: Chain, skip: Chain | None, activation: nn.Module | None):
        self.inner, self.last = Chain(body.layers[:-1]), _linear_end(body)
        self.skip = None if skip is None else _linear_end(skip)
        if skip is not None and len(skip.layers) > 1:
            raise TypeError("LRP knows shortcuts of one convolution, not of several layers")
        self.activation, self.rectified = activation, isinstance(activation, nn.ReLU)

    def run(self, x: Flow) -> tuple[Flow, Back]:
        a, back_inner = self.inner.run(x)
        u, back_last = self.last.run(a)
        v, back_skip = self.skip.run(x) if self.skip is not None else (x, None)
        z = u.value + v.value
        y = activate(self.activation, z)  # a ReLU rectifies z, too

        def back(relevance: Tensor, way: Way) -> Tensor:
            if way.rule.is_plain:
                s = self._shared_out(relevance, z, way)
                result = back_inner(self.last.backward_with(s, identity, a.value).mul_(a.value), way)
                beside = s if self.skip is None else self.skip.backward_with(s, identity, x.value)
                return result.addcmul_(beside, x.value)
            of_body, of_skip = propagate_sum(way.rule, (u.value, v.value), z, self.rectified, relevance, way.ledger)
            result = back_inner(back_last(of_body, way), way)
            result += of_skip if back_skip is None else back_skip(of_skip, way)
            return result

        return Flow(y, self.rectified or (u.nonnegative and v.nonnegative)), back

    def _shared_out(self, relevance: Tensor, z: Tensor, way: Way) -> Tensor:
        """R / (z + eps sign z); books what the stabiliser and both convolutions' biases keep."""
        found = quotient(relevance, z, way.rule.epsilon, upward=self.rectified)
        ends = (self.last,) if self.skip is None else (self.last, self.skip)
        biases = [end.bias for end in ends if end.bias is not None]
        found.book(way.ledger, torch.stack(biases).sum(0) if biases else None)
        return found.s


def _linear_end(chain: Chain) -> Convolution:
    """The last layer of a chain; TypeError unless it is a convolution without activation function."""
    last = chain.layers[-1]
    if not isinstance(last, Convolution) or last.activation is not None:
        raise TypeError("LRP knows residual blocks whose branches end in a convolution without activation function")
    return last


class Gate:
    """Squeeze-and-excitation: x times a factor that counts as a constant, so relevance passes unchanged."""

    def __init__(self, module: SqueezeExcitation):
        self.module = module

    def run(self, x: Flow) -> tuple[Flow, Back]:
        m = self.module
        squeezed = F.conv2d(x.value.mean((2, 3), keepdim=True), m.fc1.weight.detach(), _detached(m.fc1.bias))
        gate = F.conv2d(m.activation(squeezed), m.fc2.weight.detach(), _detached(m.fc2.bias))
        y = x.value * m.scale_activation(gate)
        return Flow(y, x.nonnegative), lambda relevance, way: relevance


def _detached(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach()


class MeanPool:
    """The mean over the map, a linear layer. Shape: [B, C, h, w] -> [B, C, 1, 1]."""

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        return None

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        return x.sum((2, 3), keepdim=True) * self._weight(x, weights)

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        return (s * self._weight(like, weights)).expand_as(like).clone()

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        return self.backward_with(s, identity, like)

    @staticmethod
    def _weight(x: Tensor, weights: TensorMap) -> Tensor:
        return weights(x.new_tensor(1 / (x.shape[2] * x.shape[3])))

    def run(self, x: Flow) -> tuple[Flow, Back]:
        y = x.value.mean((2, 3), keepdim=True)
        passing = Passing(x.value, y, x.nonnegative, x.nonnegative)
        return Flow(y, x.nonnegative), lambda r, way: propagate(self, way.rule, passing, r, way.ledger)


class WindowPool:
    """Means over windows, stride 1, a linear layer. Shape: [B, C, h, w] -> [B, C, h - h' + 1, w - w' + 1]."""

    def __init__(self, cells: tuple[int, int]):
        self.cells = cells

    def bias_with(self, weights: TensorMap) -> Tensor | None:
        return None

    def forward_with(self, x: Tensor, weights: TensorMap, bias: Tensor | None = None) -> Tensor:
        down, across = self._bands(x)
        return (down @ x @ across.t()) * self._weight(x, weights)

    def backward_with(self, s: Tensor, weights: TensorMap, like: Tensor) -> Tensor:
        down, across = self._bands(like)
        return (down.t() @ s @ across) * self._weight(s, weights)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        return self.backward_with(s, identity, like)

    def _bands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Which cells of a column, and of a row, each window sees: 1 or 0. Shape: [h - h' + 1, h], [w - w' + 1, w]."""
        down, across = (
            torch.ones(length - n + 1, length, dtype=x.dtype, device=x.device).triu().tril(n - 1)
            for length, n in zip(x.shape[-2:], self.cells, strict=True)
        )
        return down, across

    def _weight(self, x: Tensor, weights: TensorMap) -> Tensor:
        return weights(x.new_tensor(1 / (self.cells[0] * self.cells[1])))

    def run(self, x: Flow) -> tuple[Flow, Back]:
        y = self.forward_with(x.value, identity)
        passing = Passing(x.value, y, x.nonnegative, x.nonnegative)
        return Flow(y, x.nonnegative), lambda r, way: propagate(self, way.rule, passing, r, way.ledger)


class RepeatedEdges:
    """The outermost rows and columns repeated outwards; the copies' relevance returns to the original."""

    def __init__(self, margins: tuple[int, int, int, int]):
        self.margins = margins

    def run(self, x: Flow) -> tuple[Flow, Back]:
        left, right, top, bottom = self.margins
        height, width = x.value.shape[-2:]
        device = x.value.device
        rows = torch.arange(-top, height + bottom, device=device).clamp(0, height - 1)
        columns = torch.arange(-left, width + right, device=device).clamp(0, width - 1)

        def back(relevance: Tensor, way: Way) -> Tensor:
            shape = relevance.shape
            gathered = relevance.new_zeros(*shape[:2], height, shape[3]).index_add_(2, rows, relevance)
            return relevance.new_zeros(x.value.shape).index_add_(3, columns, gathered)

        return Flow(x.value.index_select(2, rows).index_select(3, columns), x.nonnegative), back


class PooledBranch:
    """ASPP's image pooling: mean (of windows), projection, the vectors spread over the map again."""

    def __init__(self, module: ImagePooling):
        self.module, self.project = module, chain_of(module.project)
        self.layers = Chain([MeanPool(), self.project])

    def run(self, x: Flow) -> tuple[Flow, Back]:
        size = (x.value.shape[2], x.value.shape[3])
        cells = self.module.cells(size)
        if cells != size:
            edges = RepeatedEdges(self.module.margins(cells))
            return Chain([WindowPool(cells), self.project, edges]).run(x)
        y, back_layers = self.layers.run(x)
        return Flow(y.value.expand(-1, -1, *size), y.nonnegative), lambda r, way: back_layers(
            r.sum((2, 3), keepdim=True), way
        )


class Parallel:
    """Branches on the same input, their outputs concatenated along the channels."""

    def __init__(self, branches: Sequence[Layer]):
        self.branches = branches

    def run(self, x: Flow) -> tuple[Flow, Back]:
        flows, backs = zip(*(branch.run(x) for branch in self.branches), strict=True)
        sizes = [flow.value.shape[1] for flow in flows]

        def back(relevance: Tensor, way: Way) -> Tensor:
            parts = [back(part, way) for back, part in zip(backs, relevance.split(sizes, 1), strict=True)]
            return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

        return Flow(torch.cat([f.value for f in flows], 1), all(f.nonnegative for f in flows)), back


class Skip:
    """A stage that returns its input with its own output; an enlarged cell's relevance is the sum of its copies'."""

    def __init__(self, stage: SkipStage):
        self.stage, self.body = stage, chain_of(list(stage))

    def run(self, x: Flow) -> tuple[Flow, Back]:
        stage = self.stage
        own, back_own = self.body.run(Flow(stage.seen(x.value), x.nonnegative))
        height, width = own.value.shape[-2:]
        times = stage.enlarged

        def back(relevance: Tensor, way: Way) -> Tensor:
            kept, copies = relevance.split([x.value.shape[1], own.value.shape[1]], 1)
            missing = (0, width * times - copies.shape[-1], 0, height * times - copies.shape[-2])
            cells = F.pad(copies, missing).unflatten(-1, (width, times)).unflatten(-3, (height, times))
            result = kept.clone()
            stage.seen(result).add_(back_own(cells.sum((-3, -1)), way))
            return result

        return Flow(stage.join(x.value, own.value), x.nonnegative and own.nonnegative), back


ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardswish)
IGNORED = (nn.Identity, nn.Dropout)
"""Modules that do nothing in evaluation mode."""


def chain_of(module: nn.Module | Sequence[nn.Module]) -> Chain:
    """Modules in order, nested `Sequential`s opened; a convolution includes its norm and activation."""
    modules = list(_opened([module] if isinstance(module, nn.Module) else module))
    layers: list[Layer] = []
    while modules:
        first = modules.pop(0)
        if not isinstance(first, nn.Conv2d):
            layers.append(_translated(first))
            continue
        norm = modules.pop(0) if modules and isinstance(modules[0], nn.BatchNorm2d) else None
        activation = modules.pop(0) if modules and isinstance(modules[0], ACTIVATIONS) else None
        same = isinstance(first, SameConv2d) and first.stride != (1, 1)
        layers.append((SameConvolution if same else Convolution)(first, norm, activation))  # type: ignore[arg-type]
    return Chain(layers)


def _opened(modules: Iterable[nn.Module]) -> Iterable[nn.Module]:
    for module in modules:
        if isinstance(module, nn.Sequential) and not isinstance(module, SkipStage):
            yield from _opened(module)
        elif not isinstance(module, IGNORED):
            yield module


def _translated(module: nn.Module) -> Layer:
    for kind, translate in TRANSLATIONS.items():
        if isinstance(module, kind):
            return translate(module)
    raise TypeError(f"LRP knows no {type(module).__name__}: add it to TRANSLATIONS in lag_core/relevance/layers.py")


def _basic_block(m: BasicBlock) -> Layer:
    return _resnet_block([m.conv1, m.bn1, m.relu, m.conv2, m.bn2], m.downsample)


def _bottleneck(m: Bottleneck) -> Layer:
    body = [m.conv1, m.bn1, m.relu, m.conv2, m.bn2, m.relu, m.conv3, m.bn3]
    return _resnet_block(body, m.downsample)


def _resnet_block(body: list[nn.Module], downsample: nn.Module | None) -> Layer:
    return Residual(chain_of(body), None if downsample is None else chain_of(downsample), body[2])


def _inverted_residual_v2(m: InvertedResidualV2) -> Layer:
    body = chain_of(m.conv)
    return Residual(body, None, None) if m.use_res_connect else body


def _inverted_residual_v3(m: InvertedResidualV3) -> Layer:
    body = chain_of(m.block)
    return Residual(body, None, None) if m.use_res_connect else body


def _inverted_residual_lite(m: InvertedResidualLite) -> Layer:
    body = chain_of(m.body)
    return Residual(body, None, None) if m.adds else body


def _aspp(m: ASPP) -> Layer:
    return Chain([Parallel([chain_of(branch) for branch in m.branches]), chain_of(m.project)])


def _head(m: Head) -> Layer:
    return chain_of([m.conv, m.norm, m.relu, m.classify])


TRANSLATIONS: dict[type[nn.Module], Callable[..., Layer]] = {
    nn.MaxPool2d: MaxPool,
    BasicBlock: _basic_block,
    Bottleneck: _bottleneck,
    InvertedResidualV2: _inverted_residual_v2,
    InvertedResidualV3: _inverted_residual_v3,
    InvertedResidualLite: _inverted_residual_lite,
    Rescaled: Input,
    SqueezeExcitation: Gate,
    SkipStage: Skip,
    ImagePooling: PooledBranch,
    ASPP: _aspp,
    Head: _head,
}
"""The translation of each kind of module; anything else is refused by name."""

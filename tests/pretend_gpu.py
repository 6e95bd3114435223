"""A graphics card that is not there: tensors count as lying on it, and mixing them with others fails as on a real one.

What is computed is computed by the processor, with the same numbers; only the place of each tensor is kept book of, by
its storage. `.device` says "cuda:0" of a tensor on the card; an operation on tensors of both places raises, as do
`.numpy()` of a tensor on the card and random numbers drawn there by a generator of the processor. Allowed, as on a real
card: copying, single numbers of the processor among operands, and places of the processor as an index.

It holds in the thread that enters it (`with PretendGpu():`). What it cannot show: anything about CUDA's own kernels,
numbers, memory or speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")

INDEXED = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
"""Their second argument may lie on the processor."""

COPIES = {"aten::copy_", "aten::_to_copy", "aten::copy"}


class MixedPlaces(RuntimeError):
    """An operation got tensors of the card and of the processor."""


class Places:
    """Which storages lie on the card."""

    def __init__(self) -> None:
        self._here: dict[int, StorageWeakRef] = {}

    def has(self, tensor: Tensor) -> bool:
        with torch._C.DisableTorchFunction():
            return StorageWeakRef(tensor.untyped_storage()).cdata in self._here

    def put(self, tensor: Tensor, here: bool = True) -> Tensor:
        with torch._C.DisableTorchFunction():
            if tensor.is_meta:
                return tensor
            found = StorageWeakRef(tensor.untyped_storage())  # as long as it is kept, no other storage has its address
        if here:
            self._here[found.cdata] = found
        else:
            self._here.pop(found.cdata, None)
        return tensor


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors(one)


def is_cuda(device: Any) -> bool:
    """Whether a name or a device is the card's."""
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


class _Operations(TorchDispatchMode):
    """Below autograd: every single operation, those of the backward pass too."""

    def __init__(self, places: Places):
        super().__init__()
        self.places = places

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        name = func._schema.name
        weighed = [args[0], *args[2:]] if name in INDEXED else args
        mine = [one for one in tensors([*weighed, given]) if not one.is_meta]
        here = [self.places.has(one) for one in mine]
        lone = [one.dim() == 0 for one in mine]
        if any(here) and not all(on or single for on, single in zip(here, lone, strict=True)) and name not in COPIES:
            shapes = [(tuple(one.shape), "card" if on else "processor") for one, on in zip(mine, here, strict=True)]
            raise MixedPlaces(f"{name} got tensors of both places: {shapes}")
        indices = [one for one in tensors(args[1])] if name in INDEXED else []
        if any(map(self.places.has, indices)) and not any(here):
            raise MixedPlaces(f"{name}: a tensor of the processor is indexed by one of the card")
        before = {id(one) for one in tensors([*args, given])}
        old = {StorageWeakRef(one.untyped_storage()).cdata for one in tensors([*args, given]) if not one.is_meta}
        result = func(*args, **given)
        for one in tensors(result):
            fresh = id(one) not in before and not one.is_meta
            if fresh and StorageWeakRef(one.untyped_storage()).cdata not in old:
                self.places.put(one, any(here))
        return result


class _Calls(TorchFunctionMode):
    """Above autograd: what code says of devices."""

    def __init__(self, places: Places):
        super().__init__()
        self.places = places

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func in _ASKED:
            return _ASKED[func](self.places.has(args[0]), func, args)
        if func in (Tensor.numpy, Tensor.__array__) and self.places.has(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu() first")
        if func in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._moved(func, args, given)
        if func is Tensor.__deepcopy__ or (func is Tensor.new_tensor and given.get("device") is None):
            return self.places.put(func(*args, **given), self.places.has(args[0]))
        if is_cuda(given.get("device")):
            return self._made(func, args, given)
        return func(*args, **given)

    def _made(self, func: Any, args: Any, given: dict[str, Any]) -> Any:
        """A new tensor on the card."""
        generator = given.get("generator")
        if generator is not None and generator.device.type != "cuda":
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        found = func(*args, **{**given, "device": CPU})
        shared = any(found.untyped_storage().data_ptr() == one.untyped_storage().data_ptr() for one in tensors(args))
        return self.places.put(found.clone() if shared else found)

    def _moved(self, func: Any, args: Any, given: dict[str, Any]) -> Any:
        source, rest = args[0], list(args[1:])
        here = self.places.has(source)
        there = here
        if func in (Tensor.cpu, Tensor.cuda):
            there, rest = func is Tensor.cuda, []
        for place, one in [*enumerate(rest), *given.items()]:
            if isinstance(one, Tensor):
                there = self.places.has(one)
            elif isinstance(one, str | torch.device):
                there = is_cuda(one)
                (given if isinstance(place, str) else rest)[place] = torch.device(one).type.replace("cuda", "cpu")
        found = source if func in (Tensor.cpu, Tensor.cuda) else Tensor.to(source, *rest, **given)
        if found.is_meta or there == here:
            return found
        return self.places.put(found.clone(), there)


_ASKED = {
    Tensor.device.__get__: lambda here, func, args: CUDA if here else func(*args),
    Tensor.is_cuda.__get__: lambda here, func, args: here,
    Tensor.is_cpu.__get__: lambda here, func, args: not here and func(*args),
    Tensor.get_device: lambda here, func, args: 0 if here else func(*args),
}
"""What is asked about a tensor's place."""

PLACES = Places()
"""One card for all threads."""


_load = torch.load


def _loaded(path: Any, map_location: Any = None, **given: Any) -> Any:
    """`torch.load`, onto the card where that is asked."""
    found = _load(path, map_location="cpu" if is_cuda(map_location) else map_location, **given)
    if is_cuda(map_location):
        for one in tensors(found):
            PLACES.put(one)
    return found


class PretendGpu(ExitStack):
    """A context in which "cuda" is a device."""

    def __enter__(self) -> PretendGpu:
        super().__enter__()
        self.enter_context(mock.patch.object(torch.cuda, "is_available", lambda: True))
        self.enter_context(mock.patch.object(torch, "load", _loaded))
        self.enter_context(_Operations(PLACES))
        self.enter_context(_Calls(PLACES))
        return self

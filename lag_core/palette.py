"""Lossless storage of tensors with few values, one byte per element: an index, and the values that it points to.

Weights that come from an 8-bit network have at most 256 values each, whatever they are stored in. In a file the
tensor NAME is then two: NAME@index, uint8 of the tensor's shape, and NAME@values, its values in ascending bit pattern.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

INDEX, VALUES = "@index", "@values"

WORTHWHILE = 4096
"""Smaller tensors (in bytes) are not indexed."""


def indexed(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`tensors` with those of at most 256 values, told apart by their bits, replaced by index and values."""
    result: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        result |= _indexed(name, value) if value.dtype.kind == "f" and value.nbytes >= WORTHWHILE else {name: value}
    return result


def _indexed(name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    bits = np.ascontiguousarray(value).view(f"u{value.itemsize}")
    found, index = np.unique(bits, return_inverse=True)
    if len(found) > 256:
        return {name: value}
    return {name + INDEX: index.reshape(value.shape).astype(np.uint8), name + VALUES: found.view(value.dtype)}


def restored(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The tensors that `indexed` was given. ValueError for an index without its values, or one that points outside."""
    result: dict[str, np.ndarray] = {}
    for name, value in tensors.items():
        if name.endswith(INDEX):
            plain = name.removesuffix(INDEX)
            result[plain] = _looked_up(plain, value, tensors.get(plain + VALUES))
        elif not name.endswith(VALUES):
            result[name] = value
        elif name.removesuffix(VALUES) + INDEX not in tensors:
            raise ValueError(f"tensor {name} belongs to no index")
    return result


def _looked_up(name: str, index: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    if values is None or values.ndim != 1 or index.dtype != np.uint8:
        raise ValueError(f"tensor {name} has an index without its values")
    if index.size and int(index.max()) >= len(values):
        raise ValueError(f"the index of tensor {name} points outside its values")
    return values[index]

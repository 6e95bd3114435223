"""The networks of steps that are in memory: all runs of a process share one bound in bytes.

A step's network is loaded on first use. The least recently used ones are dropped once all together
take more than the bound; a tensor that several steps share counts once. A network that is still referenced stays
alive. Source: ours.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator

from torch import nn

GIB = 2**30

DEFAULT = 2 * GIB
"""Bytes; the environment's LAG_MEMORY sets another bound, such as 512MiB or 4GiB."""

_UNITS = {"": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def limit_from(text: str) -> int:
    """Bytes that a text such as "2GiB" stands for, DEFAULT for an empty one. ValueError for another."""
    if not text.strip():
        return DEFAULT
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]ib|)\s*", text.lower())
    if match is None:
        raise ValueError(f"LAG_MEMORY = {text!r}: expected a number of bytes, or one with KiB, MiB or GiB behind it")
    return int(float(match[1]) * _UNITS[match[2]])


class StepMemory:
    """Networks by key, the least recently used first; together no larger than `limit` bytes, but for the newest."""

    def __init__(self, limit: int = DEFAULT):
        self.limit = limit
        self._kept: OrderedDict[Hashable, nn.Module] = OrderedDict()
        self._places: dict[Hashable, dict[int, int]] = {}
        self._lock = threading.RLock()

    def get(self, key: Hashable, load: Callable[[], nn.Module]) -> nn.Module:
        """The network under `key`, loaded if missing."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = self._kept[key] = load()
                self._places[key] = dict(storages(found))
                while len(self._kept) > 1 and self.bytes > self.limit:
                    self._forget(next(iter(self._kept)))
            self._kept.move_to_end(key)
            return found

    def find(self, key: Hashable) -> nn.Module | None:
        """The network under `key` if it is loaded; this does not count as a use."""
        with self._lock:
            return self._kept.get(key)

    def drop(self, wanted: Callable[[Hashable], bool]) -> None:
        """Forget the networks whose key matches."""
        with self._lock:
            for key in [key for key in self._kept if wanted(key)]:
                self._forget(key)

    def _forget(self, key: Hashable) -> None:
        del self._kept[key], self._places[key]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors here, one that several networks share counted once."""
        with self._lock:
            return sum({place: size for one in self._places.values() for place, size in one.items()}.values())

    def __len__(self) -> int:
        return len(self._kept)


def storages(module: nn.Module) -> Iterator[tuple[int, int]]:
    """(address, bytes) of the memory behind each tensor of a network."""
    for tensor in (*module.parameters(), *module.buffers()):
        storage = tensor.untyped_storage()
        yield storage.data_ptr(), storage.nbytes()


MEMORY = StepMemory(limit_from(os.environ.get("LAG_MEMORY", "")))
"""The memory of this process."""

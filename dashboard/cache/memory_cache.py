"""Maps and pictures that were computed, kept for all sessions in one place that is bounded in bytes.

Streamlit's caches count entries, and an entry may be a thumbnail or the maps of a picture of two megapixels: bounds
that serve the small ones let the large ones fill the memory. Here all results share one bound, and the least
recently used ones go first. A key is made of ids and digests, as in `loaders`; arguments by name only carry
what the key names.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

LIMIT = 24 * 2**20
"""Bytes: all nine pages of some three pictures of 256 pixels."""

OVERHEAD = 512
"""Bytes that an entry counts in addition to its arrays."""


class Shelf:
    """Results by key, the least recently used first; together at most `limit` bytes, but for the newest `least`."""

    def __init__(self, limit: int = LIMIT, least: int = 1):
        self.limit = limit
        self.least = least
        self.bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()
        self._working: dict[Hashable, tuple[threading.RLock, int]] = {}

    def get(self, key: Hashable, compute: Callable[[], R]) -> R:
        """The result under `key`, computed if it is missing: by one thread, while others that need it wait."""
        found = self._look(key)
        if found is None:
            with self._alone(key):
                found = self._look(key)
                if found is None:
                    found = (compute(),)
                    self.put(key, found[0])
        return found[0]

    def find(self, key: Hashable) -> Any:
        """The result under `key`; None if it is not, or no longer, kept."""
        found = self._look(key)
        return None if found is None else found[0]

    def put(self, key: Hashable, value: object) -> None:
        """Keep a result that was found elsewhere."""
        size = OVERHEAD + size_of(value)
        with self._lock:
            _, before = self._kept.pop(key, (None, 0))
            self._kept[key] = (value, size)
            self.bytes += size - before
            while self.bytes > self.limit and len(self._kept) > self.least:
                _, (_, gone) = self._kept.popitem(last=False)
                self.bytes -= gone

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def _look(self, key: Hashable) -> tuple[Any] | None:
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return (self._kept[key][0],)

    @contextmanager
    def _alone(self, key: Hashable) -> Iterator[None]:
        """Hold the lock of a key, which exists as long as a thread needs it."""
        with self._lock:
            lock, waiting = self._working.get(key, (threading.RLock(), 0))
            self._working[key] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._lock:
                lock, waiting = self._working.pop(key)
                if waiting > 1:
                    self._working[key] = (lock, waiting - 1)


def size_of(value: object) -> int:
    """Bytes of the arrays and byte strings in a result, in tuples, lists, mappings and data classes too; or its own
    `nbytes`."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, Mapping):
        return sum(size_of(part) for part in value.values())
    if isinstance(value, tuple | list):
        return sum(size_of(part) for part in value)
    if is_dataclass(value) and not hasattr(value, "nbytes"):
        return sum(size_of(getattr(value, field.name)) for field in fields(value))
    own = getattr(value, "nbytes", 0)
    return own if isinstance(own, int) else 0


SHELF = Shelf()
"""The app's shelf."""


def shelved(compute: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function returns. Its positional arguments are the key; keyword arguments are ignored."""

    @wraps(compute)
    def looked_up(*key: P.args, **given: P.kwargs) -> R:
        name = (compute.__module__, compute.__qualname__, *key)
        return SHELF.get(name, lambda: compute(*key, **given))

    return looked_up

"""A disk cache of explanation results, keyed by what they depend on: run, image, step, class, method,
settings.

An entry never has to be invalidated, as whatever could change it is part of its key. The folder is safe to
delete at any time and shared by processes: entries are written under a temporary name and renamed, a damaged
one is a miss. A cache that cannot be written costs only time. Nothing here can execute code: entries
are safetensors.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lag_core import reading
from lag_core.data.presence import cache_dir
from lag_core.writing import write_atomically

Arrays = dict[str, np.ndarray]

FORMAT = 1
"""Part of every key: raised when explanations are computed in another way, so that older entries are not
found."""

DEFAULT_BYTES = 512 * 2**20
STALE_SECONDS = 3600.0
"""Age at which a temporary file counts as left behind by a process that died."""

_DIGEST_BYTES = 32
_ENTRY = re.compile(r"[0-9a-f]{32}\.cache")


def key_of(run: str, image: str, method: str, **settings: object) -> str:
    """The key of a result: hexadecimal digest of everything that it depends on.

    `run` and `image` are digests (Run.digest, Trace.digest; "" where none takes part), `settings` anything
    that JSON can hold, such as step, class index, rule set or channels; NumPy scalars and arrays count as
    their lists. TypeError for anything else, as it would print differently from one process to the next.
    """
    content = [FORMAT, run, image, method, settings]
    text = json.dumps(content, sort_keys=True, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise TypeError(f"a cache key cannot hold {type(value).__name__} ({value!r}): give it as text or numbers")


class ResultCache:
    """Arrays by key in a folder of at most `max_bytes`; the entries unused for longest go first."""

    def __init__(self, folder: Path | None = None, max_bytes: int = DEFAULT_BYTES):
        self.folder = folder if folder is not None else cache_dir() / "explain"
        self.max_bytes = max_bytes

    def get(self, key: str) -> Arrays | None:
        """The arrays stored under `key`; None if there are none or the entry is damaged. Marks it as used."""
        path = self._path(key)
        try:
            content = reading.read_bytes(path, reading.ARRAYS)
        except OSError:
            return None
        arrays = _unpack(content)
        with suppress(OSError):
            if arrays is None:
                path.unlink()
            else:
                os.utime(path)
        return arrays

    def put(self, key: str, arrays: Mapping[str, np.ndarray]) -> None:
        """Store `arrays` under `key`.

        An entry larger than the whole cache is not kept; a full disk is no error.
        """
        path, content = self._path(key), _pack(arrays)
        if len(content) > self.max_bytes:
            return
        with suppress(OSError):
            write_atomically(path, content)
            self._make_room(keep=path)

    def size(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def clear(self) -> None:
        """Remove every entry."""
        for _, _, path in self._entries():
            path.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        path = self.folder / f"{key}.cache"
        if not _ENTRY.fullmatch(path.name):
            raise ValueError(f"{key!r} is not a key of this cache: make it with key_of")
        return path

    def _make_room(self, keep: Path) -> None:
        """Remove the oldest entries until the rest fits.

        `keep` goes last, as another process may be as new.
        """
        entries = sorted(self._entries(), key=lambda entry: (entry[2] == keep, entry[0]))
        total = sum(size for _, size, _ in entries)
        for _, size, path in entries:
            if total <= self.max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._sweep()

    def _entries(self) -> list[tuple[int, int, Path]]:
        """(time of last use in ns, bytes, path) of each entry; one that vanishes meanwhile is left out."""
        found = []
        for path in self.folder.glob("*.cache") if self.folder.is_dir() else ():
            with suppress(OSError):
                status = path.stat()
                if _ENTRY.fullmatch(path.name):
                    found.append((status.st_mtime_ns, status.st_size, path))
        return found

    def _sweep(self) -> None:
        """Remove temporary files that a dead process left behind."""
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """SHA-256 of the payload, then the payload: safetensors alone does not notice a flipped bit."""
    payload = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
    return hashlib.sha256(payload).digest() + payload


def _unpack(content: bytes) -> Arrays | None:
    payload = content[_DIGEST_BYTES:]
    if hashlib.sha256(payload).digest() != content[:_DIGEST_BYTES]:
        return None
    try:
        return load(payload)
    except (SafetensorError, ValueError, KeyError):
        return None

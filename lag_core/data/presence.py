"""Which classes are in which image: computed once from the masks, then kept in a small JSON file.

The file is found by a digest of all it depends on, so it never has to be invalidated; an unreadable one is
replaced, and a cache that cannot be written costs only time.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lag_core import reading
from lag_core.protocol import IGNORE
from lag_core.writing import write_atomically


def cache_dir() -> Path:
    """Cache folder: $LAG_CACHE, or ~/.cache/lag. Safe to delete."""
    return Path(os.environ.get("LAG_CACHE") or Path.home() / ".cache" / "lag")


def digest(parts: Iterable[object]) -> str:
    """Short digest of any value with an unambiguous repr."""
    text = "\0".join(str(part) for part in parts)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def key_of_files(dataset: str, split: str, masks: Sequence[Path]) -> str:
    """Digest of a split's mask files: their places, sizes and times of change."""
    parts: list[object] = [dataset, split]
    for path in masks:
        state = os.stat(path)
        parts += [os.path.abspath(path), state.st_size, state.st_mtime_ns]
    return digest(parts)


def classes_in(mask: np.ndarray) -> frozenset[int]:
    """Dataset ids in a mask, 255 apart. Shape: uint8 [H, W]."""
    return frozenset(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()) - {IGNORE}


def cached(
    dataset: str, key: str, names: Sequence[str], mask: Callable[[str], np.ndarray]
) -> dict[str, frozenset[int]]:
    """Name -> ids in its mask, from the cache if present. `mask` reads one; its errors pass through."""
    path = cache_dir() / f"presence-{dataset}-{key}.json"
    found = _load(path, len(names))
    if found is None:
        bar = tqdm(names, f"classes in the images of {dataset}", unit="img", disable=None, leave=False)
        found = [classes_in(mask(name)) for name in bar]
        with suppress(OSError):
            _store(path, found)
    return dict(zip(names, found, strict=True))


def is_marked(dataset: str, key: str) -> bool:
    """Whether files of that key were found sound before."""
    return _marker(dataset, key).is_file()


def mark(dataset: str, key: str) -> None:
    """Remember that the files of that key are sound; a cache that cannot be written costs only time."""
    with suppress(OSError):
        _marker(dataset, key).parent.mkdir(parents=True, exist_ok=True)
        _marker(dataset, key).touch()


def _marker(dataset: str, key: str) -> Path:
    return cache_dir() / f"sound-{dataset}-{key}"


def _load(path: Path, count: int) -> list[frozenset[int]] | None:
    """The stored sets, or None if they are missing, damaged, or of another number."""
    try:
        stored = reading.read_json(path)
        found = [frozenset(ids) for ids in stored]
    except (OSError, ValueError, TypeError):
        return None
    sound = all(type(i) is int and 0 <= i < IGNORE for ids in found for i in ids)
    return found if sound and len(found) == count else None


def _store(path: Path, found: Sequence[frozenset[int]]) -> None:
    """Write under a temporary name and rename: a reader sees all of it or nothing."""
    write_atomically(path, json.dumps([sorted(ids) for ids in found], separators=(",", ":")).encode())

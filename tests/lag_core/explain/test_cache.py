"""The cache of explanation results: found by content, bounded, harmless when damaged or shared."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lag_core.explain.cache import ResultCache, key_of

KEYS = [key_of("run", "image", "test", number=i) for i in range(8)]
KILOBYTE = {"map": np.zeros(250, np.float32)}


@pytest.fixture
def cache(tmp_path: Path) -> ResultCache:
    return ResultCache(tmp_path / "explain", max_bytes=10_000)


def age(cache: ResultCache, key: str, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(cache.folder / f"{key}.cache", (then, then))


def test_what_is_stored_comes_back_bit_for_bit(cache: ResultCache) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "map": rng.normal(size=(3, 4)).astype(np.float32),
        "mask": rng.random((5, 2)) < 0.5,
        "labels": rng.integers(0, 255, (4, 4)).astype(np.uint8).T,
        "error": np.array(1e-5),
    }
    cache.put(KEYS[0], arrays)
    found = cache.get(KEYS[0])
    assert found is not None and found.keys() == arrays.keys()
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)
    assert cache.get(KEYS[1]) is None


def test_every_part_of_the_key_counts() -> None:
    base = {"run": "r", "image": "i", "method": "lrp", "step": 1, "cls": 2}
    other = {"run": "s", "image": "j", "method": "gradcam", "step": 2, "cls": 1}
    keys = {key_of(**base)} | {key_of(**{**base, name: value}) for name, value in other.items()}
    assert len(keys) == 6
    assert key_of("r", "i", "m", a=1, b=2) == key_of("r", "i", "m", b=2, a=1)
    assert key_of("r", "i", "m", channels=np.array([1, 2])) == key_of("r", "i", "m", channels=[1, 2])
    with pytest.raises(TypeError, match="cannot hold"):
        key_of("r", "i", "m", thing=object())


def test_a_key_cannot_leave_the_folder(cache: ResultCache) -> None:
    with pytest.raises(ValueError, match="not a key"):
        cache.get("../../etc/passwd")


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_entry_is_a_miss_and_removed(cache: ResultCache, damage: bytes | None) -> None:
    cache.put(KEYS[0], KILOBYTE)
    path = cache.folder / f"{KEYS[0]}.cache"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # a single flipped bit, which safetensors would not notice
    path.write_bytes(bytes(content) if damage is None else damage)
    assert cache.get(KEYS[0]) is None and not path.exists()
    cache.put(KEYS[0], KILOBYTE)
    assert cache.get(KEYS[0]) is not None


def test_the_entries_unused_for_longest_go_first(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path, max_bytes=4_800)
    for i in range(4):
        cache.put(KEYS[i], KILOBYTE)
        age(cache, KEYS[i], 100 - i)
    assert cache.get(KEYS[0]) is not None  # used again: now the newest
    cache.put(KEYS[4], KILOBYTE)
    assert [cache.get(k) is not None for k in KEYS[:5]] == [True, False, True, True, True]
    assert cache.size() <= cache.max_bytes


def test_what_is_larger_than_the_cache_is_not_kept(cache: ResultCache) -> None:
    cache.put(KEYS[0], KILOBYTE)
    cache.put(KEYS[1], {"map": np.zeros(10_000)})
    assert cache.get(KEYS[1]) is None and cache.get(KEYS[0]) is not None


def test_safe_to_delete_and_to_clear(cache: ResultCache) -> None:
    cache.put(KEYS[0], KILOBYTE)
    (cache.folder / f"{KEYS[0]}.cache").unlink()
    cache.folder.rmdir()
    assert cache.get(KEYS[0]) is None and cache.size() == 0
    cache.put(KEYS[0], KILOBYTE)
    cache.clear()
    assert cache.get(KEYS[0]) is None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    cache = ResultCache(tmp_path / "file" / "explain")
    cache.put(KEYS[0], KILOBYTE)
    assert cache.get(KEYS[0]) is None


def test_what_a_dead_process_left_is_swept(cache: ResultCache) -> None:
    cache.put(KEYS[0], KILOBYTE)
    left, fresh = cache.folder / ".a.cache.x.partial", cache.folder / ".b.cache.y.partial"
    left.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(left, (0, 0))
    cache.put(KEYS[1], KILOBYTE)
    assert not left.exists() and fresh.exists()


WRITER = """
import sys, numpy as np
from pathlib import Path
from lag_core.explain.cache import ResultCache, key_of
cache = ResultCache(Path(sys.argv[1]), max_bytes=20_000)
for turn in range(150):
    key = key_of("run", "image", "test", number=turn % 24)
    found = cache.get(key)
    assert found is None or (found["map"] == turn % 24).all()
    cache.put(key, {"map": np.full(250, turn % 24, np.float32)})
"""


def test_processes_share_it(tmp_path: Path) -> None:
    """Two processes write, read and evict the same few entries; neither sees half a file."""
    start = [sys.executable, "-c", WRITER, str(tmp_path)]
    both = [subprocess.Popen(start, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in both:
        _, error = process.communicate(timeout=60)
        assert process.returncode == 0, error
    assert 0 < ResultCache(tmp_path).size() <= 21_000

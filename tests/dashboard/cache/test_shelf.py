"""The shelf of results: bounded in bytes, oldest first, each computed once."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import pytest

from dashboard.cache import memory_cache
from dashboard.cache.memory_cache import OVERHEAD, Shelf, shelved, size_of


@dataclass(frozen=True)
class Maps:
    maps: tuple[np.ndarray, ...]
    encoded: bytes
    name: str = "a name counts nothing"


def fill(found: Shelf, *names: str, size: int = 1000) -> None:
    for name in names:
        found.get(name, lambda: np.zeros(size, np.uint8))


def test_what_was_not_looked_at_for_longest_goes_first():
    found = Shelf(limit=3 * (1000 + OVERHEAD))
    fill(found, "a", "b", "c", "a", "d")
    fresh = []
    for name in ("a", "c", "d", "b"):
        found.get(name, lambda name=name: fresh.append(name) or np.zeros(1000, np.uint8))
    assert fresh == ["b"]
    assert found.bytes == 3 * (1000 + OVERHEAD) and len(found) == 3


def test_the_bound_holds_whatever_the_sizes():
    found, rng = Shelf(limit=50_000), np.random.default_rng(0)
    for k in range(400):
        fill(found, f"{k % 37}-{rng.integers(3)}", size=int(rng.integers(1, 9000)))
        assert found.bytes <= 50_000


def test_a_result_larger_than_the_shelf_is_kept_alone():
    found = Shelf(limit=5000)
    fill(found, "a", "b")
    fill(found, "large", size=90_000)
    assert len(found) == 1
    fill(found, "c")
    assert found.bytes == 1000 + OVERHEAD


def test_the_newest_few_stay_however_large_they_are():
    """Two pictures in a run and in the compared one: otherwise each run of a page would compute both again."""
    found = Shelf(limit=5000, least=4)
    for key in range(6):
        found.put(key, np.zeros(4000, np.uint8))
    assert [key for key in range(6) if found.find(key) is not None] == [2, 3, 4, 5]


def test_size_counts_arrays_and_bytes_wherever_they_are():
    value = [Maps((np.zeros((2, 3), np.float32),), b"12345"), {"k": np.zeros(7, np.int64)}, (None, "text", 3)]
    assert size_of(value) == 24 + 5 + 56


def test_one_thread_computes_and_the_others_wait():
    found, begun = Shelf(), threading.Event()
    calls: list[int] = []

    def slow() -> int:
        calls.append(1)
        begun.wait(5)
        return 7

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(found.get("k", slow))) for _ in range(6)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    assert results == [7] * 6 and len(calls) == 1
    assert not found._working, "no lock is left behind"


def test_a_failure_is_not_kept_and_leaves_no_lock():
    found = Shelf()
    with pytest.raises(ValueError):
        found.get("k", lambda: int("x"))
    assert not found._working and found.get("k", lambda: 5) == 5


def test_none_is_a_result_too():
    found, calls = Shelf(), []
    for _ in range(2):
        assert found.get("k", lambda: calls.append(1)) is None
    assert len(calls) == 1


def test_the_key_is_the_positional_arguments(monkeypatch):
    monkeypatch.setattr(memory_cache, "SHELF", Shelf())
    calls = []

    @shelved
    def double(key: str, *, _value: int) -> int:
        calls.append(key)
        return 2 * _value

    assert [double("a", _value=1), double("a", _value=9), double("b", _value=9)] == [2, 2, 18]
    assert calls == ["a", "b"]


def test_what_was_found_elsewhere_can_be_put_and_looked_for():
    found = Shelf(limit=2000)
    assert found.find("k") is None
    found.put("k", np.zeros(100, np.uint8))
    found.put("k", np.zeros(300, np.uint8))
    assert found.find("k").size == 300 and found.bytes == 300 + OVERHEAD

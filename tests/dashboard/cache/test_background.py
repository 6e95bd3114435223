"""Results that are worked out in the background: the newest wish first, in pieces, and what fails is told once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from dashboard.cache import background
from dashboard.cache.background import Background


def test_the_newest_wish_goes_first_and_the_older_one_goes_on() -> None:
    queue, began, gate, order = Background(), threading.Event(), threading.Event(), list[str]()

    def pieces(name: str) -> Iterator[float]:
        for i in range(3):
            began.set()
            assert gate.wait(60)
            order.append(name)
            yield (i + 1) / 3

    first = queue.wish("first", lambda: pieces("first"))
    assert began.wait(60)
    second = queue.wish("second", lambda: pieces("second"))
    assert queue.wish("second", lambda: pieces("again")) is second, "it is begun once"
    gate.set()
    queue.settle()
    assert order == ["first", *["second"] * 3, *["first"] * 2]
    assert first.over and second.over and first.done == second.done == 1


def test_what_fails_is_raised_once_and_tried_again() -> None:
    queue, tries = Background(), list[int]()

    def pieces() -> Iterator[float]:
        tries.append(1)
        yield 0.5
        if len(tries) == 1:
            raise ValueError("no")

    assert queue.wish("key", pieces)
    queue.settle()
    with pytest.raises(ValueError, match="no"):
        queue.wish("key", pieces)
    again = queue.wish("key", pieces)
    queue.settle()
    assert again.over and not again.failure


def test_what_was_wished_for_long_ago_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    queue, began, gate, done = Background(), threading.Event(), threading.Event(), list[int]()

    def pieces(number: int) -> Iterator[float]:
        if number == 0:
            began.set()
            assert gate.wait(60)
        yield 0.5
        done.append(number)

    queue.wish(0, lambda: pieces(0))
    assert began.wait(60)
    for number in range(1, background.JOBS + 2):
        queue.wish(number, lambda number=number: pieces(number))  # type: ignore[misc]
    gate.set()
    queue.settle()
    assert done == list(range(background.JOBS + 1, 1, -1))

"""How files are handed out to workers, and what those of the browser share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import browser
from browser import Shared
from repository import ROOT
from work_order import LONGEST, longest_first


def item(file: str, *fixtures: str, of_browser: bool = False) -> Any:
    return SimpleNamespace(path=Path(file), fixturenames=fixtures, get_closest_marker=lambda name: of_browser or None)


def test_the_longest_files_come_first_and_no_file_is_torn() -> None:
    mixed = item("test_mixed.py", "browser", of_browser=True)
    items = [
        item("test_short.py"),
        item(LONGEST[1]),
        item("test_mixed.py"),
        item("test_app.py", "address", of_browser=True),
        mixed,
        item(LONGEST[0]),
    ]
    longest_first(items)
    assert [one.path.name for one in items] == ["test_mixed.py"] * 2 + ["test_app.py", *LONGEST[:2], "test_short.py"]
    assert items[1] is mixed, "a file's tests keep their order"


def test_every_long_file_is_there() -> None:
    there = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [there.count(name) for name in LONGEST] == [1] * len(LONGEST)


def test_what_is_shared_is_made_once_until_it_is_closed() -> None:
    said: list[str] = []

    @contextmanager
    def made() -> Iterator[object]:
        said.append("made")
        yield object()
        said.append("ended")

    shared = Shared()
    first = shared.once("app", made)
    assert shared.once("app", made) is first and said == ["made"]
    shared.close()
    assert said == ["made", "ended"]
    assert shared.once("app", made) is not first
    shared.close()
    shared.close()
    assert said == ["made", "ended"] * 2


def test_a_request_to_another_machine_is_a_complaint() -> None:
    assert browser._foreign("https://fonts.example.org/a.woff") == ["asks for https://fonts.example.org/a.woff"]
    assert browser._foreign("http://127.0.0.1.example.org/") != []
    for own in (
        "http://127.0.0.1:8501/static/a.js",
        "data:image/png;base64,AAAA",
        "blob:http://127.0.0.1:1/x",
        "about:blank",
    ):
        assert browser._foreign(own) == []

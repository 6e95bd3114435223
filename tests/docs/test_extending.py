"""docs/extending.md: the edits of each example are made in a copy of the packages, and its check runs there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from repository import ROOT

PAGE = ROOT / "docs" / "extending.md"
COPIED = ("lag_core", "dashboard")
LINKED = ("checkpoints", "assets", "configs", "docs", ".streamlit")
BLOCK = re.compile(
    r"^(?:In `(?P<file>[^`]+)`, (?P<where>before|after|instead of) `(?P<line>[^\n]+)`:|New file `(?P<new>[^`]+)`:"
    r"|(?P<check>Check): [^\n]+)\n\n```python\n(?P<code>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


class Edit(NamedTuple):
    """One block of the page."""

    file: str
    where: str
    line: str
    code: str


class Example(NamedTuple):
    """A section of the page."""

    title: str
    edits: tuple[Edit, ...]
    check: str


def examples() -> Iterator[Example]:
    for section in re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        blocks = list(BLOCK.finditer(section))
        edits = [
            Edit(one["new"] or one["file"], one["where"] or "new", one["line"] or "", one["code"])
            for one in blocks
            if not one["check"]
        ]
        (check,) = [one["code"] for one in blocks if one["check"]]
        assert section.count("```python") == len(blocks), "every block of the page is an edit or the check"
        yield Example(section.splitlines()[0], tuple(edits), check)


def make(edit: Edit, root: Path) -> None:
    path = root / edit.file
    if edit.where == "new":
        path.parent.mkdir(exist_ok=True)
        path.write_text(edit.code, "utf-8")
        return
    text = path.read_text("utf-8")
    line = f"{edit.line}\n"
    assert text.count(f"\n{line}") == 1, f"{edit.file} has the line {edit.line!r} once"
    new = {"before": edit.code + line, "after": line + edit.code, "instead of": edit.code}[edit.where]
    path.write_text(text.replace(f"\n{line}", f"\n{new}"), "utf-8")


@pytest.mark.parametrize("example", list(examples()), ids=lambda one: one.title)
def test_the_example_works(example: Example, tmp_path: Path) -> None:
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LINKED:
        (tmp_path / name).symlink_to(ROOT / name)
    for edit in example.edits:
        make(edit, tmp_path)
    variables = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "OMP_NUM_THREADS": "1",
        "LAG_CACHE": str(tmp_path / "cache"),
    }
    done = subprocess.run(
        [sys.executable, "-c", example.check], cwd=tmp_path, env=variables, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr[-2500:]


def test_a_loss_term_touches_two_files() -> None:
    (term,) = [one for one in examples() if one.title == "A loss term"]
    assert len({edit.file for edit in term.edits}) == 2

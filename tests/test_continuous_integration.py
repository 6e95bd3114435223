"""Continuous integration lints what it tests, for the lowest Python that is supported."""

from __future__ import annotations

import re
import tomllib

from repository import ROOT


def test_ci_lints_and_tests() -> None:
    commands = [line.strip() for line in (ROOT / ".ci" / "run").read_text().splitlines()]
    assert "set -euo pipefail" in commands, "a failing command must end the run"
    assert "make lint" in commands and "make test" in commands


def test_lint_is_ruff_its_format_and_mypy() -> None:
    rule = re.search(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert rule and [line.split("/", 1)[1].split(" --python-version")[0] for line in rule[1].splitlines()] == [
        "ruff check .", "ruff format --check .", "mypy",
    ]  # fmt: skip


def test_the_lowest_supported_python_is_checked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = project["project"]["requires-python"].removeprefix(">=")
    assert project["tool"]["mypy"]["python_version"] == lowest
    assert project["tool"]["ruff"]["target-version"] == "py" + lowest.replace(".", "")

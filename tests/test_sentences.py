"""What a person is told is one bounded line, without a character that a terminal would obey."""

from __future__ import annotations

import ast
import io
from pathlib import Path

import pytest

from lag_core.config import ConfigError
from lag_core.data.dataset import DatasetMissing
from lag_core.data.pictures import DataError
from lag_core.importing.error import CheckpointError
from lag_core.runs import RunError
from lag_core.sentences import LONGEST, plain, say, sentence

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("kind", [ConfigError, DataError, DatasetMissing, RunError, CheckpointError])
def test_every_mistake_is_a_bounded_line(kind: type[Exception]) -> None:
    text = str(kind("file.json holds " + "\x1b[2Jx" * 2_000_000 + "; restore it"))
    assert len(text) <= LONGEST and "\x1b" not in text
    assert text.startswith("file.json holds \\x1b[2J") and text.endswith("; restore it")


def test_a_short_sentence_is_left_alone() -> None:
    text = "class 'Straße' → 3 · 50 %"
    assert sentence(text) == text == str(RunError(text))


@pytest.mark.parametrize("bad", ["\x1b]0;title\x07", "\x9b31m", "\u202eabc", "\x7f", "\ud800"])
def test_control_characters_are_written_out(bad: str) -> None:
    assert bad[0] not in plain(bad)


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    stream = io.TextIOWrapper(raw := io.BytesIO(), encoding="ascii")
    say("a → b\nc\x1b[31m\udc80", stream)
    stream.flush()
    assert raw.getvalue() == b"a \\u2192 b\nc\\x1b[31m\\udc80\n"


def test_commands_print_through_say() -> None:
    for path in (ROOT / "lag_core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "tqdm.write", "sys.stdout.write"):
                assert path.name in ("sentences.py", "reporting.py", "sweep.py"), (
                    f"{path}:{node.lineno}: print with sentences.say"
                )

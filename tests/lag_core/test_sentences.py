"""What a person is told is one bounded line, without a character that a terminal would obey."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator

import pytest
from repository import ROOT

from lag_core.config import ConfigError
from lag_core.data.dataset import DatasetMissing
from lag_core.data.pictures import DataError
from lag_core.importing.error import CheckpointError
from lag_core.runs import RunError
from lag_core.sentences import LONGEST, counted, plain, say, sentence


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


def test_a_number_has_its_noun() -> None:
    assert [counted(n, "image") for n in (0, 1, 2, 1234)] == ["0 images", "1 image", "2 images", "1,234 images"]
    assert [counted(n, "old class", "old classes") for n in (1, 3)] == ["1 old class", "3 old classes"]


PLURALS = re.compile(
    r" ([a-z]+ )?(images|pictures|photographs|classes|steps|runs|pixels|channels|terms|maps|files|tiles|seeds|plots|"
    r"rows|iterations|updates|methods|folders|arrays|tensors|samples|labels)\b"
)
TOLD = [
    *(ROOT / "dashboard").rglob("*.py"), *(ROOT / "lag_core" / "commands").glob("*.py"),
    *(ROOT / "lag_core" / "data").glob("*.py"), ROOT / "lag_core" / "training" / "reporting.py",
    ROOT / "lag_core" / "training" / "model_card.py",
]  # fmt: skip
NO_COUNTS = {
    "name",
    "split",
    "s",
    "MAX_PIXELS // 1000000",
    "page.step",
    "options.out",
    "size",
    "data.size",
    "longest",
    "LONGEST_SIDE",
}
"""Names, sides in pixels."""


def bare_counts(text: str) -> Iterator[str]:
    """Numbers that stand before a plural whatever they are: "{len(images)} images" says "1 images" of one."""
    for node in ast.walk(ast.parse(text)):
        parts = node.values if isinstance(node, ast.JoinedStr) else []
        for before, value, after in zip([None, *parts], parts, parts[1:], strict=False):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            shown, form = ast.unparse(value.value), ast.unparse(value.format_spec) if value.format_spec else ""
            broken = re.search(r"\.\d+f", form) or shown.startswith("percent(")  # 1.0 points
            side = isinstance(before, ast.Constant) and str(before.value).endswith(" x ")  # 3 x 1 pixels
            if not (broken or side or shown in NO_COUNTS) and (found := PLURALS.match(after.value)):
                yield f"{shown}{found[0]}"


def test_no_sentence_says_one_images() -> None:
    assert list(bare_counts('f"{len(found)} validation images"')) == ["len(found) validation images"]
    assert not list(bare_counts("f\"{counted(len(found), 'image')} of it\""))
    found = {str(p.relative_to(ROOT)): list(bare_counts(p.read_text("utf-8"))) for p in TOLD}
    assert {path: texts for path, texts in found.items() if texts} == {}

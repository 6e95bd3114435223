"""The one door for files: what it refuses, that it never waits, and that nobody reads past it."""

from __future__ import annotations

import ast
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

from lag_core import reading
from lag_core.config import ConfigError, load, parse_override
from lag_core.data.pictures import DataError, read_image
from lag_core.explain.history import EventLog
from lag_core.reading import Kind, Refused
from lag_core.runs import RunError, read_json, read_tensors

SMALL = Kind("a note", reading.MIB)

BY_NAME = {"open", "load_file", "safe_open"}
BY_ATTRIBUTE = {"read_text", "read_bytes", "open", "load", "loads", "load_file", "fdopen", "fromfile", "genfromtxt"}
OWN = {"reading", "webbrowser"}
"""Modules whose functions of such a name are the door itself, or read nothing."""

ALLOWED = {
    ("lag_core/reading.py", "os.open"): "the door",
    ("lag_core/reading.py", "os.fdopen"): "the door",
    ("lag_core/explain/report.py", "(resources.files('lag_core.explain') / 'report.css').read_text"): "its own style",
    ("dashboard/components/assets.py", "(_FOLDER / name).read_text"): "its own scripts",
    ("dashboard/shell/tour.py", "TEXT.read_text"): "its own text",
    ("lag_core/runs.py", "safe_open"): "behind reading.checked",
    ("lag_core/model/weights.py", "load_file"): "behind reading.checked",
    ("lag_core/model/weights.py", "torch.load"): "behind reading.checked",
    ("lag_core/training/resume.py", "torch.load"): "behind reading.checked",
    ("lag_core/importing/container.py", "torch.load"): "behind reading.checked",
    ("lag_core/training/features.py", "np.load"): "of an opened file",
    ("lag_core/predictions.py", "np.load"): "of an opened file",
    ("lag_core/data/pictures.py", "Image.open"): "of an opened file",
    ("dashboard/picture/kept_answers.py", "np.load"): "of bytes, and pickles refused",
    ("dashboard/app_pages/relevance/maps.py", "Image.open"): "of bytes made here",
    ("lag_core/explain/cache.py", "load"): "of bytes",
    ("dashboard/components/payload.py", "json.loads"): "of bytes made here",
    ("lag_core/writing.py", "path.open"): "appends",
    ("lag_core/cli.py", "open"): "the device without end that takes what nobody reads",
    ("lag_core/importing/zipped_run.py", "opened.open"): "of an archive in memory, its bytes counted",
    ("lag_core/importing/precheck.py", "opened.read"): "of a checked archive",
}


def calls(path: Path) -> Iterator[str]:
    """Every call in a file that opens or parses something, as it is written."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Name) and node.func.id in BY_NAME:
            yield node.func.id
        elif isinstance(node.func, ast.Attribute) and node.func.attr in BY_ATTRIBUTE:
            head = ast.unparse(node.func.value)
            if head not in OWN and not (node.func.attr == "load" and _is_of_the_project(head)):
                yield ast.unparse(node.func)


def _is_of_the_project(head: str) -> bool:
    """`load` of an own class: of a loader of networks, of a configuration."""
    return head not in {"torch", "np", "numpy", "json", "pickle", "tomllib", "safetensors"}


def test_nobody_reads_past_the_door() -> None:
    found = {
        (str(path.relative_to(ROOT)), call)
        for folder in ("lag_core", "dashboard")
        for path in (ROOT / folder).rglob("*.py")
        for call in calls(path)
    }
    assert sorted(found - ALLOWED.keys()) == [], "read through lag_core.reading"


def test_the_guard_sees_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    lines = ["open('a')", "Path('a').read_text()", "json.loads('1')", "torch.load('a')", "safe_open('a')", "p.open()"]
    path.write_text("\n".join([*lines, "reading.read_text('a')", "loader.load(1)"]))
    assert len(list(calls(path))) == len(lines)


def unreadable(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files without end, and others that are none."""
    os.mkfifo(folder / "pipe")
    yield folder / "pipe", "a named pipe"
    (folder / "device").symlink_to("/dev/zero")
    yield folder / "device", "a device"
    yield folder, "a folder"
    place = os.getcwd()
    os.chdir(folder)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket")
    finally:
        os.chdir(place)
    yield folder / "socket", "a socket"


@pytest.mark.timeout(20)
def test_only_regular_files_are_read(tmp_path: Path) -> None:
    for path, what in unreadable(tmp_path):
        for read in (reading.read_bytes, reading.checked):
            with pytest.raises(Refused, match=f"it is {what}, not a regular file"):
                read(path, SMALL)


@pytest.mark.timeout(20)
def test_every_reader_refuses_a_pipe_and_a_device(tmp_path: Path) -> None:
    for path, what in unreadable(tmp_path):
        for read in (read_json, read_tensors):
            with pytest.raises(RunError, match=f"{what}|leads out of"):
                read(path)
        with pytest.raises(DataError, match=what):
            read_image(path)
        with pytest.raises(ConfigError, match=what):
            load(path)


def test_a_size_is_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1" * SMALL.most)
    assert len(reading.read_bytes(path, SMALL)) == SMALL.most
    path.write_bytes(b"1" * (SMALL.most + 1))
    with pytest.raises(Refused, match="it is too large: of a note at most 1 MiB are read"):
        reading.read_bytes(path, SMALL)


def test_a_file_that_says_no_size_is_bounded_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"1" * (SMALL.most + 1))
    monkeypatch.setattr(reading, "_check", lambda *_: None)  # as for files under /proc, which say 0
    with pytest.raises(Refused, match="it is too large"):
        reading.read_bytes(path, SMALL)


def test_links_stay_inside(tmp_path: Path) -> None:
    root, run, secret = tmp_path / "root", tmp_path / "root" / "run", tmp_path / "secret.json"
    run.mkdir(parents=True)
    secret.write_text("{}")
    (run / "out.json").symlink_to(secret)
    (root / "other.json").write_text('{"a": 1}')
    (run / "in.json").symlink_to(Path("..") / "other.json")
    assert read_json(run / "in.json") == {"a": 1}
    with pytest.raises(RunError, match="leads out of"):
        read_json(run / "out.json")
    (root / "linked").symlink_to(run)  # the run as a whole may lie elsewhere
    assert read_json(root / "linked" / "in.json") == {"a": 1}
    sibling = tmp_path / "root-sibling"
    sibling.mkdir()
    (sibling / "x.json").write_text("{}")
    (run / "near.json").symlink_to(sibling / "x.json")
    with pytest.raises(RunError, match="leads out of"):
        read_json(run / "near.json")


@pytest.mark.timeout(20)
def test_a_log_that_is_a_pipe_is_no_log(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")
    assert len(EventLog(tmp_path).read()) == 0


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "[" * 150 + "]" * 150])
def test_deep_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 100 deep"):
        reading.from_json(text)


def test_wide_json_is_read() -> None:
    wide = [[i, {"a": [i]}] for i in range(1000)]
    assert reading.from_json(json.dumps(wide)) == wide


@pytest.mark.parametrize("text", ["a = " + "[" * 5_000, ".".join(["a"] * 5_000) + " = 1"])
def test_deep_toml_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"deep\.toml is not valid TOML"):
        load(path)
    with pytest.raises(ConfigError, match="at most 8 dots"):
        parse_override(".".join(["a"] * 5_000) + "=1")


def test_halves_of_a_character_are_replaced() -> None:
    assert reading.from_json(r'{"a\ud800": ["\udc80x", "\ud83d\ude00"]}') == {"a�": ["�x", "😀"]}

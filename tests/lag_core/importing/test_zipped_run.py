"""A run handed over as a zip file: only its own files are written, whatever the archive says; and the page for it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from small_runs import write_run
from streamlit.testing.v1 import AppTest

from lag_core.importing import zipped_run
from lag_core.importing.error import CheckpointError


def archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return buffer.getvalue()


def test_only_files_of_a_run_are_written(tmp_path: Path) -> None:
    hostile = {
        "a/run.json": b"{}",
        "a/step_00.safetensors": b"x",
        "a/resume.pt": b"p",
        "../run.json.sh": b"s",
        "a/b/metrics.json": b"m",
    }
    folder = zipped_run.unpack(archive(hostile), "../../etc/my run.zip", tmp_path)
    assert folder == tmp_path / "my-run"
    assert sorted(one.name for one in folder.iterdir()) == ["run.json", "step_00.safetensors"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no archive", "not a zip"),
        (archive({"a/metrics.json": b""}), "one run.json"),
        (archive({"a/run.json": b"", "b/run.json": b""}), "one run.json"),
        (archive({"a/run.json": b"{}" * 500_000})[:-200], "not a zip"),
    ],
)
def test_what_is_no_run_is_refused_in_a_sentence(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        zipped_run.unpack(content, "x.zip", tmp_path)


def test_unpacked_bytes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipped_run, "LARGEST", 1000)
    with pytest.raises(CheckpointError, match="larger"):
        zipped_run.unpack(archive({"a/run.json": bytes(100_000)}), "x.zip", tmp_path)


def _app() -> None:
    from dashboard import app

    app.main(default="overview")


def test_the_empty_page_opens_a_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    (empty / "bad").mkdir(parents=True)
    (empty / "bad" / "run.json").write_text("{")
    write_run(full, "small")
    monkeypatch.setenv("LAG_RUNS", str(empty))
    monkeypatch.setenv("LAG_DATA_ROOT", "on")
    app = AppTest.from_function(_app, default_timeout=60).run()
    assert not app.exception
    assert any("bad" in one.value for one in app.warning), "the bad run is named"
    app.text_input(key="no-runs-folder").set_value(str(tmp_path / "nowhere")).run()
    assert "is not a folder" in app.error[0].value
    app.text_input(key="no-runs-folder").set_value(str(full)).run()
    assert not app.exception and not app.error
    assert "small" in str(app.sidebar.selectbox[0].options)

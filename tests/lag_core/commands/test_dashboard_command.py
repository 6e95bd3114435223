"""`lag dashboard`: what it starts, and the files that the wheel has to bring."""

from __future__ import annotations

import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from repository import ROOT

import dashboard
from dashboard.ui import shipped
from lag_core import cli
from lag_core.commands import dashboard as command


def test_it_starts_streamlit_on_the_app_with_the_given_runs(tmp_path, monkeypatch):
    started = {}

    def run(arguments, *, env, check):
        started.update(arguments=arguments, env=env)
        return SimpleNamespace(returncode=3)

    monkeypatch.setattr(subprocess, "run", run)
    code = cli.main(["dashboard", "--runs", str(tmp_path), "--", "--server.port", "8502"])
    assert code == 3 and started["env"]["LAG_RUNS"] == str(tmp_path)
    assert started["arguments"][1:5] == ["-m", "streamlit", "run", str(Path(dashboard.__file__).parent / "app.py")]
    assert started["arguments"][-2:] == ["--server.port", "8502"]


def test_a_folder_that_is_not_there_is_a_sentence(tmp_path, capsys):
    assert cli.main(["dashboard", "--runs", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_without_the_dashboard_it_says_so(monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(command.RunError, match="not installed"):
        command.command()


def test_shipped_files_are_found_in_the_repository_and_where_a_wheel_puts_them(tmp_path, monkeypatch):
    assert shipped.shipped("checkpoints") == ROOT / "checkpoints"
    monkeypatch.setattr(shipped, "REPOSITORY", tmp_path / "nowhere")
    monkeypatch.setattr(shipped, "INSTALLED", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    assert shipped.shipped("checkpoints") == tmp_path / "checkpoints"


def test_the_wheel_brings_every_run_and_every_file_that_the_app_reads():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    named = {name.removeprefix("share/lag/") for name in tools["data-files"]}
    runs = {f"checkpoints/{path.name}" for path in (ROOT / "checkpoints").iterdir() if path.is_dir()}
    assert (
        runs | {"assets/photos", *(f"assets/photos/{part}" for part in ("answers", "images", "masks")), "docs"} == named
    )
    patterns = tools["package-data"]["dashboard"]
    files = [p for p in (ROOT / "dashboard").rglob("*") if p.is_file() and p.suffix not in {".py", ".pyc"}]
    for path in files:
        inside = path.relative_to(ROOT / "dashboard")
        assert any(inside.match(pattern) for pattern in patterns), f"the wheel lacks {inside}"

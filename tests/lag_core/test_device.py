"""Where networks run: what is asked for reaches every command's networks, and the dashboard's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from repository import ROOT
from streamlit.testing.v1 import AppTest

from dashboard.cache import loaders
from lag_core.cli import main
from lag_core.config import ConfigError
from lag_core.device import device_named

RUN, OTHER = (str(ROOT / "checkpoints" / f"aerial-2-2-1-{name}") for name in ("finetune", "reference"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_auto_is_a_gpu_where_there_is_one(gpu: None) -> None:
    assert [device_named(name) for name in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]


def test_a_gpu_that_is_not_there_is_said(no_gpu: None) -> None:
    assert device_named("auto") == "cpu"
    with pytest.raises(ConfigError, match="sees no GPU here"):
        device_named("cuda")


@pytest.mark.parametrize(
    ("arguments", "variable", "wanted"),
    [([], "", "cuda"), (["--device", "cpu"], "", "cpu"), (["--device=cpu"], "cuda", "cpu"), ([], "cpu", "cpu"),
     (["--else", "x", "--device", "auto"], "cpu", "cuda")],
)  # fmt: skip
def test_the_dashboards_device(
    arguments: list[str], variable: str, wanted: str, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAG_DEVICE", variable)
    assert loaders.device(arguments) == wanted


def test_another_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_DEVICE", "tpu")
    with pytest.raises(ConfigError, match="'tpu': allowed are auto, cpu, cuda"):
        loaders.device([])


def test_a_page_says_that_there_is_no_gpu(no_gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_RUNS", str(ROOT / "checkpoints"))
    monkeypatch.setattr("sys.argv", ["dashboard/app.py", "--device", "cuda"])
    app = AppTest.from_string("from dashboard.app import main; main(default='steps')", default_timeout=100)
    app.query_params.update({"run": Path(RUN).name})
    app.run()
    assert not app.exception and not app.error
    assert any("torch sees no GPU here" in one.value for one in app.info)


class _Reached(Exception):
    """Networks were about to be made."""


COMMANDS: dict[str, tuple[list[str], int]] = {
    "evaluate": (["evaluate", RUN], 1),
    "survey": (["survey", RUN, "--quiet"], 1),
    "predict": (["predict", RUN, "PICTURE", "--out", "OUT", "--quiet"], 1),
    "explain": (["explain", RUN, "--image", "PICTURE", "--image-only", "--quiet", "--out", "OUT", "--class", "building",
                 "--step", "1", "--against", OTHER], 2),
}  # fmt: skip
"""Name -> arguments, and how many runs' networks are made."""


@pytest.mark.parametrize("name", tuple(COMMANDS))
def test_a_command_gives_its_device_to_every_network(
    name: str, gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, runs = COMMANDS[name]
    asked: list[str] = []

    def made(device: Any = "cpu") -> None:
        asked.append(str(device))
        if len(asked) == runs:
            raise _Reached

    monkeypatch.setattr("lag_core.explain.networks.Networks.__init__", lambda self, run, device="cpu", *_: made(device))
    monkeypatch.setattr("lag_core.training.evaluation.load_steps", lambda run, device="cpu": made(device))
    picture = next((ROOT / "assets" / "photos").rglob("*.jpg"))
    swapped = {"PICTURE": str(picture), "OUT": str(tmp_path / "out")}
    with pytest.raises(_Reached):
        main([*(swapped.get(one, one) for one in arguments), "--device", "cuda"])
    assert asked == ["cuda"] * runs

"""A user's mistakes are found before work starts, each one sentence, and nothing is left over."""

from __future__ import annotations

import argparse
import ast
import errno
import os
import signal
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from repository import ROOT
from safetensors.numpy import save_file
from shapes import tiny_config, write_shapes, write_toml

from lag_core.cli import main, parser
from lag_core.config import ConfigError, resolve
from lag_core.model import weights
from lag_core.model.backbone import classifier
from lag_core.runs import RunError, append_event, open_run
from lag_core.training import continual
from lag_core.training.features import FeatureStore
from lag_core.training.resume import Cursor, load_resume, save_resume
from lag_core.writing import NotWritten, write_atomically

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("mistakes") / "shapes")


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Path:
    return write_toml(tmp_path / "tiny.toml", tiny_config(data, "finetune", optim={"epochs": 1, "epochs_later": 1}))


def said(capsys: pytest.CaptureFixture[str]) -> str:
    text = capsys.readouterr().err
    assert text.startswith("lag: ") and text.count("\n") == 1 and "Traceback" not in text
    return text


def train(config: Path, out: Path, *more: str) -> int:
    return main(["train", "--config", str(config), "--out", str(out), "--quiet", *more])


def test_weights_without_a_network_name_file_and_address(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("[Errno -3] Temporary failure in name resolution")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    out = tmp_path / "run"
    assert train(config, out, "--set", "model.weights=imagenet") == 2
    text = said(capsys)
    assert "mobilenet_v2" in text and ".pth is missing" in text and "https://" in text
    assert "set model.weights to a file" in text and not out.exists()


def test_weights_that_are_not_finite_are_refused(data: Path, tmp_path: Path) -> None:
    state = classifier("mobilenet_v2").state_dict()
    arrays = {name: np.full(value.shape, np.nan, np.float32) for name, value in state.items()}
    save_file(arrays, tmp_path / "nan.safetensors")
    model = resolve({"model": {"weights": str(tmp_path / "nan.safetensors")}}).model
    with pytest.raises(ConfigError, match="holds values that are not finite"):
        weights.pretrained_backbone(model)


@pytest.mark.parametrize("what", ["a damaged mask", "a truncated image", "a mask of another size"])
def test_validation_files_are_checked_at_the_start(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    own = write_shapes(tmp_path / "shapes", 6, 2)
    name = (own / "val.txt").read_text().split()[-1]
    image, mask = own / "images" / f"{name}.png", own / "masks" / f"{name}.png"
    if what == "a truncated image":
        image.write_bytes(image.read_bytes()[:-200])
    elif what == "a damaged mask":
        mask.write_bytes(b"nothing")
    else:
        from PIL import Image

        Image.fromarray(np.zeros((7, 9), np.uint8)).save(mask)
    out = tmp_path / "run"
    assert train(write_toml(tmp_path / "x.toml", tiny_config(own, "finetune")), out) == 2
    assert f"{name}.png" in said(capsys) and not out.exists()


@pytest.mark.parametrize("seed", [2**32, 2**63 - 1, -1])
def test_a_seed_that_overflows_later_is_refused_at_once(seed: int) -> None:
    assert resolve({"optim": {"seed": 2**32 - 1}}).optim.seed == 2**32 - 1
    with pytest.raises(ConfigError, match=r"optim\.seed"):
        resolve({"optim": {"seed": seed}})


def test_the_largest_seed_trains(data: Path, tmp_path: Path) -> None:
    optim = {"seed": 2**32 - 1, "epochs": 1, "epochs_later": 1}
    method = {"channel_metric": "random", "nsc_threshold": 0.0}
    found = continual.train(tiny_config(data, "lag", optim=optim, method=method), tmp_path / "run", reporter=QUIET)
    assert found.status == "finished"


def test_an_empty_path_is_refused_by_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "--config", "configs/aerial-2-2-1.toml", "--out", ""])
    assert ended.value.code == 2 and "argument --out: it is empty" in capsys.readouterr().err
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices
    types = {action.type for one in commands.values() for action in one._actions}
    assert Path not in types and len(types) > 2


def test_no_command_takes_a_bare_path() -> None:
    folder = ROOT / "lag_core" / "commands"
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert not (isinstance(node, ast.keyword) and node.arg == "type" and ast.unparse(node.value) == "Path")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing"])
def test_a_damaged_resume_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "resume.pt").write_bytes(content)
    with pytest.raises(RunError, match=r"resume\.pt is damaged"):
        load_resume(tmp_path / "resume.pt")


@pytest.mark.parametrize(
    "states",
    [
        [1],
        {"cursor": {"step": 0, "iteration": 1, "seconds": 1.0}},
        {"cursor": {"step": "0"}, "student": {}, "optimiser": {}, "objective": {}},
        {"cursor": {"step": 0, "iteration": -1}, "student": {}, "optimiser": {}, "objective": {}},
        {"cursor": {"stranger": 0}, "student": {}, "optimiser": {}, "objective": {}},
        {"cursor": {"step": 0}, "student": 1, "optimiser": {}, "objective": {}},
    ],
)
def test_a_foreign_resume_is_a_sentence(tmp_path: Path, states: object) -> None:
    torch.save(states, tmp_path / "resume.pt")
    with pytest.raises(RunError, match=r"resume\.pt is damaged"):
        load_resume(tmp_path / "resume.pt")


@pytest.mark.parametrize("iteration", [0, 10**6])
def test_a_resume_of_another_run_is_a_sentence(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], iteration: int
) -> None:
    out = tmp_path / "run"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(continual.ContinualTraining, "_step", stop)
        assert train(config, out) == 130
    capsys.readouterr()
    save_resume(
        out / "resume.pt", Cursor(0, iteration), {"student": {"x": torch.ones(1)}, "optimiser": {}, "objective": {}}
    )
    assert train(config, out, "--resume") == 2
    text = said(capsys)
    assert "resume.pt does not belong to this run" in text and "delete it" in text


def test_a_full_disk_names_file_and_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "step_00.safetensors"
    path.write_bytes(b"before")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(NotWritten) as caught:
        write_atomically(path, b"x" * 3 * 2**20)
    assert caught.value.filename == str(path)
    assert "it needs 3.00 MiB, and" in str(caught.value.strerror) and "MiB are free" in str(caught.value.strerror)
    assert path.read_bytes() == b"before" and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_while_training_is_one_sentence_and_can_go_on(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, replace = tmp_path / "run", os.replace

    def full(source: str, target: Path) -> None:
        if Path(target).name == "step_01.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert train(config, out) == 2
    text = said(capsys)
    assert "step_01.safetensors: it cannot be written" in text and "MiB" in text
    assert len(open_run(out).steps) == 1
    assert train(config, out, "--resume") == 0 and open_run(out).status == "finished"


def test_a_disk_that_cannot_be_written_costs_the_cache_time_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = FeatureStore(tmp_path / "file")
    assert store.get("ab" * 12, lambda: np.ones(3)).tolist() == [1, 1, 1]


def test_events_that_cannot_be_written_name_their_file(tmp_path: Path) -> None:
    with pytest.raises(NotWritten) as caught:
        append_event(tmp_path / "missing" / "events.jsonl", {"step": 0})
    assert str(caught.value.filename).endswith("events.jsonl")


@pytest.mark.parametrize(
    "number, code, word", [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_is_one_sentence_and_can_go_on(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    if number == signal.SIGINT:  # a shell starts background processes with it ignored
        signal.signal(number, signal.default_int_handler)
    out, before = tmp_path / "run", signal.getsignal(number)
    original = continual.Journal.event

    def event(self: continual.Journal, line: dict) -> None:
        original(self, line)
        if line["step"] == 1:
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch.setattr(continual.Journal, "event", event)
        assert train(config, out) == code
    assert said(capsys) == f"lag: {word}; `lag train … --resume` continues from the last saved point\n"
    assert signal.getsignal(number) == before
    assert train(config, out, "--resume") == 0 and open_run(out).status == "finished"


QUIET = continual.Reporter(quiet=True)

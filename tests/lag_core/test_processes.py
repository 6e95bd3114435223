"""Several processes train, resume and measure as one does (gloo); one that dies leaves a sentence and a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import ROOT, run_script
from shapes import lively_backbone, tables, tiny_config, write_shapes

from lag_core import config as configuration
from lag_core.config import ConfigError
from lag_core.runs import Run, open_run
from lag_core.training.continual import train
from lag_core.training.reporting import Reporter

METHODS = {
    "finetune": {},
    "lag": {"nsc": 0.0, "channel_warmup": 1},
    "lag+": {"replay_maps": "drawn"},
    "mib": {},
    "plop": {},
}
"""With what each process would choose for itself left out: NSC's classes, the images that are carried over."""

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("together") / "shapes")


def small(root: Path, name: str, **method: Any) -> dict[str, Any]:
    """Labels of every pixel, a batch that all processes share evenly, and batch norm over all of it."""
    return tables(
        root, name,
        data={"task": "2-2"},
        model={"weights": str(root.parent / "backbone.pt")},
        optim={"epochs": 1, "epochs_later": 2, "sync_batch_norm": True, "lr_stage": 0.0},
        method=method,
    )  # fmt: skip


@pytest.fixture(scope="module")
def done(root: Path) -> Path:
    """The folder of all jobs, run in one go."""
    out = root.parent
    lively_backbone(root, out / "backbone.pt")
    (out / "sums").mkdir()
    (out / "measured").mkdir()
    saving = {**small(root, "finetune"), "log": {"events_every": 1, "gradients_every": 1, "resume_seconds": 0.0}}
    jobs: list[list[Any]] = [["sums", 2, [str(out / "sums")]]]
    for count in (1, 2):
        jobs += [["train", count, [small(root, m, **METHODS[m]), str(out / f"{m}-{count}")]] for m in METHODS]
    jobs += [
        ["evaluate", 2, [str(out / "lag-1"), str(out / "measured")]],
        ["survey", 1, [str(out / "lag-1"), str(out / "measured")]],
        ["survey", 2, [str(out / "lag-1"), str(out / "measured")]],
        ["train_until_one_dies", 2, [saving, str(out / "died")]],
        ["train", 1, [saving, str(out / "died"), True]],
        ["stop_in_step_1", 1, [saving, str(out / "stopped")]],
        ["train", 2, [saving, str(out / "stopped"), True]],
    ]
    script = ROOT.joinpath("tests", "training_together.py")
    call = run_script(script, json.dumps(jobs))
    assert call.returncode == 0, call.stderr
    (out / "statuses.json").write_text(call.stdout)
    (out / "stderr.txt").write_text(call.stderr)
    return out


def same(one: Run, other: Run, pixels: int = 40) -> None:
    """Equal up to rounding: hardly a pixel is called otherwise."""
    assert one.status == other.status == "finished" and len(one.steps) == len(other.steps)
    moved = np.abs(one.confusions() - other.confusions()).sum() / 2
    assert moved <= pixels, f"{moved} of {one.confusions().sum()} pixels"
    for step in range(len(one.steps)):
        mine, theirs = one.analysis(step), other.analysis(step)
        assert mine.keys() == theirs.keys()
        np.testing.assert_allclose(mine["prototypes.count"], theirs["prototypes.count"], atol=pixels)
        np.testing.assert_allclose(mine["prototypes.mean"], theirs["prototypes.mean"], rtol=0.05, atol=0.02)


def test_every_process_ended_as_it_should(done: Path) -> None:
    statuses = json.loads((done / "statuses.json").read_text())
    died = [one for one in statuses if any(one)]
    assert len(died) == 1 and died[0] == [0, 9], (died, (done / "stderr.txt").read_text())


def test_sums_and_batch_norm_are_those_of_the_whole_batch(done: Path) -> None:
    assert sorted(path.name for path in (done / "sums").iterdir()) == ["0.ok", "1.ok"]


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_train_as_one_with_the_same_batch(done: Path, method: str) -> None:
    one, two = (open_run(done / f"{method}-{count}") for count in (1, 2))
    assert one.info["processes"] == 1 and two.info["processes"] == 2
    same(one, two)


def shares(run: Run) -> list[dict[str, Any]]:
    """What events.jsonl says of the terms' shares."""
    lines = map(json.loads, (run.path / "events.jsonl").read_text().splitlines())
    return [line["shares"] for line in lines if "shares" in line]


@pytest.mark.parametrize("method", ["finetune", "lag", "mib", "plop"])
def test_two_processes_record_the_shares_of_one(done: Path, method: str) -> None:
    one, two = (shares(open_run(done / f"{method}-{count}")) for count in (1, 2))
    assert [line["updates"] for line in one] == [line["updates"] for line in two] and one[-1]["updates"] > 1
    for cls, gross in one[-1]["gross"].items():
        assert sum(gross.values()) > 0
        for kind in ("net", "gross"):
            mine, theirs = one[-1][kind][cls], two[-1][kind][cls]
            assert mine.keys() == theirs.keys()
            np.testing.assert_allclose(
                list(theirs.values()), list(mine.values()), atol=0.02 * sum(gross.values()), err_msg=f"{kind} {cls}"
            )
    np.testing.assert_allclose(list(two[-1]["loss"].values()), list(one[-1]["loss"].values()), rtol=0.02)


def test_two_processes_measure_what_one_does(done: Path) -> None:
    stored = open_run(done / "lag-1").confusions()
    for rank in (0, 1):
        np.testing.assert_array_equal(json.loads((done / "measured" / f"{rank}.json").read_text()), stored)


def test_two_processes_survey_what_one_does(done: Path) -> None:
    one = np.load(done / "measured" / "1-0.npz")
    assert one["basic confusion"].sum() > 0 and one["cka"].size and one["probes"].sum() > 0 and one["pseudo"].size
    for rank in (0, 1):
        two = np.load(done / "measured" / f"2-{rank}.npz")
        assert one.files == two.files
        for name in one.files:
            np.testing.assert_allclose(two[name], one[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_process_that_dies_leaves_a_sentence_and_a_folder_to_go_on_from(done: Path) -> None:
    assert "another process of the task ended" in (done / "died" / "said.txt").read_text()
    run = open_run(done / "died")
    assert any("another process of the task ended" in warning for warning in run.warnings)
    same(run, open_run(done / "finetune-1"))


def test_a_run_goes_on_with_another_number_of_processes(done: Path) -> None:
    run = open_run(done / "stopped")
    assert run.info["processes"] == 2
    same(run, open_run(done / "finetune-1"))


def test_processes_must_divide_the_batch(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lag_core import processes

    monkeypatch.setattr(processes, "_current", processes.Processes(0, 3))
    with pytest.raises(ConfigError, match=r"optim\.batch = 4: 3 processes and optim\.accumulate = 1 must divide it"):
        train(tiny_config(root, "finetune"), tmp_path / "run", reporter=Reporter(quiet=True))
    assert not (tmp_path / "run" / "run.json").exists()
    assert configuration.resolve(tables(root, "finetune")).optim.batch == 4

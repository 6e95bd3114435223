"""A training that was killed goes on and ends in the same bits as one that was not (on the CPU)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_training import MOMENTS
from repository import ROOT, run_script
from shapes import tables, tiny_config, tiny_run, write_shapes

from lag_core import config as configuration
from lag_core.runs import Run, RunError, open_run
from lag_core.training.continual import train
from lag_core.training.reporting import Reporter
from lag_core.training.resume import Cursor, load_resume, save_resume

SAVE_ALWAYS, SAVE_NEVER = 0.0, 1e6

CASES: dict[str, tuple[str, str, float]] = {
    **{f"lag-{moment}": ("lag", moment, SAVE_ALWAYS) for moment in MOMENTS if "step_0" not in moment},
    "finetune": ("finetune", "in_the_middle_of_a_step", SAVE_ALWAYS),
    "finetune-unsaved": ("finetune", "in_the_middle_of_a_step", SAVE_NEVER),
    "reference": ("reference", "in_the_middle_of_a_step", SAVE_ALWAYS),
    "plop": ("plop", "in_the_middle_of_a_step", SAVE_ALWAYS),
    "lag+": ("lag+", "in_the_middle_of_a_step", SAVE_ALWAYS),
    "fresh views": ("joint", "in_the_middle_of_step_0", SAVE_ALWAYS),
}
"""Method, moment of the kill, seconds between two resume.pt."""


def case_tables(root: Path, case: str) -> dict[str, Any]:
    method, _, seconds = CASES[case]
    # nsc_every and gradients_every leave iterations without a line, where dead terms are skipped
    log = {"resume_seconds": seconds, "events_every": 1, "gradients_every": 2, "shares_every": 3}
    # the backbone trains with one method; the others are quicker without
    optim: dict[str, Any] = {"epochs": 1, "lr_stage": 0.01 if method == "plop" else 0.0}
    if case == "fresh views":  # killed within step 0, so its optimiser's state is what is read again
        optim["optimiser"] = "adamw"
    views = {"views": 0} if case == "fresh views" else {"views": 2}
    return tables(root, method, log=log, optim=optim, data=views, method={"nsc_threshold": 0.0})


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("resume") / "shapes")


@pytest.fixture(scope="module")
def killed(root: Path) -> Path:
    """Folder of the killed runs, by case."""
    work = [[case_tables(root, case), str(root.parent / case), CASES[case][1]] for case in CASES]
    script = ROOT.joinpath("tests", "killed_training.py")
    done = run_script(script, json.dumps(work))
    assert done.returncode == 0, done.stderr
    return root.parent


@pytest.fixture(scope="module")
def whole(root: Path) -> dict[str, Run]:
    """A run of each method that was not interrupted."""
    made: dict[str, Run] = {}
    for case, (method, _, _) in CASES.items():
        if method not in made:
            config = configuration.resolve(case_tables(root, case))
            made[method] = train(config, root.parent / f"whole-{method}", reporter=Reporter(quiet=True))
    return made


def lasting(event: dict[str, Any]) -> dict[str, Any]:
    """An event without what the clock decides."""
    return {key: value for key, value in event.items() if key != "images_per_second"}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_ends_in_the_same_bits(root: Path, killed: Path, whole: dict[str, Run], case: str) -> None:
    interrupted = open_run(killed / case)
    assert interrupted.status == "training"
    moment = CASES[case][1]
    assert len(interrupted.steps) == {"between_two_steps": 2, "in_the_middle_of_step_0": 0}.get(moment, 1)

    config = configuration.resolve(case_tables(root, case))
    run = train(config, killed / case, resume=True, reporter=Reporter(quiet=True))
    other = whole[CASES[case][0]]

    assert run.status == "finished" and not (run.path / "resume.pt").exists()
    assert len(run.steps) == len(other.steps)
    for step in range(len(run.steps)):
        mine, theirs = run.delta(step), other.delta(step)
        assert mine.keys() == theirs.keys()
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine), step
        mine, theirs = run.analysis(step), other.analysis(step)
        assert mine.keys() == theirs.keys()
        assert all(mine[name].tobytes() == theirs[name].tobytes() for name in mine), step
        assert run.steps[step].dead_terms == other.steps[step].dead_terms
    assert np.array_equal(run.confusions(), other.confusions())
    assert [lasting(e) for e in run.events()] == [lasting(e) for e in other.events()]
    assert run.warnings == other.warnings
    assert not [p.name for p in run.path.iterdir() if p.name.endswith(".partial")]


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_resume(
        tmp_path / "resume.pt", Cursor(1, 3, 2.5), {"student": {"a": torch.ones(2)}, "optimiser": {}, "objective": {}}
    )
    cursor, states = load_resume(tmp_path / "resume.pt")
    assert cursor == Cursor(1, 3, 2.5) and torch.equal(states["student"]["a"], torch.ones(2))


def test_a_resumed_run_repeats_nothing_that_was_saved(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lag_core.training.loop import StepLoop

    firsts: list[tuple[int, int]] = []
    original = StepLoop.run

    def stops(self: StepLoop, first: int, listener: Any) -> None:
        firsts.append((self.step, first))

        def listen(iteration: int, event: Any) -> None:
            listener(iteration, event)
            if len(firsts) == 2 and iteration == 2:
                raise KeyboardInterrupt

        original(self, first, listen)

    monkeypatch.setattr(StepLoop, "run", stops)
    config = tiny_config(root, "lag", log={"resume_seconds": 0.0})
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", reporter=Reporter(quiet=True))
    train(config, tmp_path / "run", resume=True, reporter=Reporter(quiet=True))
    assert firsts == [(0, 0), (1, 0), (1, 3), (2, 0)]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"cos\nsystem\n(S'true'\ntR.", b"\xff" * 100])
def test_a_resume_file_that_is_none_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "resume.pt"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"resume\.pt is damaged or contains more than tensors; delete it to train"):
        load_resume(path)


def test_a_resume_file_runs_no_code(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple[Any, tuple[str, str]]:
            return Path.write_text, (tmp_path / "trace", "here")  # type: ignore[return-value]

    torch.save({"cursor": Hostile()}, tmp_path / "resume.pt")
    with pytest.raises(RunError, match=r"resume\.pt is damaged or contains more"):
        load_resume(tmp_path / "resume.pt")
    assert not (tmp_path / "trace").exists()


def test_a_finished_run_is_left_as_it_is(root: Path, tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "run", "joint")
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    again = train(run.config, run.path, resume=True, reporter=Reporter(quiet=True))
    assert again.status == "finished"
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before

"""A training that falls ill says so, within the step, with advice that acts; one that is well says nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from shapes import tiny_config, tiny_run, write_shapes

from lag_core.config import Config
from lag_core.method.reach import heads_only
from lag_core.runs import open_run
from lag_core.training.continual import train
from lag_core.training.health import Health
from lag_core.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("no_fsync")
SHIPPED = ROOT / "checkpoints"
COLLAPSED = ROOT.joinpath("tests", "data") / "collapsed-lag.jsonl"

ABRUPT: dict[str, dict[str, Any]] = {
    "method": {"kd_latent": 100.0},
    "optim": {"lr_aspp_later": 1.0, "epochs_later": 10, "clip": 0.3},
}
"""Settings that throw the ASPP off as soon as it joins, and not beyond all numbers."""


class Heard(Reporter):
    """Keeps what is said at the terminal."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


def test_a_run_that_collapses_says_so_in_the_step_in_which_it_does(root: Path, tmp_path: Path) -> None:
    heard = Heard()
    run = train(tiny_config(root, "lag", **ABRUPT), tmp_path / "run", reporter=heard)
    for beginning in ("step 1: the loss jumped: at iteration", "step 1: latent channels died: at i"):
        (sentence,) = [w for w in run.warnings if w.startswith(beginning)]
        assert heard.said.count(sentence) == 1
        begins, ends = (next(i for i, s in enumerate(heard.said) if s.startswith(f"step {n} of 3")) for n in (2, 3))
        assert begins < heard.said.index(sentence) < ends, "said while step 1 trains"


def test_what_a_sentence_says_is_so(root: Path, tmp_path: Path) -> None:
    """Dead channels are those that one value fills in the finished network; a jump stands in the events."""
    run = tiny_run(root, tmp_path / "run", "lag", **ABRUPT)
    (jump,) = [w for w in run.warnings if w.startswith("step 1: the loss jumped")]
    at, name, value = re.search(r"at iteration (\d+) (\w+) alone is ([\d.e+]+)", jump).groups()  # type: ignore[union-attr]
    event = next(e for e in run.events() if e["step"] == 1 and e["iteration"] == int(at))
    assert event["terms"][name]["raw"] * event["terms"][name]["weight"] == pytest.approx(float(value), rel=0.01)
    (died,) = [w for w in run.warnings if w.startswith("step 1: latent channels died")]
    counts = re.search(r"(\d+) of (\d+) give one value", died)
    assert counts and int(counts[2]) == run.config.model.latent and int(counts[1]) > 0.1 * int(counts[2])


def test_dead_channels_on_the_way_are_a_count_so_far_and_those_at_the_end_are_said_too() -> None:
    health = Health(1, died_before=2)
    assert health.look(20, 14, 128) == [], "12 of 128 are few"
    (so_far,) = health.look(40, 24, 128)
    assert so_far.startswith("step 1: latent channels died: at iteration 40, 22 of 128 give one value everywhere")
    assert "some may recover" in so_far and "steadiness" in so_far
    assert health.look(80, 60, 128) == [], "once"
    (at_end,) = health.look(323, 15, 128, last=True)
    assert at_end.startswith("step 1: latent channels at its end: 13 of 128 give one value everywhere")
    resumed = Health(1, died_before=2, told=[so_far])
    assert resumed.look(323, 1, 128, last=True) == [at_end.replace("13 of", "0 of")], "all came back to life"
    assert Health(1, told=[so_far, at_end]).look(323, 15, 128, last=True) == []


def test_channels_that_are_first_seen_dead_at_the_end_are_said_once() -> None:
    (said,) = Health(1).look(323, 40, 128, last=True)
    assert said.startswith("step 1: latent channels died: at its end, 40 of 128") and "recover" not in said
    killed_before_the_step_was_written = Health(1, told=[said])
    assert killed_before_the_step_was_written.look(323, 40, 128, last=True) == []


@pytest.mark.parametrize("name", ["finetune", "lag", "lag+", "mib", "plop", "reference"])
def test_a_run_that_is_well_says_nothing_of_it(root: Path, tmp_path: Path, name: str) -> None:
    calm = {"lr_aspp_later": 1e-5, "lr_head_later": 1e-3}
    run = tiny_run(root, tmp_path / name, name, optim=calm)
    assert not [w for w in run.warnings if "jumped" in w or "channels died" in w]


def test_an_interrupted_run_says_each_sentence_once(root: Path, tmp_path: Path) -> None:
    class Stops(Heard):
        def iteration(self, loss: float | None = None, images_per_second: float = 0.0) -> None:
            self.count = getattr(self, "count", 0) + 1
            if self.count == 12:  # within step 1, after its jump
                raise KeyboardInterrupt

    config = tiny_config(root, "lag", **ABRUPT, log={"resume_seconds": 0.0})
    whole = train(config, tmp_path / "whole", reporter=Heard())
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", reporter=Stops())
    assert json.loads((tmp_path / "cut" / "run.json").read_text())["status"] == "training"
    assert train(config, tmp_path / "cut", resume=True, reporter=Heard()).warnings == whole.warnings


@pytest.mark.parametrize("name", sorted(p.name for p in SHIPPED.glob("a*")))
def test_no_run_that_ships_is_ill_and_says_nothing(name: str) -> None:
    """No term jumps in them; a term that moved nothing is named in the run and in its model card."""
    run = open_run(SHIPPED / name)
    found = ill(run.events(), run.config, [step.dead_terms for step in run.steps])
    told = {sentence.split(":")[0] + sentence.split(":")[1] for sentence in run.info["warnings"]}
    assert not any("loss jumped" in sentence for sentence in found)
    assert {sentence.split(":")[0] + sentence.split(":")[1] for sentence in found} <= told


def test_the_journal_of_a_run_that_collapsed() -> None:
    """A run that once shipped: kd_latent jumped when the ASPP joined at step 1, and 70 of 96 latent channels died."""
    events = [json.loads(line) for line in COLLAPSED.read_text().splitlines()]
    found = ill(events, Config(), [(), (), ()])
    assert any(s.startswith("step 1: the loss jumped: at iteration 110 kd_latent") for s in found)
    assert any(s.startswith("step 1: term sfp moved nothing") for s in found)
    assert any(s.startswith("step 2: term spm moved nothing") for s in found)


def ill(events: Sequence[Mapping[str, Any]], config: Config, dead_terms: Sequence[Collection[str]]) -> list[str]:
    """What the events tell of jumps and of terms that move nothing, over all steps."""
    found = []
    for step, dead in enumerate(dead_terms):
        health = Health(step, on_heads=heads_only(config.method))
        found += [s for event in events if event["step"] == step for s in health.observe(event)] + health.finish(dead)
    return [s for s in found if "loss jumped" in s or "moved nothing" in s]

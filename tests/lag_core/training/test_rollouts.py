"""Rollouts: what they change, and that they leave a step as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from shapes import tiny_config, write_shapes

from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.loop import StepLoop
from lag_core.training.probe import Probe
from lag_core.training.reporting import Reporter
from lag_core.training.rollouts import rollouts

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory) -> tuple[StepLoop, Probe]:
    """Step 1 of a tiny run, a few iterations into it, and the recorder's probe."""
    folder = tmp_path_factory.mktemp("rollouts")
    config = tiny_config(
        write_shapes(folder / "shapes"), "lag", log={"shares_every": 1},
        method={"nsc_threshold": 0.0, "pseudo_threshold": 0.1}, optim={"epochs_later": 8, "extractor_delay": 0.0},
    )  # fmt: skip
    training = ContinualTraining(config, folder / "run", Reporter(quiet=True), FeatureStore())
    loop = training._prepare(training._step(None, 0), 1)[1]
    assert loop.allocation is not None
    probe, loop.allocation = loop.allocation.probe, None
    for iteration in range(2):
        loop.advance(iteration)
    return loop, probe


@pytest.fixture
def state(step: tuple[StepLoop, Probe]) -> Iterator[dict[str, torch.Tensor]]:
    yield {name: value.clone() for name, value in step[0].student.state_dict().items()}


def test_a_step_is_left_as_it_was(step: tuple[StepLoop, Probe], state: dict[str, torch.Tensor]) -> None:
    loop, probe = step
    first = rollouts(loop, probe, 2, 2, ["kd_logits"])
    assert all(value.equal(state[name]) for name, value in loop.student.state_dict().items())
    again = rollouts(loop, probe, 2, 2, ["kd_logits"])
    assert first.whole.equal(again.whole) and first.without["kd_logits"].equal(again.without["kd_logits"])


def test_the_whole_one_is_what_training_does(step: tuple[StepLoop, Probe]) -> None:
    """And a term that is left out leads elsewhere; one that is not there does not."""
    loop, probe = step
    found = rollouts(loop, probe, 2, 2, ["kd_latent", "pod"])
    assert found.before.equal(probe.losses(loop.student))
    assert found.cost("pod").count_nonzero() == 0 and found.cost("kd_latent").count_nonzero() > 0
    for iteration in (2, 3):
        loop.advance(iteration)
    assert probe.losses(loop.student).equal(found.whole)


def test_a_stretch_stays_in_its_step(step: tuple[StepLoop, Probe]) -> None:
    loop, probe = step
    with pytest.raises(ValueError, match="leave the step"):
        rollouts(loop, probe, loop.total - 1, 2, [])

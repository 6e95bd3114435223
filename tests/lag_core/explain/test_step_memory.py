"""Steps are loaded when they are asked for, shared where they are equal, and dropped by bytes."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_runs import with_moving_trunk
from shapes import lively_backbone, tiny_run, write_shapes
from torch import nn

from dashboard.cache.memory_cache import size_of
from lag_core.explain.networks import Networks
from lag_core.explain.step_memory import DEFAULT, StepMemory, limit_from, storages
from lag_core.explain.trace import Trace
from lag_core.model.weights import load_segmenter
from lag_core.runs import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("memory")
    data = write_shapes(root / "shapes")
    model = {"weights": str(lively_backbone(data, root / "backbone.pt")), "output_stride": 8}
    still = tiny_run(data, root / "still", "finetune", model=model, optim={"lr_stage": 0.0})
    return with_moving_trunk(still, root / "moving")


def layer(numbers: int) -> nn.Module:
    return nn.Linear(numbers, 1, bias=False)


def test_the_least_recently_used_network_goes_first() -> None:
    memory = StepMemory(limit=4 * 250)
    first = memory.get("a", lambda: layer(100))
    memory.get("b", lambda: layer(100))
    assert memory.get("a", lambda: layer(1)) is first
    memory.get("c", lambda: layer(100))
    assert memory.find("b") is None and memory.find("a") is first and memory.bytes == 800


def test_a_tensor_that_two_networks_share_counts_once() -> None:
    memory, one, other = StepMemory(), layer(100), layer(1)
    other.weight = one.weight
    memory.get("a", lambda: one)
    memory.get("b", lambda: other)
    assert memory.bytes == 400 and len(memory) == 2


def test_a_network_larger_than_the_bound_is_still_handed_out() -> None:
    memory = StepMemory(limit=1)
    assert memory.get("a", lambda: layer(9)) is memory.get("a", lambda: layer(1))


def test_what_has_gone_no_longer_counts() -> None:
    memory = StepMemory()
    memory.get("a", lambda: layer(100))
    memory.get("b", lambda: layer(10))
    memory.drop(lambda key: key == "a")
    assert memory.bytes == 40 and memory.find("a") is None


def test_asking_again_does_not_look_at_every_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = StepMemory()
    memory.get("a", lambda: layer(100))
    monkeypatch.setattr("lag_core.explain.step_memory.storages", lambda module: pytest.fail("looked again"))
    assert isinstance(memory.get("a", lambda: layer(1)), nn.Linear)


@pytest.mark.parametrize(("text", "found"), [("", DEFAULT), ("512MiB", 2**29), ("1.5 GiB", 3 * 2**29), ("77", 77)])
def test_the_bound_can_be_set(text: str, found: int) -> None:
    assert limit_from(text) == found


def test_another_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="LAG_MEMORY = 'much'"):
        limit_from("much")


def test_opening_loads_nothing_and_each_step_is_its_own_network(run: Run) -> None:
    memory = StepMemory()
    networks = Networks(run, memory=memory)
    assert len(memory) == 0
    for step in (2, 0, 1):  # in any order
        expected = load_segmenter(run, step).state_dict()
        own = networks.steps[step].state_dict()
        assert all(torch.equal(own[name], value) for name, value in expected.items() if "num_batches" not in name)
    shared = {place for step in (0, 1) for place, _ in storages(networks.steps[step])}
    apart = sum(len(set(storages(networks.steps[step]))) for step in (0, 1))
    assert len(shared) < apart


def test_a_small_bound_changes_no_answer(run: Run) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    roomy, memory = Trace(Networks(run, memory=StepMemory()), image), StepMemory(limit=1)
    tight = Trace(Networks(run, memory=memory), image)
    for step in roomy.steps:
        assert np.array_equal(roomy.latent(step), tight.latent(step))
    assert len(memory) == 1


def test_networks_that_are_gone_leave_no_steps(run: Run) -> None:
    memory = StepMemory()
    networks = Networks(run, memory=memory)
    assert networks.steps[0] is networks.steps[0] and len(memory) == 1
    del networks
    gc.collect()
    assert len(memory) == 0


def test_a_trace_of_a_moving_trunk_keeps_z_and_logits_alone(run: Run, tmp_path: Path) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    trace = Trace(Networks(run, memory=StepMemory()), image)
    for step in trace.steps:
        trace.output(step)
    small = sum(one.latent.nbytes + one.logits.nbytes for one in trace.outputs.values())
    assert size_of(trace) == trace.nbytes == small + image.nbytes + trace.inputs().nbytes

"""What each loss term did to the old classes: the identities that hold at every measurement, and nothing disturbed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shapes import lively_backbone, tiny_config, tiny_run, write_shapes
from torch import Tensor

from lag_core.method.terms import SOURCES
from lag_core.runs import Run
from lag_core.training.allocation import ALL, DECAY, Allocation, Track
from lag_core.training.continual import ContinualTraining, train
from lag_core.training.features import FeatureStore
from lag_core.training.loop import StepLoop, term_gradients
from lag_core.training.probe import flat, probe_images
from lag_core.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("no_fsync")

EAGER = {"nsc_threshold": 0.0, "pseudo_threshold": 0.1}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def recorded(root: Path) -> dict[str, Run]:
    """Runs with a measurement in every iteration, and in every third."""
    return {
        f"{name} {every}": tiny_run(
            root, root.parent / f"{name}-{every}", name, method=EAGER, log={"shares_every": every}
        )
        for name, every in (("lag", 1), ("lag", 3), ("lag+", 1), ("reference", 1), ("finetune", 2))
    }


def loop_of(root: Path, out: Path, name: str, **sections: dict[str, Any]) -> StepLoop:
    """Step 1 of a tiny run, ready to train."""
    config = tiny_config(root, name, method={**EAGER, **sections.pop("method", {})}, **sections)
    training = ContinualTraining(config, out, Reporter(quiet=True), FeatureStore())
    first = training._step(None, 0)
    return training._prepare(first, 1)[1]


class Watched(Allocation):
    """An allocation that keeps what all terms together moved in each segment."""

    segments: tuple[Tensor, ...] = ()

    def _close(self, updates: int, gradients: Mapping[str, Tensor]) -> None:
        if updates:
            self.segments = (*self.segments, torch.zeros(sum(p.numel() for p in self.parameters)))
        super()._close(updates, gradients)

    def _moved(self, track: Track, last: Tensor | None) -> Tensor:
        moved = super()._moved(track, last)
        self.segments[-1].add_(moved)
        return moved


@pytest.mark.parametrize(
    ("name", "optim"),
    [
        ("lag", {"clip": 0.0, "extractor_delay": 0.3}),
        ("lag", {"clip": 0.05, "extractor_delay": 0.3, "warmup": 0.2, "weight_decay": 0.1}),
        ("lag", {"momentum": 0.0, "weight_decay": 0.01}),
        ("lag+", {}),
        ("finetune", {"weight_decay": 0.1}),
    ],
)
def test_the_terms_parts_add_up_to_the_optimisers_update(
    root: Path, tmp_path: Path, name: str, optim: Mapping[str, Any]
) -> None:
    """Each iteration measured: momentum, clipping, decay, rates and delays are all in it."""
    loop = loop_of(root, tmp_path / "run", name, optim={"epochs_later": 5, **optim}, log={"shares_every": 1})
    assert loop.allocation is not None
    loop.allocation.__class__ = Watched
    watched = loop.allocation
    assert isinstance(watched, Watched)
    states = [flat(watched.parameters, watched.parameters)]
    loop.run(0, lambda iteration, event: states.append(flat(watched.parameters, watched.parameters)))
    assert len(watched.segments) == loop.total == len(states) - 1
    updates = [after - before for before, after in pairwise(states)]
    largest = max(float(update.abs().max()) for update in updates)
    assert largest > 1e-5
    for update, moved in zip(updates, watched.segments, strict=True):
        assert float((update - moved).abs().max()) <= 1e-5 * largest + 1e-7


def shares_of(run: Run) -> list[dict[str, Any]]:
    return [{"step": e["step"], **e["shares"]} for e in run.events() if "shares" in e]


def test_every_later_step_is_recorded_from_its_start_to_its_end(recorded: dict[str, Run]) -> None:
    for run in recorded.values():
        for info in run.steps:
            here = [r["updates"] for r in shares_of(run) if r["step"] == info.step]
            assert not here if info.step == 0 else (here[0] == 0 and here[-1] == info.iterations), run.name


def test_small_steps_leave_nothing_unexplained(root: Path, tmp_path: Path) -> None:
    """To first order the shares are the change: with a small rate they are all of it."""
    loop = loop_of(
        root, tmp_path / "run", "lag", log={"shares_every": 1},
        model={"weights": str(lively_backbone(root, tmp_path / "weights.pt"))},
        optim={"lr_head_later": 1e-4, "lr_aspp_later": 1e-4, "amp": "off"},
    )  # fmt: skip
    assert loop.allocation is not None
    probe = loop.allocation.probe
    before = probe.losses(loop.student)
    loop.run(0, lambda iteration, event: None)
    changes = (probe.losses(loop.student) - before).tolist()
    for one, change in zip(probe.classes, changes, strict=True):
        shares = loop.allocation.state_dict()["net"][str(one.index)].values()
        largest = max(map(abs, shares))
        assert largest > 3e-5
        assert sum(shares) == pytest.approx(change, abs=0.05 * largest + 1e-6), one.index  # float32 losses of 1.6


def test_net_never_exceeds_gross_and_all_is_the_mean(recorded: dict[str, Run]) -> None:
    for run in recorded.values():
        for record in shares_of(run):
            classes = [cls for cls in record["net"] if cls != ALL]
            for term, value in record["net"][ALL].items():
                mean = np.mean([record["net"][cls][term] for cls in classes])
                assert value == pytest.approx(mean, rel=1e-3, abs=1e-6)
            for cls, terms in record["net"].items():
                assert all(abs(v) <= record["gross"][cls][term] * 1.0001 + 1e-9 for term, v in terms.items())


def test_a_term_of_weight_0_has_no_share(root: Path, recorded: dict[str, Run], tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "run", "lag", method={**EAGER, "spm": 0.0}, log={"shares_every": 1})
    for record in shares_of(run):
        assert all(terms.get("spm", 0.0) == 0 for terms in record["net"].values())
    assert shares_of(recorded["lag 1"])[-1]["net"][ALL]["spm"] != 0


def test_frozen_extractor_leaves_the_shares_to_the_heads_terms(recorded: dict[str, Run]) -> None:
    """The reference's own terms reach nothing that trains."""
    names = {term for record in shares_of(recorded["reference 1"]) for term in record["net"][ALL]}
    assert names and names <= {*(f"segmentation.{s}" for s in SOURCES), DECAY}


def test_sources_add_up_to_the_segmentation_term(root: Path, tmp_path: Path) -> None:
    for name, pseudo in (("lag", "soft"), ("lag", "hard"), ("plop", "entropy"), ("mib", "off"), ("lag", "adaptive")):
        loop = loop_of(root, tmp_path / f"{name}-{pseudo}", name, method={"pseudo": pseudo})
        result = loop._forward(loop.batch_of(0), 0.5, 0, frozenset())
        parts = result.sources()
        assert tuple(parts) == SOURCES
        total = sum(v.item() for v in parts.values())
        assert total == pytest.approx(result.terms["segmentation"].value.item(), rel=1e-5), (name, pseudo)
        assert parts["new"].item() > 0 and parts["old"].item() == 0


@pytest.mark.parametrize("name", ["lag", "lag+", "finetune"])
def test_training_is_the_same_to_the_bit_without_the_recorder(
    root: Path, recorded: dict[str, Run], tmp_path: Path, name: str
) -> None:
    run = tiny_run(root, tmp_path / "run", name, method=EAGER, log={"shares_every": 0})
    other = next(r for key, r in recorded.items() if key.rsplit(" ", 1)[0] == name)
    for step in range(len(run.steps)):
        mine, theirs = run.tensors(step), other.tensors(step)
        assert all(mine[key].tobytes() == theirs[key].tobytes() for key in mine | theirs), step
        mine, theirs = run.analysis(step), other.analysis(step)
        assert all(mine[key].tobytes() == theirs[key].tobytes() for key in mine | theirs), step
    assert not shares_of(run)
    lasting = [{k: v for k, v in e.items() if k not in ("shares", "images_per_second")} for e in other.events()]
    assert lasting == [{k: v for k, v in e.items() if k != "images_per_second"} for e in run.events()]


def test_without_held_out_images_it_says_that_nothing_is_recorded(root: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Told(Reporter):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    run = train(tiny_config(root, "lag", data={"holdout": 0.0}), tmp_path / "run", reporter=Told(quiet=True))
    assert not shares_of(run) and not any("shares" in warning for warning in run.warnings)
    assert sum("not recorded: no held-out image" in sentence for sentence in said) == 2


def test_the_probe_takes_the_first_images_of_the_class() -> None:
    present = {f"{k:02d}": frozenset({k % 2}) for k in range(40)}
    found = probe_images(list(present), present, 1, 12)
    assert found == [f"{k:02d}" for k in range(1, 24, 2)]


def test_gradients_that_the_norms_took_are_the_same(root: Path, tmp_path: Path) -> None:
    """Measured once for both, or by the recorder alone: the parts of segmentation come out alike."""
    loop = loop_of(root, tmp_path / "run", "lag", log={"shares_every": 1}, optim={"extractor_delay": 0.0})
    recorder = loop.allocation
    assert recorder is not None
    for iteration in range(2):
        loop.advance(iteration)
    result = loop._forward(loop.batch_of(2), 0.5, 2, frozenset())
    losses, wanted = loop._by_source(result), recorder.wanted(2)
    alone = recorder._gradients(2, losses, {})
    shared = recorder._gradients(2, losses, term_gradients(result.terms, wanted))
    assert set(alone) == set(shared)
    for name, gradient in alone.items():
        assert float((gradient - shared[name]).abs().max()) <= 1e-5 * float(gradient.abs().max()) + 1e-7, name

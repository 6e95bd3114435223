"""All steps of a run: what trains, what stays, what is reported; on rectangles, in seconds."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from shapes import tiny_config, tiny_run, write_shapes
from small_aerial import CONFIG

from lag_core.cli import main
from lag_core.config import ConfigError, resolve
from lag_core.data.splits import hold_out
from lag_core.method.objective import Objective, Result, Term
from lag_core.method.presets import PRESETS
from lag_core.method.stored import StoredMaps
from lag_core.model.weights import load_segmenter
from lag_core.runs import Run, open_run
from lag_core.training.continual import LOCK, ContinualTraining, alone, label_spaces, step_images, train
from lag_core.training.evaluation import evaluate, totals
from lag_core.training.features import FeatureStore, batch_order, iterations_per_epoch
from lag_core.training.finite import NotFiniteError
from lag_core.training.loop import gradient_norms, term_gradients, weighted_sum
from lag_core.training.optimiser import Part, Schedule
from lag_core.training.reporting import Reporter

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, Run]:
    """A tiny run of every preset. The confident regions of NSC take what an untrained network is sure of."""
    return {name: tiny_run(root, root.parent / name, name, method={"nsc_threshold": 0.0}) for name in PRESETS}


@pytest.mark.parametrize("name", PRESETS)
def test_every_method_trains_to_its_end(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    assert run.status == "finished" and run.method == name
    assert len(run.steps) == (1 if name == "joint" else 3)
    assert not (run.path / "resume.pt").exists() and not list(run.path.glob("*.partial"))
    events = run.events()
    places = [(e["step"], e["iteration"]) for e in events]
    assert places == [(s.step, i) for s in run.steps for i in range(s.iterations)]
    for event in events:
        assert math.isfinite(event["loss"])
        total = sum(t["raw"] * t["weight"] for t in event["terms"].values())
        assert event["loss"] == pytest.approx(total, rel=1e-4)
    for step in range(len(run.steps)):
        assert all(np.isfinite(value).all() for value in run.tensors(step).values())


@pytest.mark.parametrize("name", PRESETS)
def test_stored_metrics_are_measured_again_to_the_pixel(runs: dict[str, Run], name: str) -> None:
    run = runs[name]
    measured = totals(evaluate(run, run.open_dataset(), Reporter(quiet=True).bar))
    assert np.array_equal(measured, run.confusions())


def test_step_0_is_the_same_for_all_methods_with_the_same_heads(runs: dict[str, Run]) -> None:
    for group in (["reference", "lag"], ["finetune", "frozen"]):
        first = load_file(runs[group[0]].path / "step_00.safetensors")
        for name in group[1:]:
            other = load_file(runs[name].path / "step_00.safetensors")
            assert first.keys() == other.keys()
            assert all(np.array_equal(first[key], other[key]) for key in first), name


@pytest.mark.parametrize(("start", "channels"), [("nearest", (2, 3)), ("unknown", (0,))])
def test_a_new_head_starts_where_the_config_says(
    root: Path, tmp_path: Path, start: str, channels: tuple[int, ...]
) -> None:
    """At a rate of next to nothing the new head stays there."""
    run = tiny_run(
        root,
        tmp_path / start,
        "reference",
        method={"transfer_from": start},
        optim={"lr_head_later": 1e-9, "amp": "off"},
    )
    old, new = run.tensors(0), run.tensors(1)
    added = next(v for k, v in new.items() if k.endswith("classify.weight") and k not in old)
    rows = np.concatenate([old[k] for k in sorted(old) if k.endswith("classify.weight")])
    close = {k for k in range(len(rows)) if np.allclose(rows[k], added[0], atol=1e-5)}
    assert len(close) == 1 and close <= set(channels)


def test_stored_images_are_replayed_with_all_that_is_known_by_now(root: Path, tmp_path: Path) -> None:
    """Annotated with the classes of every step so far; and the images are those of the steps before."""
    config = tiny_config(root, "lag+", method={"replay_maps": "stored"})
    run = tiny_run(root, tmp_path / "stored", "lag+", method={"replay_maps": "stored"})
    training = ContinualTraining(config, tmp_path / "again", Reporter(quiet=True), FeatureStore())
    objective = Objective(config.method, training.labels, 2, latent=config.model.latent, trunk=1)
    objective.recall(lambda: training._earlier(load_segmenter(run, 1), 2))
    stored = objective.carrier
    assert isinstance(stored, StoredMaps)
    earlier = {i for t in (0, 1) for i in step_images(config, training.dataset, training.labels, t)}
    assert len(stored.maps) == len(earlier)
    known = set(range(training.labels.channels(2)))
    assert set(stored.labels.unique().tolist()) - {255} <= known
    assert set(training.labels.old_channels(2)) <= set(stored.labels.unique().tolist())
    later = [event for event in run.events() if event["step"] > 0]
    assert all(event["terms"]["replay"]["raw"] > 0 for event in later)


def test_another_seed_is_another_run(root: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    """And the same seed is the same run, although another trained in between."""
    same = tiny_run(root, tmp_path / "same", "lag", method={"nsc_threshold": 0.0})
    assert same.digest == runs["lag"].digest
    other = tiny_run(root, tmp_path / "other", "lag", method={"nsc_threshold": 0.0}, optim={"seed": 1})
    assert other.digest != same.digest


def test_joint_is_one_step_over_all_labels_and_grouped_by_the_task(root: Path, runs: dict[str, Run]) -> None:
    run = runs["joint"]
    assert run.labels.steps == ((0, 1, 2, 3, 4),)
    assert run.grouping.steps == ((0, 1, 2), (3,), (4,))
    dataset = run.open_dataset()
    kept, _ = hold_out(list(dataset.ids("train")), run.config.data.holdout, seed=0)
    assert step_images(run.config, dataset, run.labels, 0) == kept
    first = run.events()[0]
    assert list(first["terms"]) == ["segmentation"]


def test_terms_of_the_reference_are_reported_as_dead(runs: dict[str, Run]) -> None:
    run = runs["reference"]
    dead = ("kd_latent", "nsc", "sfp", "spm")
    assert [s.dead_terms for s in run.steps] == [(), dead, dead]
    for step in (1, 2):
        for term in dead:
            assert f"step {step}: term {term} has no gradient: the extractor is frozen" in run.warnings
    assert all(run.steps[t].trained == ("heads",) for t in (1, 2))


def test_no_term_of_lag_is_dead(runs: dict[str, Run]) -> None:
    assert all(step.dead_terms == () for step in runs["lag"].steps)
    assert not any("no gradient" in sentence for sentence in runs["lag"].warnings)
    assert runs["lag"].steps[1].trained == ("heads", "aspp")


def test_nsc_is_0_before_the_extractor_moves_and_all_terms_act_after_it(tmp_path: Path) -> None:
    """docs/method.md#checks. Without background, so that a little training finds regions of old classes."""
    run = tiny_run(
        write_shapes(tmp_path / "shapes", ground="ground"),
        tmp_path / "lag",
        "lag",
        data={"task": "3-2"},
        model={"output_stride": 8, "latent": 16, "head_width": 8},
        optim={"epochs": 8, "lr_stage": 0.01, "epochs_later": 6, "extractor_delay": 0.5, "lr_aspp_later": 3e-4},
        method={
            "nsc_threshold": 0.0, "nsc_every": 1, "channel_warmup": 1, "ramp": 0.0, "channel_metric": "l2"
        },
    )  # fmt: skip
    events = [e for e in run.events() if e["step"] == 1]
    joins = math.ceil(0.5 * events[0]["total"])
    before = [e for e in events if e["iteration"] < joins]
    # the first update of the extractor is made at `joins`, so that its effect is seen one iteration later
    after = [e for e in events if e["iteration"] > joins]
    assert len(before) > 2 and len(after) > 2
    for event in before:
        assert event["terms"]["nsc"]["raw"] == 0 and event["terms"]["kd_latent"]["raw"] == 0
        assert event["lr"]["aspp"] == 0 and set(event["gradient_norms"].values()) == {0.0}
    for term in ("spm", "sfp", "nsc", "kd_latent"):
        assert max(e["gradient_norms"][term] for e in after) > 0, term
        assert max(e["terms"][term]["raw"] for e in after) > 0, term
    assert all(e["lr"]["aspp"] > 0 for e in after)


def test_a_term_without_a_class_in_the_batch_is_not_called_dead(root: Path, tmp_path: Path) -> None:
    """The teacher is sure of nothing, so NSC has no pair; that is no reason to leave it out."""
    run = tiny_run(root, tmp_path / "lag", "lag", method={"nsc_threshold": 1.0})
    later = [e for e in run.events() if e["step"] == 1 and "nsc" in e["terms"]]
    assert later and all(e["terms"]["nsc"]["raw"] == 0 for e in later)
    assert run.steps[1].dead_terms == ()


def test_files_hold_what_a_step_changed_and_nothing_else(runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        for step in range(1, len(run.steps)):
            before, delta = run.tensors(step - 1), run.delta(step)
            assert all(k not in before or not np.array_equal(v, before[k]) for k, v in delta.items()), name
    assert {n.split(".")[0] for n in runs["reference"].delta(1)} == {"heads"}
    assert {n.split(".")[0] for n in runs["lag"].delta(1)} == {"heads", "aspp"}


def test_frozen_heads_do_not_move_and_live_ones_do(runs: dict[str, Run]) -> None:
    def changed_heads(run: Run, step: int) -> set[int]:
        return {int(name.split(".")[1]) for name in run.delta(step) if name.startswith("heads.")}

    # heads with the unknown: 0 unknown, 1 background, 2 the rest of step 0, 3 step 1, 4 step 2; else a head per step
    for name, run in runs.items():
        unknown = run.labels.unknown
        if name == "joint":
            continue
        if run.config.method.old_heads == "frozen":
            first, last = ({0, 3}, {0, 4}) if unknown else ({1}, {2})
            assert (changed_heads(run, 1), changed_heads(run, 2)) == (first, last), name
        else:
            assert changed_heads(run, 2) == set(range(5 if unknown else 3)), name
    kept = {name for name, run in runs.items() if run.config.method.old_heads == "frozen"}
    assert {"frozen", "reference", "lag"} <= kept


def test_batch_norm_does_not_move_after_step_0(runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        for step in range(1, len(run.steps)):
            new_head = f"heads.{len(run.labels.head_sizes(step)) - 1}."
            moved = [n for n in run.delta(step) if "running_" in n and not n.startswith(new_head)]
            assert moved == [], name


def test_the_trunk_is_the_same_in_all_steps_also_where_the_last_stage_trains(root: Path, tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "lag", "lag", model={"shared": "layer3"}, optim={"lr_stage_later": 0.01})
    assert run.steps[1].trained == ("heads", "aspp", "stage")
    changed = {".".join(name.split(".")[:2]) for name in run.delta(2) if name.startswith("backbone")}
    assert changed == {"backbone.layer4"}


class Spy(Objective):
    """The usual objective; remembers the teacher and the labels that it was shown."""

    teachers: list[tuple[int, dict[str, torch.Tensor]]] = []  # noqa: RUF012
    modes: set[bool] = set()  # noqa: RUF012

    def __call__(self, student, teacher, new, old, batch, *args, **kwargs) -> Result:  # type: ignore[no-untyped-def,override]
        if teacher is not None:
            self.modes.add(any(m.training for m in teacher.modules()))
            assert not any(p.requires_grad for p in teacher.parameters())
            self.teachers.append((self.step, {k: v.clone() for k, v in teacher.state_dict().items()}))
        return super().__call__(student, teacher, new, old, batch, *args, **kwargs)


def test_the_teacher_is_the_last_step_and_never_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lag_core.training.continual.Objective", Spy)
    Spy.teachers, Spy.modes = [], set()
    run = tiny_run(root, tmp_path / "lag", "lag")
    assert Spy.modes == {False} and {step for step, _ in Spy.teachers} == {1, 2}
    stored = {step: load_segmenter(run, step - 1).state_dict() for step in (1, 2)}
    for step, state in Spy.teachers:
        for name, value in state.items():
            if "num_batches" not in name:
                assert torch.equal(value, stored[step][name]), name


def test_held_out_images_are_never_trained_on(root: Path) -> None:
    config = tiny_config(root, "lag", data={"holdout": 0.3})
    from lag_core.data.catalogue import open_dataset

    dataset = open_dataset(config.data)
    _, held = hold_out(list(dataset.ids("train")), 0.3, seed=0)
    assert len(held) == 5
    for method in ("lag", "joint"):
        config = tiny_config(root, method, data={"holdout": 0.3})
        labels, _ = label_spaces(config, dataset)
        for step in range(len(labels.steps)):
            used = step_images(config, dataset, labels, step)
            assert used and not set(used) & {*held, *dataset.ids("val")}


def test_the_data_fraction_keeps_the_first_images_of_later_steps(root: Path, tmp_path: Path) -> None:
    from lag_core.data.catalogue import open_dataset

    full, half = (tiny_config(root, "finetune", data={"fraction": f}) for f in (1.0, 0.5))
    dataset = open_dataset(full.data)
    labels, _ = label_spaces(full, dataset)
    for step in range(3):
        every, some = (step_images(c, dataset, labels, step) for c in (full, half))
        assert some == (every if step == 0 else every[: round(0.5 * len(every))])
    run = tiny_run(root, tmp_path / "half", "finetune", data={"fraction": 0.5})
    assert [s.images for s in run.steps] == [len(step_images(half, dataset, labels, t)) for t in range(3)]


def test_a_step_with_few_images_trains_its_least_number_of_iterations(root: Path, tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "few", "finetune", optim={"min_iterations": 11})
    assert [s.iterations for s in run.steps[1:]] == [11, 11]


@pytest.mark.parametrize("what", ["weight", "prototype"])
def test_a_step_that_ends_outside_the_numbers_is_not_written(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Else the next step would stop with a damaged file, and the cause would not be said."""

    class Ends(Objective):
        def finish(self, student: Any, *others: Any) -> dict[str, np.ndarray]:
            measured = super().finish(student, *others)
            if self.step == 1:
                broken = measured["prototypes.mean"] if what == "prototype" else next(student.parameters()).data
                broken[0] = math.nan
            return measured

    monkeypatch.setattr("lag_core.training.continual.Objective", Ends)
    with pytest.raises(NotFiniteError, match=r"the training diverged: .* is not finite at the step's end"):
        train(tiny_config(root, "lag"), tmp_path / "run", reporter=Reporter(quiet=True))
    run = open_run(tmp_path / "run")
    assert run.status == "failed" and len(run.steps) == 1 and not run.faults()


def test_loss_that_leaves_the_numbers_stops_with_the_terms_name(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaks(Objective):
        def __call__(self, *args, **kwargs) -> Result:  # type: ignore[no-untyped-def]
            found = super().__call__(*args, **kwargs)
            if self.step == 1 and args[6] == 2:
                return found._replace(
                    terms={**found.terms, "spm": Term(found.terms["segmentation"].value * math.nan, 1.0)}
                )
            return found

    config = tiny_config(root, "lag", log={"resume_seconds": 0.0})
    with monkeypatch.context() as patched:
        patched.setattr("lag_core.training.continual.Objective", Breaks)
        with pytest.raises(NotFiniteError, match="term spm is nan"):
            train(config, tmp_path / "run", reporter=Reporter(quiet=True))
    run = open_run(tmp_path / "run")
    assert run.status == "failed" and len(run.steps) == 1
    assert any("step 1: term spm is nan" in sentence for sentence in run.warnings)
    assert (run.path / "resume.pt").exists()
    assert (run.events()[-1]["step"], run.events()[-1]["iteration"]) == (1, 1)
    finished = train(config, tmp_path / "run", resume=True, reporter=Reporter(quiet=True))
    assert finished.status == "finished" and len(finished.steps) == 3


def test_an_existing_run_is_not_overwritten(root: Path, tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "run", "joint")
    before = {p.name: p.read_bytes() for p in run.path.iterdir()}
    with pytest.raises(ConfigError, match="already holds a run"):
        tiny_run(root, tmp_path / "run", "joint")
    with pytest.raises(ConfigError, match=r"these differ: optim\.seed"):
        train(tiny_config(root, "joint", optim={"seed": 7}), run.path, resume=True)
    assert {p.name: p.read_bytes() for p in run.path.iterdir()} == before


def test_a_task_whose_step_finds_no_image_is_a_sentence(root: Path, tmp_path: Path) -> None:
    # every image has two classes, so none has the first step's alone
    with pytest.raises(ConfigError, match=r"step 0 of task '1-1' has no training image \(disjoint\)"):
        tiny_run(root, tmp_path / "run", "finetune", data={"task": "1-1", "setting": "disjoint"})


def test_a_step_0_can_be_taken_over(root: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    config = tiny_config(root, "lag", method={"nsc_threshold": 0.0})
    run = train(config, tmp_path / "run", first_step=runs["reference"], reporter=Reporter(quiet=True))
    assert run.digest == runs["lag"].digest
    first = [event for event in runs["reference"].events() if event["step"] == 0]
    assert first and run.events()[: len(first)] == first
    assert {event["step"] for event in run.events()[len(first) :]} == {1, 2}
    with pytest.raises(ConfigError, match="trained differently"):
        other = tiny_config(root, "lag", optim={"seed": 3})
        train(other, tmp_path / "other", first_step=runs["reference"], reporter=Reporter(quiet=True))


def test_a_step_0_is_taken_over_whose_tensors_lie_in_shared_files(
    root: Path, runs: dict[str, Run], tmp_path: Path
) -> None:
    packed = tmp_path / "packed"
    shutil.copytree(runs["reference"].path, packed)
    (tmp_path / "shared").mkdir()
    info = json.loads((packed / "run.json").read_text())
    (file,) = info["steps"][0]["files"]
    name = f"shared/{file['sha256'][:16]}.safetensors"
    (packed / file["name"]).rename(tmp_path / name)
    file["name"] = name
    (packed / "run.json").write_text(json.dumps(info))
    config = tiny_config(root, "lag", method={"nsc_threshold": 0.0})
    run = train(config, tmp_path / "elsewhere" / "run", first_step=open_run(packed), reporter=Reporter(quiet=True))
    assert run.digest == runs["lag"].digest


def test_a_folder_has_one_training_at_a_time(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with alone(out):
        with pytest.raises(ConfigError, match=r"another training is writing to .*run"):
            tiny_run(root, out, "joint")
        assert [p.name for p in out.iterdir()] == [LOCK]
    assert not out.exists(), "nothing is left of a training that wrote nothing"
    run = tiny_run(root, out, "joint")
    assert run.status == "finished" and not (out / LOCK).exists()


def test_a_feature_store_changes_no_bit(root: Path, runs: dict[str, Run], tmp_path: Path) -> None:
    store = FeatureStore(tmp_path / "features")
    config = tiny_config(root, "lag", method={"nsc_threshold": 0.0})
    for name in ("first", "second"):
        run = train(config, tmp_path / name, reporter=Reporter(quiet=True), store=store)
        assert run.digest == runs["lag"].digest
        assert np.array_equal(run.confusions(), runs["lag"].confusions())


def test_batches_are_epochs_of_distinct_images() -> None:
    n, batch = 11, 4
    per_epoch = iterations_per_epoch(n, batch)
    assert per_epoch == 2
    for epoch in range(3):
        rows = np.concatenate([batch_order(n, 3, batch, epoch * per_epoch + i, seed=5)[0] for i in range(per_epoch)])
        assert len(rows) == 8 and len(set(rows.tolist())) == 8
    few = batch_order(2, 3, batch, 4, seed=5)
    assert sorted(few[0].tolist()) == [0, 1] and few[1].max() < 3
    again = batch_order(2, 3, batch, 4, seed=5)
    assert np.array_equal(few[0], again[0]) and np.array_equal(few[1], again[1])


def test_gradient_norms_against_one_backward_a_term() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    terms = {
        "a": Term(weight.square().sum(), 0.5),
        "b": Term(torch.tensor(2.0), 1.0),
        "c": Term(weight[0] * 2, 2.0),
    }
    norms = gradient_norms(terms, term_gradients(terms, [weight]), [weight])
    assert norms == pytest.approx({"a": 5.0, "b": 0.0, "c": 4.0})
    assert float(weighted_sum(terms).detach()) == pytest.approx(0.5 * 25 + 2 + 12)
    weighted_sum(terms).backward()
    assert weight.grad is not None and weight.grad.tolist() == [7.0, 4.0]


def test_aerial_trains_by_domains(tmp_path: Path) -> None:
    from lag_core import config as configuration
    from lag_core.method.presets import preset

    config = configuration.resolve(
        configuration.merge(
            [
                preset("lag"),
                {
                    "data": {"domains": ["rgb", "irrg"], "size": 32, "tiles": 4, "views": 2},
                    "model": {"latent": 8, "head_width": 4, "aspp_rates": [1]},
                    "optim": {"epochs": 1, "epochs_later": 1, "batch": 2, "threads": 1, "device": "cpu"},
                },
            ]
        )
    )
    training = ContinualTraining(config, tmp_path / "run", Reporter(quiet=True), FeatureStore())
    for step, domain in ((0, "rgb"), (1, "irrg"), (2, "irrg")):
        ids = step_images(config, training.dataset, training.labels, step)
        assert {training.dataset.domain(i) for i in ids} == {domain}
    run = training.run()
    assert run.domains == ("rgb", "irrg")
    parts = [run.confusions(domain) for domain in run.domains]
    assert np.array_equal(sum(parts), run.confusions())  # type: ignore[arg-type]


def test_a_later_step_warms_up_each_part_from_when_it_joins():
    heads, aspp = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    found = [Part("heads", (heads,), 1.0), Part("aspp", (aspp,), 0.5, delay=0.4)]
    config = resolve({"optim": {"warmup": 0.2, "power": 0.0}})
    rates = {t: Schedule(found, config, step=1).step(t) for t in (0.0, 0.1, 0.2, 0.4, 0.5, 0.9)}
    assert [rate["heads"] for rate in rates.values()] == pytest.approx([0.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    assert [rate["aspp"] for rate in rates.values()] == pytest.approx([0.0, 0.0, 0.0, 0.0, 0.25, 0.5])
    assert Schedule(found, config, step=0).step(0.0) == {"heads": 1.0, "aspp": 0.0}


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_optimiser_is_chosen_for_step_0_alone(kind: str) -> None:
    """AdamW's first update has the size of the rate whatever the gradient; SGD's is in proportion to it."""
    config = resolve({"optim": {"optimiser": kind, "momentum": 0.0, "weight_decay": 0.0, "power": 0.0}})
    moved = {}
    for step, gradient in ((0, 1.0), (0, 5.0), (1, 5.0)):
        head = torch.nn.Linear(1, 1)
        before = head.weight.item()
        head.weight.grad, head.bias.grad = torch.full((1, 1), gradient), torch.zeros(1)
        Schedule([Part("heads", (head,), 0.01)], config, step).step(0.0)
        moved[step, gradient] = before - head.weight.item()
    first = {"sgd": 0.05, "adamw": 0.01}[kind]
    assert moved == {(0, 1.0): pytest.approx(0.01, rel=1e-3), (0, 5.0): pytest.approx(first, rel=1e-3),
                     (1, 5.0): pytest.approx(0.05, rel=1e-3)}  # fmt: skip


def test_the_norm_of_all_gradients_is_bounded_after_step_0() -> None:
    """The parts that have not joined do not count."""
    config = resolve({"optim": {"clip": 0.5, "power": 0.0, "momentum": 0.0, "weight_decay": 0.0}})
    moved = {}
    for step in (0, 1):
        heads, aspp, late = (torch.nn.Linear(1, 1) for _ in range(3))
        parts = [Part("heads", (heads,), 1.0), Part("aspp", (aspp,), 1.0), Part("stage", (late,), 1.0, delay=0.5)]
        before = [p.detach().clone() for module in (heads, aspp) for p in module.parameters()]
        for module, size in ((heads, 3.0), (aspp, 4.0), (late, 100.0)):
            module.weight.grad, module.bias.grad = torch.full((1, 1), size), torch.zeros(1)
        Schedule(parts, config, step).step(0.0)
        after = [p.detach() for module in (heads, aspp) for p in module.parameters()]
        moved[step] = math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(after, before, strict=True)))
    assert moved == {0: pytest.approx(5.0), 1: pytest.approx(0.5, rel=1e-4)}


def test_a_class_that_is_never_predicted_is_named(root: Path, tmp_path: Path) -> None:
    """With heads that stand still, the new class is called exactly where its head happens to be the highest."""
    run = tiny_run(root, tmp_path / "still", "frozen", optim={"lr_head_later": 1e-9})
    names = {known.id: known.name for known in run.open_dataset().info.classes}
    for step, confusion in list(enumerate(run.confusions()))[1:]:
        for k in run.labels.class_indices(step):
            sentence = f"step {step}: class {names[run.labels.order[k]]} is never predicted"
            silent = any(sentence in warning for warning in run.warnings)
            assert silent == (confusion[:, k].sum() == 0 and confusion[k].sum() > 0)
    quiet = ContinualTraining(run.config, tmp_path / "again", Reporter(quiet=True), FeatureStore())
    everything_background = np.array([[5, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [2, 0, 0, 0]])
    assert quiet._silent_classes(everything_background, 1) == [names[run.labels.order[3]]]
    everything_background[3] = 0
    assert quiet._silent_classes(everything_background, 1) == [], "a class without pixels cannot be missed"


def test_lag_plus_replays_the_classes_of_the_steps_own_domain(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Step 0 has colour tiles, the others infrared ones: step 1 can replay nothing, step 2 the classes of step 1."""
    (tmp_path / "small.toml").write_text(CONFIG)
    command = ["train", "--config", str(tmp_path / "small.toml"), "--method", "lag+", "--out", str(tmp_path / "run")]
    assert main(command) == 0
    left_out = "not replayed, as their images had another domain: impervious surface, building"
    assert capsys.readouterr().out.count(left_out) == 2
    replayed = {event["step"] for event in open_run(tmp_path / "run").events() if "replay" in event["terms"]}
    assert replayed == {2}

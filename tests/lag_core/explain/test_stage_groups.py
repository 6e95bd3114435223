"""Stages that are one part: what hybrids cost, and that the shares of grouped stages are those of the coarser game."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from moving_runs import with_moving_trunk
from shapes import lively_backbone, tiny_run, write_shapes

import lag_core
from lag_core.cli import main
from lag_core.config import ConfigError
from lag_core.data.remap import truth
from lag_core.explain import holds_pass, stage_groups
from lag_core.explain.evidence import finish
from lag_core.explain.explained_run import ExplainedRun
from lag_core.explain.hybrids import HybridCounts, Pair, groups_of
from lag_core.explain.networks import Networks
from lag_core.explain.shares_pass import Pictures, all_pairs, geometry_of, shares_on
from lag_core.explain.stage_groups import HEADS, StageGroups, choose, operations, part_of
from lag_core.explain.step_memory import MEMORY
from lag_core.explain.survey import open_survey
from lag_core.explain.survey_pass import survey
from lag_core.model.operations import operations_of
from lag_core.model.weights import StepLoader

STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
COSTS = {"stem": 1.0, "layer1": 2.0, "layer2": 3.0, "layer3": 10.0, "layer4": 5.0, "aspp": 4.0, HEADS: 1.0}
EVERYTHING = frozenset((*STAGES, "aspp"))


def apart(*names: str) -> tuple[tuple[str, ...], ...]:
    return tuple((name,) for name in names)


def test_operations_are_those_of_a_tree_without_what_each_step_makes_by_itself() -> None:
    groups = apart(*STAGES, "aspp")
    hybrids = (2 - 2) * 1 + (4 - 2) * 2 + (8 - 2) * 3 + (16 - 2) * 10 + (32 - 2) * 5 + (64 - 2) * 4
    assert operations(groups, [EVERYTHING], COSTS, 2) == 2 * sum(COSTS.values()) + hybrids + 2 * 64
    assert operations(groups, [frozenset({"aspp"})], COSTS, 2) == 2 * sum(COSTS.values()) + 2 * 2


def test_the_finest_grouping_within_the_limit_is_chosen() -> None:
    pairs, finest = [EVERYTHING] * 3, operations(apart(*STAGES, "aspp"), [EVERYTHING] * 3, COSTS, 3)
    assert choose(STAGES, "aspp", pairs, COSTS, 3, finest).joined == ()
    found = choose(STAGES, "aspp", pairs, COSTS, 3, finest - 1)
    assert found.joined == ("stem", "layer1") and found.operations < finest == found.apart
    least = choose(STAGES, "aspp", pairs, COSTS, 3, 1.0)
    assert least.groups == (STAGES,) and part_of(least.joined) == "stem to layer4"
    assert "stem to layer4 are one part" in stage_groups.sentence(least)


def test_a_trunk_that_does_not_move_is_never_in_the_way() -> None:
    found = choose(STAGES, "aspp", [frozenset({"layer4", "aspp"})] * 3, COSTS, 3, 1e3)
    assert not found.joined and stage_groups.sentence(found) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"groups": [["stem"]], "operations": 1, "apart": 1, "limit": 1},
        {"groups": [["layer1", "stem"], ["layer2", "layer3", "layer4"]], "operations": 1, "apart": 1, "limit": 1},
        {"groups": [list(STAGES), []], "operations": 1, "apart": 1, "limit": 1},
        {"groups": [list(STAGES)], "operations": float("nan"), "apart": 1, "limit": 1},
        {"groups": [list(STAGES)], "operations": -1, "apart": 1, "limit": 1},
        {"groups": [list(STAGES)], "operations": 1},
        {"groups": 3},
        7,
    ],
)
def test_groups_that_do_not_fit_are_refused(wrong: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        stage_groups.from_json(wrong, STAGES)


def test_groups_are_written_and_read() -> None:
    given = StageGroups((STAGES[:3], *apart(*STAGES[3:])), 1e12, 3e13, 2e13)
    assert stage_groups.from_json(json.loads(json.dumps(stage_groups.as_json(given))), STAGES) == given


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ExplainedRun:
    root = tmp_path_factory.mktemp("groups")
    write_shapes(root / "shapes", val_images=3)
    lively_backbone(root / "shapes", root / "backbone.pt")
    model = {"weights": str(root / "backbone.pt")}
    optim = {"lr_stage": 0.0, "lr_head": 0.1, "lr_aspp": 0.1, "lr_aspp_later": 0.01, "epochs": 8, "epochs_later": 2}
    tiny_run(root / "shapes", root / "run", "finetune", model=model, optim=optim, method={"unknown": True})
    return lag_core.open_run(with_moving_trunk(lag_core.open_run(root / "run"), root / "moving").path)


@pytest.fixture(scope="module")
def pictures(run: ExplainedRun) -> Pictures:
    data = run.open_dataset()
    return [(data.image(i), truth(data.mask(i), run.labels)) for i in data.ids("val")]


def test_operations_are_counted_as_the_layers_are(run: ExplainedRun) -> None:
    found = operations_of(run.config.model, run.config.data.size, run.labels.head_sizes(run.last_step))
    model = Networks(run).steps[run.last_step]
    first = model.backbone.stem[0][0]
    side = run.config.data.size // 2
    assert first.kernel_size == (3, 3)
    assert found["stem"] >= 2 * first.weight.numel() * side * side
    assert set(found) == {*STAGES, "aspp", "heads"} and all(value > 0 for value in found.values())


def test_the_part_of_a_moving_trunk_that_costs_too_much_is_one(run: ExplainedRun) -> None:
    assert groups_of(run).joined == ()
    assert groups_of(run, 1.0).joined == STAGES


def test_shares_of_joined_stages_are_those_of_the_coarser_game(run: ExplainedRun, pictures: Pictures) -> None:
    networks, cls = Networks(run), 1
    fine, coarse = Pair((networks, 0), (networks, 2)), Pair((networks, 0), (networks, 2), groups_of(run, 1.0))
    assert fine.feature_parts == ("backbone.layer2", "backbone.layer3", "aspp")
    assert coarse.feature_parts == ("backbone.stem to layer4", "aspp")
    (one,), (other,) = (finish(shares_on(pair, [cls], pictures, repeats=0)) for pair in (fine, coarse))
    assert other.corners == pytest.approx(one.corners, abs=1e-9)
    assert other.exact and other.points.sum() == pytest.approx(one.points.sum(), abs=1e-9)
    assert other.parts[1:3] == ("backbone.stem to layer4", "aspp") and "backbone.layer2" not in other.parts


def test_what_a_step_makes_by_itself_runs_once_for_all_pairs(run: ExplainedRun, pictures: Pictures) -> None:
    """Kept prefixes: the same counts, and each stage of each step at most once by itself."""
    networks = Networks(run)
    inputs = torch.cat([networks.prepare(image) for image, _ in pictures])
    geometry = geometry_of([true for _, true in pictures], run.config.data.size)
    found, ran = [], []
    for room in (0, 2**30):
        passes, calls = networks.passes(inputs, room=room), [0]
        hooks = [step.aspp.register_forward_hook(lambda *_, calls=calls: _count(calls)) for step in networks.steps]
        every = [HybridCounts(pair, classes, len(pictures)) for pair, classes in all_pairs(networks)]
        for one in every:
            one.add(0, (passes, passes), geometry)
        for hook in hooks:
            hook.remove()
        found.append([hits for one in every for hits in one.hits])
        ran.append(calls[0])
    assert all((a == b).all() for a, b in zip(*found, strict=True))
    assert ran[1] == ran[0] - 3  # three pairs end six times in a step by itself: three steps once each
    assert passes.nbytes > networks.passes(inputs).nbytes


def _count(calls: list[int]) -> None:
    calls[0] += 1


def test_the_survey_keeps_its_limit(run: ExplainedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["survey", str(run.path), "--operations", "0.000001"]) == 0
    assert "stem to layer4 are one part" in " ".join(capsys.readouterr().out.split())
    found = open_survey(run)
    assert found.groups is not None and found.groups.joined == STAGES and found.groups.limit == 1e6
    assert found.shares is not None
    parts = {part for shares in found.shares.by_case.values() for part in shares.parts}
    assert "backbone.stem to layer4" in parts and not any(part.startswith("backbone.layer") for part in parts)
    about = run.path / "survey.json"
    broken = json.loads(about.read_text())
    broken["stages"]["limit"] = -1
    about.write_text(json.dumps(broken))
    held = open_survey(run)
    assert held.groups is None and held.shares is not None and "which stages are one part" in held.faults[0]


def test_a_survey_loads_each_step_once_however_little_memory_steps_may_take(
    run: ExplainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pairs hold their networks: one loaded anew for each pair would be in memory many times."""
    loaded, load = list[int](), StepLoader.load
    monkeypatch.setattr(MEMORY, "limit", 1)
    monkeypatch.setattr(
        StepLoader, "load", lambda self, step, others: (loaded.append(step), load(self, step, others))[1]
    )
    survey(run, run.open_dataset(), lambda items, what: iter(items))
    assert sorted(loaded) == [0, 1, 2]


def test_a_survey_goes_on_where_a_step_has_no_training_image(
    run: ExplainedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training images of an imported run may be a few pictures; it is noticed behind the whole pass."""

    def without(*_: object) -> None:
        raise ConfigError("step 1 has no training image")

    said: list[str] = []
    monkeypatch.setattr(holds_pass, "label_tables", without)
    found = survey(run, run.open_dataset(), lambda items, what: iter(items), say=said.append)
    assert found.holds is not None and found.holds.background is None
    assert any("step 1 has no training image" in one for one in said)


def test_a_limit_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["survey", str(tmp_path), "--operations", "0"])
    assert "--operations" in capsys.readouterr().err

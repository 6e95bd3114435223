"""Hybrids against networks that are put together tensor by tensor, and against planted damage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from moving_runs import with_moving_trunk
from shapes import lively_backbone, tiny_run, write_shapes
from torch import Tensor

import lag_core
from lag_core import metrics
from lag_core.data.remap import truth
from lag_core.explain.evidence import finish
from lag_core.explain.explained_run import ExplainedRun
from lag_core.explain.hybrids import HybridCounts, Pair
from lag_core.explain.networks import Networks
from lag_core.explain.shares import COMPETITION, NEWLY, OLD_HEADS, UNKNOWN_HEAD, Shares
from lag_core.explain.shares_pass import Pictures, all_pairs, geometry_of, shares_on
from lag_core.model.prediction import class_probabilities, full_size, highest
from lag_core.training.evaluation import evaluate, totals


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hybrids")


def trained(root: Path, name: str, ground: str = "background", **method: object) -> ExplainedRun:
    data = root / f"shapes-{ground}"
    if not data.exists():
        write_shapes(data, ground=ground, val_images=6)
        lively_backbone(data, root / f"{ground}.pt")
    model = {"weights": str(root / f"{ground}.pt"), "output_stride": 8}
    optim = {"lr_stage": 0.0, "lr_head": 0.1, "lr_aspp": 0.1, "lr_aspp_later": 0.01, "epochs": 30, "epochs_later": 2}
    for seed in range(6):  # rounding differs between processors, and with it what so short a training ends in
        out = root / f"{name}-{seed}"
        tiny_run(data, out, "finetune", model=model, optim={**optim, "seed": seed}, method=dict(method))
        run = lag_core.open_run(out)
        if learned(run) > 0.05:
            break
    return run


def ious(run: ExplainedRun) -> np.ndarray:
    """IoU after step 0 of the foreground classes that step 0 introduces."""
    first = int(run.labels.background is not None)
    return np.nan_to_num(run.forgetting().iou[0, first : run.labels.seen(0)])


def learned(run: ExplainedRun) -> float:
    return float(ious(run).max())


def best(run: ExplainedRun) -> int:
    """The foreground class that step 0 knows best."""
    return int(ious(run).argmax()) + int(run.labels.background is not None)


@pytest.fixture(scope="module", params=["unknown", "softmax", "no background"])
def run(request: pytest.FixtureRequest, root: Path) -> ExplainedRun:
    how = {
        "unknown": {"unknown": True},
        "softmax": {"loss": "ce", "unknown": False},
        "no background": {"ground": "soil", "unknown": True},
    }[request.param]
    return trained(root, request.param.replace(" ", "-"), **how)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def lively(root: Path) -> ExplainedRun:
    return trained(root, "lively", unknown=True)


def pictures_of(run: ExplainedRun) -> Pictures:
    data = run.open_dataset()
    return [(data.image(i), truth(data.mask(i), run.labels)) for i in data.ids("val")]


@pytest.fixture(scope="module")
def pictures(run: ExplainedRun) -> Pictures:
    return pictures_of(run)


def shares(run: ExplainedRun, pictures: Pictures, then: int = 0, now: int = 2) -> Shares:
    networks = Networks(run)
    return finish(shares_on(Pair((networks, then), (networks, now)), [best(run)], pictures, repeats=20))[0]


def test_the_ends_are_the_metrics(run: ExplainedRun, pictures: Pictures) -> None:
    assert learned(run) > 0.05
    confusions = totals(evaluate(run, run.open_dataset(), lambda items, what: items))
    found, seen = shares(run, pictures), run.labels.seen
    for given, step, known in ((found.start, 0, 0), (found.fixed, 2, 0), (found.end, 2, 2)):
        wanted = metrics.iou(metrics.seen_only(confusions[step], seen(known)))[best(run)]
        assert given == pytest.approx(100 * np.nan_to_num(wanted), abs=1e-9)


def assembled(
    pair: Pair, cls: int, parts: tuple[str, ...], mask: int, inputs: Tensor, size: tuple[int, int]
) -> np.ndarray:
    """A hybrid's label map, the obvious way: features, then logits channel by channel, then argmax."""
    then, now = pair.models
    taken = {part: now if mask >> i & 1 else then for i, part in enumerate(parts)}
    with torch.no_grad():
        x = inputs
        for name in ("stem", "layer1", "layer2", "layer3", "layer4"):
            x = getattr(taken.get(f"backbone.{name}", now).backbone, name)(x)
        latent = taken.get("aspp", now).aspp(x)
        logits = {id(model): model.decode(latent) for model in (then, now)}
    labels = pair.labels
    own = f"head: {pair.networks[1].run.classes[cls].name}"
    channels = now.decode(latent).shape[1]
    mixed = torch.full((1, channels, *latent.shape[-2:]), -1e4)
    for channel in range(channels):
        index = channel - labels.offset
        catch_all = labels.background is not None and index <= 0
        part = own if index == cls else UNKNOWN_HEAD if catch_all else OLD_HEADS
        if index >= pair.seen[0]:
            if COMPETITION not in parts or mask >> parts.index(COMPETITION) & 1:
                mixed[:, channel] = logits[id(now)][:, channel]
        else:
            mixed[:, channel] = logits[id(taken.get(part, now))][:, channel]
    full = full_size(mixed, inputs.shape[-1], size, size)
    if pair.rule == "bce":
        return highest(class_probabilities(full, labels, "bce"))[0].numpy()
    return full.argmax(1)[0].numpy()


def test_every_hybrid_is_the_network_put_together_by_hand(run: ExplainedRun, pictures: Pictures) -> None:
    networks, cls = Networks(run), best(run)
    pair = Pair((networks, 0), (networks, 2))
    counts = HybridCounts(pair, [cls], len(pictures))
    trace_inputs = [run.trace(image, true).inputs() for image, true in pictures]
    for place, ((_, true), inputs) in enumerate(zip(pictures, trace_inputs, strict=True)):
        passes = networks.passes(inputs)
        counts.add(place, (passes, passes), geometry_of([true], run.config.data.size))
    asked = counts.asked[0]
    for column, mask in enumerate(asked.plan.masks):
        for place, ((_, true), inputs) in enumerate(zip(pictures, trace_inputs, strict=True)):
            predicted = assembled(pair, cls, asked.parts, mask, inputs, true.shape)  # type: ignore[arg-type]
            won, fixed = predicted == cls, true < pair.seen[0]
            assert counts.hits[0][place, column] == (won & (true == cls)).sum()
            assert counts.called[0][place, column] == (won & fixed).sum()


def test_shares_add_up_on_a_run(run: ExplainedRun, pictures: Pictures) -> None:
    found = shares(run, pictures)
    assert abs(found.points.sum() - (found.end - found.start)) < 1e-6
    assert all(found.estimates[part].points == 0 for part in found.parts if part.startswith("backbone."))


def test_the_background_is_a_class_like_others(lively: ExplainedRun) -> None:
    networks = Networks(lively)
    found = finish(shares_on(Pair((networks, 0), (networks, 1)), [0], pictures_of(lively), repeats=0))[0]
    assert "head: background" in found.parts and abs(found.points.sum() - (found.end - found.start)) < 1e-6


def test_a_trunk_that_moves_has_its_stages_as_parts(lively: ExplainedRun, root: Path) -> None:
    run = lag_core.open_run(with_moving_trunk(lively, root / "moving").path)
    networks = Networks(run)
    pairs = {pair.steps: pair for pair, _ in all_pairs(networks)}
    assert pairs[0, 1].feature_parts == ("backbone.layer2", "aspp")
    assert pairs[0, 2].feature_parts == ("backbone.layer2", "backbone.layer3", "aspp")
    pictures = pictures_of(run)
    found = finish(shares_on(pairs[0, 1], [best(run)], pictures, repeats=0))[0]
    assert found.exact and abs(found.points.sum() - (found.end - found.start)) < 1e-6
    asked = HybridCounts(pairs[0, 2], [best(run)], len(pictures)).asked[0]
    assert asked.plan.exact and len(asked.parts) == 7 and len(asked.choices) == 8


# ---------------------------------------------------------------------- planted damage


class Damaged:
    """The networks of a run whose step 1 is a copy of step 0 with a damage; later classes never win unless planted."""

    def __init__(self, run: ExplainedRun, damage: Callable[[torch.nn.Module], None]):
        networks = Networks(run)
        self.run, self.device = run, networks.device
        then, now = copy.deepcopy(networks.steps[0]), copy.deepcopy(networks.steps[1])
        now.backbone.load_state_dict(then.backbone.state_dict())
        now.aspp.load_state_dict(then.aspp.state_dict())
        for mine, theirs in zip(now.heads, then.heads, strict=False):
            mine.load_state_dict(theirs.state_dict())
        with torch.no_grad():
            now.heads[-1].classify.bias.fill_(-50)
            now.heads[-1].classify.weight.zero_()
            damage(now)
        self.steps = [then.eval(), now.eval()]
        self.trunks = tuple(f"{i}" for i in range(2))
        self.trunk = self.trunks.__getitem__

    def __len__(self) -> int:
        return 2

    def passes(self, inputs: Tensor) -> object:
        from lag_core.explain.networks import Passes

        return Passes(self, inputs)  # type: ignore[arg-type]


def shift(amount: float, head: int, row: int | None = None) -> Callable[[torch.nn.Module], None]:
    def damage(model: torch.nn.Module) -> None:
        bias = model.heads[head].classify.bias
        bias[slice(None) if row is None else row] += amount

    return damage


def break_aspp(model: torch.nn.Module) -> None:
    model.aspp.project[0].weight.copy_(model.aspp.project[0].weight.flip(1))


def break_stage(model: torch.nn.Module) -> None:
    model.backbone.layer3[0].conv[0][0].weight.copy_(model.backbone.layer3[0].conv[0][0].weight.flip(1))


DAMAGES = {
    "own head": shift(-30, 2),
    "unknown head": shift(40, 1),
    "aspp": break_aspp,
    "backbone.layer3": break_stage,
    "competition": shift(90, -1),
}


@pytest.mark.parametrize("part", DAMAGES)
def test_a_planted_damage_is_found(lively: ExplainedRun, part: str) -> None:
    cls = best(lively)
    damage = shift(-30, 2, cls - 1) if part == "own head" else DAMAGES[part]
    networks = Damaged(lively, damage)
    pair = Pair((networks, 0), (networks, 1))  # type: ignore[arg-type]
    found = finish(shares_on(pair, [cls], pictures_of(lively), repeats=0))[0]
    part = f"head: {lively.classes[cls].name}" if part == "own head" else part
    lost = found.fixed - found.start
    assert abs(lost) > 0.5, "the damage must show, or nothing is tested"
    assert found.estimates[part].points / lost > 0.95
    silent = {COMPETITION, part, NEWLY}
    assert all(one.points == 0 for name, one in found.estimates.items() if name not in silent)

"""The measurements behind a verdict: against slow loops, planted causes found, nothing left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from shapes import SIDE, tiny_run, write_shapes
from torch import Tensor

from lag_core.explain import evidence, verdict
from lag_core.explain.cache import ResultCache
from lag_core.explain.evidence import (
    Examples,
    NoExamples,
    assemble,
    cached,
    channel_effects,
    finish,
    from_validation,
    iou_of,
    measure,
    one_picture,
    over_steps,
    why_preserved,
)
from lag_core.explain.interventions import class_iou
from lag_core.explain.networks import Networks, Passes
from lag_core.explain.trace import Trace
from lag_core.metrics import confusion, iou, seen_only
from lag_core.protocol import LabelSpace
from lag_core.runs import Run

torch.set_num_threads(1)
CLS = 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", val_images=8)


@pytest.fixture(scope="module")
def run(data: Any, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tiny_run(data, tmp_path_factory.mktemp("moving") / "finetune", "finetune")


@pytest.fixture(scope="module")
def networks(run: Run) -> Networks:
    return Networks(run)


@pytest.fixture(scope="module")
def examples(run: Run) -> Examples:
    return from_validation(run, run.open_dataset(), CLS)


def traces(networks: Networks, examples: Examples) -> Iterator[tuple[Trace, np.ndarray]]:
    for image, true in zip(examples.images, examples.truths, strict=True):
        yield Trace(networks, image), true


def latent_mask(true: np.ndarray, cls: int, size: tuple[int, int]) -> np.ndarray:
    """The label under the centre of each latent cell."""
    found = np.zeros(size, bool)
    for y, x in np.ndindex(*size):
        row, column = int((y + 0.5) * true.shape[0] / size[0]), int((x + 0.5) * true.shape[1] / size[1])
        found[y, x] = true[row, column] == cls
    return found


def test_examples_are_those_that_contain_the_class_evenly_spaced(run: Run) -> None:
    dataset = run.open_dataset()
    wanted = run.classes[CLS].id
    holding = [name for name in dataset.ids("val") if (dataset.mask(name) == wanted).any()]
    every = from_validation(run, dataset, CLS, limit=24)
    assert every.holding == len(every) == len(holding) and every.whole_set
    for image, name in zip(every.images, holding, strict=True):
        assert np.array_equal(image, dataset.image(name))
    two = from_validation(run, dataset, CLS, limit=2)
    assert len(two) == 2 and two.holding == len(holding)
    assert np.array_equal(two.images[1], dataset.image(holding[-1]))
    assert two.digest != every.digest


def test_the_digest_depends_on_every_label(examples: Examples) -> None:
    changed = [true.copy() for true in examples.truths]
    changed[-1][0, 0] = 255 - changed[-1][0, 0]
    assert Examples(examples.images, tuple(changed), True, examples.holding).digest != examples.digest


def test_a_picture_without_the_class_or_without_labels_is_refused(examples: Examples) -> None:
    image, true = examples.images[0], examples.truths[0]
    with pytest.raises(NoExamples, match="no annotation"):
        one_picture(image, None, CLS, "red")
    with pytest.raises(NoExamples, match="shows no red"):
        one_picture(image, np.zeros_like(true), CLS, "red")
    assert one_picture(image, true, CLS, "red").holding == 1


def test_over_the_steps_in_loops(run: Run, networks: Networks, examples: Examples) -> None:
    found = finish(over_steps(networks, examples, CLS))
    n = len(run.classes)
    places: dict[int, list[np.ndarray]] = {}
    profiles, means = [], []
    for step in range(len(networks)):
        matrix, pixels = np.zeros((n, n), np.int64), []
        profile = np.zeros(run.config.model.latent)
        for trace, true in traces(networks, examples):
            matrix += confusion(true, trace.prediction(step), n)
            z = trace.output(step).latent.detach().clone().requires_grad_()
            mask = latent_mask(true, CLS, (z.shape[2], z.shape[3]))
            score = (networks.steps[step].decode(z)[0, CLS + run.labels.offset] * torch.from_numpy(mask)).sum()
            (slope,) = torch.autograd.grad(score, z)
            relevance = (z * slope)[0].detach().double().numpy()
            places.setdefault(step, []).append(relevance.sum(0).clip(min=0).ravel())
            profile += relevance.sum((1, 2))
            pixels.append(z.detach()[0].numpy()[:, mask].T)
        profiles.append(profile.clip(min=0))
        stacked = np.concatenate(pixels).astype(np.float64)
        means.append(stacked.mean(0))
        assert found.iou[step] == iou(seen_only(matrix, run.labels.seen(step)))[CLS]
        assert found.spread[step] == pytest.approx(np.mean([1 - cosine(p, means[step]) for p in stacked]), abs=1e-5)
        pairs = [cosine(one, first) for one, first in zip(places[step], places[0], strict=True)]
        known = [c for c in pairs if not np.isnan(c)]
        if known:
            assert found.relevance_map[step] == pytest.approx(np.mean(known), abs=1e-4)
        else:
            assert np.isnan(found.relevance_map[step])
        for value, true_value in (
            (found.relevance_profile[step], cosine(profiles[step], profiles[0])),
            (found.drift[step], 1 - cosine(means[step], means[0])),
        ):
            assert value == pytest.approx(true_value, abs=1e-4, nan_ok=True)
    assert found.drift[0] == 0


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / size) if size > 0 else float("nan")


def test_a_class_has_no_past(networks: Networks, run: Run) -> None:
    cls = len(run.classes) - 1
    found = finish(over_steps(networks, from_validation(run, run.open_dataset(), cls), cls))
    for values in vars(found).values():
        assert np.isnan(values[: run.labels.step_of(cls)]).all()


def test_effects_are_those_of_changed_latent_maps(run: Run, networks: Networks, examples: Examples) -> None:
    """The chosen sets, one image at a time, each channel by hand."""
    step = 1
    found = finish(channel_effects(networks, examples, CLS, step))
    assert found.ablation is not None and found.transplant is not None
    pairs = [(t.output(0).latent, t.output(step).latent, true) for t, true in traces(networks, examples)]
    from lag_core.method.decoupling import channel_distance

    old, new = (torch.cat([pair[i] for pair in pairs]) for i in range(2))
    active = [c for c in range(new.shape[1]) if old[:, c].any() or new[:, c].any()]
    distance = channel_distance(old, new, "entropy_kl").numpy()
    ordered = sorted(active, key=lambda c: (distance[c], c))
    changed = sorted(active, key=lambda c: (-distance[c], c))

    def measured(sets: Any) -> float:
        matrix = np.zeros((len(run.classes),) * 2, np.int64)
        for before, after, true in pairs:
            logits = networks.steps[step].decode(sets(before, after.clone()))
            matrix += confusion(true, predicted(logits, run), len(run.classes))
        return float(iou(seen_only(matrix, run.labels.seen(step)))[CLS])

    def without(before: Tensor, after: Tensor) -> Tensor:
        for c in ordered[:k]:
            after[:, c] = 0
        return after

    def with_old(before: Tensor, after: Tensor) -> Tensor:
        for c in changed[:k]:
            after[:, c] = before[:, c]
        return after

    untouched = measured(lambda before, after: after)
    for k in found.ablation.counts:
        assert found.ablation.at(k).effect == pytest.approx(measured(without) - untouched)
        assert found.transplant.at(k).effect == pytest.approx(measured(with_old) - untouched)
        assert found.ablation.at(k).controls.shape == (evidence.CONTROLS,)
    assert found.everything == pytest.approx(measured(lambda before, after: before) - untouched)


def predicted(logits: Tensor, run: Run) -> np.ndarray:
    from lag_core.model.prediction import full_size, label_map

    size = (SIDE, SIDE)
    return label_map(full_size(logits, SIDE, size, size), run.labels, run.config.method.loss)[0].numpy()


def test_the_class_alone_is_measured_as_among_all() -> None:
    labels = LabelSpace(((0, 1, 2), (3,)), background=0, unknown=True)
    generator = torch.Generator().manual_seed(0)
    truths = np.random.default_rng(0).integers(0, 5, (3, 16, 16)).astype(np.uint8)
    truths[truths == 4] = 255
    for channels, loss in ((4, "bce"), (5, "bce"), (5, "ce")):
        logits = torch.randn(3, channels, 4, 4, generator=generator).round()  # rounded, so that there are ties
        every = class_iou(truths, labels, loss)(logits)
        for cls in range(channels - 1):
            assert iou_of(truths, cls, labels, loss)(logits)[0] == every[cls]


def test_a_frozen_extractor_has_no_moved_channel(data: Any, tmp_path: Any) -> None:
    run = tiny_run(data, tmp_path / "reference", "reference")
    examples = from_validation(run, run.open_dataset(), CLS)
    found, words = why_preserved(Networks(run), examples, CLS, run.last_step)
    assert found.effects is not None and found.effects.moved == 0 and found.over.drift[-1] == 0
    about = words.about("channels")
    assert (about is not None and about.word == "frozen") or words.status == "unlearned"


def test_nothing_is_left_behind(networks: Networks, examples: Examples) -> None:
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in networks.steps]
    work = measure(networks, examples, CLS, 2)
    for _ in range(4):
        next(work)
    assert torch.is_grad_enabled()
    work.close()
    finish(measure(networks, examples, CLS, 2))
    for model, state in zip(networks.steps, before, strict=True):
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert not any(m._forward_hooks or m._backward_hooks or m.training for m in model.modules())


def test_shares_grow_to_one(networks: Networks, examples: Examples) -> None:
    shares: list[float] = []
    finish(measure(networks, examples, CLS, 2), shares.append)
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0) and len(shares) > 5


def test_what_was_measured_is_not_measured_again(
    run: Run, networks: Networks, examples: Examples, tmp_path: Any
) -> None:
    cache = ResultCache(tmp_path)
    assert cached(run, examples, CLS, 2, cache) is None
    found = finish(measure(networks, examples, CLS, 2, cache))
    again = cached(run, examples, CLS, 2, cache)
    assert again is not None and verdict.verdict(again) == verdict.verdict(found)
    assert cached(run, examples, CLS, 1, cache) is None and cached(run, examples, CLS + 1, 2, cache) is None
    shares: list[float] = []
    finish(measure(networks, examples, CLS, 2, cache), shares.append)
    assert not shares


def test_the_step_that_introduces_a_class_asks_no_question(networks: Networks, examples: Examples) -> None:
    found, words = why_preserved(networks, examples, CLS, 0)
    assert found.effects is None and words.status == "new"
    with pytest.raises(ValueError, match="not later"):
        finish(channel_effects(networks, examples, CLS, 0))


# ---------------------------------------------------------------------- planted causes

C = 32
CARRIERS = (3, 9, 14, 17, 22, 30)
"""Channels that alone speak for the class."""


class Planted:
    """A network whose Z is noise but for the carriers, which are the picture's first channel.

    Noise and carriers are weak in some channels and strong in others, so that each carrier has its like.
    share: of it that the carriers hold. needed: mean of the carriers from which the class is seen. redrawn: other
    channels that change, too.
    """

    def __init__(self, share: float, needed: float, redrawn: int = 0):
        self.share, self.needed, self.redrawn = share, needed, redrawn
        self.gains = torch.linspace(0.4, 1.2, C).view(1, C, 1, 1)
        self.noise = self.gains * torch.rand(1, C, 16, 16, generator=torch.Generator().manual_seed(1))

    def trunk(self, inputs: Tensor) -> Tensor:
        return (inputs[:, :1] > 0).float()

    def behind_trunk(self, features: Tensor) -> Any:
        generator = torch.Generator().manual_seed(99)
        z = self.noise.expand(len(features), -1, -1, -1).clone()
        others = [c for c in range(C) if c not in CARRIERS][: self.redrawn]
        z[:, others] = self.gains[:, others] * torch.rand(1, len(others), 16, 16, generator=generator)
        strength = torch.linspace(0.6, 1.4, len(CARRIERS)).view(1, -1, 1, 1)
        z[:, list(CARRIERS)] = self.share * strength * features + 0.01 * z[:, list(CARRIERS)]
        return SimpleNamespace(latent=z, logits=self.decode(z))

    def decode(self, z: Tensor) -> Tensor:
        speaks = z[:, list(CARRIERS)].mean(1, keepdim=True)
        never = torch.full_like(speaks, -20)
        return torch.cat([never, self.needed - speaks, speaks - self.needed, never], 1)

    heads = property(lambda self: self.decode)


def planted(before: Planted, after: Planted) -> tuple[Any, Examples]:
    labels = LabelSpace(((0, 1), (2,)), background=0, unknown=True)
    config = SimpleNamespace(
        data=SimpleNamespace(size=16),
        model=SimpleNamespace(latent=C),
        method=SimpleNamespace(loss="bce", channel_metric="l2"),
        optim=SimpleNamespace(seed=0),
    )
    classes = [SimpleNamespace(name=n, id=i) for i, n in enumerate(("background", "building", "car"))]
    run = SimpleNamespace(
        labels=labels, config=config, classes=classes, steps=(0, 1), digest="x", checked_step=lambda step: step,
        confusions=lambda: None, path=Path("no-such-run"), name="planted",
    )  # fmt: skip
    true = np.zeros((16, 16), np.uint8)
    true[4:12, 4:12] = 1
    image = np.where(true[..., None] == 1, np.uint8(255), np.uint8(0)).repeat(3, 2)
    networks = SimpleNamespace(run=run, steps=[before, after], device="cpu", __len__=lambda: 2)
    return Sized(networks), Examples((image,), (true,), True, 1)


class Sized:
    """The namespace above with a length and one trunk."""

    def __init__(self, inner: SimpleNamespace):
        self.run, self.steps, self.device = inner.run, inner.steps, inner.device

    def trunk(self, step: int) -> str:
        return "one"

    def passes(self, inputs: Tensor) -> Passes:
        return Passes(self, inputs)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.steps)


def words_of(before: Planted, after: Planted, k: int) -> tuple[dict[str, str], float]:
    """The words about channels by topic, and how much of the IoU is left."""
    networks, examples = planted(before, after)
    over = finish(over_steps(networks, examples, 1))
    effects = finish(channel_effects(networks, examples, 1, 1))
    found = assemble(networks.run, examples, 1, 1, over, effects, None)
    assert k in found.counts, found.counts
    return {f.topic: f.word for f in verdict.channel_findings(found, k)}, over.iou[1] / over.iou[0]


def test_damaged_carriers_are_what_was_lost() -> None:
    words, left = words_of(Planted(1.0, 0.85), Planted(0.1, 0.85), k=8)
    assert left < 0.5 and words["transplant"] == "restored"


def test_a_memory_in_invariant_channels_is_carried_by_them() -> None:
    words, left = words_of(Planted(1.0, 0.25), Planted(1.0, 0.25, redrawn=26), k=8)
    assert left > 0.9 and words["ablation"] == "carried"


def test_nothing_planted_nothing_claimed() -> None:
    """The carriers are a chance set among channels that all move alike: claims stay at the level."""
    claims = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        order, controls = rng.permutation(C), [rng.permutation(C) for _ in range(20)]
        cost = [-0.1 * len(set(drawn[:8].tolist()) & set(CARRIERS)) for drawn in (order, *controls)]
        claims += verdict.Comparison(8, cost[0], np.array(cost[1:])).significant("cost")
    assert claims <= 3

"""The truth tests' own logic: slow second implementations on tiny cases, and all of it once on a tiny run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import balance
import faithfulness
import numpy as np
import pytest
import torch
from shapes import tiny_run, write_shapes
from tables import fill
from torch import Tensor, nn
from truth_tests import null_trials, planted
from truth_tests.cases import COVERS, Subject
from truth_tests.damage import Copied, Damage, Jitter, Plant, plant, recall
from truth_tests.intervals import binomial_interval, mean_interval
from truth_tests.latents import Latents
from truth_tests.perturbation import FRACTIONS, SIGMA, Perturbed, area, blurred, mixed, order_of
from truth_tests.pointing import dilated

from lag_core.explain import attribution, channels, verdict
from lag_core.explain.attribution_checks import pointing, rank_correlation
from lag_core.explain.controls import Matched, alive, energy
from lag_core.explain.interventions import Intervention, curve
from lag_core.explain.verdict import LEVEL, Comparison
from lag_core.runs import Run

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    data = write_shapes(tmp_path_factory.mktemp("shapes") / "data", val_images=8)
    return tiny_run(data, tmp_path_factory.mktemp("moving") / "finetune", "finetune")


@pytest.fixture(scope="module")
def subject(run: Run) -> Subject:
    return Subject(run.path)


# ---------------------------------------------------------------------- deletion and insertion


def test_the_area_of_known_curves() -> None:
    assert area(FRACTIONS, np.ones(len(FRACTIONS))) == pytest.approx(1)
    assert area(FRACTIONS, 1 - FRACTIONS) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    scores, fine = rng.random(len(FRACTIONS)), np.linspace(0, 1, 100_001)
    assert area(FRACTIONS, scores) == pytest.approx(np.interp(fine, FRACTIONS, scores).mean(), abs=1e-4)


def slow_areas(image: np.ndarray, baseline: np.ndarray, values: np.ndarray, score) -> tuple[float, float]:  # type: ignore[no-untyped-def]
    """Pixel by pixel. Shape: [3, S, S] twice, [h, w] of the picture's upper left part."""
    places = sorted(np.ndindex(*values.shape), key=lambda place: -values[place])
    found = []
    for start, other in ((image, baseline), (baseline, image)):
        scores = []
        for fraction in FRACTIONS:
            now = start.copy() if fraction < 1 else other.copy()
            for y, x in places[: round(fraction * len(places))]:
                now[:, y, x] = other[:, y, x]
            scores.append(score(now))
        found.append(np.trapezoid(scores, FRACTIONS))
    return found[0], found[1]


def test_deletion_and_insertion_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    image, weights = rng.random((3, 8, 8)).astype(np.float32), rng.random((8, 8))
    baseline = np.zeros_like(image)
    values = rng.random((8, 8))

    def score_of(images: Tensor) -> np.ndarray:
        return np.array([(one.numpy().mean(0) * weights).sum() for one in images])

    both = torch.from_numpy(image)[None], torch.from_numpy(baseline)[None]
    fast = Perturbed(score_of, *both, (8, 8))
    slow = slow_areas(image, baseline, values, lambda one: (one.mean(0) * weights).sum())
    assert fast.areas(order_of(values)) == pytest.approx(slow, rel=1e-5)
    # the order of the true contributions is the best there is, its reverse the worst
    truth = image.mean(0) * weights
    best, worst = fast.areas(order_of(truth)), fast.areas(order_of(-truth))
    for seed in range(5):
        other = fast.areas(order_of(np.random.default_rng(seed).random((8, 8))))
        assert best[0] < other[0] < worst[0] and worst[1] < other[1] < best[1]


def test_only_pixels_of_the_picture_are_mixed() -> None:
    upper, lower = torch.ones(1, 3, 6, 6), torch.zeros(1, 3, 6, 6)
    order = np.random.default_rng(0).permutation(4 * 5)
    found = mixed(upper, lower, order, np.array([0, 7, 20]), (4, 5))
    assert [int(one[0].sum()) for one in found] == [0, 7, 20]
    assert not found[:, :, 4:].any() and not found[..., 5:].any()
    assert set(np.flatnonzero(found[1, 0, :4, :5].numpy())) == set(order[:7].tolist())


def test_the_blur_is_a_gaussian() -> None:
    assert torch.allclose(blurred(torch.full((1, 3, 24, 24), 0.7)), torch.tensor(0.7))
    image = torch.zeros(1, 3, 49, 49)
    image[..., 24, 24] = 1
    found, width = blurred(image)[0, 0].double(), SIGMA * 49
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[24, 26] / found[24, 24]) == pytest.approx(math.exp(-(2**2) / (2 * width**2)), rel=1e-4)
    assert float(found[22, 26] / found[24, 24]) == pytest.approx(math.exp(-(8) / (2 * width**2)), rel=1e-4)


# ---------------------------------------------------------------------- pointing, rank correlation, intervals


def test_a_random_map_hits_as_often_as_the_mask_is_large() -> None:
    mask = np.zeros((20, 20), bool)
    mask[3:9, 5:17] = True
    counted = np.ones_like(mask)
    counted[:, :2] = False
    found = [pointing(np.random.default_rng(seed).random(mask.shape), mask, counted) for seed in range(1000)]
    low, high = binomial_interval(sum(one.hit for one in found), len(found), level=0.999)
    assert low < found[0].area < high and found[0].area == pytest.approx(72 / 360)


def test_tolerance_by_loops() -> None:
    mask = np.zeros((9, 11), bool)
    mask[0, 0] = mask[5, 7] = True
    slow = np.zeros_like(mask)
    for (y, x), (b, a) in ((p, q) for p in np.ndindex(*mask.shape) for q in np.argwhere(mask)):
        slow[y, x] |= abs(y - b) <= 2 and abs(x - a) <= 2
    assert np.array_equal(dilated(mask, 2), slow) and np.array_equal(dilated(mask, 0), mask)


def test_spearman_by_counting() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 6, 40).astype(float), rng.random(40)

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])

    slow = float(np.corrcoef(ranks(first), ranks(second))[0, 1])
    assert rank_correlation(first, second) == pytest.approx(slow)


def test_spearman_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    first, second = np.random.default_rng(0).integers(0, 6, (2, 40)).astype(float)
    assert rank_correlation(first, second) == pytest.approx(scipy.spearmanr(first, second).statistic)


@pytest.mark.parametrize(("hits", "trials"), [(0, 50), (1, 50), (7, 50), (50, 50), (300, 400)])
def test_the_bounds_of_a_share_have_their_tails(hits: int, trials: int) -> None:
    low, high = binomial_interval(hits, trials)

    def tail(p: float, counts: range) -> float:
        return math.fsum(math.comb(trials, i) * p**i * (1 - p) ** (trials - i) for i in counts)

    assert low <= hits / trials <= high
    assert low == 0 if hits == 0 else tail(low, range(hits, trials + 1)) == pytest.approx(0.025, rel=1e-6)
    assert high == 1 if hits == trials else tail(high, range(hits + 1)) == pytest.approx(0.025, rel=1e-6)


def test_the_bounds_of_a_mean_are_over_pictures() -> None:
    values = np.random.default_rng(0).standard_normal(40)
    names = [str(i) for i in range(40)]
    mean, low, high = mean_interval(values.tolist(), names)
    assert mean == pytest.approx(values.mean())
    half = 1.96 * values.std(ddof=1) / math.sqrt(40)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)
    # the same picture four times is no news
    again = mean_interval(np.repeat(values, 4).tolist(), np.repeat(names, 4).tolist())
    assert again == pytest.approx((mean, low, high))
    assert math.isnan(mean_interval([1.0, 2.0], ["one", "one"])[1])
    with pytest.raises(ValueError, match="one at least"):
        mean_interval([], [])


# ---------------------------------------------------------------------- planted causes


def test_recall_of_an_oracle_and_of_chance() -> None:
    rng = np.random.default_rng(0)
    found = []
    for _ in range(500):
        chosen = rng.choice(64, 4, replace=False)
        oracle = np.r_[chosen, np.setdiff1d(np.arange(64), chosen)]
        assert recall(oracle[:4], chosen) == 1
        found.append(recall(rng.permutation(64)[:4], chosen))
    assert np.mean(found) == pytest.approx(4 / 64, abs=4 * np.std(found) / math.sqrt(len(found)))


def test_every_plant_changes_its_channel_and_no_other() -> None:
    latent = torch.rand(3, 12, 5, 5, generator=torch.Generator().manual_seed(0))
    latent[:, 2] = 0  # dead
    latent[:, 5] = 0.3  # constant
    latent[:, 9], latent[0, 9, 0, 0] = 0, 1  # a permutation may leave it as it was
    kinds = set()
    for seed in range(100):
        planted_ones = plant(latent, 6, seed)
        before, damaged = latent.clone(), Damage(planted_ones)(latent)
        moved = (damaged != latent).flatten(2).any(2).any(0).nonzero()[:, 0].tolist()
        assert sorted(planted_ones.channels.tolist()) == moved
        assert latent.equal(before) and damaged.equal(Damage(planted_ones)(latent)) and bool((damaged >= 0).all())
        kinds |= {(c, kind) for c, kind in zip(planted_ones.channels.tolist(), planted_ones.kinds, strict=True)}
    assert {kind for c, kind in kinds if c == 2} == {"noise"}
    assert {kind for c, kind in kinds if c == 5} == {"noise", "zero"}
    assert {kind for c, kind in kinds if c == 7} == {"noise", "zero", "permute"}


def test_permuted_cells_stay_with_their_picture() -> None:
    latent = torch.rand(2, 3, 4, 4)
    found = Damage(Plant(np.array([1]), ("permute",), 1.0, 0))(latent)
    assert found[:, 1].flatten(1).sort(1)[0].equal(latent[:, 1].flatten(1).sort(1)[0])
    assert not found[0, 1].equal(latent[0, 1])


def test_a_copy_leaves_the_network_alone(subject: Subject) -> None:
    model = subject.networks.steps[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    aspp = model.aspp
    latents = Latents(subject, 1, 2)
    copied = Copied(model)
    jittered = copied.with_change(Jitter(0.3, 0))
    assert latents.of(copied.with_change(nn.Identity())).equal(latents.of_steps[0])
    assert not latents.of(copied.with_change(Jitter(0.3, 0))).equal(latents.of_steps[0])
    assert jittered is not model and model.aspp is aspp
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


def test_the_plants_of_a_copy_are_found(subject: Subject) -> None:
    rows = [row for row in planted.rows(subject, trials=4, pictures=2) if row["situation"] == "copy"]
    found = {(row["ranking"], row["k"]): row["recall"] for row in rows}
    assert {k for _, k in found} == {1, 4}  # 16 of the 8 channels cannot be planted
    for k in (1, 4):
        assert found["changed", k] == [1.0] * 4
        assert np.mean(found["random", k]) < 1


def test_putting_back_half_of_the_cause_restores_half() -> None:
    """Score: the sum of four channels, of which two were set to 0."""
    old = torch.full((1, 4, 2, 2), 0.1)
    new = old.clone()
    new[:, :2] = 0
    pair: Any = SimpleNamespace(latents=SimpleNamespace(measure=lambda scores: np.array([float(scores.sum())])))
    model: Any = SimpleNamespace(decode=lambda z: z.mean((2, 3)))
    for chosen, share in (([0, 1], 1.0), ([1, 2], 0.5), ([2, 3], 0.0)):
        found = planted.restored(pair, model, old, new, np.array(chosen))
        assert found["cost"] == pytest.approx(0.2) and found["restored"] == pytest.approx(share, abs=1e-6)
    assert planted.restored(pair, model, old, old, np.array([0])) == {"cost": 0.0}


# ---------------------------------------------------------------------- null trials


def test_a_random_group_is_claimed_at_the_stated_level() -> None:
    """Channels with effects of their own, drawn at random as group and as controls: p <= LEVEL in 1 of 21."""
    worth = np.random.default_rng(0).exponential(size=40)
    latent = torch.ones(1, 40, 1, 1)

    def decode(z: Tensor, rows: Tensor | None = None) -> Tensor:
        return (z[:, :, 0, 0].double() * torch.from_numpy(worth)).sum(1)

    question = Intervention(latent, torch.zeros_like(latent), decode)
    hits, trials = 0, 300
    for seed in range(trials):
        order = np.random.default_rng([seed, 1]).permutation(40)
        found = curve(question, order, [10], lambda score: np.array([float(score) / 100]), 20, seed)
        hits += Comparison(10, found.effect[0, 0], found.control_effect[0, :, 0]).p_value("cost") <= LEVEL
    low, high = binomial_interval(hits, trials, level=0.99)
    assert low < 1 / 21 < high


def test_the_balance_of_each_question_is_that_of_its_channels(subject: Subject, run: Run) -> None:
    found = {name: values for name, *values in balance.imbalances(subject)}
    old = [one.name for i, one in enumerate(run.classes) if run.labels.step_of(i) < run.last_step and one.name in found]
    assert list(found) == old and found and np.isfinite(list(found.values())).all()
    latents = Latents(subject, 1, balance.PICTURES)
    new = latents.of_steps[run.last_step].cpu().numpy()
    distance = channels.latent_distances(run, latents.of_steps[0], latents.of_steps[run.last_step])
    places = np.flatnonzero(alive(new))
    chosen = places[channels.ranked("invariant", distance[places])][: verdict.default_count(len(places))]
    assert found[run.classes[1].name][0] == Matched(energy(new), alive(new)).imbalance(chosen)


def test_the_order_by_energy_is_that_of_each_jittered_copy(subject: Subject, run: Run) -> None:
    first, second = null_trials.order_by_energy(subject, 2)
    latents = Latents(subject, subject.foreground[0], null_trials.PICTURES)
    jittered = Copied(subject.networks.steps[0]).with_change(Jitter(null_trials.JITTER, 0))
    new = latents.of(jittered)
    distance, living = channels.latent_distances(run, latents.of_steps[0], new), alive(new.numpy())
    assert first == rank_correlation(distance[living], energy(new.numpy())[living]) and -1 <= second <= 1


# ---------------------------------------------------------------------- pictures, and the command


def test_pictures_are_the_first_that_show_enough(subject: Subject, run: Run) -> None:
    dataset = run.open_dataset()
    wanted = run.classes[1].id
    slow = [name for name in dataset.ids("val") if (dataset.mask(name) == wanted).mean() >= COVERS]
    assert [one.name for one in subject.pictures(1, 3)] == slow[:3]
    second = Subject(run.path, place=1)
    own = [case.picture.name for case in second.cases(2) if case.cls == 1 and case.step == 0]
    assert own == [slow[i % len(slow)] for i in (2, 3)]


def test_the_score_is_the_mean_probability_on_the_true_pixels(subject: Subject) -> None:
    case = next(case for case in subject.cases(1) if case.step == 0)
    logits = case.model(case.picture.image).logits
    whole = nn.functional.interpolate(logits, size=case.mask.shape, mode="bilinear", align_corners=False)
    shown = whole[0, case.target.channel].sigmoid().detach().numpy()
    slow = np.mean([shown[y, x] for y, x in np.argwhere(case.picture.truth == case.cls)])
    assert case.probability(case.picture.image)[0] == pytest.approx(slow, abs=1e-6)


@pytest.fixture(scope="module")
def results(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Any]]]:
    out = tmp_path_factory.mktemp("truth") / "found.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attribution, "PATH_STEPS", 2)  # integrated gradients take most of the time
        faithfulness.main(["--quick", "--runs", str(run.path), "--out", str(out)])
    yield out, json.loads(out.read_text())


def test_the_command_makes_every_check(results: tuple[Path, dict[str, Any]], run: Run) -> None:
    _, found = results
    checks = {name: entry["rows"] for name, entry in found["checks"].items()}
    assert set(checks) == set(faithfulness.CHECKS) and all(checks.values())
    errors = [e for row in checks["conservation"] for e in row.get("errors", ())]
    known = sum(len(run.labels.class_indices(t)) * (len(run.steps) - t) for t in range(len(run.steps)))
    assert len([row for row in checks["conservation"] if "errors" in row]) == 3 * known
    assert errors and max(errors) <= 1e-3 and all(row.get("refused", True) for row in checks["conservation"])
    for row in checks["pointing"]:
        assert row["chance"] <= row["near_chance"] <= 1 and row["hit"] <= row["near"]
    assert {row["part"] for row in checks["randomisation"]} >= {"heads", "aspp", "stem"}
    assert {row["ablation"] for row in checks["null"]} <= {
        "carried",
        "not significant",
        "not comparable",
        "nothing left",
    }
    assert found["machine"]["torch"] and found["settings"]["controls"] >= 19
    made = faithfulness.tables(found)
    assert all(run.name in made[name] for name in ("conservation", "planted", "null"))


def test_one_check_anew_keeps_the_others(results: tuple[Path, dict[str, Any]], run: Run) -> None:
    out, before = results
    faithfulness.main(["--quick", "--runs", str(run.path), "--out", str(out), "--only", "conservation"])
    after = json.loads(out.read_text())
    rows = {name: entry["rows"] for name, entry in before["checks"].items()}
    assert {name: entry["rows"] for name, entry in after["checks"].items()} == rows  # and the same numbers again


def test_without_a_run_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="no run to test"):
        faithfulness.main(["--quick", "--runs", str(tmp_path)])
    assert "is not a run folder" in capsys.readouterr().err


def test_the_page_shows_the_measured_numbers() -> None:
    """docs/faithfulness.md is what the command made of its results."""
    text = faithfulness.PAGE.read_text("utf-8")
    made = faithfulness.tables(json.loads(faithfulness.RESULTS.read_text("utf-8")))
    assert fill(text, made.__getitem__) == text
    assert all(f"<!-- table {name} -->" in text for name in made)


@pytest.mark.parametrize(
    ("run", "expected"), [("a", ([], ["b", "c"])), ("b", (["a"], ["c"])), ("d", (["a", "b", "c"], []))]
)
def test_new_rows_of_a_run_take_the_place_of_its_old_ones(run: str, expected: tuple[list[str], list[str]]) -> None:
    before, after = faithfulness.around([{"run": name} for name in "aabbc"], run)
    assert (list(dict.fromkeys(r["run"] for r in before)), list(dict.fromkeys(r["run"] for r in after))) == expected

"""The survey of a tiny run, against one traced image at a time; and what its reader refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from repository import ROOT

from lag_core import metrics
from lag_core.commands.train import read_config
from lag_core.data import catalogue, training_images
from lag_core.data.dataset import Dataset, DatasetMissing
from lag_core.data.remap import truth
from lag_core.data.transforms import to_input
from lag_core.explain import (
    cka,
    evidence,
    forgetting,
    holds,
    picture_counts,
    similarity,
    survey_pass,
    training_labels,
)  # fmt: skip
from lag_core.explain.latent_maps import covered
from lag_core.explain.networks import Networks
from lag_core.explain.similarity import image_cosines, image_nearest, measured
from lag_core.explain.survey import (
    ARRAYS,
    METADATA,
    TOP,
    Survey,
    SurveyMissing,
    open_survey,
    read_survey,
    write_survey,
)
from lag_core.explain.trace import Trace
from lag_core.method.decoupling import channel_distance
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, open_run, write_json
from lag_core.training.continual import train
from lag_core.training.features import BATCH
from lag_core.training.reporting import Reporter

VAL_TILES = 5


class OddShapes:
    """A dataset whose pictures differ in shape: some leave padding in the square, some are scaled down into
    it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)

    def image(self, image_id: str) -> np.ndarray:
        return self._shaped(image_id, self.dataset.image(image_id))

    def mask(self, image_id: str) -> np.ndarray:
        return self._shaped(image_id, self.dataset.mask(image_id))

    @staticmethod
    def _shaped(image_id: str, array: np.ndarray) -> np.ndarray:
        number = int(image_id[-1])
        if number % 3 == 0:
            return array[:37]
        if number % 3 == 1:
            return np.ascontiguousarray(array.repeat(2, 0).repeat(2, 1)[:, :75])
        return array


class Surveyed(NamedTuple):
    run: Run
    dataset: Dataset
    survey: Survey


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Surveyed]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    changes = ["optim.lr_head=0.2", "optim.epochs=8", "optim.epochs_later=8"]
    config = read_config(ROOT / "configs" / "smoke.toml", "finetune", changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "VAL_TILES", VAL_TILES)
        run = train(config, tmp_path_factory.mktemp("runs") / "tiny", reporter=Reporter(quiet=True))
        dataset = OddShapes(run.open_dataset())
        found = survey_pass.survey(run, dataset, lambda items, _: items)  # type: ignore[arg-type]
        write_survey(run, found)
        yield Surveyed(run, dataset, open_survey(run))  # type: ignore[arg-type]
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def traces(surveyed: Surveyed) -> list[Trace]:
    networks = Networks(surveyed.run)
    return [Trace(networks, surveyed.dataset.image(i)) for i in surveyed.survey.ids]


def truths(s: Surveyed) -> list[np.ndarray]:
    return [truth(s.dataset.mask(i), s.run.labels) for i in s.survey.ids]


def label_maps(trace: Trace) -> np.ndarray:
    return np.stack([trace.prediction(step) for step in trace.steps])


def test_the_run_forgets_enough_to_test_with(surveyed: Surveyed) -> None:
    assert surveyed.survey.lost.sum() > 1000
    assert len(surveyed.survey.ids) % BATCH and survey_pass.BATCH == BATCH


def test_pixel_counts_are_those_of_the_traced_images(surveyed: Surveyed, traces: list[Trace]) -> None:
    """Batches round differently from single images: a few pixels on the borders of classes may differ."""
    run, _, found = surveyed
    n, few = len(run.classes), 0.002
    total = np.zeros_like(found.confusion)
    for i, (trace, true) in enumerate(zip(traces, truths(surveyed), strict=True)):
        maps = label_maps(trace)
        own = np.stack([metrics.confusion(true, m, n) for m in maps])
        total += own
        np.testing.assert_array_equal(found.pixels[i], np.bincount(true[true < n], minlength=n))
        off = few * true.size
        assert np.abs(found.right[i].astype(int) - np.diagonal(own, axis1=1, axis2=2)).max() <= off
        assert np.abs(found.lost[i].astype(int) - forgetting.lost_pixels(maps, true, run.labels)).max() <= off
        shift = forgetting.background_shift(own, run.labels)
        expected = [p.sum(1) for p in (shift.right, shift.background, shift.new, shift.other_old)]
        assert np.abs(found.shift[i].astype(int) - np.stack(expected, 1)).max() <= off
    assert np.abs(found.confusion - total).sum() <= few * total.sum()


def test_totals_agree_with_each_other(surveyed: Surveyed) -> None:
    found = surveyed.survey
    np.testing.assert_array_equal(found.right.sum(0), np.diagonal(found.confusion, axis1=1, axis2=2))
    for cls in range(len(surveyed.run.classes)):
        flows = found.transitions(cls)
        for t, flow in enumerate(flows):
            np.testing.assert_array_equal(flow.sum(1), found.confusion[t, cls])
            np.testing.assert_array_equal(flow.sum(0), found.confusion[t + 1, cls])


def test_the_plain_set_gives_the_stored_metrics(surveyed: Surveyed) -> None:
    """On the dataset as it is, the confusion matrices are those that training measured, pixel by pixel."""
    run = surveyed.run
    found = survey_pass.survey(run, surveyed.dataset.dataset, lambda items, _: items)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(found.confusion, run.confusions())


def cells(s: Surveyed, traces: list[Trace], step: int) -> tuple[np.ndarray, np.ndarray]:
    """Z of every latent pixel on a picture [n, C], and its true class [n], gathered one pixel at a time."""
    values, classes = [], []
    for trace, true in zip(traces, truths(s), strict=True):
        latent = trace.latent(step)
        square = np.full((trace.square, trace.square), 255, np.uint8)
        height, width = trace.inside
        for y, x in np.ndindex(height, width):
            square[y, x] = true[int((y + 0.5) * true.shape[0] / height), int((x + 0.5) * true.shape[1] / width)]
        side = trace.square // latent.shape[1]
        for y, x in np.ndindex(covered(latent.shape[1:], trace.square, trace.inside)):
            values.append(latent[:, y, x])
            classes.append(square[y * side + side // 2, x * side + side // 2])
    return np.array(values, np.float64), np.array(classes)


@pytest.mark.parametrize("step", [0, 2])
def test_latent_statistics_are_those_of_all_pixels(surveyed: Surveyed, traces: list[Trace], step: int) -> None:
    found = surveyed.survey
    values, classes = cells(surveyed, traces, step)
    np.testing.assert_allclose(found.channel_mean[step], values.mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.channel_energy[step], (values**2).mean(0), rtol=1e-3, atol=1e-5)
    for k in range(len(surveyed.run.classes)):
        own = values[classes == k]
        assert found.latent_pixels[k] == len(own)
        if not len(own):
            assert np.isnan(found.spread[step, k])
            continue
        prototype = own.mean(0)
        np.testing.assert_allclose(found.prototypes[step, k], prototype, rtol=1e-3, atol=1e-5)
        lengths = np.linalg.norm(own, axis=1) * np.linalg.norm(prototype)
        assert found.spread[step, k] == pytest.approx(np.mean(1 - own @ prototype / lengths), abs=1e-4)
        assert found.class_profile(step, 3)[k] == found.prototypes[step, k, 3]


def test_top_images_are_the_strongest(surveyed: Surveyed, traces: list[Trace]) -> None:
    found, step = surveyed.survey, 1
    peaks = []
    for trace in traces:
        h, w = covered(trace.latent(step).shape[1:], trace.square, trace.inside)
        peaks.append(trace.latent(step)[:, :h, :w].max((1, 2)))
    for channel in range(found.top_index.shape[1]):
        best = found.top_images(step, channel)
        expected = np.sort([p[channel] for p in peaks])[::-1][:TOP]
        np.testing.assert_allclose([b.activation for b in best], expected, rtol=1e-3, atol=1e-5)
        assert all(b.activation == pytest.approx(float(peaks[b.index][channel]), abs=1e-4) for b in best)
        assert all(b.id == found.ids[b.index] for b in best) and len({b.index for b in best}) == TOP


def test_fewer_images_than_places() -> None:
    index, activation = survey_pass.top_images(np.array([[[0.5, 2.0, 0.5]]], np.float32))
    assert index[0, 0, :4].tolist() == [1, 0, 2, -1] and np.isnan(activation[0, 0, 3:]).all()


def test_distances_are_the_mean_over_images(surveyed: Surveyed, traces: list[Trace]) -> None:
    found, seed = surveyed.survey, surveyed.run.config.optim.seed
    for metric in survey_pass.METRICS:
        for step in (1, 2):
            single = [
                channel_distance(t.output(step - 1).latent, t.output(step).latent, metric, seed=seed).numpy()
                for t in traces
            ]
            np.testing.assert_allclose(found.distance(step, metric), np.mean(single, 0), rtol=1e-2, atol=1e-5)
    with pytest.raises(ValueError, match="step 0"):
        found.distance(0, "cosine")
    with pytest.raises(ValueError, match="entropy_kl"):
        found.distance(1, "unheard-of")


def test_prototypes_of_the_survey_serve_a_trace(surveyed: Surveyed, traces: list[Trace]) -> None:
    prototypes, trace = measured(surveyed.survey), traces[1]
    assert prototypes.known[:, surveyed.survey.latent_pixels > 0].all()
    cosines = image_cosines(trace, 2, prototypes.mean[2])
    assert cosines.shape == (len(surveyed.run.classes), *trace.size)
    np.testing.assert_array_equal(image_nearest(trace, 2, prototypes.mean[2]), np.nanargmax(cosines, 0))
    assert image_nearest(trace, 0, prototypes.mean[0]).max() < surveyed.run.labels.seen(0)


def test_it_survives_writing_and_reading(surveyed: Surveyed) -> None:
    again = survey_pass.survey(surveyed.run, surveyed.dataset, lambda items, _: items)
    assert again.holds is not None and surveyed.survey.holds is not None
    kept = holds.to_arrays(surveyed.survey.holds)
    for name, value in holds.to_arrays(again.holds).items():
        np.testing.assert_array_equal(kept[name], value)
    for name, value in vars(again).items():
        if name not in ("holds", "shares", "pictures"):
            np.testing.assert_array_equal(getattr(surveyed.survey, name), value)
    read, written = surveyed.survey.shares, again.shares
    assert read is not None and written is not None and read.by_case.keys() == written.by_case.keys()
    for case, shares in written.by_case.items():
        one = read.by_case[case]
        assert (one.parts, one.start, one.fixed, one.end) == (shares.parts, shares.start, shares.fixed, shares.end)
        np.testing.assert_array_equal(one.points, shares.points)
        np.testing.assert_allclose(one.repeats, shares.repeats, atol=0.05)  # stored as float16
    with pytest.raises(ValueError, match="read-only"):
        surveyed.survey.lost[0] = 1
    ranking = surveyed.survey.rank_images()
    assert ranking and ranking[0].lost == surveyed.survey.lost[:, -1].sum(1).max()


def test_counts_by_picture_agree_with_the_others(surveyed: Surveyed, traces: list[Trace]) -> None:
    found, whole = surveyed.survey.pictures, surveyed.survey
    assert found is not None and found.confidence is not None
    np.testing.assert_array_equal(found.confusions(), whole.confusion)
    for place, (trace, true) in enumerate(zip(traces, truths(surveyed), strict=True)):
        own = found.confusions(np.arange(len(whole.ids)) == place)
        np.testing.assert_array_equal(np.diagonal(own, axis1=1, axis2=2), whole.right[place])
        np.testing.assert_array_equal(own[2].sum(1), whole.pixels[place])
        for cls in np.unique(true[true < len(own[0])]):
            expected = float(trace.certainty(2)[true == cls].mean())
            assert found.confidence[place, 2, cls] == pytest.approx(expected, abs=5e-3)
    for cls in range(len(surveyed.run.classes)):
        np.testing.assert_array_equal(found.flows(cls), whole.transitions(cls))


def test_what_features_hold_agrees_with_the_counts(surveyed: Surveyed) -> None:
    found, labels = surveyed.survey, surveyed.run.labels
    held = found.holds
    assert held is not None and held.probes is not None and held.background is not None and held.pseudo is None
    pixels = found.pixels.sum(0)
    np.testing.assert_array_equal(held.lost.called.sum(-1), found.lost.sum(0))
    np.testing.assert_array_equal(held.probes.confusion.sum(-1), np.broadcast_to(pixels, (3, len(holds.SITES), 5)))
    np.testing.assert_array_equal(held.probes.nearest.sum(-1), np.broadcast_to(pixels, (3, 5)))
    for t in range(3):
        seen = labels.seen(t)
        counted = found.confusion[t, :seen]
        np.testing.assert_array_equal(held.calibration.count[t].sum(-1), counted.sum(0))
        np.testing.assert_array_equal(held.calibration.right[t].sum(-1)[:seen], np.diagonal(counted))
        np.testing.assert_array_equal(held.masked[t].sum(-1), np.where(np.arange(5) < seen, pixels, 0))
        assert (np.diagonal(held.masked[t]) >= np.where(np.arange(5) < seen, np.diagonal(found.confusion[t]), 0)).all()
    assert held.background.images.tolist() == [step.images for step in surveyed.run.steps]


def test_sites_of_one_frozen_trunk_hold_the_same_at_every_step(surveyed: Surveyed) -> None:
    held = surveyed.survey.holds
    assert held is not None and held.probes is not None
    stages = len(holds.SITES) - 1
    assert (held.cka[:stages] == 1).all() and held.cka[-1, 0, 1] < 1
    assert (held.probes.confusion[1:, :stages] == held.probes.confusion[:1, :stages]).all()
    assert (held.probes.confusion[1, -1] != held.probes.confusion[0, -1]).any()


def test_cka_of_the_survey_is_that_of_the_traced_latents(surveyed: Surveyed, traces: list[Trace]) -> None:
    gathered: list[list[np.ndarray]] = [[] for _ in range(3)]
    for i, trace in enumerate(traces):
        for t, rows in enumerate(gathered):
            latent = trace.latent(t)
            h, w = covered((latent.shape[1], latent.shape[2]), trace.square, trace.inside)
            cells = cka.sample(h * w, len(traces), i, seed=0)
            rows.append(latent[:, :h, :w].reshape(len(latent), -1)[:, cells].T)
    expected = cka.cka_matrix([np.concatenate(rows) for rows in gathered])
    held = surveyed.survey.holds
    assert held is not None
    np.testing.assert_allclose(held.cka[-1], expected, atol=1e-3)


def test_pseudo_labels_pixel_by_pixel(surveyed: Surveyed) -> None:
    run = open_run(surveyed.run.path)
    dataset, labels, networks = run.open_dataset(), run.labels, Networks(run)
    config = replace(run.config, method=replace(run.config.method, pseudo="hard", pseudo_threshold=0.3))
    run.config = config
    ids = training_images.step_images(config, dataset, labels, 1)[:5]
    found = training_labels.pseudo_table(networks, dataset, ids, 1, lambda items, _: items)
    expected, side = np.zeros((6, 6), np.int64), config.data.size
    for name in ids:
        picture, mask = dataset.image(name), dataset.mask(name)  # square, of the network's size
        assert mask.shape == (side, side)
        logits = networks.passes(torch.from_numpy(to_input(picture))[None]).output(0).logits
        stride = config.optim.label_stride
        small = mask[stride // 2 :: stride, stride // 2 :: stride]
        scores = torch.nn.functional.interpolate(logits, size=small.shape, mode="bilinear").sigmoid()[0].numpy()
        for y, x in np.ndindex(small.shape):
            if small[y, x] == 255 or small[y, x] in labels.labelled(1, config.data.setting):
                continue
            best = int(scores[:, y, x].argmax())
            sure = best > 0 and scores[best, y, x] >= 0.3  # channel 0 is the unknown
            expected[labels.order.index(small[y, x]), best - 1 if sure else 5] += 1
    assert found.sum() == expected.sum() and expected[:, :5].sum() > 0
    assert np.abs(found - expected).sum() <= 0.002 * expected.sum()


class WithoutTraining:
    """A dataset of validation images alone."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __getattr__(self, name: str) -> object:
        return getattr(self.dataset, name)

    def ids(self, split: str) -> tuple[str, ...]:
        if split == "train":
            raise DatasetMissing("aerial has no train.txt")
        return self.dataset.ids(split)


def test_without_training_images_the_rest_is_measured_and_said(surveyed: Surveyed) -> None:
    said: list[str] = []
    bare = WithoutTraining(surveyed.dataset)
    found = survey_pass.survey(surveyed.run, bare, lambda items, _: items, say=said.append)  # type: ignore[arg-type]
    assert found.holds is not None and found.holds.probes is None and found.holds.background is None
    np.testing.assert_array_equal(found.holds.masked, surveyed.survey.holds.masked)  # type: ignore[union-attr]
    assert len(said) == 2 and all("no train.txt" in sentence for sentence in said)


def test_a_survey_without_what_features_hold_opens(surveyed: Surveyed, tmp_path: Path) -> None:
    run = copy_of(surveyed.run, tmp_path / "copy")
    write_survey(run, replace(surveyed.survey, holds=None))
    assert open_survey(run).holds is None


def copy_of(run: Run, place: Path) -> Run:
    shutil.copytree(run.path, place)
    return open_run(place)


def test_without_a_survey_the_sentence_names_the_command(surveyed: Surveyed, tmp_path: Path) -> None:
    run = copy_of(surveyed.run, tmp_path / "copy")
    assert read_survey(run) is not None
    (run.path / METADATA).unlink()
    assert read_survey(run) is None
    with pytest.raises(SurveyMissing, match=f"no survey .* run `lag survey {run.path}`"):
        open_survey(run)


def test_a_stale_survey_is_recognised(surveyed: Surveyed, tmp_path: Path) -> None:
    run = copy_of(surveyed.run, tmp_path / "copy")
    info = json.loads((run.path / "run.json").read_text())
    info["steps"].pop()
    write_json(run.path / "run.json", info)
    with pytest.raises(SurveyMissing, match="earlier state"):
        open_survey(open_run(run.path))


@pytest.mark.parametrize("damage", ["arrays", "metadata", "schema", "gone", "key"])
def test_a_damaged_survey_is_refused(surveyed: Surveyed, tmp_path: Path, damage: str) -> None:
    run = copy_of(surveyed.run, tmp_path / "copy")
    about = json.loads((run.path / METADATA).read_text())
    if damage == "arrays":
        content = bytearray((run.path / ARRAYS).read_bytes())
        content[-1] ^= 1
        (run.path / ARRAYS).write_bytes(content)
    elif damage == "metadata":
        (run.path / METADATA).write_text("{")
    elif damage == "gone":
        (run.path / ARRAYS).unlink()
    else:
        changed = {**about, "schema": 99} if damage == "schema" else {k: v for k, v in about.items() if k != "file"}
        write_json(run.path / METADATA, changed)
    with pytest.raises(SurveyMissing, match="lag survey"):
        open_survey(run)


def test_the_command_writes_it(surveyed: Surveyed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lag_core.cli import main

    run = copy_of(surveyed.run, tmp_path / "copy")
    (run.path / METADATA).unlink()
    assert main(["survey", str(run.path)]) == 0
    assert f"{2 * VAL_TILES} images at 3 steps" in capsys.readouterr().out
    found = open_survey(run)
    np.testing.assert_array_equal(found.confusion, run.confusions())


def test_pictures_are_counted_pixel_by_pixel() -> None:
    rng = np.random.default_rng(1)
    maps, trues = rng.integers(0, 3, (4, 2, 7, 7)).astype(np.uint8), rng.integers(0, 3, (4, 7, 7)).astype(np.uint8)
    trues[:, 0] = 255
    counter = picture_counts.PictureCounter(4, 2, 3)
    for place in (2, 0, 1, 3):
        counter.add(place, maps[place], trues[place])
    found = counter.counts()
    assert found.confidence is None, "label maps alone have none"
    read = picture_counts.from_arrays(picture_counts.to_arrays(found), found.confusions())
    assert read is not None
    chosen = np.array([True, False, True, False])
    mine = trues[chosen] != 255
    for t in (0, 1):
        expected = metrics.confusion(trues[chosen], maps[chosen][:, t], 3)
        np.testing.assert_array_equal(read.confusions(chosen)[t], expected)
    flow = np.zeros((3, 3), int)
    here = mine & (trues[chosen] == 1)
    np.add.at(flow, (maps[chosen][:, 0][here], maps[chosen][:, 1][here]), 1)
    np.testing.assert_array_equal(read.flows(1, chosen), flow[None])
    assert read.called(1, 2, 0).tolist() == [
        int(((t == 2) & (m[1] == 0)).sum()) for t, m in zip(trues, maps, strict=True)
    ]


def test_flows_of_a_pixel_by_pixel_count() -> None:
    labels = LabelSpace(((0, 1), (2,)), background=0)
    rng = np.random.default_rng(0)
    maps, true = rng.integers(0, 3, (2, 9, 9)).astype(np.uint8), rng.integers(0, 3, (9, 9)).astype(np.uint8)
    true[0] = 255
    counts = survey_pass.PixelCounts(1, 2, labels)
    counts.add(0, maps, true)
    expected: dict[tuple[int, ...], int] = {}
    for y, x in np.argwhere(true != 255):
        key = int(true[y, x]), 0, int(maps[0, y, x]), int(maps[1, y, x])
        expected[key] = expected.get(key, 0) + 1
    assert {tuple(row[:4]): row[4] for row in counts.arrays()["flows"].tolist()} == expected


def test_reading_needs_no_torch() -> None:
    modules = ["survey", "forgetting", "similarity", "channels", "cache", "latent_maps"]
    modules += ["holds", "probe", "cka", "task_confusion", "calibration", "lost_destinations", "background_labels"]
    code = "; ".join([*(f"import lag_core.explain.{m}" for m in modules), "import sys"])
    result = subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], cwd=ROOT, check=False)
    assert result.returncode == 0


def test_why_preserved_has_the_drift_and_spread_of_the_prototypes_page(surveyed: Surveyed) -> None:
    """On three of the five images the evidence measures other numbers; with the survey it has those of all five."""
    run, networks = surveyed.run, Networks(surveyed.run)
    found = measured(surveyed.survey)
    drift = similarity.drift(found, run.labels).since_introduced
    counts = surveyed.survey.latent_pixels
    cls = int(np.argmax(np.where(np.arange(len(counts)) < run.labels.seen(0), counts, -1)))
    source = run.labels.step_of(cls)
    few = evidence.from_validation(run, surveyed.dataset, cls, limit=3)
    over = evidence.finish(evidence.over_steps(networks, few, cls))
    assert abs(over.spread[source] - found.spread[source, cls]) > 1e-4, "another set of images, another number"
    told = evidence.assemble(run, few, cls, source, over, None, None).over
    assert np.array_equal(told.drift, drift[:, cls], equal_nan=True)
    assert np.array_equal(told.spread[source:], found.spread[source:, cls], equal_nan=True)
    alone = replace(few, whole_set=False, holding=1, dataset=None)
    assert evidence.assemble(run, alone, cls, source, over, None, None).over is over, "a picture speaks for itself"


def test_the_same_pixels_have_one_drift_and_spread(surveyed: Surveyed) -> None:
    """What the survey adds up and what the evidence adds up are one formula over one set of latent pixels."""
    run, networks = surveyed.run, Networks(surveyed.run)
    found = measured(surveyed.survey)
    drift = similarity.drift(found, run.labels).since_introduced
    counts = surveyed.survey.latent_pixels
    cls = int(np.argmax(np.where(np.arange(len(counts)) < run.labels.seen(0), counts, -1)))
    every = evidence.from_validation(run, surveyed.dataset, cls, limit=len(surveyed.survey.ids))
    over = evidence.finish(evidence.over_steps(networks, every, cls))
    np.testing.assert_allclose(over.spread, found.spread[:, cls], atol=1e-5)
    np.testing.assert_allclose(over.drift, drift[:, cls], atol=1e-5)

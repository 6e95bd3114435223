"""A run and a trace that can be asked: each answer is that of the module it comes from, and nothing is left changed."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from many_steps import delta_bytes, memory, operations, write_run
from repository import ROOT
from shapes import SIDE, lively_backbone, tiny_run, write_shapes

import lag_core
from lag_core import metrics
from lag_core.data.pictures import DataError
from lag_core.data.remap import truth
from lag_core.data.transforms import fit_mask, resize_labels, unfit_scores
from lag_core.explain import channels, evidence, forgetting, similarity
from lag_core.explain.attribution import attribute
from lag_core.explain.explained_run import ExplainedRun
from lag_core.explain.interventions import ablate, class_iou, transplant
from lag_core.explain.networks import Networks
from lag_core.explain.trace import Trace
from lag_core.relevance.target import Target
from lag_core.runs import RunError

torch.set_num_threads(1)
LAST, CLS = 2, 1


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data", val_images=6)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> ExplainedRun:
    """A run that learns something and forgets it: on a random backbone, whose batch norms know the pictures."""
    folder = tmp_path_factory.mktemp("asked")
    model = {"weights": str(lively_backbone(data, folder / "backbone.pt")), "output_stride": 8}
    optim = {"lr_stage": 0.0, "lr_head": 0.1, "lr_aspp": 0.1, "lr_aspp_later": 0.01, "epochs": 40, "epochs_later": 3}
    for seed in range(6):  # rounding differs between processors, and with it what so short a training ends in
        out = folder / f"seed-{seed}" / "finetune"
        tiny_run(data, out, "finetune", model=model, optim={**optim, "seed": seed})
        found = lag_core.open_run(out)
        if sees_enough(found.trace("s20")):
            break
    return found


def sees_enough(trace: Trace) -> bool:
    """Whether no step calls every pixel the same, and pixels were kept, lost and never right."""
    counts = trace.provenance().counts()
    several = all(len(np.unique(trace.prediction(t))) > 1 for t in trace.steps)
    return several and all(counts[f] for f in (forgetting.Fate.FORGOTTEN, forgetting.Fate.KEPT, forgetting.Fate.NEVER))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def trace(run: ExplainedRun) -> Trace:
    return run.trace("s20")


def wide(trace: Trace) -> Trace:
    """The same, of a picture that is scaled down into the square and leaves padding."""
    image, true = trace.image[:20].repeat(2, 0).repeat(2, 1), trace.truth[:20].repeat(2, 0).repeat(2, 1)  # type: ignore[index]
    return Trace(trace.networks, image, true)


def state(trace: Trace) -> str:
    """Digest of every tensor of every step, and the number of hooks."""
    found = hashlib.sha256()
    for network in trace.networks.steps:
        for tensor in network.state_dict().values():
            found.update(tensor.numpy().tobytes())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()]
        found.update(repr((sum(hooks), network.training)).encode())
    return found.hexdigest()


def test_the_run_sees_enough_to_test_with(run: ExplainedRun, trace: Trace) -> None:
    assert sees_enough(trace)


# ---------------------------------------------------------------------- opening


def test_opening_a_run_to_ask_about_it_loads_no_torch(run: ExplainedRun) -> None:
    code = (
        "import sys, lag_core; run = lag_core.open_run(sys.argv[1]); "
        "run.forgetting(), run.channels(), run.prototypes(), lag_core.rendering.overlay; "
        "sys.exit(1 if {'torch', 'captum', 'streamlit', 'plotly'} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run.path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "torch or the like was loaded"


def test_public_names_are_there() -> None:
    for name in lag_core.__all__:
        assert getattr(lag_core, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = lag_core.nothing


def test_a_picture_is_an_array_a_file_or_a_validation_image(run: ExplainedRun, data: Path) -> None:
    dataset = run.open_dataset()
    name = dataset.ids("val")[1]
    image, true = dataset.image(name), truth(dataset.mask(name), run.labels)
    named, filed = run.trace(name), run.trace(data / "images" / f"{name}.png")
    assert np.array_equal(named.image, image) and np.array_equal(named.truth, true) and named.name == name
    assert np.array_equal(filed.image, image) and filed.truth is None
    given = run.trace(image, true)
    assert given.digest == named.digest and given.networks is named.networks is run.networks
    with pytest.raises(DataError, match="neither a file nor a validation image"):
        run.trace("nothing.png")
    with pytest.raises(ValueError, match="truth has the size"):
        run.trace(image, true[1:])


def test_the_dataset_may_lie_elsewhere(run: ExplainedRun, data: Path, tmp_path: Path) -> None:
    elsewhere = data.rename(tmp_path / "moved")
    try:
        assert lag_core.open_run(run.path, data=elsewhere).trace("s18").truth is not None
    finally:
        elsewhere.rename(data)


# ---------------------------------------------------------------------- questions about a picture


@pytest.mark.parametrize("padded", [False, True])
def test_provenance_follows_the_predictions(trace: Trace, padded: bool) -> None:
    asked = wide(trace) if padded else trace
    maps = np.stack([asked.prediction(t) for t in asked.steps])
    for step in asked.steps:
        expected = forgetting.provenance(maps, asked.truth, asked.run.labels, step)  # type: ignore[arg-type]
        assert np.array_equal(asked.provenance(step).state, expected.state)
    assert asked.provenance().step == LAST


def test_channels_are_split_by_the_runs_own_rule(run: ExplainedRun, trace: Trace) -> None:
    found = trace.channels(LAST)
    assert found.source == LAST - 1
    distance = channels.image_distances(trace, LAST, LAST - 1, run.config.method.channel_metric)  # type: ignore[arg-type]
    assert np.array_equal(found.split.distance, distance)
    assert found.split.invariant.sum() == round(run.config.method.rho * run.config.model.latent)
    parts = [channels.energy_map(trace.latent(LAST), g) for g in (found.split.invariant, found.split.specific)]
    assert found.invariant.shape == trace.size
    assert found.invariant.mean() == pytest.approx(parts[0].mean(), rel=0.1)
    assert trace.channels(LAST, 0).source == 0


@pytest.mark.parametrize("padded", [False, True])
def test_relevance_is_that_of_the_pixels_named(run: ExplainedRun, trace: Trace, padded: bool) -> None:
    asked = wide(trace) if padded else trace
    region = np.zeros(asked.size, bool)
    region[4:16, 2:20] = True
    found = asked.relevance(LAST, run.classes[CLS].name, where=region)
    mask = torch.zeros(SIDE, SIDE)
    mask[: asked.inside[0], : asked.inside[1]] = torch.from_numpy(resize_labels(region, asked.inside)).float()
    target = Target(CLS + run.labels.offset, mask)
    expected = attribute(asked.networks.steps[LAST], asked.inputs(), target)
    assert found.map.shape == asked.size and found.score == expected.score
    assert np.array_equal(found.map, unfit_scores(expected.map[None], asked.inside, asked.size)[0])
    assert found.conservation is not None and found.conservation < 1e-3

    pixel = asked.relevance(LAST, CLS, "lrp-epsilon", (5, 7))
    row, column = 5 * asked.inside[0] // asked.size[0], 7 * asked.inside[1] // asked.size[1]
    target = Target.pixel(CLS + run.labels.offset, row, column, (SIDE, SIDE))
    assert (
        pixel.score != 0
        and pixel.score == attribute(asked.networks.steps[LAST], asked.inputs(), target, "lrp-epsilon").score
    )


def test_similarity_takes_the_runs_prototypes(run: ExplainedRun, trace: Trace) -> None:
    mean = run.prototypes().mean[LAST]
    assert np.array_equal(trace.similarity(LAST), similarity.image_cosines(trace, LAST, mean), equal_nan=True)
    assert np.array_equal(trace.similarity(LAST, mean[:2]), trace.similarity(LAST)[:2])


def slow_iou(trace: Trace, latent: Any) -> np.ndarray:
    """IoU of each class from a changed latent map, in the network's square."""
    labels = trace.run.labels
    square = fit_mask(trace.truth, trace.square)[None]  # type: ignore[arg-type]
    with torch.no_grad():
        return class_iou(square, labels, trace.run.config.method.loss)(trace.networks.steps[LAST].decode(latent))


def test_an_ablation_is_a_decoding_without_the_channels(run: ExplainedRun, trace: Trace) -> None:
    order = trace.channels(LAST).split.order
    found = trace.ablate(LAST, order, counts=[0, 2, 5], controls=3)
    own = trace.output(LAST).latent
    assert found.measured == tuple(one.name for one in run.classes[: run.labels.seen(LAST)])
    assert found.curve.counts.tolist() == [0, 2, 5] and found.curve.controls.shape == (3, 3, len(found.measured))
    for place, k in enumerate((0, 2, 5)):
        assert np.array_equal(found.curve.chosen[place], slow_iou(trace, ablate(own, order[:k])), equal_nan=True)
    with torch.no_grad():
        logits = trace.networks.steps[LAST].decode(ablate(own, order[:5]))
    assert np.array_equal(found.prediction, trace.prediction(LAST, logits))
    mean = np.full(run.config.model.latent, 0.5, np.float32)
    filled = trace.ablate(LAST, order[:3], mean=mean, controls=0).curve.chosen[0]
    assert np.array_equal(filled, slow_iou(trace, ablate(own, order[:3], torch.from_numpy(mean))), equal_nan=True)


def test_a_transplant_takes_the_values_of_the_earlier_step(trace: Trace) -> None:
    changed = trace.channels(LAST, 0).split.order[::-1]  # a view that runs backwards
    found = trace.transplant(LAST, changed, 0, counts=[3], controls=2)
    latent = transplant(trace.output(LAST).latent, trace.output(0).latent, changed[:3])
    assert np.array_equal(found.curve.chosen[0], slow_iou(trace, latent), equal_nan=True)
    default = trace.transplant(LAST, changed[:3], controls=0)
    latent = transplant(trace.output(LAST).latent, trace.output(LAST - 1).latent, changed[:3])
    assert np.array_equal(default.curve.chosen[0], slow_iou(trace, latent), equal_nan=True)


def test_no_channel_and_the_own_step_change_no_bit(trace: Trace) -> None:
    nothing, itself = trace.ablate(LAST, [], controls=1), trace.transplant(LAST, [0, 3, 1], LAST, controls=1)
    for found in (nothing, itself):
        assert np.array_equal(found.prediction, trace.prediction(LAST))
        assert np.array_equal(found.curve.chosen[0], found.curve.untouched, equal_nan=True)


def test_without_a_truth_the_changed_pixels_are_counted(run: ExplainedRun, trace: Trace) -> None:
    blind = wide(run.trace(trace.image, trace.truth))
    blind.truth = None
    found = blind.ablate(LAST, range(8), controls=0)
    assert found.measured == ("changed pixels",)
    assert found.curve.chosen[0, 0] == (found.prediction != blind.prediction(LAST)).mean() > 0
    with pytest.raises(ValueError, match="without a truth"):
        blind.provenance()


@pytest.mark.parametrize(
    ("ask", "error", "sentence"),
    [
        (lambda t: t.channels(0), ValueError, "no step before step 0"),
        (lambda t: t.channels(7), RunError, "no step 7"),
        (lambda t: t.transplant(1, [0], 9), RunError, "no step 9"),
        (lambda t: t.relevance(1, "purple"), RunError, "'purple' is not a class of finetune; it has background, red"),
        (lambda t: t.relevance(1, 99), RunError, "class 99"),
        (lambda t: t.relevance(0, "yellow"), ValueError, "step 0 does not know yellow yet: step 2 introduces it"),
        (lambda t: t.relevance(1, 1, where=(SIDE, 0)), ValueError, "outside of the picture"),
        (lambda t: t.relevance(1, 1, where=np.ones((3, 3), bool)), ValueError, "region has the size"),
        (lambda t: t.relevance(1, 1, where=np.zeros((SIDE, SIDE), bool)), ValueError, "has no pixel"),
        (lambda t: t.relevance(1, 1, "saliency"), ValueError, "unknown attribution method"),
        (lambda t: t.ablate(1, [0, 1], counts=[3]), ValueError, "only 2 are named"),
        (lambda t: t.ablate(1, [0, 0]), ValueError, "expected different numbers"),
    ],
)
def test_a_mistake_is_a_sentence(trace: Trace, ask: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        ask(trace)


def test_the_networks_are_afterwards_as_they_were(run: ExplainedRun, trace: Trace) -> None:
    before = state(trace)
    trace.provenance(), trace.channels(LAST), trace.similarity(LAST)
    for method in ("lrp", "gradient-x-input", "grad-cam", "integrated-gradients"):
        trace.relevance(LAST, CLS, method)  # type: ignore[arg-type]
    trace.ablate(LAST, [0, 1], controls=2), trace.transplant(LAST, [0, 1], 0, controls=2)
    with pytest.raises(ValueError):
        trace.ablate(LAST, [0, 0])
    run.why_preserved(CLS, trace)
    assert state(trace) == before


# ---------------------------------------------------------------------- questions about a run


def test_forgetting_of_a_run_follows_from_its_metrics(run: ExplainedRun) -> None:
    found = run.forgetting(joint=run)
    confusions = run.confusions()
    assert confusions is not None
    ious = metrics.iou_matrix(confusions, run.labels)
    fixed = metrics.forgetting_fixed(confusions, run.labels)
    assert np.array_equal(found.forgetting_fixed, fixed, equal_nan=True)
    assert found.mean_forgetting_fixed == metrics.mean(fixed)
    assert found.bwt_fixed == metrics.bwt_fixed(confusions, run.labels)
    assert np.array_equal(found.iou, ious, equal_nan=True)
    assert np.array_equal(found.forgetting, metrics.forgetting(ious), equal_nan=True)
    assert found.bwt == metrics.bwt(ious) and found.mean_forgetting == metrics.mean_forgetting(ious)
    assert found.intransigence is not None
    for cls in range(len(run.classes)):
        assert found.intransigence[cls] == pytest.approx(ious[-1, cls] - ious[run.labels.step_of(cls), cls])
    assert found.shift.right.shape == ious.shape and run.forgetting().intransigence is None


def test_a_run_without_metrics_says_what_to_do(run: ExplainedRun, tmp_path: Path) -> None:
    bare = write_run(tmp_path / "bare", 1)
    (bare.path / "metrics.json").unlink()
    with pytest.raises(RunError, match="lag evaluate"):
        lag_core.open_run(bare.path).forgetting()
    with pytest.raises(ValueError, match="other classes"):
        run.forgetting(joint=bare)


def test_splits_of_a_run_are_those_that_training_measured(run: ExplainedRun) -> None:
    rows = channels.run_distances(run)
    found = run.channels()
    assert len(found) == LAST
    for one, row in zip(found, rows, strict=True):
        assert one is not None and np.array_equal(one.distance, row) and one.rho == run.config.method.rho


def test_why_preserved_is_the_evidence_of_the_engine(run: ExplainedRun, trace: Trace) -> None:
    name = run.classes[CLS].name
    whole, own = run.why_preserved(name), run.why_preserved(CLS, trace, step=1)
    examples = evidence.from_validation(run, run.open_dataset(), CLS)
    _, verdict = evidence.why_preserved(run.networks, examples, CLS, LAST)
    assert whole.verdict == verdict and whole.evidence.whole_set
    assert not own.evidence.whole_set and own.evidence.step == 1 and own.evidence.name == name


def test_a_report_names_the_call_that_makes_it(run: ExplainedRun, trace: Trace) -> None:
    page = run.report(CLS, trace, validation=False)
    assert page.startswith("<!doctype html>") and run.classes[CLS].name in page
    assert "run.report(&#x27;red&#x27;, run.trace(&#x27;s20&#x27;), 2, validation=False)" in page


# ---------------------------------------------------------------------- what many steps cost


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory, no_fsync: None) -> lag_core.Run:
    return write_run(tmp_path_factory.mktemp("many") / "long", 19)


def test_all_steps_cost_the_shared_part_once(long_run: lag_core.Run) -> None:
    found = operations(long_run)
    assert found["shared_gflop"] > 0 and found["own_gflop"] > 0
    assert found["ratio"] <= 1.1
    assert found["ratio_without_sharing"] > 1.5, "otherwise the first number says nothing"


def test_steps_share_what_they_did_not_change(long_run: lag_core.Run) -> None:
    networks = Networks(long_run)
    tensors = {t.data_ptr(): t.nbytes for n in networks.steps for t in n.state_dict().values() if t.dim()}
    first = sum(t.nbytes for t in networks.steps[0].state_dict().values() if t.dim())
    assert sum(tensors.values()) == first + delta_bytes(long_run)
    assert len({id(n.backbone) for n in networks.steps}) == 1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of memory")
def test_a_long_run_opens_in_the_memory_of_a_short_one_and_its_deltas(long_run: lag_core.Run, tmp_path: Path) -> None:
    found = memory(long_run, write_run(tmp_path / "short", 1), rounds=1)
    assert found["ratio"] <= 1.5 and found["ratio_of_the_run"] <= 1.5

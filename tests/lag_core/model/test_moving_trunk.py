"""A run whose trunk moves is answered with the trunk of the step that is asked about, everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_runs import frozen_again, with_moving_trunk
from shapes import lively_backbone, tiny_run, write_shapes

import lag_core
from lag_core.data.pictures import read_image
from lag_core.explain import evidence
from lag_core.explain.attribution import FoldedSegmenter, Target
from lag_core.explain.explained_run import ExplainedRun
from lag_core.explain.networks import Networks
from lag_core.explain.survey_pass import survey
from lag_core.metrics import confusion
from lag_core.model.prediction import full_size, label_map
from lag_core.model.weights import load_segmenter
from lag_core.training.evaluation import evaluate, totals


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ExplainedRun:
    root = tmp_path_factory.mktemp("moving")
    data = write_shapes(root / "shapes")
    model = {"weights": str(lively_backbone(data, root / "backbone.pt")), "output_stride": 8}
    trained = tiny_run(data, root / "still", "finetune", model=model, optim={"lr_stage": 0.0})
    return lag_core.open_run(with_moving_trunk(trained, root / "moving").path)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


def plain_forward(run: ExplainedRun, step: int, inputs: torch.Tensor) -> Any:
    """The step's own network from its files, with nothing shared."""
    with torch.no_grad():
        return load_segmenter(run, step)(inputs)


def plain_prediction(run: ExplainedRun, step: int, name: str) -> np.ndarray:
    trace = run.trace(name)
    logits = plain_forward(run, step, trace.inputs()).logits
    full = full_size(logits, trace.square, trace.inside, trace.size)
    return label_map(full, run.labels, run.config.method.loss)[0].numpy()


def test_the_trunks_are_told_apart(run: ExplainedRun) -> None:
    """Weights and running statistics count alike."""
    assert len(set(Networks(run).trunks)) == 3 and not Networks(run).one_trunk


def test_a_trunk_that_returns_is_shared(run: ExplainedRun, tmp_path: Path) -> None:
    networks = Networks(frozen_again(run, tmp_path / "again", step=2, like=0))
    assert networks.trunks[2] == networks.trunks[0] != networks.trunks[1]
    assert networks.same_trunk(2) == 0


def test_each_step_of_a_trace_is_its_own_network(run: ExplainedRun) -> None:
    trace = run.trace("s20")
    for step in trace.steps:
        plain = plain_forward(run, step, trace.inputs())
        assert torch.allclose(trace.output(step).latent, plain.latent, atol=1e-6)
        assert torch.allclose(trace.output(step).logits, plain.logits, atol=1e-6)
    still = plain_forward(run, 0, trace.inputs()).stage
    assert not torch.allclose(still, plain_forward(run, 1, trace.inputs()).stage, atol=1e-3)


def test_evaluation_and_survey_use_each_steps_trunk(run: ExplainedRun) -> None:
    dataset = run.open_dataset()
    expected = np.zeros((3, 5, 5), np.int64)
    for name in dataset.ids("val"):
        for step in range(3):
            truth = run.labels.truth_table()[dataset.mask(name)]
            expected[step] += confusion(truth, plain_prediction(run, step, name), 5)
    assert np.array_equal(totals(evaluate(run, dataset, lambda items, what: items)), expected)
    assert np.array_equal(survey(run, dataset, lambda items, what: items).confusion, expected)


def test_evidence_uses_each_steps_trunk(run: ExplainedRun) -> None:
    image, truth = read_image(Path(run.config.data.root) / "images" / "s20.png"), run.trace("s20").truth
    assert truth is not None
    cls = int(np.unique(truth[(truth > 0) & (truth < 3)])[0])
    examples = evidence.one_picture(image, truth, cls, "it")
    over = evidence.finish(evidence.over_steps(Networks(run), examples, cls))
    for step in range(3):
        predicted = plain_prediction(run, step, "s20")
        counted = truth < run.labels.seen(step)
        union = ((predicted == cls) & counted) | (truth == cls)
        assert over.iou[step] == pytest.approx(((predicted == cls) & (truth == cls)).sum() / union.sum())


def test_relevance_runs_through_the_steps_own_trunk(run: ExplainedRun) -> None:
    trace = run.trace("s20")
    target = Target(1 + run.labels.offset, torch.ones(trace.square, trace.square))
    for step in trace.steps:
        own = FoldedSegmenter(load_segmenter(run, step)).record(trace.inputs()).relevance(target, "epsilon")
        assert trace.relevance(step, 1, "lrp-epsilon").score == pytest.approx(float(own.score), rel=1e-4)

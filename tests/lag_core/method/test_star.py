"""STAR's parts against its equations."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import lively_backbone, tiny_config, write_shapes

from lag_core.config import ConfigError
from lag_core.method.star import balance, of_classes, similarity_to_kin
from lag_core.protocol import IGNORE

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_samples_are_distributed_as_the_whole_data_are() -> None:
    """Two steps: 600 background, 400 cat; then 700 background, 300 dog. Together: 1300, 400, 300."""
    stored = torch.tensor([600.0, 400.0, 0.0], dtype=torch.float64)
    own = torch.tensor([700.0, 0.0, 300.0], dtype=torch.float64)
    found = balance(stored, own, [1])
    pixels = 1000
    background = found.background * 700
    cat = float(found.replayed[1]) * pixels
    assert [background, cat, 300] == pytest.approx([1300, 400, 300])
    assert found.replayed[0] == 0 and found.replayed[2] == 0


def test_a_step_without_background_pixels_repeats_none() -> None:
    assert balance(torch.tensor([5.0, 3.0]), torch.tensor([0.0, 4.0]), [1]).background == 1.0


def test_the_discriminative_term_is_the_cosine_with_the_nearest_old_prototype() -> None:
    student = torch.zeros(1, 3, 2, 3)
    student[0, :, :, :2] = torch.tensor([1.0, 1.0, 0.0])[:, None, None]
    teacher = torch.zeros(1, 3, 2, 3)
    teacher[0, 0, :, :2] = 5.0
    labels = torch.tensor([[[2, 2, 0], [2, 2, IGNORE]]])
    prototypes = torch.tensor([[0.0, 0.0, 9.0], [3.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 4.0, 3.0]])
    found = similarity_to_kin(student, teacher, labels, [2], prototypes, [1, 3])
    assert found.item() == pytest.approx(1 / math.sqrt(2)), "class 1 is nearest to what the teacher sees"
    other = similarity_to_kin(student, student, labels, [2], prototypes * torch.tensor([0.1, 1, 1]), [3])
    assert other.item() == pytest.approx(4 / 5 / math.sqrt(2))


def test_the_discriminative_term_without_pixels_or_old_classes_is_zero() -> None:
    z, labels = torch.rand(1, 3, 2, 2, requires_grad=True), torch.zeros(1, 2, 2, dtype=torch.int64)
    assert similarity_to_kin(z, z, labels, [2], torch.rand(3, 3), [1]).item() == 0
    assert similarity_to_kin(z, z, labels, [0], torch.rand(3, 3), []).item() == 0


def test_features_are_kept_where_an_old_class_is_and_nowhere_else() -> None:
    labels = torch.tensor([[[0, 1, 2, 3, IGNORE]]])
    assert of_classes(labels, [1, 2]).tolist() == [[[False, True, True, False, False]]]


def test_a_run_keeps_the_background_of_all_steps_and_resumes_to_the_bit(tmp_path: Path) -> None:
    from lag_core.training.continual import train
    from lag_core.training.reporting import Reporter

    class Stops(Reporter):
        count = 0

        def iteration(self, loss: float | None = None, images_per_second: float = 0.0) -> None:
            self.count += 1
            if self.count == 10:
                raise KeyboardInterrupt

    root = write_shapes(tmp_path / "shapes")
    weights = str(lively_backbone(root, tmp_path / "backbone.pt"))
    config = tiny_config(
        root, "star", model={"weights": weights}, method={"pseudo_threshold": 0.9}, log={"resume_seconds": 0.0}
    )
    run = train(config, tmp_path / "whole", reporter=Reporter(quiet=True))
    counts = [run.analysis(step)["statistics.count"] for step in range(3)]
    assert counts[0][0] < counts[1][0] < counts[2][0], "the background of all steps together"
    assert counts[0][1] == counts[1][1] == counts[2][1] > 0, "an old class stays as it was measured"
    last = run.events()[-1]["terms"]
    assert {"ocfm", "sad", "replay"} <= set(last) and last["replay"]["raw"] > 0
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "cut", reporter=Stops(quiet=True))
    again = train(config, tmp_path / "cut", resume=True, reporter=Reporter(quiet=True))
    for name, value in run.tensors(2).items():
        assert np.array_equal(value, again.tensors(2)[name]), name


def test_the_amounts_belong_to_replay_at_z(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="replay_balance"):
        tiny_config(tmp_path, "star", method={"replay_at": "trunk"})


def test_shares_decide_as_the_run_does(tmp_path: Path) -> None:
    """Channel 0 has a logit that nothing trained; hybrids must not take it for the background's."""
    from lag_core.explain.hybrids import Decisions
    from lag_core.model.prediction import label_map
    from lag_core.protocol import LabelSpace

    torch.manual_seed(0)
    labels = LabelSpace(((0, 1, 2), (3,)), 0)
    logits = torch.randn(4, 50)
    decided = label_map(logits[None, :, None], labels, "bce_foreground")[0, 0].numpy()
    decisions = Decisions(logits, logits, labels, "bce_foreground", (3, 4))
    for cls in range(3):
        contest, won = decisions.contest(cls), np.zeros(50, bool)
        won[contest.where] = contest.won(1, 1, 1, True)
        assert np.array_equal(won, decided == cls)

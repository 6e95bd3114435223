"""Ablation and transplant of latent channels: against loops, identity at k = 0, planted causes found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lag_core.explain.interventions import (
    Curve,
    ablate,
    ablation,
    class_iou,
    curve,
    transplant,
    transplantation,
)
from lag_core.metrics import confusion, iou
from lag_core.model.heads import Head
from lag_core.model.segmenter import upsample
from lag_core.protocol import LabelSpace

torch.set_num_threads(1)


class Heads(nn.Module):
    """Heads of 1, 1 and 2 channels, as a network with an unknown class has."""

    def __init__(self, latent: int):
        super().__init__()
        self.heads = nn.ModuleList(Head(latent, 4, size) for size in (1, 1, 2))

    def forward(self, z: Tensor, rows: Tensor | None = None) -> Tensor:
        return torch.cat([head(z) for head in self.heads], 1)


LABELS = LabelSpace(((0, 1, 2),), background=0, unknown=True)


@pytest.fixture
def decode() -> nn.Module:
    """Heads that disagree: new ones would predict one class everywhere, whatever the channels."""
    torch.manual_seed(0)
    decode = Heads(8)
    with torch.no_grad():
        for _ in range(20):
            decode.train()(latents(4)[0])
        for head in decode.heads:
            head.classify.weight.mul_(5)
    return decode.eval()


def latents(images: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.rand(images, 8, 5, 6, generator=generator) for _ in range(2))  # type: ignore[return-value]


def test_ablation_in_loops() -> None:
    latent, _ = latents()
    mean = torch.arange(8.0)
    for filling in (None, mean):
        found = ablate(latent, [6, 1], filling)
        for b, c, y, x in np.ndindex(*latent.shape):
            expected = latent[b, c, y, x] if c not in (1, 6) else 0.0 if filling is None else filling[c]
            assert found[b, c, y, x] == expected


def test_transplant_in_loops() -> None:
    latent, source = latents()
    found = transplant(latent, source, np.array([0, 7]))
    for b, c, y, x in np.ndindex(*latent.shape):
        assert found[b, c, y, x] == (source if c in (0, 7) else latent)[b, c, y, x]


def test_nothing_changes_what_was_given() -> None:
    latent, source = latents()
    kept = latent.clone(), source.clone()
    ablate(latent, [0, 1])
    transplant(latent, source, [0, 1])
    assert torch.equal(latent, kept[0]) and torch.equal(source, kept[1])


def test_identity_without_channels_and_from_the_same_step(decode: nn.Module) -> None:
    latent, source = latents()
    assert ablate(latent, []) is latent
    assert transplant(latent, source, []) is latent
    assert torch.equal(transplant(latent, latent, [3, 4]), latent)
    assert torch.equal(transplant(latent, source, range(8)), source)


@pytest.mark.parametrize("channels", [[8], [-1], [2, 2]])
def test_impossible_channels_are_refused(channels: list[int]) -> None:
    latent, source = latents()
    with pytest.raises(ValueError, match=r"0\.\.7"):
        ablate(latent, channels)
    with pytest.raises(ValueError, match=r"0\.\.7"):
        transplant(latent, source, channels)
    with pytest.raises(ValueError, match="do not fit"):
        transplant(latent, source[:1], [1])


def truths(images: int) -> np.ndarray:
    return np.random.default_rng(0).choice([0, 1, 2, 255], (images, 20, 24)).astype(np.uint8)


def slow_curve(latent: Tensor, source: Tensor | None, decode: nn.Module, ranked: np.ndarray, counts: list[int],
               truth: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """One decoding a set of channels and image, IoU from the definition."""
    rng = np.random.default_rng(seed)

    def value(channels: np.ndarray) -> list[float]:
        predictions = []
        for i in range(len(latent)):
            z = latent[i : i + 1].clone()
            for c in channels:
                z[:, c] = 0 if source is None else source[i, c]
            q = upsample(decode(z), (20, 24)).sigmoid()[0]
            predictions.append(torch.stack([q[0] + q[1], q[2], q[3]]).argmax(0).numpy())
        result = []
        for k in range(3):
            hit = sum(((p == k) & (t == k)).sum() for p, t in zip(predictions, truth, strict=True))
            union = sum((((p == k) | (t == k)) & (t != 255)).sum() for p, t in zip(predictions, truth, strict=True))
            result.append(hit / union if union else float("nan"))
        return result

    chosen, controls = [], []
    for k in counts:
        chosen.append(value(ranked[:k]))
        controls.append([value(rng.permutation(8)[:k]) for _ in range(n)])
    return np.array(chosen), np.array(controls)


@pytest.mark.parametrize("question", ["ablation", "transplant"])
@pytest.mark.parametrize("images", [1, 3])
def test_curve_is_one_decoding_after_another(decode: nn.Module, question: str, images: int) -> None:
    latent, source = latents(images)
    truth, ranked = truths(images), np.array([5, 0, 3, 1, 7, 2, 6, 4])
    intervention = ablation(latent, decode) if question == "ablation" else transplantation(latent, source, decode)
    found = curve(intervention, ranked, [0, 1, 4, 8], class_iou(truth, LABELS, "bce"), controls=3, seed=4)
    with torch.no_grad():
        chosen, controls = slow_curve(
            latent, None if question == "ablation" else source, decode, ranked, [0, 1, 4, 8], truth, 3, 4
        )
    # a batch may round the last bit of a logit otherwise than one image alone: a pixel in a thousand may differ
    assert np.allclose(found.chosen, chosen, atol=5e-3, equal_nan=True)
    assert np.allclose(found.controls, controls, atol=5e-3, equal_nan=True)
    assert np.array_equal(found.chosen[0], found.untouched, equal_nan=True)
    assert np.array_equal(found.controls[0], np.stack([found.untouched] * 3), equal_nan=True)
    assert np.allclose(found.controls[3], found.chosen[3], equal_nan=True)


def test_curve_is_the_same_for_the_same_seed(decode: nn.Module) -> None:
    latent, _ = latents()
    measure = class_iou(truths(2), LABELS, "bce")
    first, again, other = (
        curve(ablation(latent, decode), np.arange(8), [3], measure, controls=5, seed=seed) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.controls, again.controls, equal_nan=True)
    assert not np.array_equal(first.controls, other.controls, equal_nan=True)
    assert len(np.unique(first.controls[0, :, 0])) > 1


def test_a_planted_cause_stands_out() -> None:
    """Logit 1 hangs on channels 2 and 5 alone: ablating these beats random ones, ablating others does not."""
    latent = torch.rand(4, 64, 6, 6) + 0.5
    carriers = [2, 5]

    def decode(z: Tensor, rows: Tensor | None = None) -> Tensor:
        return torch.stack([torch.full_like(z[:, 0], 0.2), z[:, carriers].mean(1)], 1)

    before = decode(latent).argmax(1)

    def measure(logits: Tensor) -> np.ndarray:
        """The share of pixels whose class changes."""
        return np.array([float((logits.argmax(1) != before).float().mean())])

    rest = [c for c in range(64) if c not in carriers]
    planted = curve(ablation(latent, decode), np.array(carriers + rest), [2], measure, controls=50, seed=0)
    harmless = curve(ablation(latent, decode), np.array(rest + carriers), [2], measure, controls=50, seed=0)
    assert planted.p_value("above")[0, 0] <= 0.05 and planted.effect[0, 0] > 0.5
    assert planted.effect[0, 0] > planted.interval()[1][0, 0]
    assert harmless.effect[0, 0] == 0 and harmless.p_value("above")[0, 0] > 0.5


def test_p_value_counts_controls_that_do_as_much() -> None:
    controls = np.array([[[0.5], [0.3], [0.2], [0.1]]])
    found = Curve(np.array([2]), np.array([0.6]), np.array([[0.2]]), controls)
    assert found.p_value("below")[0, 0] == pytest.approx((1 + 2) / 5)
    assert found.p_value("above")[0, 0] == pytest.approx((1 + 3) / 5)
    low, high = found.interval(1.0)
    assert (low[0, 0], high[0, 0]) == (pytest.approx(-0.5), pytest.approx(-0.1))
    undefined = Curve(np.array([2]), np.array([np.nan]), np.array([[0.2]]), controls)
    assert np.isnan(undefined.p_value("below")[0, 0])
    with pytest.raises(ValueError, match="allowed are"):
        found.p_value("beside")  # type: ignore[arg-type]


def test_class_iou_is_that_of_the_metrics(decode: nn.Module) -> None:
    latent, _ = latents()
    truth = truths(2)
    with torch.no_grad():
        logits = decode(latent)
    q = upsample(logits, (20, 24)).sigmoid()
    predicted = torch.stack([q[:, 0] + q[:, 1], q[:, 2], q[:, 3]], 1).argmax(1).numpy()
    assert np.allclose(class_iou(truth, LABELS, "bce")(logits), iou(confusion(truth, predicted, 3)))


def test_counts_out_of_range_are_refused(decode: nn.Module) -> None:
    latent, _ = latents()
    with pytest.raises(ValueError, match=r"0\.\.8"):
        curve(ablation(latent, decode), np.arange(8), [9], class_iou(truths(2), LABELS, "bce"))


def test_fewer_control_sets_where_the_pass_is_replayed() -> None:
    """Enough for p = 0.05 either way."""
    from lag_core.adapters.adapted_step import HeadDecoder
    from lag_core.explain.interventions import CONTROLS, CONTROLS_REPLAYED, control_sets
    from lag_core.explain.verdict import LEAST_CONTROLS

    assert control_sets(HeadDecoder(torch.nn.Conv2d(2, 1, 1), lambda x: x, 1)) == CONTROLS
    assert control_sets(lambda latent, rows=None: latent) == CONTROLS_REPLAYED
    assert LEAST_CONTROLS <= CONTROLS_REPLAYED < CONTROLS

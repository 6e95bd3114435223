"""Channel distance and split against loops and definitions."""

from __future__ import annotations

import math

import pytest
import torch

from lag_core.method.decoupling import ChannelScore, channel_distance

METRICS = ["entropy_kl", "spatial_kl", "cosine", "l2"]


def slow_distance(old: torch.Tensor, new: torch.Tensor, metric: str, tau: float) -> list[float]:
    """One image and channel at a time, in double precision."""
    result = []
    for c in range(old.shape[1]):
        total = 0.0
        for b in range(old.shape[0]):
            x, y = old[b, c].double().flatten().tolist(), new[b, c].double().flatten().tolist()
            slow = {"cosine": cosine, "l2": rms}.get(metric, lambda x, y: kl(x, y, metric, tau))
            total += slow(x, y)
        result.append(total / old.shape[0])
    return result


def kl(x: list[float], y: list[float], metric: str, tau: float) -> float:
    p, q = (distribution(v, metric, tau) for v in (x, y))
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def distribution(values: list[float], metric: str, tau: float) -> list[float]:
    weights = [math.exp(v / tau) for v in values]
    p = [w / sum(weights) for w in weights]
    if metric == "spatial_kl":
        return p
    e = [-v * math.log(v) for v in p]
    return [v / sum(e) for v in e]


def cosine(x: list[float], y: list[float]) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return 1 - dot / math.sqrt(sum(a * a for a in x) * sum(b * b for b in y))


def rms(x: list[float], y: list[float]) -> float:
    return math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_distance_agrees_with_a_loop(metric, tau):
    torch.manual_seed(0)
    old, new = torch.randn(3, 4, 5, 6).relu() + 0.01, torch.randn(3, 4, 5, 6).relu() + 0.01
    ours = channel_distance(old, new, metric, tau)
    assert torch.allclose(ours, torch.tensor(slow_distance(old, new, metric, tau)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
def test_equal_and_dead_channels_are_at_distance_zero(metric):
    latent = torch.randn(2, 4, 5, 5).relu()
    latent[:, 1] = 0
    moved = latent.clone()
    moved[:, 3] += torch.rand(5, 5) * 3
    distance = channel_distance(latent, moved, metric)
    assert distance[:3].tolist() == [0, 0, 0] and distance[3] > 1e-3


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_distance_is_finite_and_without_gradient(metric, dtype):
    old = (torch.randn(2, 4, 5, 5) * 200).relu().to(dtype).requires_grad_()
    new = (torch.randn(2, 4, 5, 5) * 200).relu().to(dtype).requires_grad_()
    distance = channel_distance(old, new, metric)
    assert distance.dtype == torch.float32 and distance.isfinite().all() and not distance.requires_grad
    assert channel_distance(old[..., :1, :1], new[..., :1, :1], metric).isfinite().all()


def test_random_metric_depends_on_the_seed_alone():
    a, b = torch.randn(2, 8, 3, 3), torch.randn(2, 8, 3, 3)
    assert channel_distance(a, a, "random", seed=3).equal(channel_distance(a, b, "random", seed=3))
    assert not channel_distance(a, a, "random", seed=3).equal(channel_distance(a, a, "random", seed=4))
    with pytest.raises(ValueError, match="known are entropy_kl"):
        channel_distance(a, b, "manhattan")  # type: ignore[arg-type]


def test_score_is_a_mean_and_then_a_moving_average():
    torch.manual_seed(0)
    score, draws = ChannelScore(5, warmup=4, momentum=0.9), torch.rand(9, 5)
    for i in range(4):
        assert score.warming
        score.update(draws[i])
    assert torch.allclose(score.distance, draws[:4].mean(0)) and not score.warming
    expected = draws[:4].mean(0)
    for i in range(4, 9):
        score.update(draws[i])
        expected = 0.9 * expected + 0.1 * draws[i]
    assert torch.allclose(score.distance, expected)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5, 0.63, 1.0])
@pytest.mark.parametrize("channels", [7, 128])
def test_split_is_a_partition_of_the_right_size_with_the_smallest_distances(rho, channels):
    score = ChannelScore(channels, warmup=0)
    score.update(torch.rand(channels).round(decimals=1))  # with ties
    split = score.split(rho)
    assert split.defined
    assert int(split.invariant.sum()) == round(rho * channels)
    assert (split.invariant ^ split.specific).all()
    if 0 < round(rho * channels) < channels:
        assert score.distance[split.invariant].max() <= score.distance[split.specific].min()


def test_split_is_undefined_until_a_channel_moves():
    score = ChannelScore(6, warmup=2)
    score.update(torch.zeros(6))
    score.update(torch.full((6,), 1e-8))
    assert not score.split(0.5).defined and score.working_split(0.5).invariant.all()
    score.update(torch.full((6,), 1.0))
    assert score.split(0.5).defined and int(score.working_split(0.5).invariant.sum()) == 3


def test_all_channels_are_invariant_while_the_score_warms_up():
    score = ChannelScore(6, warmup=2)
    score.update(torch.rand(6))
    assert score.split(0.5).defined and score.working_split(0.5).invariant.all()
    score.update(torch.tensor([float("nan"), 0, 1, 2, float("inf"), 3]))
    assert score.distance.isfinite().all() and not score.working_split(0.5).invariant.all()


def test_score_goes_on_exactly_after_a_restart():
    a, b = ChannelScore(5, warmup=3), ChannelScore(5, warmup=3)
    for i in range(6):
        draw = torch.rand(5)
        a.update(draw)
        if i == 2:
            b.load_state_dict(a.state_dict())
        elif i > 2:
            b.update(draw)
    assert a.distance.equal(b.distance) and a.count == b.count

"""The curvature of the loss where a part joins, and the rate that it allows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from shapes import tiny_run, write_shapes
from torch import nn

from lag_core.runs import open_run
from lag_core.training.sharpness import largest_curvature, largest_rate

pytestmark = pytest.mark.usefixtures("no_fsync")
STEEP = {"method": {"kd_latent": 300.0}, "optim": {"lr_aspp_later": 1.0, "epochs_later": 10, "clip": 0.3}}
"""Distillation that throws the ASPP off as soon as it joins."""


def test_the_curvature_of_a_parabola_is_its_largest_eigenvalue() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(6, 6)).Q
    matrix = basis @ torch.diag(torch.tensor([40.0, 3.0, 2.0, 1.0, 0.5, 0.0])) @ basis.T
    first, second = nn.Parameter(torch.randn(2)), nn.Parameter(torch.randn(2, 2))
    state = torch.get_rng_state()
    x = torch.cat([first, second.flatten()])
    loss = 0.5 * x @ matrix @ x
    assert largest_curvature([loss], [first, second]) == pytest.approx(40, rel=0.02)
    assert torch.equal(torch.get_rng_state(), state), "training draws the numbers that it would have drawn"
    loss.backward()  # the graph is still there
    assert first.grad is not None


def test_terms_add_up_and_what_does_not_curve_is_left_out() -> None:
    weight, other = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.randn(3))
    curved = [5 * weight.square().sum(), 2 * weight.square().sum()]
    straight, foreign, constant = (weight * 2).sum(), other.square().sum(), torch.zeros(())
    kink = (weight.square().sum() + 0 * other.sum()).sqrt()
    assert largest_curvature(curved, [weight]) == pytest.approx(14, rel=0.01)
    assert largest_curvature([straight, *curved, foreign, constant, kink], [weight]) == pytest.approx(14, rel=0.01)
    assert largest_curvature([straight, foreign, constant, kink], [weight]) == 0
    assert largest_rate(0, 0.9) == math.inf


@pytest.mark.parametrize(("share", "settles"), [(0.5, True), (0.95, True), (1.05, False), (2.0, False)])
def test_above_the_largest_rate_nesterov_momentum_diverges(share: float, settles: bool) -> None:
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimiser = torch.optim.SGD([x], share * largest_rate(7.0, 0.9), momentum=0.9, nesterov=True)
    for _ in range(400):
        optimiser.zero_grad()
        (3.5 * x.square()).sum().backward()
        optimiser.step()
    assert (abs(x.item()) < 1) is settles


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("data") / "shapes")


def largest_latent_error(folder: Path) -> float:
    """Of the relative distance of Z from the teacher's, over a run."""
    return max(e["terms"].get("kd_latent", {"raw": 0.0})["raw"] for e in open_run(folder).events())


def test_a_part_that_joins_is_not_thrown_off(root: Path, tmp_path: Path) -> None:
    tiny_run(root, tmp_path / "free", "lag", **STEEP)
    bounded = tiny_run(root, tmp_path / "bounded", "lag", **{**STEEP, "optim": {**STEEP["optim"], "steadiness": 0.5}})
    assert largest_latent_error(tmp_path / "free") > 0.5  # as far from the teacher as from nothing
    assert largest_latent_error(tmp_path / "bounded") < 0.1
    assert not [w for w in bounded.warnings if "jumped" in w or "died" in w]
    rates = [e["lr"]["aspp"] for e in bounded.events() if e["step"] == 1]
    curvature = bounded.info["steps"][1]["curvature"]
    assert rates[0] == 0 and 0 < max(rates) <= 0.5 * largest_rate(curvature, 0.9)


def test_without_the_bound_a_run_is_what_it_was(root: Path, tmp_path: Path) -> None:
    run = tiny_run(root, tmp_path / "run", "lag")
    assert all("curvature" not in step for step in run.info["steps"])

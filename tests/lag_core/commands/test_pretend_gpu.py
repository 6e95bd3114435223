"""`--device cuda` without a GPU: book is kept of every tensor's place, and mixing places fails as on a real card.

tests/pretend_gpu.py says what this shows and what it cannot. What the commands write is the same as on the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from moving_runs import with_moving_trunk
from own_adapters import Own, write_checkpoints
from pretend_gpu import CUDA, PLACES, MixedPlaces, PretendGpu
from shapes import tiny_run, write_shapes
from streamlit.testing.v1 import AppTest
from torch import nn

from dashboard.app import PAGES
from dashboard.cache import loaders
from lag_core.cli import main
from lag_core.explain.networks import Networks
from lag_core.explain.survey import read_survey
from lag_core.runs import open_run

torch.set_num_threads(1)

IMAGE = "s18"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose trunk moves (softmax), one with an unknown class (sigmoid), and one behind an adapter."""
    root = tmp_path_factory.mktemp("card")
    data = write_shapes(root / "shapes")
    with_moving_trunk(tiny_run(data, root / "still", "finetune"), root / "runs" / "moving")
    tiny_run(data, root / "runs" / "lag", "lag")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_ADAPTERS", "own_adapters:Own")
        paths = map(str, write_checkpoints(Own(), root / "checkpoints"))
        out = str(root / "runs" / "mine")
        assert main(["adopt", *paths, "--adapter", "own_adapters:Own", "--root", str(data), "--out", out]) == 0
    return root / "runs"


@pytest.fixture
def card(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LAG_RUNS", str(runs))
    monkeypatch.setenv("LAG_DATA", "")
    monkeypatch.setenv("LAG_ADAPTERS", "own_adapters:Own")
    monkeypatch.setenv("LAG_DEVICE", "cuda")


# ---------------------------------------------------------------------- the card itself


@pytest.fixture
def entered(card: None) -> Iterator[None]:
    with PretendGpu():
        yield


def test_places_are_those_of_a_real_card(entered: None) -> None:
    here, there = torch.ones(2, 3).to("cuda"), torch.ones(2, 3)
    assert here.device == CUDA and here.is_cuda and not there.is_cuda and there.device.type == "cpu"
    for made in (here + 1, here[0], here.sum(), torch.zeros_like(here), torch.arange(3, device=here.device)):
        assert made.device == CUDA
    assert here.cpu().device.type == "cpu" and float(here.sum()) == 6
    assert (here * torch.tensor(2.0)).device == CUDA and here[torch.tensor([0])].device == CUDA


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: there[here > 0],
        lambda here, there: nn.Linear(3, 2)(here),
        lambda here, there: nn.Linear(3, 2).to("cuda")(there),
        lambda here, there: torch.where(here > 0, there, there),
        lambda here, there: there.add_(here),
    ],
)
def test_what_a_real_card_refuses_is_refused(wrong: Any, entered: None) -> None:
    with pytest.raises(MixedPlaces):
        wrong(torch.ones(2, 3).to("cuda"), torch.ones(2, 3))


def test_an_array_of_what_lies_on_the_card_is_refused(entered: None) -> None:
    here = torch.ones(3, device="cuda")
    for wrong in (here.numpy, lambda: np.asarray(here)):
        with pytest.raises(TypeError, match="to numpy"):
            wrong()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())


def test_the_backward_pass_is_watched(entered: None) -> None:
    net, x = nn.Conv2d(2, 3, 1).to("cuda"), torch.ones(1, 2, 4, 4, device="cuda", requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x).relu().sum(), x)
    assert gradient.device == CUDA and all(one.device == CUDA for one in net.parameters())


# ---------------------------------------------------------------------- commands


def on_both(arguments: list[str], card: bool) -> None:
    if card:
        with PretendGpu():
            assert main([*arguments, "--device", "cuda"]) == 0
    else:
        assert main([*arguments, "--device", "cpu"]) == 0


@pytest.mark.parametrize("name", ["moving", "lag", "mine"])
def test_evaluate_and_survey_write_the_same(name: str, runs: Path, card: None) -> None:
    found: list[Any] = []
    for where in (False, True):
        on_both(["evaluate", str(runs / name), "--write"], where)
        on_both(["survey", str(runs / name), "--quiet"], where)
        run = open_run(runs / name)
        survey = read_survey(run)
        found.append((run.confusions(), survey.prototypes, survey.channel_energy))
    for one, other in zip(*found, strict=True):
        assert np.array_equal(one, other, equal_nan=True)


@pytest.mark.parametrize("name", ["moving", "lag", "mine"])
def test_explain_writes_the_same(name: str, runs: Path, card: None, tmp_path: Path, monkeypatch: Any) -> None:
    written = []
    for where in (False, True):
        monkeypatch.setenv("LAG_CACHE", str(tmp_path / f"cache-{where}"))
        out = tmp_path / f"explained-{where}"
        step = str(open_run(runs / name).last_step)
        options = ["--image", IMAGE, "--class", "red", "--step", step, "--quiet", "--out", str(out)]
        on_both(["explain", str(runs / name), *options], where)
        with np.load(out / "arrays.npz") as arrays:
            written.append({key: arrays[key] for key in arrays.files})
    assert written[0].keys() == written[1].keys() and len(written[0]) > 10
    for key, one in written[0].items():
        np.testing.assert_array_equal(one, written[1][key], key)


# ---------------------------------------------------------------------- pages


@pytest.mark.parametrize("name", ["moving", "lag", "mine"])
def test_every_page_is_drawn(name: str, runs: Path, card: None) -> None:
    run = open_run(runs / name)
    script = "from dashboard.app import main\nfrom pretend_gpu import PretendGpu\nwith PretendGpu():\n    main({!r})"
    for entry in PAGES:
        app = AppTest.from_string(script.format(entry.slug), default_timeout=100)
        choices = {"run": name, "image": IMAGE, "class": "red", "step": str(run.last_step), "method": "lrp"}
        app.query_params.update(choices)
        app.run()
        assert not app.exception and not app.error, (entry.slug, [one.value for one in app.error])
    networks = loaders.networks(run)
    assert networks.device.type == "cuda" and isinstance(networks, Networks)
    network = networks.steps[0]
    tensors = [one for one in (*network.parameters(), *network.buffers()) if one.is_floating_point()]
    assert tensors and all(PLACES.has(one) for one in tensors)

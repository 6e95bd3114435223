"""The published rows: one file each, alike but for their data, and each mode trains on the official layout."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from published_trees import WRITERS
from repository import ROOT

from lag_core.commands.train import read_config
from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.reporting import Reporter

CONFIGS = ROOT / "configs"
ROWS = {
    "voc": ("19-1", "15-5", "15-1", "10-1", "5-3"),
    "ade20k": ("100-50", "100-10", "100-5", "50-50"),
    "isprs": ("4-1", "2-3", "2-2-1", "2-1"),
}
NAMES = [f"{dataset}-{task}" for dataset, tasks in ROWS.items() for task in tasks]
MODES = ("lag", "lag+", "reference", "finetune", "mib", "plop", "joint")
SMALL = (
    "data.size=33", "data.workers=0", 'model.backbone="mobilenet_v2"', 'model.weights="none"', "model.latent=8",
    "model.head_width=4", "model.aspp_rates=[1]", "model.separable=true", "optim.epochs=1", "optim.epochs_later=1",
    "optim.batch=4", "optim.threads=1", 'optim.device="cpu"', 'optim.amp="off"', "data.fraction=0.2",
)  # fmt: skip
TRAINED = [
    *(("voc-15-5", mode) for mode in MODES),
    *((name, MODES[place % len(MODES)]) for place, name in enumerate(NAMES) if name != "voc-15-5"),
]
"""Each mode on one row, and each row in one mode: all pairs would take minutes."""

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITERS.items()}


def test_files_differ_in_their_data_alone() -> None:
    tables = [tomllib.loads((CONFIGS / f"{name}.toml").read_text()) for name in NAMES]
    rest = [{key: value for key, value in one.items() if key != "data"} for one in tables]
    assert all(one == rest[0] for one in rest)
    varied = {"dataset", "root", "task", "domains"}
    data = [{key: value for key, value in one["data"].items() if key not in varied} for one in tables]
    assert all(one == data[0] for one in data)
    assert [f"{one['data']['dataset']}-{one['data']['task']}" for one in tables] == NAMES


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_each_row_resolves_in_each_mode(name: str, mode: str) -> None:
    config = read_config(CONFIGS / f"{name}.toml", mode)
    assert config.data.augmentation == "field" and config.optim.label_stride == 1
    assert (config.model.shared == "none") == (mode in ("finetune", "mib", "plop"))


@pytest.mark.parametrize(("name", "mode"), TRAINED)
def test_a_row_trains_its_first_two_steps(
    trees: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mode: str
) -> None:
    monkeypatch.setenv("LAG_CACHE", str(trees["isprs"] / "cache"))
    root = trees[name.partition("-")[0]]
    config = read_config(CONFIGS / f"{name}.toml", mode, [*SMALL, f'data.root="{root}"'])
    training = ContinualTraining(config, tmp_path / "run", Reporter(True), FeatureStore())
    monkeypatch.setattr("lag_core.training.continual.Batches.total", property(lambda self: 2))
    model = None
    for step in range(min(2, len(training.labels.steps))):
        model = training._step(model, step)
    assert model is not None
    done = training.journal.info["steps"]
    assert len(done) == (1 if mode == "joint" else 2)
    if mode in ("finetune", "mib", "plop"):
        assert done[1]["trained"] == ["heads", "aspp", "stage"]
    losses = [event["loss"] for event in _events(tmp_path / "run")]
    assert losses and all(loss > 0 for loss in losses)


def _events(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]

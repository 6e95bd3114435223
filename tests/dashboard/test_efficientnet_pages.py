"""A run on EfficientNet-Lite0, trained for a moment from random weights: doctor, survey, evaluate, pages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from shapes import write_shapes
from streamlit.testing.v1 import AppTest

from lag_core.cli import main
from lag_core.runs import open_run

CONFIG = """
[data]
dataset = "folder"
root = "ROOT"
task = "2-2"
size = 32
views = 1
holdout = 0.0

[model]
backbone = "efficientnet_lite0"
skip = "layer3"
latent = 8
head_width = 6

[optim]
epochs = 1
epochs_later = 1
batch = 8
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("lite")
    data, out = write_shapes(root / "shapes"), root / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_RUNS", str(out))
        patch.setenv("LAG_DATA", "")
        patch.setenv("LAG_CACHE", str(root / "cache"))
        config = root / "lite.toml"
        config.write_text(CONFIG.replace("ROOT", str(data)))
        assert main(["train", "--config", str(config), "--method", "lag", "--out", str(out / "lite"), "--quiet"]) == 0
        assert main(["survey", str(out / "lite"), "--quiet", "--device", "cpu"]) == 0
        yield out


def test_the_run_names_its_backbone_and_holds_together(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert open_run(runs / "lite").config.model.backbone == "efficientnet_lite0"
    assert main(["evaluate", str(runs / "lite"), "--device", "cpu"]) == 0
    assert main(["doctor", "--runs", str(runs)]) == 0
    assert "lite" in capsys.readouterr().out


@pytest.mark.parametrize("page", ["start", "channels", "relevance", "why"])
def test_pages_that_run_its_network(runs: Path, page: str) -> None:
    app = AppTest.from_string(f"from dashboard.app import main; main(default={page!r})", default_timeout=200)
    app.query_params.update({"run": "lite", "image": "s20", "step": "1", "class": "red"})
    app.run()
    assert not app.exception and not app.error, [one.value for one in app.error]

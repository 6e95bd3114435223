"""Every page of a run behind an adapter, and of stored label maps: what lacks is said, nothing breaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import own_adapters
import pytest
from own_adapters import Own, Shapes, Smooth, write_checkpoints
from PIL import Image
from shapes import write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from lag_core.cli import main
from lag_core.data.folder import open_folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("foreign")
    data, out = write_shapes(root / "shapes"), root / "runs"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LAG_RUNS", str(out))
        patch.setenv("LAG_DATA", "")
        patch.setenv("LAG_CACHE", str(root / "cache"))
        patch.setenv("LAG_ADAPTERS", "own_adapters:Own,own_adapters:Smooth")
        paths = map(str, write_checkpoints(Own(), root / "checkpoints"))
        common = ["--root", str(data), "--out"]
        assert main(["adopt", *paths, "--adapter", "own_adapters:Own", *common, str(out / "mine")]) == 0
        smooth = map(str, write_checkpoints(Smooth(), root / "smooth"))
        assert main(["adopt", *smooth, "--adapter", "own_adapters:Smooth", *common, str(out / "smooth")]) == 0
        folders = [str(label_maps(data, root / f"step-{step}", step)) for step in range(2)]
        assert main(["import-predictions", *folders, "--task", "2-2", *common, str(out / "maps")]) == 0
        for name in ("mine", "maps"):
            assert main(["survey", str(out / name), "--quiet", "--device", "cpu"]) == 0
        yield out


def label_maps(data: Path, out: Path, step: int) -> Path:
    """The truth with the classes still to come, and the upper quarter, called background."""
    out.mkdir()
    dataset = open_folder(data)
    for name in dataset.ids("val"):
        mask = dataset.mask(name)
        mask = np.where(mask > 2 + 2 * step, 0, mask).astype(np.uint8)
        mask[: 8 * step] = 0
        Image.fromarray(mask).save(out / f"{name}.png")
    return out


def drawn(page: str, run: str, **choices: str) -> AppTest:
    app = AppTest.from_string(f"from dashboard.app import main; main(default={page!r})", default_timeout=200)
    app.query_params.update({"run": run, "image": "s20", "step": "1", "class": "red", **choices})
    return app.run()


@pytest.mark.parametrize("page", [entry.slug for entry in PAGES])
@pytest.mark.parametrize("run", ["mine", "maps"])
def test_every_page_of_a_foreign_run(runs: Path, run: str, page: str) -> None:
    app = drawn(page, run)
    assert not app.exception and not app.error, [one.value for one in app.error]


@pytest.mark.parametrize("page", ["channels", "relevance", "prototypes", "why"])
def test_what_label_maps_lack_is_said_with_a_remedy(runs: Path, page: str) -> None:
    sentences = [one.value for one in drawn(page, "maps").warning]
    assert sentences and all("lag adopt" in one for one in sentences)


def test_lrp_is_offered_where_every_layer_has_a_rule(runs: Path) -> None:
    app = drawn("relevance", "mine")
    chosen = next(one for one in app.selectbox if one.label == "Method")
    assert "LRP, composite" in chosen.options
    assert any("nothing is lost or made up" in one.value for one in app.caption)


def test_no_lrp_is_offered_for_a_network_with_gelu(runs: Path) -> None:
    app = drawn("relevance", "smooth")
    offered = next(one.options for one in app.selectbox if one.label == "Method")
    assert "gradient × input" in offered and not any("LRP" in one for one in offered)
    assert any("promises no conservation" in one.value for one in app.caption)


@pytest.mark.parametrize("depth", ["latent", "pixels"])
def test_the_gap_of_gradient_times_input_is_said(runs: Path, depth: str) -> None:
    """Of a network with GELU: the map's sum against the explained score, at Z and at the pixels."""
    app = drawn("relevance", "smooth", method="gradient-x-input", depth=depth)
    said = [one.value for one in app.caption if "misses the explained score by" in one.value]
    assert len(said) == 1 and not app.error


TRANSFORMERS = {"SegFormer": "transformers", "Mask2Former": "transformers", "UNet": "segmentation_models_pytorch"}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_page_of_a_network_of_another_library(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transplant of a channel and the swap board included; LRP is offered for the UNet alone."""
    pytest.importorskip(TRANSFORMERS[name], reason=f"pip install 'lag[adapters]' brings {TRANSFORMERS[name]}")
    adapter: Shapes = getattr(own_adapters, name)()
    data, out = write_shapes(tmp_path / "shapes"), tmp_path / "runs" / "net"
    for variable, value in (("LAG_RUNS", out.parent), ("LAG_DATA", ""), ("LAG_CACHE", tmp_path / "cache")):
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setenv("LAG_ADAPTERS", f"own_adapters:{name}")
    paths = map(str, write_checkpoints(adapter, tmp_path / "checkpoints"))
    assert main(["adopt", *paths, "--adapter", f"own_adapters:{name}", "--root", str(data), "--out", str(out)]) == 0
    for entry in PAGES:
        app = drawn(entry.slug, "net")
        assert not app.exception and not app.error, (entry.slug, [one.value for one in app.error])
    transplanted = drawn("channels", "net", channel="3", without="old")
    assert not transplanted.error and not transplanted.warning
    offered = next(one.options for one in drawn("relevance", "net").selectbox if one.label == "Method")
    assert any("LRP" in one for one in offered) == (name == "UNet")

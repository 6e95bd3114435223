"""The report and the files of `explain`: complete in themselves, escaped, the same every time; plots as text."""

from __future__ import annotations

import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import screenshot, window
from PIL import Image
from shapes import tiny_run, write_shapes

from lag_core.cli import main
from lag_core.data.pictures import read_image
from lag_core.explain import rendering, svg
from lag_core.explain.forgetting import Fate
from lag_core.explain.report import command_line
from lag_core.explain.svg import Band, Line
from lag_core.protocol import ClassInfo
from lag_core.runs import open_run

torch.set_num_threads(1)
HOSTILE = "<script>alert(\"1\")</script><img src=x onerror=alert(2)>\u202e & 'quoted'"
VOID = {"meta", "img", "br", "line", "circle", "path", "polygon", "i"}


class Elements(HTMLParser):
    """Elements with their attributes, text, and whether every element is closed in order."""

    def __init__(self, page: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID - {"i"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose class 1 has a hostile name."""
    root = write_shapes(tmp_path_factory.mktemp("report") / "shapes", val_images=8)
    classes = json.loads((root / "classes.json").read_text())
    classes[1]["name"] = HOSTILE
    (root / "classes.json").write_text(json.dumps(classes))
    return tiny_run(root, root.parent / "runs" / "tiny", "finetune").path


@pytest.fixture(scope="module")
def page(hostile_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report.html"
    assert main([*arguments(hostile_run), "--class", HOSTILE, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def compared_page(hostile_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "beside.html"
    extra = ["--class", HOSTILE, "--against", str(hostile_run), "--image-only", "--out", str(out)]
    assert main([*arguments(hostile_run), *extra]) == 0
    return out


def arguments(run: Path, verb: str = "report") -> list[str]:
    return [verb, str(run), "--image", first_image(run), "--quiet"]


def first_image(run: Path) -> str:
    """A validation image that shows class 1."""
    dataset = open_run(run).open_dataset()
    return next(name for name in dataset.ids("val") if 1 in dataset.mask(name))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAG_CACHE", str(tmp_path_factory.getbasetemp() / "lag-cache"))


def test_nothing_comes_from_elsewhere(page: Path) -> None:
    elements = Elements(page.read_text("utf-8"))
    assert not elements.open, f"left open: {elements.open}"
    tags = {tag for tag, _ in elements.found}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base", "form", "a", "audio", "video"}
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} has {name}"
            if name in {"src", "href", "data", "poster", "srcset", "action", "xlink:href"}:
                assert (value or "").startswith("data:image/"), f"{tag} {name}={value}"
            if tag != "meta":
                assert "//" not in (value or "") or name == "src"
    style = re.search(r"<style>(.*?)</style>", page.read_text("utf-8"), re.S)
    assert style and "url(" not in style[1] and "@import" not in style[1] and "prefers-color-scheme: dark" in style[1]
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_names_are_text(page: Path) -> None:
    raw = page.read_text("utf-8")
    assert "<script" not in raw and "<img src=x" not in raw and "\u202e" not in raw
    shown = " ".join(Elements(raw).text)
    assert '<script>alert("1")</script>' in shown and "was" in shown


def test_everything_that_was_asked_for_is_in_it(page: Path, hostile_run: Path) -> None:
    run = open_run(hostile_run)
    elements = Elements(page.read_text("utf-8"))
    shown = " ".join(elements.text)
    captions = [a["alt"] or "" for tag, a in elements.found if tag == "img"]
    for step in range(len(run.steps)):
        assert any(c.startswith(f"step {step} ") for c in captions)
    assert "picture" in captions and "ground truth" in captions
    assert any(c.startswith("fate of each pixel") for c in captions)
    assert sum(c.startswith("LRP at step") for c in captions) == 2
    for entry in run.info["steps"]:
        assert entry["files"][0]["sha256"] in shown
    assert run.digest in shown and "optim.epochs_later" in shown and torch.__version__.split("+")[0] in shown
    assert "On this picture" in shown and "On the validation set" in shown
    command = command_line("report", run, first_image(hostile_run), 1, run.last_step, str(page))
    assert " ".join(command.replace("\u202e", "\\u202e").split()) in " ".join(shown.split())


def test_the_same_call_gives_the_same_bytes(page: Path, hostile_run: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.html"
    assert main([*arguments(hostile_run), "--class", HOSTILE, "--out", str(again)]) == 0
    one, other = (p.read_text("utf-8").replace(str(p), "OUT") for p in (page, again))
    assert one == other


def test_the_compared_run_stands_beside_the_run(page: Path, compared_page: Path, hostile_run: Path) -> None:
    """The same run beside itself: each map of a step twice, and the same numbers of fates in both columns."""
    alone, beside = (Elements(path.read_text("utf-8")) for path in (page, compared_page))
    maps = [sum(alt.startswith("step ") for alt in _alts(one)) for one in (alone, beside)]
    assert maps[1] == 2 * maps[0] > 0
    own = [dict(attributes)["src"] for tag, attributes in beside.found if tag == "img"]
    assert len(own) - len(set(own)) >= maps[0], "the maps of both are the same pictures"
    assert "the compared run" in " ".join(beside.text)


def test_the_swap_board_has_four_pictures(page: Path) -> None:
    board = [alt for alt in _alts(Elements(page.read_text("utf-8"))) if alt.startswith("features ")]
    assert len(board) == 4 and all("IoU of" in alt for alt in board)


def test_files_of_this_machine_are_named_from_the_working_folder(
    hostile_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mask = open_run(hostile_run), hostile_run.parents[1] / "shapes" / "mask.png"

    def words() -> list[str]:
        return shlex.split(command_line("report", run, str(mask), 1, 2, "out.html", mask=mask, against=run.path))

    monkeypatch.chdir(hostile_run.parents[1])
    assert words()[2] == "runs/tiny" and words()[4] == words()[6] == "shapes/mask.png"
    monkeypatch.chdir(Path(__file__).parent)
    assert words()[2] == "tiny" and words()[6] == "mask.png" and str(hostile_run.parent) not in " ".join(words())


def test_the_legend_names_the_threshold_at_which_the_maps_were_drawn(hostile_run: Path, tmp_path: Path) -> None:
    other = tiny_run(Path(open_run(hostile_run).config.data.root), tmp_path / "runs" / "bce", "reference")
    out = tmp_path / "beside.html"
    extra = ["--class", HOSTILE, "--against", str(other.path), "--image-only", "--none-below", "0.99"]
    assert main([*arguments(hostile_run), *extra, "--own-shares", "--out", str(out)]) == 0
    shown = " ".join(Elements(out.read_text("utf-8")).text)
    assert "none: no class above 99 %" in shown and "above 0 %" not in shown
    assert "The difference between the parts' shares in each run" in shown
    assert "--own-shares --none-below 0.99" in shown


def _alts(page: Elements) -> list[str]:
    return [attributes["alt"] or "" for tag, attributes in page.found if tag == "img"]


def test_a_report_is_never_written_over(page: Path, hostile_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = page.read_bytes()
    assert main([*arguments(hostile_run), "--out", str(page)]) == 2
    assert "is never overwritten" in capsys.readouterr().err and page.read_bytes() == before


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["--class", "nobody"], "is not a class of"),
        (["--step", "7"], "has no step 7"),
        (["--image", "nothing.png"], "is neither a file nor a validation image"),
        (["--mask", "m.png"], "--mask needs a picture file"),
    ],
)
def test_a_mistake_is_a_sentence(
    hostile_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: list[str], sentence: str
) -> None:
    assert main([*arguments(hostile_run), *extra, "--out", str(tmp_path / "x.html")]) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "x.html").exists()


def test_a_picture_without_a_mask(hostile_run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "<b>own.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)).save(picture)
    out = tmp_path / "own.html"
    asked = ["report", str(hostile_run), "--image", str(picture), "--image-only", "--quiet", "--out", str(out)]
    assert main(asked) == 0
    shown = " ".join(Elements(out.read_text("utf-8")).text)
    assert "no annotation" in shown and "<b>own.png" in shown


def test_explain_writes_arrays_pictures_and_words(hostile_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "explained"
    assert main([*arguments(hostile_run, "explain"), "--class", HOSTILE, "--out", str(out)]) == 0
    run = open_run(hostile_run)
    found = np.load(out / "arrays.npz")
    height, width = found["image"].shape[:2]
    assert found["predictions"].shape == (len(run.steps), height, width)
    assert found["relevance.step_02.map"].shape == (height, width)
    assert found["relevance.step_02.conservation"] < 1e-3
    assert found["channels.distance"].shape == (run.config.model.latent,)
    assert found["why.validation.iou"].shape == (len(run.steps),)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["class"] == HOSTILE and summary["run"]["digest"] == run.digest
    assert summary["verdicts"]["validation"][0]["topic"] == "iou"
    for name in ("step_00", "step_02", "truth", "provenance", "relevance_step_02", "energy_invariant"):
        assert read_image(out / f"{name}.png").shape == (height, width, 3)
    assert main([*arguments(hostile_run, "explain"), "--out", str(out)]) == 2, "files are never replaced"


# ---------------------------------------------------------------------- pictures and plots


def test_overlays_mix_colour_and_photo() -> None:
    image = np.full((1, 3, 3), 100, np.uint8)
    classes = [ClassInfo(0, "a", (200, 0, 0)), ClassInfo(1, "b", (0, 200, 0))]
    found = rendering.overlay(image, np.array([[0, 1, 255]], np.uint8), classes, 0.5)
    assert found.tolist() == [[[150, 50, 50], [50, 150, 50], [100, 100, 100]]]
    bare = rendering.overlay(image, np.array([[0, 1, 255]], np.uint8), classes, 0.5, clear=0)
    assert bare.tolist() == [[[100, 100, 100], [50, 150, 50], [100, 100, 100]]], "the background leaves the photo"
    states = np.array([[Fate.KEPT, Fate.ABSENT, Fate.IGNORED]], np.uint8)
    assert rendering.fates(image, states, 1.0).tolist() == [[[0, 0x72, 0xB2], [100] * 3, [100] * 3]]


def test_scales_begin_and_end_where_they_should() -> None:
    values = np.array([[0.0, 0.5, 1.0]])
    assert rendering.strength(values, 1.0)[0, [0, 2]].tolist() == [list(c) for c in rendering.STRENGTH[::3]]
    both = rendering.signed(np.array([[-2.0, 0.0, 2.0]]), 2.0)[0].tolist()
    assert both == [list(rendering.SIGNED[i]) for i in (0, 2, 4)]
    assert rendering.strength(np.zeros((2, 2))).tolist() == [[list(rendering.STRENGTH[0])] * 2] * 2
    assert rendering.signed(np.zeros((2, 2))).tolist() == [[list(rendering.SIGNED[2])] * 2] * 2


def test_a_plot_places_its_values() -> None:
    x = np.array([0.0, 1.0, 2.0])
    drawn = svg.line_plot(
        x,
        [Line("a <b>", np.array([0.0, 10.0, np.nan])), Line("gone", np.full(3, np.nan), 2)],
        [Band("band", np.array([0.0, 1.0, 2.0]), np.array([2.0, 4.0, 6.0]))],
        title='"t" & <x>',
        x_title="step",
        y_title="IoU",
        limits=(0, 10),
    )
    elements = Elements(drawn)
    assert not elements.open
    circles = [a for tag, a in elements.found if tag == "circle"]
    right, bottom = svg.WIDTH - svg.RIGHT, svg.HEIGHT - svg.BOTTOM
    middle = (svg.LEFT + right) / 2
    assert [(float(c["cx"] or 0), float(c["cy"] or 0)) for c in circles] == [(svg.LEFT, bottom), (middle, svg.TOP)]
    (polygon,) = (a["points"] or "" for tag, a in elements.found if tag == "polygon")
    assert len(polygon.split()) == 6
    assert "a <b>" in elements.text and "<b>" not in drawn.replace("<b>&quot;", "")


def test_a_line_breaks_where_values_lack() -> None:
    values = np.array([1.0, np.nan, 1.0, 1.0])
    drawn = svg.line_plot(np.arange(4.0), [Line("a", values)], title="t", x_title="", y_title="", limits=(0, 2))
    (path,) = re.findall(r' d="([^"]+)"', drawn)
    assert path.count("M") == 2 and path.count("L") == 1


@pytest.mark.parametrize(("low", "high"), [(0, 100), (0, 1), (-0.31, 0.02), (0, 7e-5), (-1, 1), (3, 4)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert 2 <= len(found) <= 6 and min(found) >= low - 1e-9 and max(found) <= high + 1e-9
    unit = found[1] - found[0]
    assert f"{unit:.0e}"[0] in "125"


def test_a_plot_without_a_value_is_drawn_empty() -> None:
    drawn = svg.line_plot(np.array([0.0]), [Line("a", np.array([np.nan]))], title="t", x_title="", y_title="")
    assert "<path" not in drawn and "nan" not in drawn


# ---------------------------------------------------------------------- in a browser


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_opens_offline_without_a_word(browser: Any, page: Path, scheme: Any, width: int) -> None:
    with window(browser, page.as_uri(), width=width, scheme=scheme, fresh=True) as opened:
        requests: list[str] = []
        opened.on("request", lambda request: requests.append(request.url))
        opened.context.set_offline(True)
        opened.reload()
        assert all(url.startswith(("file:", "data:")) for url in requests)
        assert opened.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        background = opened.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 24, 28)")
        screenshot(opened, f"report-{scheme}-{width}")

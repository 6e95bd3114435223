"""The image viewer and the gallery in a real browser: what is drawn, what is said, what crosses the wire."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import viewer_demo
from browser import screenshot, served, settle, window
from PIL import Image

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page, Position

pytestmark = pytest.mark.browser

H, W = viewer_demo.SIZE, 128
BUILDING, TREE, CLUTTER = 1, 3, 5
ROOF = (30, 24)
"""A pixel (x, y) inside the first house."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served("tests/viewer_demo.py") as address:
        yield address


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with window(browser, url) as opened:
        ready(opened)
        yield opened


def ready(page: Page) -> None:
    """Wait for the first drawing."""
    page.wait_for_selector(".viewer .item")
    page.wait_for_selector(".gallery .entry")
    settle(page)


def stage(page: Page) -> Locator:
    return page.locator(".viewer .stage")


GEOMETRY = """canvas => {
    const scale = Math.min(canvas.width / %d, canvas.height / %d);
    return {width: canvas.width, height: canvas.height, scale, css: canvas.getBoundingClientRect().width,
            x: Math.round(canvas.width / 2 - %d * scale), y: Math.round(canvas.height / 2 - %d * scale)};
}""" % (W, H, W // 2, H // 2)  # noqa: UP031


def place(page: Page, x: float, y: float) -> Position:
    """CSS position on the stage of the middle of the picture's pixel (x, y); the whole picture is shown."""
    g = page.locator(".viewer .stage canvas").evaluate(GEOMETRY)
    density = g["width"] / g["css"]
    left, top = g["x"] + (x + 0.5) * g["scale"], g["y"] + (y + 0.5) * g["scale"]
    return {"x": left / density, "y": top / density}


def pixels(page: Page) -> np.ndarray:
    """The stage's canvas, uint8 [height, width, 4], at device density."""
    settle(page)
    canvas = page.locator(".viewer .stage canvas")
    encoded = canvas.evaluate("c => c.toDataURL('image/png').split(',')[1]")
    return np.array(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))


def colour(page: Page, x: int, y: int) -> tuple[int, ...]:
    """Colour on the stage in the middle of the picture's pixel (x, y)."""
    g = page.locator(".viewer .stage canvas").evaluate(GEOMETRY)
    shown = pixels(page)
    return tuple(int(v) for v in shown[int(g["y"] + (y + 0.5) * g["scale"]), int(g["x"] + (x + 0.5) * g["scale"])])


def opaque(page: Page) -> None:
    """Overlay at 100 %: the stage shows the palette's own colours."""
    page.get_by_role("slider", name="Overlay").fill("1")


def step_slider(page: Page) -> Locator:
    return page.get_by_test_id("stSlider").first.get_by_role("slider")


def readout(page: Page, line: int) -> str:
    return page.locator(".viewer .line").nth(line).inner_text()


def bilinear(grid: np.ndarray, x: int, y: int) -> np.ndarray:
    """Probabilities [K] at a pixel, by summing over all cells with tent weights: slow and obvious."""
    h, w, _ = grid.shape
    row = np.clip((y + 0.5) * h / H - 0.5, 0, h - 1)
    column = np.clip((x + 0.5) * w / W - 0.5, 0, w - 1)
    wy = np.maximum(0, 1 - np.abs(np.arange(h) - row))
    wx = np.maximum(0, 1 - np.abs(np.arange(w) - column))
    return np.einsum("i,j,ijk->k", wy, wx, grid.astype(float)) / 255


@pytest.mark.parametrize("density", [1.0, 2.0, 1.5])
def test_labels_are_drawn_on_the_pixel_grid(browser: Browser, url: str, density: float) -> None:
    with window(browser, url, density=density) as page:
        ready(page)
        opaque(page)
        shown = pixels(page)
        g = page.locator(".viewer .stage canvas").evaluate(GEOMETRY)
        assert abs(g["width"] - g["css"] * density) < 1
        labels = viewer_demo.scene()[1][2].labels
        assert labels is not None
        for y in (5, 30, 66):
            # Every device pixel whose middle is clearly inside a picture pixel has that pixel's colour.
            row = shown[int(g["y"] + (y + 0.5) * g["scale"])]
            for column in range(g["x"] + 2, int(g["x"] + W * g["scale"]) - 2):
                at = (column + 0.5 - g["x"]) / g["scale"]
                if min(at % 1, 1 - at % 1) * g["scale"] > 1:
                    assert tuple(row[column][:3]) == tuple(viewer_demo.PALETTE[labels[y, int(at)]])


def test_readout_gives_each_steps_probabilities_without_the_server(browser: Browser, url: str) -> None:
    with window(browser, url) as page:
        ready(page)
        page.evaluate(
            "() => { const send = WebSocket.prototype.send; window.frames_sent = 0;"
            "WebSocket.prototype.send = function (data) { window.frames_sent++; send.call(this, data); } }"
        )
        _, layers, grids = viewer_demo.scene()
        for x, y in [ROOF, (43, 30), (0, 0), (127, 95), (100, 22)]:
            stage(page).hover(position=place(page, x, y))
            for step in range(3):
                labels = layers[step + 1].labels
                assert labels is not None
                own = labels[y, x]
                chance = bilinear(grids[step].values, x, y)
                text = readout(page, step + 1)
                assert viewer_demo.NAMES[own] in text
                assert f"{round(chance[own] * 100)} %" in text
                runner_up = max((k for k in range(6) if k != own), key=lambda k: chance[k])
                assert f"{round(chance[runner_up] * 100)} %" in text
        assert page.evaluate("window.frames_sent") == 0


def test_readout_names_truth_and_value(page: Page) -> None:
    stage(page).hover(position=place(page, *ROOF))
    assert "building" in readout(page, 0)
    heat = np.linspace(-1, 1, H * W, dtype=np.float32).reshape(H, W)[ROOF[1], ROOF[0]]
    assert f"−{abs(heat):.3f}" in readout(page, 4)
    assert "per pixel" in readout(page, 4)
    stage(page).hover(position=place(page, 125, 50))
    assert "no label" in readout(page, 0)


def test_a_class_is_switched_off_and_on(page: Page) -> None:
    opaque(page)
    before = colour(page, *ROOF)
    assert before[:3] == tuple(viewer_demo.PALETTE[BUILDING])
    button = page.locator(".viewer .legend").get_by_role("button", name="building")
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    stage(page).hover(position={"x": 3, "y": 3})  # away from the legend: pointed at, it highlights
    picture = np.array(Image.open(io.BytesIO(viewer_demo.scene()[0])))
    assert np.abs(np.array(colour(page, *ROOF)[:3]) - picture[ROOF[1], ROOF[0]].astype(int)).max() <= 2
    page.locator(".viewer .legend .link").click()
    stage(page).hover(position={"x": 3, "y": 3})
    assert colour(page, *ROOF) == before


def test_only_one_class(page: Page) -> None:
    page.locator(".viewer .legend").get_by_role("button", name="tree").dblclick()
    pressed = page.locator(".viewer .class[aria-pressed=true]")
    assert pressed.count() == 1
    assert pressed.inner_text() == "tree"
    page.locator(".viewer .legend").get_by_role("button", name="tree").dblclick()
    assert page.locator(".viewer .class[aria-pressed=true]").count() == len(viewer_demo.NAMES) + 1, "and none"


def test_threshold_clears_what_the_network_is_unsure_of(page: Page) -> None:
    opaque(page)
    chance = bilinear(viewer_demo.scene()[2][1].values, *ROOF)[BUILDING]
    tree = bilinear(viewer_demo.scene()[2][1].values, 102, 22)[TREE]
    assert chance < 0.6 < tree
    page.get_by_role("slider", name="Confidence ≥").fill("0.6")
    assert colour(page, *ROOF)[:3] != tuple(viewer_demo.PALETTE[BUILDING])
    assert colour(page, 102, 22)[:3] == tuple(viewer_demo.PALETTE[TREE])


def test_right_and_wrong(page: Page) -> None:
    step_slider(page).press("ArrowRight")  # step 2 takes houses for clutter
    opaque(page)
    page.get_by_role("button", name="Right / wrong").click()
    assert colour(page, *ROOF)[:3] == (213, 94, 0)
    assert colour(page, 102, 22)[:3] == (0, 114, 178)


def test_none_is_grey_and_named_everywhere(page: Page) -> None:
    """Step 0 has a patch for which no class stands out: picture, legend, read-out and threshold say the same."""
    opaque(page)
    step_slider(page).press("ArrowLeft")
    page.locator(".viewer .item[aria-pressed=true]", has_text="Step 0").wait_for()
    assert colour(page, 55, 86)[:3] == (96, 96, 96)
    page.locator(".viewer .legend").get_by_role("button", name="none: no class above 50 %").wait_for()
    stage(page).hover(position=place(page, 55, 86))
    line = page.locator(".viewer .line", has_text="Step 0")
    assert "none: no class above 50 %" in line.inner_text()
    assert "low vegetation 50%" in line.inner_text().replace("\u202f", "").replace("\u00a0", "").replace(" %", "%")
    page.get_by_role("slider", name="Confidence ≥").fill("0.6")
    assert colour(page, 55, 86)[:3] != (96, 96, 96)
    assert colour(page, 102, 22)[:3] == tuple(viewer_demo.PALETTE[TREE])


def test_classes_that_a_step_does_not_know_are_neither_right_nor_wrong(page: Page) -> None:
    """Step 1 of the scene does not know cars."""
    opaque(page)
    page.get_by_role("button", name="Right / wrong").click()
    assert colour(page, 34, 66)[:3] == (204, 204, 204)
    assert colour(page, 102, 22)[:3] == (0, 114, 178)
    marks = page.locator(".viewer .marks")
    assert "not yet known" in marks.inner_text()
    page.get_by_role("button", name="Classes", exact=True).click()
    assert not marks.is_visible()


def test_outlines_run_along_borders(page: Page) -> None:
    page.get_by_role("slider", name="Overlay").fill("0")
    before = pixels(page)
    page.get_by_role("button", name="Outlines").click()
    changed = (pixels(page) != before).any(-1)
    g = page.locator(".viewer .stage canvas").evaluate(GEOMETRY)
    labels = viewer_demo.scene()[1][2].labels
    assert labels is not None
    ys, xs = np.nonzero(changed)
    assert len(xs) > 500
    for x, y in list(zip(xs, ys, strict=True))[::97]:
        px, py = (x + 0.5 - g["x"]) / g["scale"], (y + 0.5 - g["y"]) / g["scale"]
        near = labels[max(0, int(py - 0.8)) : int(py + 0.8) + 1, max(0, int(px - 0.8)) : int(px + 0.8) + 1]
        assert len(np.unique(near)) > 1, f"an outline at {px:.1f}, {py:.1f}, inside a segment"


def test_swipe_by_key_and_by_drag(page: Page) -> None:
    from playwright.sync_api import expect

    step_slider(page).press("ArrowRight")
    page.get_by_text("Compare with step 0").click()
    divider = page.locator(".viewer .divider")
    divider.wait_for()
    opaque(page)
    step_two, step_zero = tuple(viewer_demo.PALETTE[CLUTTER]), tuple(viewer_demo.PALETTE[BUILDING])
    assert colour(page, *ROOF)[:3] == step_two  # left of the middle
    assert colour(page, 74, 30)[:3] == step_zero
    settle(page)
    divider.press("Home")
    expect(divider).to_have_attribute("aria-valuenow", "0")
    assert colour(page, *ROOF)[:3] == step_zero
    divider.press("End")
    expect(divider).to_have_attribute("aria-valuenow", "100")
    assert colour(page, 74, 30)[:3] == step_two
    divider.press("Shift+ArrowLeft")
    expect(divider).to_have_attribute("aria-valuenow", "90")
    box, target = divider.bounding_box(), place(page, W / 4, 50)
    area = stage(page).bounding_box()
    assert box and area
    page.mouse.move(box["x"] + 12, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(area["x"] + target["x"], area["y"] + 60, steps=4)
    page.mouse.up()
    assert abs(int(divider.get_attribute("aria-valuenow") or 0) - 25) <= 1


def test_side_by_side_shows_both(page: Page) -> None:
    step_slider(page).press("ArrowRight")
    page.get_by_text("Compare with step 0").click()
    page.get_by_role("button", name="Side by side").click()
    opaque(page)
    shown = pixels(page)
    left, right = shown[:, : shown.shape[1] // 2], shown[:, shown.shape[1] // 2 :]
    blue = tuple(viewer_demo.PALETTE[BUILDING])
    assert not (left[..., :3] == blue).all(-1).any()
    assert (right[..., :3] == blue).all(-1).any()
    assert page.locator(".viewer .tag").all_inner_texts() == ["Step 2", "Step 0"]


def test_view_survives_a_rerun_and_zero_resets_it(page: Page) -> None:
    zoom = page.locator(".viewer .zoom")
    whole = zoom.inner_text()
    stage(page).hover(position=place(page, *ROOF))
    page.mouse.wheel(0, -600)
    settle(page)
    near = zoom.inner_text()
    assert int(near.split()[0]) > 1.5 * int(whole.split()[0])
    step_slider(page).press("ArrowRight")
    page.locator(".viewer .tag", has_text="Step 2").wait_for()
    settle(page)
    assert zoom.inner_text() == near
    stage(page).press("0")
    settle(page)
    assert zoom.inner_text() == whole
    stage(page).press("+")
    settle(page)
    assert zoom.inner_text() != whole
    stage(page).dblclick(position={"x": 300, "y": 200})
    settle(page)
    assert zoom.inner_text() == whole


def test_drag_pans_and_does_not_choose(page: Page) -> None:
    stage(page).hover(position=place(page, 64, 48))
    page.mouse.wheel(0, -900)
    settle(page)
    before = pixels(page)
    area = stage(page).bounding_box()
    assert area
    page.mouse.move(area["x"] + 300, area["y"] + 200)
    page.mouse.down()
    page.mouse.move(area["x"] + 220, area["y"] + 200, steps=3)
    page.mouse.up()
    after = pixels(page)
    assert (after[60:-60, 100:-180, :3] == before[60:-60, 180:-100, :3]).mean() > 0.97
    assert page.get_by_text("no event").is_visible()


def test_click_reaches_python_with_the_picture_s_pixel(page: Page) -> None:
    stage(page).click(position=place(page, 77, 33))
    page.get_by_text("ViewerEvent(kind='click', x=77, y=33, layer=2)").wait_for()
    stage(page).hover(position={"x": 3, "y": 3})
    page.locator(".viewer .head", has_text="Chosen pixel 77, 33").wait_for()


def test_strip_shows_a_layer_at_once(page: Page) -> None:
    page.locator(".viewer .item", has_text="Ground truth").click()
    assert page.locator(".viewer .tag").first.inner_text() == "Ground truth"
    page.get_by_text("kind='layer'").wait_for()
    page.keyboard.press("ArrowRight")
    assert page.locator(".viewer .tag").first.inner_text() == "Step 0"


def test_keyboard_alone_reads_and_chooses_a_pixel(page: Page) -> None:
    stage(page).focus()
    for key in ("ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    page.locator(".viewer [role=status].sr", has_text="Pixel 75, 49. Ground truth: low vegetation").wait_for(
        state="attached"
    )
    page.keyboard.press("Enter")
    page.get_by_text("ViewerEvent(kind='click', x=75, y=49, layer=2)").wait_for()


def test_labels_for_screen_readers(page: Page) -> None:
    assert "Demo scene" in (stage(page).get_attribute("aria-label") or "")
    for button in page.locator(".viewer button").all():
        assert (button.get_attribute("aria-label") or button.text_content() or "").strip()


def test_unchanged_pictures_are_sent_once(browser: Browser, url: str) -> None:
    image, layers, _ = viewer_demo.scene()
    assert layers[3].labels is not None
    parts = {"picture": image, "label map": zlib.compress(layers[3].labels.tobytes(), 6)}
    frames: list[bytes] = []

    def keep(frame: str | bytes) -> None:
        frames.append(frame if isinstance(frame, bytes) else frame.encode())

    with window(browser, "about:blank", fresh=True) as page:
        page.on("websocket", lambda socket: socket.on("framereceived", keep))
        page.goto(url)
        ready(page)
        first = b"".join(frames)
        assert all(part in first for part in parts.values())
        frames.clear()
        step_slider(page).press("ArrowRight")
        page.locator(".viewer .tag", has_text="Step 2").wait_for()
        settle(page)
        again = b"".join(frames)
        assert not any(part in again for part in parts.values())


def test_what_the_browser_lost_is_sent_again(page: Page) -> None:
    page.evaluate("() => globalThis[Symbol.for('lag.blobs')].entries.clear()")
    step_slider(page).press("ArrowRight")
    page.locator(".viewer .tag", has_text="Step 2").wait_for()
    opaque(page)
    assert colour(page, *ROOF)[:3] == tuple(viewer_demo.PALETTE[CLUTTER])


def test_a_value_of_the_server_wins_only_when_it_changes(page: Page) -> None:
    page.get_by_role("slider", name="Overlay").fill("0.8")
    step_slider(page).press("ArrowRight")
    page.locator(".viewer .tag", has_text="Step 2").wait_for()
    assert page.get_by_role("slider", name="Overlay").input_value() == "0.8"
    page.get_by_text("opacity=0.8").wait_for()
    page.get_by_test_id("stSlider").nth(1).get_by_role("slider").press("ArrowRight")
    page.locator(".viewer .slider output", has_text="100 %").first.wait_for()


def test_names_are_text(page: Page) -> None:
    assert page.locator(".viewer b").count() == 0
    assert page.locator(".viewer .class", has_text="<b>clutter</b>").is_visible()


def test_saved_picture_has_what_is_drawn(page: Page) -> None:
    opaque(page)
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as PNG").click()
    assert download.value.suggested_filename == "picture.png"
    saved = np.array(Image.open(download.value.path()).convert("RGB"))
    scale = round(1200 / W)
    assert saved.shape[1] == W * scale
    labels = viewer_demo.scene()[1][2].labels
    assert labels is not None
    top = 2 * max(14, round(W * scale / 48))
    grid = saved[top + scale // 2 : top + H * scale : scale, scale // 2 :: scale]
    assert (grid == viewer_demo.PALETTE[labels]).all()


def test_gallery_by_keyboard_and_pages(page: Page) -> None:
    from playwright.sync_api import expect

    entries = page.locator(".gallery .entry")
    assert entries.count() == 8
    page.locator(".gallery .entry[aria-selected=true]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.get_by_text("chosen: tile-2").wait_for()
    page.get_by_role("button", name="Next page").click()
    page.locator(".gallery .entry", has_text="tile 10").wait_for()
    expect(entries).to_have_count(3)  # those of the page before go last
    page.locator(".gallery .entry", has_text="tile 9").click()
    page.get_by_text("chosen: tile-9").wait_for()
    assert page.locator(".gallery .entry[aria-selected=true]").inner_text().endswith("tile 9")
    page.keyboard.press("PageUp")
    page.locator(".gallery .entry", has_text="tile 7").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1280, 900), (1920, 1080)])
def test_screenshots(browser: Browser, url: str, scheme: str, width: int, height: int) -> None:
    with window(browser, url, width=width, height=height, scheme=scheme, density=2) as page:  # type: ignore[arg-type]
        ready(page)
        page.get_by_text("Compare with step 0").click()
        page.locator(".viewer .divider").wait_for()
        stage(page).hover(position=place(page, *ROOF))
        settle(page)
        kept = screenshot(page, f"viewer-{scheme}-{width}")
        assert Image.open(kept).size == (2 * width, 2 * height)

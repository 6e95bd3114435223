"""The pictures of docs/tour.md and of the README: starts the app on a shipped run and photographs its pages.

    python docs/make_pictures.py                     # needs Chromium (Debian: apt-get install chromium)
    python docs/make_pictures.py --only steps-dark   # one of them
    python docs/make_pictures.py --every FOLDER      # every page, light and dark, at three widths, to look at

Writes WebP files into assets/screenshots/, a short animation of the step scrubber, and the film of the README
(assets/film.webp); `--every` writes PNG files.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "assets" / "screenshots"
sys.path.insert(0, str(ROOT / "benchmarks"))

from streamlit_server import check_runs, served  # noqa: E402

RUN, COMPARED = "animals-3-1-lagplus", "animals-3-1-finetune"
CHROMIUM = ("/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome")
WIDTH, HEIGHT = 1280, 800
SIZES = ((900, 800), (1280, 800), (1920, 1080))
"""Windows in which every page must be usable, and in the second of which it answers without scrolling."""

PATIENCE = 180_000
"""Milliseconds to wait for a page, on a machine that does other work."""

QUALITY = 80
FRAME_WIDTH, FRAME_MS = 960, 1300
"""Width and pace of the animation."""

FILM = ROOT / "assets" / "film.webp"
FILM_WIDTH, FILM_RATE, FILM_QUALITY = 800, 7, 45
"""Width in pixels and pictures a second of the README's film."""

LOST = {"step": "1", "class": "dog", "image": "photo:dog"}
"""What the tour is about: step 1 lost the dog in one run, and the other kept it."""


class Shot(NamedTuple):
    """A picture: its file, the page's address (Overview has the bare one), the link's choices, what to wait for."""

    name: str
    page: str
    choices: dict[str, str]
    wait_for: str
    scheme: Literal["light", "dark"] = "light"


PLOT, VIEWER, BARS = ".js-plotly-plot .main-svg", ".viewer .item", ".held .now"

SHOTS = (
    Shot("start", "", LOST, BARS),
    Shot("overview", "overview", LOST, PLOT),
    Shot("steps-light", "steps", LOST, VIEWER),
    Shot("steps-dark", "steps", LOST, VIEWER, "dark"),
    Shot("forgetting", "forgetting", LOST, VIEWER),
    Shot("channels", "channels", LOST, PLOT),
    Shot("relevance", "relevance", LOST, VIEWER),
    Shot("prototypes", "prototypes", LOST, PLOT),
    Shot("why", "why", LOST, PLOT),
    Shot("training", "training", {"step": "1"}, PLOT),
)


def chromium() -> str:
    found = next((path for path in CHROMIUM if Path(path).exists()), None)
    if found is None:
        raise SystemExit("Pictures are taken with Chromium (Debian: apt-get install chromium).")
    return found


EVERY_PAGE = (
    *(shot for shot in SHOTS if shot.name != "steps-dark"),
    Shot("compare", "compare", LOST, PLOT),
    Shot("report", "report", LOST, "[data-testid=stMain] button"),
)


@contextmanager
def opened(
    browser: Browser, url: str, shot: Shot, size: tuple[int, int] = (WIDTH, HEIGHT), density: float = 1
) -> Iterator[Page]:
    """The page of a shot, drawn to the end, at its top. density: pixels of the screen to one of the page."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme=shot.scheme, reduced_motion="reduce",
        device_scale_factor=density,
    )  # fmt: skip
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    try:
        page.goto(f"{url}/{shot.page}?{urlencode({'run': RUN, 'run2': COMPARED, **shot.choices})}")
        page.locator(shot.wait_for).first.wait_for()
        settle(page)
        yield page
    finally:
        context.close()


def settle(page: Page) -> None:
    """Wait until the script has run, nothing is stale, and what followed is drawn."""
    page.wait_for_function(
        """() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
            && !document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton]')"""
    )
    page.wait_for_timeout(2500)


def photograph(page: Page) -> Image.Image:
    return Image.open(io.BytesIO(page.screenshot())).convert("RGB")


def take(browser: Browser, url: str, shot: Shot) -> Path:
    """One picture, as WebP."""
    path = FOLDER / f"{shot.name}.webp"
    with opened(browser, url, shot) as page:
        photograph(page).save(path, quality=QUALITY, method=6)
    return path


def take_every(browser: Browser, url: str, folder: Path, run: str, compared: str, density: float) -> list[Path]:
    """Each page in light and dark in either window, as PNG; of other runs than the tour's at their first settings."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shot in EVERY_PAGE:
        choices = {"run": run, "run2": compared, **(shot.choices if run == RUN else {})}
        for scheme in ("light", "dark"):
            for size in SIZES:
                name = shot.page or "start"
                paths.append(folder / f"{name}-{scheme}-{size[0]}.png")
                with opened(browser, url, shot._replace(scheme=scheme, choices=choices), size, density) as page:
                    make = page.get_by_role("button", name="Make the report")
                    if make.count():
                        make.click()
                        page.get_by_role("button", name="Download the report").wait_for()
                        settle(page)
                    page.screenshot(path=paths[-1])
    return paths


def animate(browser: Browser, url: str, steps: Sequence[int]) -> Path:
    """The scrubber moved through `steps` on the Steps page, as an animation that repeats."""
    path = FOLDER / "scrubber.webp"
    frames = []
    with opened(browser, url, Shot("scrubber", "steps", LOST | {"step": str(steps[0])}, VIEWER)) as page:
        for step in steps:
            page.evaluate("document.activeElement?.blur()")
            while (now := int(page.get_by_role("slider", name="Step").first.input_value())) != step:
                page.keyboard.press("l" if now < step else "j")
                page.wait_for_timeout(1500)
                settle(page)
            picture = photograph(page)
            frames.append(picture.resize((FRAME_WIDTH, FRAME_WIDTH * HEIGHT // WIDTH), Image.Resampling.LANCZOS))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=70, method=6)
    return path


class Film:
    """Pictures of a page with the time that each stays; what stands still costs one picture."""

    def __init__(self, page: Page):
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []
        page.evaluate(POINTER)

    def hold(self, milliseconds: int) -> None:
        """What the page shows now, for so long."""
        size = FILM_WIDTH, FILM_WIDTH * HEIGHT // WIDTH
        self.frames.append(photograph(self.page).resize(size, Image.Resampling.LANCZOS))
        self.times.append(milliseconds)

    def press(self, key: str, milliseconds: int) -> None:
        """A key, and what it changes."""
        self.page.evaluate("document.activeElement?.blur()")
        self.page.keyboard.press(key)
        self.page.wait_for_timeout(1500)
        settle(self.page)
        self.hold(milliseconds)

    def point(self, x: float, y: float, pictures: int = 6) -> None:
        """The pointer moves there."""
        for part in range(1, pictures + 1):
            at = [start + (end - start) * part / pictures for start, end in ((0.7 * WIDTH, x), (0.7 * HEIGHT, y))]
            self.page.evaluate("([x, y]) => window.showPointer(x, y)", at)
            self.hold(1000 // FILM_RATE)

    def scroll_to(self, selector: str, milliseconds: int, pictures: int = 6) -> None:
        """The page moves until the element stands at its top."""
        box = self.page.locator(selector).first.bounding_box()
        distance = max(box["y"] - 70, 0) if box else 0
        for _ in range(pictures):
            self.page.evaluate(
                "by => document.querySelector('[data-testid=stMain]').scrollBy({top: by, behavior: 'instant'})",
                distance / pictures,
            )
            self.page.wait_for_timeout(100)
            self.hold(1000 // FILM_RATE)
        self.times[-1] = milliseconds

    def save(self, path: Path) -> None:
        first, *rest = self.frames
        first.save(
            path, save_all=True, append_images=rest, duration=self.times, loop=0, quality=FILM_QUALITY, method=6,
            minimize_size=True,
        )  # fmt: skip


POINTER = """() => {
    const dot = document.createElement('div');
    Object.assign(dot.style, {position: 'fixed', zIndex: 1e6, width: '22px', height: '22px', margin: '-11px',
        borderRadius: '50%', background: 'rgb(213 94 0 / .55)', border: '2px solid #d55e00',
        pointerEvents: 'none', left: '-50px'});
    document.body.append(dot);
    window.showPointer = (x, y) => Object.assign(dot.style, {left: `${x}px`, top: `${y}px`});
}"""
"""A mark where the pointer is: headless browsers draw none."""


def record(browser: Browser, url: str) -> Path:
    """Half a minute: a photograph stepped through two runs, the dog lost in one of them, *Why?*, the answer."""
    with opened(browser, url, Shot("film", "", LOST | {"step": "0"}, BARS)) as page:
        film = Film(page)
        film.hold(2500)
        for held in (3500, 2500, 2500):
            film.press("l", held)
        for _ in range(2):
            film.press("j", 1000)
        why = page.get_by_role("button", name="Why?")
        box = why.bounding_box()
        if box:
            film.point(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        why.click()
        page.locator("[class*=st-key-view-] img").first.wait_for()
        page.locator(PLOT).first.wait_for()
        settle(page)
        page.evaluate("() => window.showPointer(-50, -50)")
        film.hold(6000)
        for slug in ("board", "waterfall"):
            film.scroll_to(f".st-key-view-{slug}", 4500)
        film.save(FILM)
    return FILM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "checkpoints", help="folder of runs")
    parser.add_argument("--only", nargs="+", help="names of pictures; `scrubber` and `film` are animations")
    parser.add_argument("--every", type=Path, metavar="FOLDER", help="every page, both themes, both widths, as PNG")
    parser.add_argument("--run", default=RUN, help="with --every: the run (LAG_DATA names the data root)")
    parser.add_argument("--compare", default=COMPARED, help="with --every: the run to compare with")
    parser.add_argument("--density", type=float, default=1, help="with --every: 2 as on a screen of high density")
    args = parser.parse_args()
    check_runs(args.runs, RUN)
    FOLDER.mkdir(parents=True, exist_ok=True)
    wanted = set(args.only or [*(shot.name for shot in SHOTS), "scrubber", "film"])
    with sync_playwright() as driver, served(args.runs) as server:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        if args.every:
            paths = take_every(browser, server.url, args.every.resolve(), args.run, args.compare, args.density)
        else:
            paths = [take(browser, server.url, shot) for shot in SHOTS if shot.name in wanted]
            if "scrubber" in wanted:
                paths.append(animate(browser, server.url, (0, 1, 2, 3)))
            if "film" in wanted:
                paths.append(record(browser, server.url))
        browser.close()
    for path in paths:
        print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}  {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()

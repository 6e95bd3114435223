"""A served Streamlit app and a headless Chromium on it, for tests that look at what a user sees.

`with served("tests/viewer_demo.py") as url, chromium() as browser, window(browser, url) as page: …` Without
Chromium the tests are skipped with a message, except in CI (environment variable CI), where they must run.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import pytest
from repository import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, Page

ARTIFACTS = ROOT / "artifacts"
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
PATIENCE = 60.0
"""Seconds to wait for the server, on a machine that does other work."""


def chromium_path() -> str:
    """Where Chromium is; skips the test where there is none, fails in CI."""
    found = next((p for p in ("/usr/bin/chromium", "/usr/bin/chromium-browser") if Path(p).exists()), None)
    found = found or shutil.which("chromium") or shutil.which("google-chrome")
    if found:
        return found
    message = "browser tests need Chromium (Debian: apt-get install chromium)"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


LAST_PORT = [0]
"""Port of the last server. To Chromium the next one there is the same site, whose scripts it has compiled already."""


def _free_port() -> int:
    """The last server's port if nobody listens there now, else any."""
    for wanted in (LAST_PORT[0], 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
            with suppress(OSError):
                probe.bind(("127.0.0.1", wanted))
                LAST_PORT[0] = probe.getsockname()[1]
                break
    return LAST_PORT[0]


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def served(script: str | Path, environment: dict[str, str] | None = None) -> Iterator[str]:
    """`streamlit run script` on a free port of this machine, until the block ends; yields its address."""
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.headless=true"]
    command += [f"--server.port={port}", "--server.address=127.0.0.1", "--browser.gatherUsageStats=false"]
    command += ["--server.fileWatcherType=none"]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **(environment or {})}
    with TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + PATIENCE
            while not _healthy(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    pytest.fail(f"streamlit did not start: {log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Headless Chromium, through Playwright."""
    path = chromium_path()
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=list(CHROMIUM_FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Shared:
    """What browser tests that follow one another have in common, made when it is first asked for."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._made: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], AbstractContextManager[Any]]) -> Any:
        """What `make` gives when it is entered, the same until `close`."""
        if name not in self._made:
            self._made[name] = self._open.enter_context(make())
        return self._made[name]

    def close(self) -> None:
        """End all of it."""
        self._made.clear()
        self._open.close()


PROBE = re.compile(r"/[^/]+/_stcore/(health|host-config)")
"""Opened at a page's own address, Streamlit's client first looks for its server below that address, in vain."""


def _complaints(message: ConsoleMessage) -> list[str]:
    """What the console calls an error, with its place; the client's own probing apart."""
    where = message.location["url"]
    if message.type != "error" or PROBE.fullmatch(urlsplit(where).path):
        return []
    return [f"{message.text} ({where})"]


def _foreign(url: str) -> list[str]:
    """The address if it is another machine's: the app fetches nothing from elsewhere."""
    parts = urlsplit(url)
    return [f"asks for {url}"] if parts.scheme in ("http", "https") and parts.hostname != "127.0.0.1" else []


IDLE: WeakKeyDictionary[Browser, dict[float, list[Page]]] = WeakKeyDictionary()
"""Pages that earlier windows left behind, by device density. In their process the app's scripts are compiled already,
which is more than half of what opening a page costs."""

FORGET = "() => { try { localStorage.clear(); sessionStorage.clear(); } catch { } }"


@contextmanager
def window(
    browser: Browser,
    url: str,
    *,
    width: int = 1280,
    height: int = 900,
    scheme: Literal["light", "dark"] = "light",
    density: float = 1.0,
    calm: bool = True,
    fresh: bool = False,
) -> Iterator[Page]:
    """A page at `url`. Errors in its console, and requests to other machines, fail the test when the block ends without
    another error.

    It may be an earlier window's, emptied: no document, cookies or storage are left, and it is another session for
    the server. `fresh`: a new one, for tests of the browser's history, and for those that listen to the page.
    """
    page = _idle(browser, density) if not fresh else _new(browser, density)
    page.set_viewport_size({"width": width, "height": height})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce" if calm else "no-preference")
    page.set_default_timeout(60_000)  # on a machine that does other work
    complaints: list[str] = []
    listeners = {
        "console": lambda message: complaints.extend(_complaints(message)),
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: complaints.extend(_foreign(request.url)),
    }
    for event, listener in listeners.items():
        page.on(event, listener)  # type: ignore[call-overload]
    emptied = False
    try:
        page.goto(url)
        yield page
        assert not complaints, f"the browser complains: {complaints}"
        for event, listener in listeners.items():
            page.remove_listener(event, listener)
        if not fresh:
            _empty(page)
            IDLE[browser].setdefault(density, []).append(page)
            emptied = True
    finally:
        if not emptied:
            page.context.close()


def _idle(browser: Browser, density: float) -> Page:
    left = IDLE.setdefault(browser, {}).get(density)
    return left.pop() if left else _new(browser, density)


def _new(browser: Browser, density: float) -> Page:
    return browser.new_context(device_scale_factor=density, accept_downloads=True).new_page()


def _empty(page: Page) -> None:
    page.evaluate(FORGET)
    page.goto("about:blank")
    page.mouse.move(0, 0)
    page.context.clear_cookies()


def settle(page: Page) -> None:
    """Wait until Streamlit's script has run and the drawing that followed is on the screen."""
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'"
    )
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def figure(page: Page, view: str) -> Locator:
    """The figure of a view, by the view's slug; those below the window are drawn when somebody scrolls to them."""
    place = page.locator(f".st-key-view-{view} :is([class*='st-key-plot-'], [class*='st-key-later-'])").first
    place.wait_for(state="attached")
    scroll = "(node) => node.scrollIntoView({ block: 'center', behavior: 'instant' })"
    place.evaluate(scroll)
    drawn = page.locator(f".st-key-view-{view} .js-plotly-plot").first
    drawn.locator(".main-svg").first.wait_for()
    drawn.evaluate(scroll)
    return drawn


def screenshot(page: Page, name: str) -> Path:
    """Keep what the window shows as artifacts/<name>.png."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    page.screenshot(path=path)
    return path

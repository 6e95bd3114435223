"""What a session waits for, measured through the real server: the first picture, scrubs, page changes."""

from __future__ import annotations

import random
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from painting import chromium
from streamlit_client import Client
from streamlit_server import Server, served

FIRST_BARS = """() => {
    const inside = (root) => !!root.querySelector('.held .now')
        || [...root.querySelectorAll('*')].some((e) => e.shadowRoot && inside(e.shadowRoot));
    return inside(document);
}"""
"""The bars of Start, drawn in a shadow root."""

FIRST_PHOTOGRAPH = """() => {
    const drawn = (e) => e.width > 40
        && e.getContext('2d')?.getImageData(e.width >> 1, e.height >> 1, 1, 1).data[3] > 0;
    const inside = (root) => [...root.querySelectorAll('*')].some(
        (e) => (e.tagName === 'CANVAS' && drawn(e)) || (e.shadowRoot && inside(e.shadowRoot)));
    return inside(document);
}"""
"""An image of the run in the gallery, whose component draws on a canvas in a shadow root."""


def summary(seconds: Sequence[float], cpu: float) -> dict[str, float]:
    """Milliseconds: median, 95th percentile, largest, and the mean of the server's processor time."""
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return {
        "count": len(ordered),
        "median_ms": round(1000 * statistics.median(ordered), 1),
        "p95_ms": round(1000 * p95, 1),
        "max_ms": round(1000 * ordered[-1], 1),
        "mean_cpu_ms": round(1000 * cpu / len(ordered), 1),
    }


def in_milliseconds(values: Sequence[float]) -> dict[str, float]:
    """As `summary`, of what was taken in the browser: no processor time."""
    found = summary([ms / 1000 for ms in values], 0.0)
    del found["mean_cpu_ms"]
    return found


def first_picture(runs: Path, times: int, threads: int) -> dict[str, Any]:
    """Seconds from `streamlit run` to the server's answer, the first photograph and the bars beside it.

    The browser is open already.
    """
    answers, photographs, bars, cpu = [], [], [], []
    with chromium() as browser:
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            with served(runs, threads) as server:
                answers.append(time.perf_counter() - server.started)
                page.goto(server.url, wait_until="commit", timeout=120_000)
                page.wait_for_function(FIRST_PHOTOGRAPH, timeout=120_000)
                photographs.append(time.perf_counter() - server.started)
                cpu.append(server.cpu_seconds())
                page.wait_for_function(FIRST_BARS, timeout=120_000)
                bars.append(time.perf_counter() - server.started)
                page.close()
    return {
        "answer_s": [round(s, 2) for s in answers],
        "photograph_s": [round(s, 2) for s in photographs],
        "bars_s": [round(s, 2) for s in bars],
        "median_s": round(statistics.median(photographs), 2),
        "median_bars_s": round(statistics.median(bars), 2),
        "median_server_cpu_s": round(statistics.median(cpu), 2),
    }


def scrubs(server: Server, run: str, pages: Sequence[str], times: int) -> dict[str, Any]:
    """Moving the scrubber on each page, the first visit of a step included."""
    found = {}
    for page in pages:
        with Client(server.url) as client:
            client.open(page, f"run={run}")
            last = int(client.value("step.slider")[0])
            seconds, before, step = [], server.cpu_seconds(), last
            for _ in range(times):
                step = random.choice([s for s in range(last + 1) if s != step])
                client.choose("step.slider", step)
                seconds.append(client.seconds)
            found[page] = summary(seconds, server.cpu_seconds() - before)
            print(f"  scrub {page}: {found[page]}", file=sys.stderr, flush=True)
    return found


def page_changes(server: Server, run: str, pages: Sequence[str], times: int) -> dict[str, Any]:
    """Turning to another page that has been open before, in one session."""
    with Client(server.url) as client:
        client.open(pages[0], f"run={run}")
        seconds, before, now = [], server.cpu_seconds(), pages[0]
        for _ in range(times):
            now = random.choice([page for page in pages if page != now])
            client.turn_to(now)
            seconds.append(client.seconds)
        return summary(seconds, server.cpu_seconds() - before)

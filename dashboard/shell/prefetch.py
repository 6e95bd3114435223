"""What the next pages need, computed while the user reads the first one.

Once for each server, in a thread of its own, after the first page was drawn: torch is imported, and the function
`ahead` of each page computes what that page shows at its first settings, through the same caches as the page
itself. Nothing waits for it; a page that is opened in the meantime uses what is done and computes the rest.
Without a picture there is nothing to run a network on: a server that only shows results never imports torch.
"""

from __future__ import annotations

import importlib
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from dashboard.cache.loaders import UPLOAD
from dashboard.components import in_view
from dashboard.page import Page
from dashboard.picture import stepwise
from dashboard.shell import memory_release

NAME = "work-ahead"

PAUSE = 1.5
"""Seconds in which the browser, often on the same machine, can use the processor to draw the first page."""

LONGEST_PAUSE = 4.0
"""The same at most, however long the first run took. On Start the browser has said before that it drew the picture."""

_log = logging.getLogger(__name__)
_begun = threading.Lock()
"""Taken by the first session that has a picture, and never released."""


def begin(page: Page, slugs: Sequence[str], took: float) -> None:
    """Start the work for the pages `slugs`, in their order; call it at the end of each run of the script.

    took: seconds that this run took.

    Only with a browser: a test that runs the script by itself computes what it asks for. Where a page holds back
    everything but its picture, the work starts after the picture is drawn.
    """
    if not st.context.url or page.last_step < 0 or not page.image_id or page.image_id.startswith(UPLOAD):
        return
    if in_view.picture_awaited():
        return
    if _begun.acquire(blocking=False):
        logging.getLogger("streamlit.runtime.scriptrunner_utils.script_run_context").addFilter(_of_a_session)
        threading.Thread(
            target=_begin_later, args=(replace(page, toolbar=None), slugs, pause(took)), name=NAME, daemon=True
        ).start()


def pause(took: float) -> float:
    """Seconds to wait after a run of the script that took so long: a busy machine needs longer to draw it."""
    return min(max(PAUSE, took), LONGEST_PAUSE)


def _begin_later(page: Page, slugs: Sequence[str], seconds: float) -> None:
    time.sleep(seconds)
    work(page, slugs)


def work(page: Page, slugs: Sequence[str]) -> None:
    """Import each page's file and call its `ahead`, if it has one. The page itself reports errors.

    Imported modules are tidied up here too, or the next page would wait for that.
    """
    for slug in slugs:
        try:
            module = importlib.import_module(f"dashboard.app_pages.{slug}.page")
            if hasattr(module, "ahead"):
                stepwise.QUEUE.settle()  # the page on view goes first
                module.ahead(page)
        except Exception:
            _log.debug("Working ahead for %s ended early", slug, exc_info=True)
        memory_release.spare_modules()
    _other_steps(page)


def _other_steps(page: Page) -> None:
    """Run the steps that no page shows at first."""
    try:
        if page.run.kind != "stored":
            stepwise.wish(page.run, page.picture(), page.step)
    except Exception:
        _log.debug("Working ahead for the other steps ended early", exc_info=True)


def _of_a_session(record: logging.LogRecord) -> bool:
    """Streamlit warns about a spinner outside a session; this thread has no session to show one."""
    return record.threadName != NAME

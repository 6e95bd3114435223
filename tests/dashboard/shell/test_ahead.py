"""Work ahead: what it computes is what the pages ask for, and it is done once, for a browser, with a picture."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from shapes import tiny_run, write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from dashboard.app_pages.overview import wall
from dashboard.app_pages.prototypes import maps
from dashboard.app_pages.relevance import maps as relevance_maps
from dashboard.cache import loaders
from dashboard.cache.memory_cache import SHELF
from dashboard.components import in_view
from dashboard.page import Page
from dashboard.shell import prefetch
from lag_core.data.pictures import read_mask
from lag_core.explain import evidence, interventions, trace
from lag_core.explain.survey import write_survey
from lag_core.explain.survey_pass import survey

torch.set_num_threads(1)

SLUGS = [entry.slug for entry in PAGES]
CLS = 1
"""Red."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two surveyed runs of coloured rectangles, and an image that shows the class."""
    root = tmp_path_factory.mktemp("ahead")
    data = write_shapes(root / "shapes")
    runs = [tiny_run(data, root / "runs" / f"shapes-{method}", method) for method in ("finetune", "reference")]
    for run in runs:
        write_survey(run, survey(run, run.open_dataset(None), lambda batches, _: batches))
    names = (data / "val.txt").read_text().split()
    image = next(n for n in names if (read_mask(data / "masks" / f"{n}.png") == CLS).any())
    return root, runs, image


@pytest.fixture
def page(folder, monkeypatch):
    root, (run, run2), image = folder
    monkeypatch.setenv("LAG_RUNS", str(root / "runs"))
    monkeypatch.setenv("LAG_CACHE", str(root / "cache"))
    return Page(run, run2, run.last_step, CLS, image, "")


def refuse(*_, **__):
    raise AssertionError("computed again")


def test_pages_find_everything_done(page, monkeypatch):
    prefetch.work(page, SLUGS)
    monkeypatch.setattr(trace.Trace, "__init__", refuse)
    monkeypatch.setattr(interventions, "curve", refuse)
    monkeypatch.setattr(evidence, "over_steps", refuse)
    monkeypatch.setattr(evidence, "channel_effects", refuse)
    monkeypatch.setattr(relevance_maps, "_by_method", refuse)
    monkeypatch.setattr(maps, "nearest_label", refuse)
    for slug in SLUGS:
        at = AppTest.from_string(f"from dashboard.app import main\nmain(default={slug!r})", default_timeout=120)
        at.query_params.update({"run": page.run.name, "run2": page.run2.name, "image": page.image_id, "class": "red"})
        at.run()
        assert not at.exception and not at.error, (slug, [e.value for e in at.error])
        assert not at.toast, slug


def test_what_fails_stops_no_other_page(page, monkeypatch):
    SHELF.clear()
    reached = []
    monkeypatch.setattr("dashboard.app_pages.steps.page.ahead", refuse)
    monkeypatch.setattr("dashboard.app_pages.why.page.ahead", reached.append)
    prefetch.work(page, ["no-such-page", "steps", "why"])
    assert reached == [page]


@pytest.mark.parametrize(
    ("url", "image", "starts"),
    [("http://localhost", "s18", True), (None, "s18", False), ("http://localhost", "", False),
     ("http://localhost", "upload:12", False)],
)  # fmt: skip
def test_it_begins_once_for_a_browser_and_a_picture_of_the_run(page, monkeypatch, url, image, starts):
    class Context:
        pass

    class Lock:
        taken = 0

        def acquire(self, blocking):
            self.taken += 1
            return self.taken == 1

    Context.url = url
    begun = []
    monkeypatch.setattr(prefetch.st, "context", Context)
    monkeypatch.setattr(prefetch, "_begun", Lock())
    monkeypatch.setattr(prefetch, "PAUSE", 0.0)
    monkeypatch.setattr(prefetch, "work", lambda page, slugs: begun.append((page, slugs)))
    for _ in range(2):
        prefetch.begin(Page(page.run, None, 0, 0, image, "", ink=page.ink), ["steps"], 0.0)
    for thread in prefetch.threading.enumerate():
        if thread.name == prefetch.NAME:
            thread.join()
    assert len(begun) == int(starts)


def test_a_slow_machine_has_longer_for_its_first_picture():
    """The work ahead once took the processor from the browser before the first photograph was drawn."""
    assert prefetch.pause(0.1) == prefetch.PAUSE < 3 == prefetch.pause(3.0)
    assert prefetch.pause(60.0) == prefetch.LONGEST_PAUSE


def test_it_waits_until_the_browser_has_drawn_the_picture(page, monkeypatch):
    """It once waited three times as long as the first run had taken: after ten seconds of reading little was done."""
    begun = []
    monkeypatch.setattr(prefetch.st, "context", SimpleNamespace(url="http://localhost"))
    monkeypatch.setattr(prefetch, "_begun", SimpleNamespace(acquire=lambda blocking: begun.append(True)))
    monkeypatch.setattr(in_view, "picture_awaited", lambda: True)
    prefetch.begin(page, ["steps"], 0.0)
    assert not begun
    monkeypatch.setattr(in_view, "picture_awaited", lambda: False)
    prefetch.begin(page, ["steps"], 0.0)
    assert begun


def test_overview_finds_its_thumbnails_made(page, monkeypatch):
    small_jpeg = loaders._small_jpeg

    def refuse_large(pixels, side):
        assert side != wall.SIDE, "made again"
        return small_jpeg(pixels, side)

    wall.look_ahead(page)
    monkeypatch.setattr(loaders, "_small_jpeg", refuse_large)
    at = AppTest.from_string("from dashboard.app import main\nmain(default='overview')", default_timeout=120)
    at.query_params.update({"run": page.run.name, "run2": page.run2.name, "image": page.image_id, "class": "red"})
    at.run()
    assert not at.exception and not at.error, [e.value for e in at.error]

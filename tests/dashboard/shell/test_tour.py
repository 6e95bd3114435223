"""The tour in the app: its link is in the sidebar, its pictures exist, its text is the document's."""

from __future__ import annotations

import re

from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from dashboard.shell import tour

OVERVIEW = "from dashboard.app import main; main(default='overview')"

TITLES = tuple(page.title for page in PAGES)


def test_every_picture_of_the_tour_exists():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", tour.TEXT.read_text("utf-8"))
    assert len(pictures) >= 8
    for picture in pictures:
        assert (tour.TEXT.parent / picture).resolve().exists(), picture


def test_each_station_names_pages_that_exist():
    found = tour.stations(TITLES)
    assert [one.pages for one in found] == [
        (),
        ("Overview",),
        ("Steps",),
        ("Forgetting",),
        ("Why preserved",),
        ("Training",),
        ("Channels", "Relevance", "Prototypes"),
        (),
    ]
    assert all("assets/screenshots" not in one.text for one in found)
    assert "**Because:**" in found[4].text


def test_the_app_is_led_through_the_tour(tmp_path, monkeypatch):
    write_run(tmp_path, "aerial-2-2-1-finetune")
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = AppTest.from_string(OVERVIEW, default_timeout=60).run()
    assert not [b for b in at.button if b.key == "tour.next"], "closed at first"
    at.sidebar.button(key="tour").click().run()
    shown = [at_text(at)]
    while not at.button(key="tour.next").disabled:
        at.button(key="tour.next").click().run()
        assert not at.exception
        shown.append(at_text(at))
    assert len(set(shown)) == len(tour.stations(TITLES)), "each click shows another station"
    for _ in range(3):
        at.button(key="tour.back").click().run()
    assert "**Because:**" in at_text(at)
    at.button(key="tour.close").click().run()
    assert not [b for b in at.button if b.key == "tour.next"]


def at_text(at: AppTest) -> str:
    """All that the page says."""
    return " ".join(m.value for m in at.markdown)

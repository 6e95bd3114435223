"""The tour in the app: its link is in the sidebar, its pictures exist, its text is the document's."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl

from small_runs import write_run
from streamlit.testing.v1 import AppTest

from dashboard.app import PAGES
from dashboard.cache import loaders
from dashboard.shell import tour
from lag_core.explain.why import groups
from lag_core.runs import open_run

OVERVIEW = "from dashboard.app import main; main(default='overview')"

TITLES = tuple(page.title for page in PAGES)


def test_every_picture_of_the_tour_exists():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", tour.TEXT.read_text("utf-8"))
    assert len(pictures) >= 8
    for picture in pictures:
        assert (tour.TEXT.parent / picture).resolve().exists(), picture


def test_each_station_leads_to_pages_that_exist():
    found = tour.stations()
    assert [one.pages for one in found] == [
        ("Start",),
        ("Overview", "Compare"),
        ("Steps",),
        ("Forgetting",),
        ("Why preserved",),
        ("Training",),
        ("Channels", "Relevance", "Prototypes"),
        ("Why preserved",),
    ]
    assert {title for one in found for title in one.pages} <= set(TITLES)
    assert all("assets/screenshots" not in one.text and "localhost" not in one.text for one in found)
    assert "**Because:**" in found[4].text
    assert not any(one.heading == "Go on" for one in found), "as the button is called"


def test_each_link_names_its_page_and_runs_that_ship():
    links = re.findall(r"\[([^]]+)\]\(http://localhost:8501/(\w+)\?([^)]+)\)", tour.TEXT.read_text("utf-8"))
    slugs = {page.title: page.slug for page in PAGES}
    shipped = {path.name for path in (tour.TEXT.parents[1] / "checkpoints").iterdir()}
    assert links and all(slugs[title] == slug for title, slug, _ in links)
    for _, _, query in links:
        settings = dict(parse_qsl(query))
        assert {settings["run"], settings["run2"]} <= shipped
        assert {"step", "class"} <= set(settings), "else those of the stop before are kept"


def test_the_settings_are_left_alone_where_the_runs_are_not_here(tmp_path, monkeypatch):
    write_run(tmp_path, "mine")
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    assert tour._settings_here(tour.stations()[2]) == {}
    for name in ("animals-3-1-lagplus", "animals-3-1-finetune"):
        write_run(tmp_path, name)
    assert tour._settings_here(tour.stations()[2])["beside"] == "run2"


def test_the_tour_says_what_the_shares_say():
    """The numbers of the stops on Why, from the surveys of the runs that ship."""
    runs = tour.TEXT.parents[1] / "checkpoints"
    text = {one.heading: one.text for one in tour.stations()}["7. Another task: aerial photographs"]
    run = open_run(runs / "aerial-2-2-1-finetune")
    cls = next(i for i, info in enumerate(run.classes) if info.name == "building")
    found = loaders.survey(run).shares.of(cls, 2)
    points = {name: one.points for name, one in groups(found).items()}
    assert f"{found.start:.0f}" == "61" and {f"{points[k]:.0f}" for k in ("features", "heads")} == {"-29"}
    assert "at step 2, heads and features each took 29 of 61 points" in text


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
        station = tour.stations()[len(shown) - 1]
        assert f" {station.pages[0]}" in shown[-1].split(station.text)[1], "and opens its page"
    assert len(set(shown)) == len(tour.stations()), "each click shows another station"
    for _ in range(3):
        at.button(key="tour.back").click().run()
    assert "**Because:**" in at_text(at)
    at.button(key="tour.close").click().run()
    assert not [b for b in at.button if b.key == "tour.next"]


def at_text(at: AppTest) -> str:
    """All that the page says."""
    return " ".join(m.value for m in at.markdown)

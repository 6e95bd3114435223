"""The tour in the app: its link is in the sidebar, its pictures exist, its text is the document's."""

from __future__ import annotations

import re

from small_runs import write_run
from streamlit.testing.v1 import AppTest
from test_dashboard_app import APP

from dashboard import tour


def test_every_picture_of_the_tour_exists():
    pictures = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", tour.TEXT.read_text("utf-8"))
    assert len(pictures) >= 8
    for picture in pictures:
        assert (tour.TEXT.parent / picture).resolve().exists(), picture


def test_the_app_shows_the_tour_without_its_pictures(tmp_path, monkeypatch):
    write_run(tmp_path, "aerial-2-2-1-finetune")
    monkeypatch.setenv("LAG_RUNS", str(tmp_path))
    at = AppTest.from_file(APP, default_timeout=60).run()
    link = next(b for b in at.sidebar.button if b.key == "tour")
    link.click().run()
    assert not at.exception
    shown = " ".join(m.value for m in at.markdown)
    assert "**Because:**" in shown and "assets/screenshots" not in shown

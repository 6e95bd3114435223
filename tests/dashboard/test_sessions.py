"""Sessions of the real server do not see each other's choices or interventions."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from browser import served, settle, window
from repository import ROOT
from small_aerial import train_small

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RUN = "aerial-2-2-1-finetune"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with one tiny trained run."""
    root = tmp_path_factory.mktemp("runs")
    train_small(root, "finetune")
    return root


@pytest.mark.timeout(900)
def test_three_sessions_see_what_each_saw_alone(runs, tmp_path):
    """Pages and channel interventions, all at once on a fresh server, against digests of a session alone."""
    command = [sys.executable, "benchmarks/sessions.py", "--runs", runs, "--run", RUN, "--out", tmp_path / "found.json"]
    command += ["--sessions", "3", "--interactions", "10", "--views", "12", "--threads", "1"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["answers"] == 30 and not found["findings"]
    assert found["views_different_to_look_at"] >= 9, "else a mix-up could go unseen"


@pytest.mark.timeout(600)
def test_three_browsers_keep_their_own_channel_step_and_class(browser, runs):
    """What one chooses while the others look on is in its own address and headings alone."""
    wanted = [("3", "1", "building"), ("5", "2", "tree"), ("11", "2", "car")]
    blank = "about:blank"
    with (
        served("dashboard/app.py", {"LAG_RUNS": str(runs)}) as url,
        window(browser, blank) as a,
        window(browser, blank) as b,
        window(browser, blank) as c,
    ):
        pages = (a, b, c)
        for page, (channel, step, cls) in zip(pages, wanted, strict=True):
            page.set_default_timeout(120_000)
            page.goto(f"{url}/channels?channel={channel}&step={step}&class={cls}")
        for page, (channel, _, _) in zip(pages, wanted, strict=True):
            page.get_by_text(f"Without channel {channel}").first.wait_for()
            settle(page)
        a.get_by_text(re.compile("take from step")).first.click()
        a.wait_for_function("location.search.includes('without=old')")
        c.keyboard.press("j")
        c.wait_for_function("location.search.includes('step=1')")
        for page in pages:
            settle(page)
        assert "without=old" not in b.url and "without=old" not in c.url
        assert b.get_by_role("slider", name="Step").first.input_value() == "2"
        for page, (channel, _, cls) in zip(pages, wanted, strict=True):
            assert page.get_by_text(f"Without channel {channel}").first.is_visible()
            assert page.get_by_role("combobox", name=re.compile("Class")).first.input_value() == cls

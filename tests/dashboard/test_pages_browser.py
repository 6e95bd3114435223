"""Forgetting, Channels, Relevance, Prototypes and Training in a real browser, on the runs that ship here."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from browser import figure, screenshot, served, settle, window
from repository import ROOT
from shapes import tiny_config, write_shapes, write_toml

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

RUN, COMPARED = "aerial-2-2-1-finetune", "aerial-2-2-1-reference"
STATE = f"run={RUN}&run2={COMPARED}&class=building&step=1&image=rgb-val-0000"


@contextmanager
def opened(browser, address, page, wait_for, query=STATE):
    """A page, drawn to its end."""
    with window(browser, "about:blank", width=1280, height=800) as found:
        found.set_default_timeout(240_000)  # the first page that runs a network imports torch
        found.goto(f"{address}/{page}?{query}")
        found.locator(wait_for).first.wait_for()
        settle(found)
        yield found
        settle(found)


def test_forgetting_counts_on_the_validation_set(browser, address):
    with opened(browser, address, "forgetting", ".st-key-view-images .gallery .entry") as page:
        screenshot(page, "forgetting-light-1280")
        assert page.get_by_text(re.compile("building.* (lost|right)")).first.is_visible()
        page.locator(".viewer .stage").click(position={"x": 200, "y": 150})
        page.locator("p", has_text=re.compile(r"^Pixel \d+, \d+")).wait_for()
        page.get_by_role("radio", name="validation set").click()
        page.wait_for_function("location.search.includes('counted-on=set')")
        page.get_by_text("in the validation set").first.wait_for()


def test_channels_are_switched_off_and_taken_from_the_step_before(browser, address):
    with opened(browser, address, "channels", ".st-key-view-gallery .gallery .entry") as page:
        figure(page, "sets")
        screenshot(page, "channels-light-1280")
        entry = page.locator(".st-key-view-gallery .gallery .entry").nth(3)
        channel = entry.get_attribute("data-id")
        entry.click()
        page.get_by_role("heading", name=f"Without channel {channel}").wait_for()
        page.wait_for_function(f"location.search.includes('channel={channel}')")
        without = page.locator(".st-key-view-without")
        without.get_by_text(re.compile("switched off: .*changed")).wait_for()
        without.get_by_role("radio", name="take from step 0").click()
        without.get_by_text(re.compile("as at step 0: .*changed")).wait_for()
        page.wait_for_function("location.search.includes('without=old')")  # written when the whole page is drawn


def test_relevance_explains_the_pixel_that_was_clicked(browser, address):
    with opened(browser, address, "relevance", ".viewer .item") as page:
        screenshot(page, "relevance-light-1280")
        assert page.get_by_text("on its true pixels").first.is_visible()
        page.get_by_role("combobox", name="Explained pixels").click()
        page.get_by_role("option", name="clicked pixel").click()
        page.get_by_text("on the clicked pixel").first.wait_for()
        page.locator(".viewer .stage").click(position={"x": 140, "y": 120})
        page.wait_for_function("location.search.includes('pixel=')")
        settle(page)
        assert page.get_by_text("on the clicked pixel").first.is_visible()
        assert page.locator(".viewer .item", has_text="1 pixel").count() == 1


def test_prototypes_follow_the_class_that_is_chosen(browser, address):
    with opened(browser, address, "prototypes", ".viewer .item") as page:
        screenshot(page, "prototypes-light-1280")
        page.get_by_text(re.compile("building moved by")).first.wait_for()
        page.get_by_role("combobox", name=re.compile("^Class|Class$")).first.click()
        page.get_by_role("option", name="impervious surface").click()
        page.get_by_text(re.compile("impervious surface moved by")).first.wait_for()
        page.locator(".viewer .item", has_text="Step 0").first.click()
        page.locator(".viewer .tag", has_text="Step 0").first.wait_for()


def test_training_zooms_into_a_step(browser, address):
    with opened(browser, address, "training", ".st-key-view-gradients .js-plotly-plot") as page:
        figure(page, "terms")
        screenshot(page, "training-light-1280")
        assert page.get_by_text(re.compile("step 1: segmentation alone trained the network")).is_visible()
        page.get_by_role("radio", name="step 1", exact=True).click()
        page.wait_for_function("location.search.includes('span=step')")
        settle(page)
        page.locator(".st-key-view-gradients .js-plotly-plot .trace").first.wait_for()


@contextmanager
def training(folder, root):
    """`lag train` at work on a tiny run, some ten seconds long on a free machine, in the folder of runs `root`."""
    config = tiny_config(
        write_shapes(folder / "shapes"), "finetune", optim={"epochs": 24, "epochs_later": 24, "batch": 2}
    )
    command = [sys.executable, "-m", "lag_core", "train", "--config", write_toml(folder / "live.toml", config)]
    command += ["--out", root / "live", "--quiet"]
    process = subprocess.Popen([str(part) for part in command], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        while not (root / "live" / "run.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, "training did not begin"
            time.sleep(0.1)
        yield process
    finally:
        process.kill()
        process.wait()


def test_training_follows_a_run_while_it_is_trained(browser, tmp_path):
    progress = re.compile(r"Still training, step (\d), iteration ([\d,]+)")
    root = tmp_path / "runs"
    root.mkdir()
    with (
        served("dashboard/app.py", {"LAG_RUNS": str(root)}) as url,
        window(browser, f"{url}/training") as page,
    ):
        page.set_default_timeout(120_000)
        page.get_by_text("No run yet").wait_for()
        with training(tmp_path, root) as process:
            page.goto(f"{url}/training?run=live")
            line = page.get_by_text(progress)
            line.wait_for()
            first = re.search("Still training, step .*", line.inner_text())
            page.wait_for_function(
                "before => { const now = document.body.innerText.match(/Still training, step .*/);"
                " return now && now[0] !== before; }",
                arg=first[0],
            )
            page.locator(".st-key-view-gradients .js-plotly-plot").first.wait_for()
            screenshot(page, "training-live-1280")
            process.wait(280)
        line.wait_for(state="detached")
        page.get_by_text(re.compile(r"^(check_circle|error)?\s*steps? ")).first.wait_for()
        settle(page)
        page.locator("input[type=range][max='2']").first.wait_for(state="attached")  # all steps are here


def test_the_tour_stays_open_while_its_pages_are_visited(browser, address):
    with opened(browser, address, "", ".held .now") as page:
        page.get_by_test_id("stSidebar").get_by_role("button", name="Five-minute tour").click()
        card = page.locator(".st-key-tour-card")
        card.get_by_text("A tour in five minutes").wait_for()
        for heading in ("1. Overview", "2. Steps"):
            card.get_by_role("button", name="Go on").click()
            card.get_by_text(heading).wait_for()
        settle(page)
        screenshot(page, "tour-light-1280")
        page.locator(".viewer .stage").wait_for()
        assert "/steps" in page.url, "going on opens the page that the stop is about"
        assert card.get_by_text("2. Steps").is_visible()
        page.keyboard.press("j")
        page.wait_for_function("location.search.includes('step=0')")
        settle(page)
        screenshot(page, "tour-steps-light-1280")
        card.get_by_role("button", name="Close the tour").click()
        card.wait_for(state="detached")

"""The photographs that ship: attribution, masks, the rule that makes them a gallery, and the view the app opens on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import served, settle, window
from repository import ROOT
from small_runs import write_run
from streamlit.testing.v1 import AppTest

import dashboard
from dashboard import app as frame
from dashboard.cache import loaders, photographs
from lag_core.data.dataset import DatasetMissing
from lag_core.data.photographs import Photographs
from lag_core.data.pictures import DataError, picture_size, read_mask
from lag_core.protocol import ClassInfo
from lag_core.runs import open_run

FOLDER = ROOT / "assets" / "photos"
CHECKPOINTS = ROOT / "checkpoints"
APP = str(Path(dashboard.__file__).parent / "app.py")
NAMES = sorted(path.stem for path in (FOLDER / "images").iterdir())
CLASSES = {one["id"]: one["name"] for one in json.loads((FOLDER / "classes.json").read_text())["classes"]}
LAGPLUS, FINETUNE = "animals-3-1-lagplus", "animals-3-1-finetune"


def test_every_photograph_has_author_licence_source_and_a_mask():
    with (FOLDER / "ATTRIBUTION.csv").open(newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    listed = (FOLDER / "val.txt").read_text().split()
    masks = sorted(path.stem for path in (FOLDER / "masks").iterdir())
    assert len(NAMES) >= 8 and sorted(rows) == sorted(listed) == masks == NAMES
    for name, row in rows.items():
        assert row["author"] and row["source"].startswith("https://") and row["taken from"], name
        assert row["licence"].startswith(("Public domain", "CC0")), name


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_has_the_size_of_its_photograph_and_known_ids_alone(name):
    mask = read_mask(FOLDER / "masks" / f"{name}.png")
    size = picture_size(FOLDER / "images" / f"{name}.jpg")
    assert mask.shape == size and max(size) == 320
    held = set(np.unique(mask).tolist())
    assert held <= {*CLASSES, 255} and 0 in held and held - {0, 255}
    assert (mask == 255).mean() < 0.06, "the uncertain border is a thin band"


def test_every_class_is_shown_by_a_photograph():
    shown = {int(i) for name in NAMES for i in np.unique(read_mask(FOLDER / "masks" / f"{name}.png"))}
    assert shown - {255} == set(CLASSES)


def test_the_photographs_are_small():
    assert sum(path.stat().st_size for path in (FOLDER / "images").iterdir()) <= 400_000


def test_classes_are_found_by_name_and_ids_mapped():
    shipped = Photographs(FOLDER)
    classes = [ClassInfo(7, "background", (0, 0, 0)), ClassInfo(3, "dog", (1, 1, 1))]
    found = shipped.for_classes(classes, 7)
    assert found is not None
    stored = read_mask(FOLDER / "masks" / "dog.png")
    assert np.array_equal(found.mask("dog"), np.select([stored == 255, stored == 2], [255, 3], 7))
    assert set(np.unique(found.mask("cow"))) == {7, 255}, "a class that the run does not know is its background"
    alone = shipped.for_classes(classes[1:], None)
    assert alone is not None and set(np.unique(alone.mask("cow"))) == {255}
    assert shipped.for_classes([*classes, ClassInfo(4, "zebra", (2, 2, 2))], 7) is None


def test_a_photograph_without_attribution_is_not_shown(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "photos")
    path = tmp_path / "photos" / "ATTRIBUTION.csv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if not line.startswith("dog,")))
    with pytest.raises(DataError, match="'dog'"):
        Photographs(tmp_path / "photos")


def test_only_a_run_that_lacks_its_images_and_knows_the_classes_gets_them(tmp_path):
    run = open_run(CHECKPOINTS / LAGPLUS)
    assert loaders.image_ids(run, "") == photographs.ids(run) and "photo:dog" in photographs.ids(run)
    picture = loaders.picture(run, "", "photo:dog")
    assert picture is not None and picture.shipped and not picture.uploaded and picture.truth is not None
    dog = run.class_index("dog")
    assert np.array_equal(picture.truth == dog, read_mask(FOLDER / "masks" / "dog.png") == 2)
    with pytest.raises(DatasetMissing):  # what measures on the validation set does not get them
        run.open_dataset()
    aerial = open_run(write_run(tmp_path, "aerial"))
    assert not photographs.ids(aerial) and not any(map(photographs.is_photo, loaders.image_ids(aerial, "")))
    assert loaders.picture(aerial, "", "photo:dog") is None


def test_the_run_s_own_images_come_first(tmp_path):
    own = tmp_path / "own"
    shutil.copytree(FOLDER, own)
    (own / "val.txt").write_text("cow\n")
    (own / "train.txt").write_text("dog\n")
    run = open_run(CHECKPOINTS / LAGPLUS)
    assert loaders.image_ids(run, str(own)) == ("cow",)


@pytest.fixture
def app(monkeypatch):
    """The app on the runs that ship, without any data root."""
    monkeypatch.setenv("LAG_RUNS", str(CHECKPOINTS))
    monkeypatch.delenv("LAG_DATA", raising=False)
    return AppTest.from_file(APP, default_timeout=240)


def test_the_app_opens_on_the_dog_that_one_run_lost(app):
    at = app.run()
    assert not at.exception and not at.error
    chosen = {key: at.session_state[key] for key in ("run", "run2", "step", "class", "image")}
    assert chosen == {"run": LAGPLUS, "run2": FINETUNE, "step": 1, "class": "dog", "image": "photo:dog"}
    said = " ".join(c.value for c in at.caption)
    assert photographs.SAID in said and "Hans Kemperman" in said and "Public domain" in said and "commons.wiki" in said


def test_who_moves_to_the_last_step_stays_there(app):
    at = app.run()
    for _ in range(2):
        next(b for b in at.button if b.key == "step.next").click()
        at.run()
    assert at.session_state["step"] == 3
    at.run()
    assert at.session_state["step"] == 3


@pytest.mark.slow
def test_one_run_remembers_the_dog_and_the_other_lost_it():
    iou = {}
    for name in (LAGPLUS, FINETUNE):
        run = open_run(CHECKPOINTS / name)
        picture = loaders.picture(run, "", "photo:dog")
        assert picture is not None and picture.truth is not None
        dog, known = run.class_index("dog"), picture.truth != 255
        for step in (0, 1):
            called = (loaders.trace(run, picture).prediction(step) == dog) & known
            true = picture.truth == dog
            iou[name, step] = (called & true).sum() / (called | true).sum()
    assert min(iou[LAGPLUS, 0], iou[FINETUNE, 0], iou[LAGPLUS, 1]) > 0.5 and iou[FINETUNE, 1] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("slug", [entry.slug for entry in frame.PAGES])
def test_every_page_works_on_the_dog(slug, monkeypatch, app):
    at = AppTest.from_string(f"from dashboard import app\napp.main({slug!r})", default_timeout=240).run()
    assert not at.exception and not [e.value for e in at.error] and not [w.value for w in at.warning]
    assert at.session_state["image"] == "photo:dog"


@pytest.mark.browser
def test_the_first_page_shows_the_dog_and_who_made_it(browser):
    with (
        served("dashboard/app.py", {"LAG_RUNS": str(CHECKPOINTS), "LAG_DATA": ""}) as url,
        window(browser, url, width=1280, height=800) as page,
    ):
        page.wait_for_selector(".held .now")
        settle(page)
        side = page.get_by_test_id("stSidebar")
        assert side.get_by_text("Hans Kemperman").is_visible()
        assert (
            side.get_by_role("link", name="source").get_attribute("href").startswith("https://commons.wikimedia.org/")
        )
        assert page.get_by_text("animals-3-1-finetune has none of its 57 left").first.is_visible()
        page.locator(".viewer .tag", has_text="animals-3-1-finetune").first.wait_for()

"""The command line: what each command does, and every mistake of a user as one sentence and status 2."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from repository import ROOT
from shapes import CLASSES, tiny_config, tiny_run, write_shapes, write_toml

from lag_core import config as configuration
from lag_core.cli import main
from lag_core.commands.train import command_for, read_config
from lag_core.data.pictures import read_image, read_mask
from lag_core.data.remap import dataset_ids
from lag_core.runs import SCHEMA, open_run


class Answer(NamedTuple):
    status: int
    out: str
    err: str


Lag = Callable[..., Answer]


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def lag(capsys: pytest.CaptureFixture[str]) -> Lag:
    """Run one command in this process."""

    def call(*arguments: object) -> Answer:
        try:
            status = main([str(a) for a in arguments])
        except SystemExit as error:  # argparse
            status = int(error.code or 0)
        return Answer(status, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("cli") / "shapes")


@pytest.fixture(scope="module")
def trained(root: Path) -> Path:
    return tiny_run(root, root.parent / "runs" / "tiny", "lag").path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.fixture(scope="module")
def toml(root: Path) -> Path:
    return write_toml(root.parent / "shapes.toml", tiny_config(root, "finetune"))


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_sentence(answer: Answer, pattern: str) -> None:
    """Status 2, and on standard error one line that says what is wrong."""
    assert answer.status == 2, answer
    assert answer.out == ""
    assert answer.err.count("\n") == 1 and answer.err.startswith("lag: "), answer.err
    assert "Traceback" not in answer.err and re.search(pattern, answer.err), answer.err


def test_train_writes_a_run_and_says_a_line_a_step(lag: Lag, toml: Path, tmp_path: Path) -> None:
    answer = lag("train", "--config", toml, "--out", tmp_path / "run", "--set", "optim.epochs=1")
    assert answer.status == 0
    run = open_run(tmp_path / "run")
    assert run.status == "finished" and run.method == "finetune" and run.config.optim.epochs == 1
    assert [s for s in range(3) if re.search(rf"^step {s}: old .* new .* all ", answer.out, re.M)] == [
        0,
        1,
        2,
    ]
    assert "Traceback" not in answer.err


BAD_TRAINING: dict[str, tuple[list[str], str]] = {
    "misspelt key": (["--set", "optim.momentun=0.5"], r"unknown key optim\.momentun; did you mean"),
    "misspelt section": (["--set", "optimm.power=0.5"], r"unknown key optimm; did you mean optim"),
    "no key": (["--set", "0.5"], r"expected section\.key=value"),
    "wrong type": (["--set", "optim.batch=many"], r"optim\.batch = 'many': expected int"),
    "impossible value": (["--set", "optim.batch=0"], r"optim\.batch = 0: must lie between"),
    "nan": (["--set", "optim.lr_head=nan"], r"optim\.lr_head = nan: must lie between"),
    "unknown choice": (["--set", "data.setting=overlap"], r"data\.setting = 'overlap': allowed are"),
    "table as a number": (["--set", "method=3"], r"method: expected a table"),
    "method that is a list": (["--set", "method.name=[1]"], r"method\.name"),
    "unknown method": (["--method", "laag"], r"method 'laag' is unknown; known: finetune"),
    "wrong task": (["--set", "data.task=15-1"], r"data\.task = '15-1': .* names 16 classes, but there are 4"),
    "task that is none": (["--set", "data.task=fifteen"], r"expected 'offline' or numbers"),
    "unknown domain": (["--set", 'data.domains=["rgb"]'], r"has no domain 'rgb'"),
    "missing dataset": (["--set", "data.root=/nowhere"], r"there is no folder /nowhere; set data\.root"),
    "no root": (["--set", 'data.root=""'], r"data\.root is missing"),
    "other layout": (["--set", "data.dataset=voc"], r"looked for .*shapes"),
    "curvature in half precision": (["--set", "optim.amp=fp16", "--set", "optim.steadiness=0.5"], r"range of fp16"),
    "weights that are none": (["--set", f"model.weights={__file__}"], r"test_cli\.py is damaged or contains more"),
    "missing weights": (["--set", "model.weights=/nowhere.pt"], r"model\.weights = .*: there is no such"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", BAD_TRAINING)
def test_a_mistake_in_a_training_is_a_sentence(lag: Lag, toml: Path, tmp_path: Path, mistake: str) -> None:
    arguments, sentence = BAD_TRAINING[mistake]
    assert_sentence(lag("train", "--config", toml, "--out", tmp_path / "run", *arguments, "--quiet"), sentence)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "content, sentence",
    [
        (None, "there is no config file"),
        ("[data", "is not valid TOML"),
        ("methods = 3", r"\[methods\.reference\] must be a table"),
        ("data = 3", "data: expected a table"),
        ("colour = 3", "unknown key colour"),
    ],
)
def test_a_config_file_that_is_none_is_a_sentence(lag: Lag, tmp_path: Path, content: str | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "x.toml").write_text(content)
    assert_sentence(lag("train", "--config", tmp_path / "x.toml", "--out", tmp_path / "run"), sentence)
    assert_sentence(lag("train", "--config", tmp_path, "--out", tmp_path / "run"), "cannot be read")


def test_an_existing_out_is_not_written_over(lag: Lag, toml: Path, copy: Path, tmp_path: Path) -> None:
    before = files_below(copy)
    again = lag("train", "--config", toml, "--out", copy, "--quiet")
    assert_sentence(again, "already holds a run; choose another --out")
    resumed = lag("train", "--config", toml, "--out", copy, "--resume", "--quiet")
    assert_sentence(resumed, "was started with another configuration; these differ: .*method\\.name")
    assert files_below(copy) == before
    (tmp_path / "file").write_text("mine")
    assert_sentence(lag("train", "--config", toml, "--out", tmp_path / "file", "--quiet"), "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("kind", ["mask with a foreign id", "corrupt image", "mask of another size", "no classes"])
def test_a_damaged_dataset_is_a_sentence(lag: Lag, root: Path, toml: Path, tmp_path: Path, kind: str) -> None:
    data = Path(shutil.copytree(root, tmp_path / "data"))
    if kind == "mask with a foreign id":
        Image.fromarray(np.full((32, 32), 77, np.uint8)).save(data / "masks" / "s00.png")
        sentence = r"s00\.png holds id 77, which is not a class"
    elif kind == "corrupt image":
        content = (data / "images" / "s01.png").read_bytes()
        (data / "images" / "s01.png").write_bytes(content[: len(content) // 2])
        sentence = r"s01\.png is damaged"
    elif kind == "mask of another size":
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(data / "masks" / "s02.png")
        sentence = r"s02\.png has 8 x 8 pixels"
    else:
        (data / "classes.json").unlink()
        sentence = r"has no classes\.json"
    answer = lag("train", "--config", toml, "--set", f"data.root={data}", "--out", tmp_path / "run", "--quiet")
    assert_sentence(answer, sentence)
    assert not (tmp_path / "run" / "step_00.safetensors").exists()


def test_evaluate_measures_what_is_stored_to_the_digit(lag: Lag, trained: Path) -> None:
    answer = lag("evaluate", trained, "--json")
    assert answer.status == 0
    measured = json.loads(answer.out)
    run = open_run(trained)
    assert measured["stored"] == "equal" and [s["name"] for s in measured["steps"]] == [
        "step 0",
        "step 1",
        "step 2",
    ]
    assert np.array_equal([s["confusion"] for s in measured["steps"]], run.confusions())
    compared = json.loads(lag("compare", trained, "--json").out)[0]
    assert {k: v for k, v in compared.items() if k != "name"} == {
        k: v for k, v in measured["steps"][-1].items() if k not in ("name", "confusion", "classes")
    }
    text = lag("evaluate", trained).out
    assert "equal to the stored metrics, pixel by pixel" in text


def test_evaluate_says_when_the_stored_metrics_differ_and_writes_them(lag: Lag, copy: Path) -> None:
    right = (copy / "metrics.json").read_text()
    stored = json.loads(right)
    row = stored["steps"][1]["confusion"][0]
    row[0], row[1] = row[0] - 1, row[1] + 1
    for content in (json.dumps(stored), "{"):
        (copy / "metrics.json").write_text(content)
        verdict = "different" if content != "{" else "unreadable"
        assert json.loads(lag("evaluate", copy, "--json").out)["stored"] == verdict
        assert (copy / "metrics.json").read_text() == content
    assert lag("evaluate", copy, "--write").status == 0
    assert (copy / "metrics.json").read_text() == right


def test_evaluate_finds_the_data_elsewhere(lag: Lag, copy: Path, root: Path) -> None:
    info = json.loads((copy / "run.json").read_text())
    info["config"]["data"]["root"] = "moved"
    (copy / "run.json").write_text(json.dumps(info))
    assert_sentence(lag("evaluate", copy), "there is no folder moved; set data.root")
    assert lag("evaluate", copy, "--data", root, "--json").status == 0


@pytest.mark.parametrize("command", ["evaluate", "compare", "predict", "pack"])
@pytest.mark.parametrize(
    "damage, sentence",
    [
        ("none", "is not a run folder"),
        ("newer", f"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}; update the project"),
        ("json", "cannot be read as JSON"),
        ("unfinished", "has no finished step yet|is not finished|has no metrics yet"),
        ("truncated", r"step_00\.safetensors is not the file that run\.json describes"),
    ],
)
def test_a_run_that_cannot_be_used_is_a_sentence(
    lag: Lag, copy: Path, root: Path, tmp_path: Path, command: str, damage: str, sentence: str
) -> None:
    if damage == "truncated" and command == "compare":
        pytest.skip("compare reads the stored metrics alone")
    info = json.loads((copy / "run.json").read_text())
    if damage == "newer":
        (copy / "run.json").write_text(json.dumps({**info, "schema": SCHEMA + 1}))
    elif damage == "json":
        (copy / "run.json").write_text("{")
    elif damage == "unfinished":
        (copy / "run.json").write_text(json.dumps({**info, "steps": [], "status": "training"}))
    elif damage == "truncated":
        file = copy / "step_00.safetensors"
        file.write_bytes(file.read_bytes()[:1000])
    run = tmp_path / "nothing" if damage == "none" else copy
    before = files_below(tmp_path)
    rest = {"predict": [root / "images", "--out", tmp_path / "out"], "pack": ["--out", tmp_path / "out"]}
    assert_sentence(lag(command, run, *rest.get(command, [])), sentence)
    assert files_below(tmp_path) == before


def test_compare_puts_runs_side_by_side(lag: Lag, trained: Path, copy: Path) -> None:
    rows = json.loads(lag("compare", trained, copy, "--json").out)
    assert [r["name"] for r in rows] == ["tiny", "copy"] and all(0 <= r["all"] <= 1 for r in rows)
    assert {k: v for k, v in rows[0].items() if k != "name"} == {k: v for k, v in rows[1].items() if k != "name"}
    lines = lag("compare", trained, copy).out.splitlines()
    assert lines[0].split()[:5] == ["run", "old", "old+bg", "new", "all"]
    assert lines[1].split()[4] == f"{100 * rows[0]['all']:.2f}"
    assert any("as in the papers" in line for line in lines[3:]), "what the marked columns are"
    (copy / "metrics.json").unlink()
    assert_sentence(lag("compare", trained, copy), "has no metrics yet; `lag evaluate .* --write` measures it")


def test_predict_writes_ids_and_overlays(lag: Lag, trained: Path, root: Path, tmp_path: Path) -> None:
    from lag_core.explain.networks import Networks
    from lag_core.explain.trace import Trace

    one = root / "images" / "s03.png"
    answer = lag("predict", trained, one, root / "images", "--out", tmp_path / "out", "--step", 1)
    assert answer.status == 0 and "22 images, step 1 of tiny" in answer.out
    written = sorted(p.name for p in (tmp_path / "out").iterdir())
    names = sorted(p.stem for p in (root / "images").iterdir())
    assert written == sorted([f"{n}.mask.png" for n in names] + [f"{n}.overlay.png" for n in names])

    run = open_run(trained)
    expected = dataset_ids(Trace(Networks(run), read_image(one)).prediction(1), run.labels)
    mask = read_mask(tmp_path / "out" / "s03.mask.png")
    assert np.array_equal(mask, expected)
    assert set(np.unique(mask)) <= {0, 1, 2, 3}  # class 4 comes with step 2
    with Image.open(tmp_path / "out" / "s03.mask.png") as picture:
        assert picture.mode == "P"
        palette = np.array(picture.getpalette()).reshape(-1, 3)
    assert [palette[c["id"]].tolist() for c in CLASSES] == [c["color"] for c in CLASSES]
    overlay, image = read_image(tmp_path / "out" / "s03.overlay.png").astype(int), read_image(one).astype(int)
    half = (palette[mask].astype(int) + image) / 2
    assert np.abs(overlay - half).max() <= 0.5


def test_predict_reads_strangers_pictures_safely_and_replaces_nothing(lag: Lag, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((20, 50, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(np.zeros((7, 3), np.uint8)).save(folder / "gray.png")
    out = tmp_path / "out"
    assert lag("predict", trained, folder, "--out", out, "--quiet") == Answer(0, "", "")
    assert read_mask(out / "a.mask.png").shape == (20, 50) and read_mask(out / "gray.mask.png").shape == (
        7,
        3,
    )
    before = files_below(out)
    assert_sentence(lag("predict", trained, folder, "--out", out), r"a\.mask\.png exists and is never overwritten")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert_sentence(lag("predict", trained, folder, "--out", tmp_path / "other"), r"broken\.png is")
    assert not (tmp_path / "other").exists() and files_below(out) == before
    (folder / "a.png").write_bytes((out / "a.overlay.png").read_bytes())
    assert_sentence(lag("predict", trained, folder, "--out", tmp_path / "o"), "would both be written as a")
    (tmp_path / "empty").mkdir()
    assert_sentence(lag("predict", trained, tmp_path / "empty", "--out", tmp_path / "o"), "holds no image")
    assert_sentence(lag("predict", trained, tmp_path / "no.png", "--out", tmp_path / "o"), "there is no file")
    for step in (3, -1):
        answer = lag("predict", trained, folder / "a.jpg", "--out", tmp_path / "o", f"--step={step}")
        assert_sentence(answer, rf"tiny has no step {step}; it has steps 0 to 2")
    assert_sentence(
        lag("predict", trained, folder / "a.jpg", "--out", tmp_path / "o", "--opacity", "nan"),
        "between 0 and 1",
    )


def test_doctor_says_what_is_wrong_with_each_run(lag: Lag, copy: Path, trained: Path) -> None:
    home = copy.parent
    shutil.copytree(trained, home / "well")
    (home / "broken").mkdir()
    (home / "broken" / "run.json").write_text("{")
    (copy / "step_02.safetensors").write_bytes(b"short")
    answer = lag("doctor", "--runs", home, "--json")
    report = json.loads(answer.out)
    runs = {one["name"]: one["problems"] for one in report["runs"]}
    assert answer.status == 0 and list(runs) == ["broken", "copy", "well"]
    assert runs["well"] == []
    assert len(runs["copy"]) == 1 and "step_02.safetensors is not the file" in runs["copy"][0]
    assert "cannot be read as JSON" in runs["broken"][0]
    (data,) = report["datasets"]
    assert (data["name"], data["train"], data["val"], data["problems"]) == ("shapes", 18, 4, [])
    assert {"torch", "python"} <= report["versions"].keys() and report["device"] in ("cpu", "cuda")
    text = lag("doctor", "--runs", home, "--data", home / "nowhere").out
    assert "+ well (lag on shapes, finished, step 3 of 3)" in text and "! copy" in text
    assert f"there is no folder {home / 'nowhere'}" in text
    assert lag("doctor", "--runs", home / "nowhere").status == 0


def test_splits_counts_the_images_of_each_step(lag: Lag, root: Path, tmp_path: Path) -> None:
    common = ["splits", "--dataset", "folder", "--root", root, "--json"]
    answer = json.loads(lag(*common, "--task", "2-1-1").out)
    # image k holds classes k % 4 + 1 and the next; 18 training images
    held = [{k % 4 + 1, (k + 1) % 4 + 1} for k in range(18)]
    expected = [sum(bool(found & step) for found in held) for step in ({1, 2}, {3}, {4})]
    assert answer["images"] == expected
    half = json.loads(lag(*common, "--task", "2-1-1", "--fraction", "0.5").out)
    assert half["images"] == [expected[0], *(round(0.5 * n) for n in expected[1:])]
    lists = tmp_path / "lists.txt"
    lists.write_text("a 1 2\nb 16\nc 17 3\n")
    with_lists = lag("splits", "--dataset", "voc", "--lists", lists, "--task", "15-5", "--json")
    assert json.loads(with_lists.out)["images"] == [2, 2]
    lists.write_text("a one\n")
    assert_sentence(lag("splits", "--dataset", "voc", "--lists", lists, "--task", "15-5"), "expected lines 'image id")
    assert_sentence(lag("splits", "--lists", lists, "--task", "15-5"), "--lists works with --dataset voc or ade20k")
    assert_sentence(lag(*common, "--task", "9-9"), "names 18 classes|names .* classes, but there are 4")
    assert_sentence(lag(*common, "--task", "2-2", "--fraction", "0"), r"data\.fraction = 0\.0")
    assert_sentence(lag("splits", "--dataset", "kitti", "--task", "2-2"), "data.dataset = 'kitti': allowed are")


def test_help_shows_defaults(lag: Lag) -> None:
    for command in ("train", "evaluate", "predict", "compare", "splits", "doctor", "pack"):
        answer = lag(command, "--help")
        assert answer.status == 0 and "None" not in answer.out and f"usage: lag {command}" in answer.out
    assert "(default: overlapped)" in re.sub(r"\s+", " ", lag("splits", "--help").out)
    assert lag("nonsense").status == 2 and lag().status == 2


def test_the_program_itself_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    """Once through a process of its own; status 2 and a sentence, nothing on standard output."""
    call = [sys.executable, "-m", "lag_core", "compare", str(tmp_path / "nothing")]
    done = subprocess.run(call, capture_output=True, text=True, cwd=ROOT)
    assert_sentence(Answer(done.returncode, done.stdout, done.stderr), "is not a run folder")


def test_a_mistake_of_ours_is_not_called_the_users(lag: Lag, monkeypatch: pytest.MonkeyPatch, trained: Path) -> None:
    def breaks(*_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr("lag_core.comparison.row", breaks)
    with pytest.raises(AssertionError, match="ours"):  # Python then ends with status 1 and a traceback
        lag("compare", trained)


def test_the_command_of_a_run_trains_it(root: Path, tmp_path: Path) -> None:
    """What the model card prints is read back to the run's configuration, folders apart."""
    wanted = tiny_config(root, "lag+", data={"selection": "random"}, optim={"seed": 4})
    write_toml(tmp_path / "near.toml", tiny_config(root, "finetune"))
    write_toml(tmp_path / "far.toml", configuration.resolve({"optim": {"seed": 9}}))
    (tmp_path / "broken.toml").write_text("[data")
    import shlex

    words = shlex.split(command_for(wanted, tmp_path).replace("\\\n", " "))
    assert words[:5] == ["python", "-m", "lag_core", "train", "--config"] and words[5].endswith("near.toml")
    changes = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
    found = read_config(Path(words[5]), words[words.index("--method") + 1], changes)
    neutral = configuration.neutral(configuration.to_dict(wanted))
    assert configuration.neutral(configuration.to_dict(found)) == neutral
    assert str(root) not in " ".join(words)
    assert command_for(wanted, tmp_path / "nowhere") == ""


def test_every_config_that_ships_is_read_for_every_method() -> None:
    from lag_core.method.presets import PRESETS

    files = sorted((ROOT / "configs").glob("*.toml"))
    assert files
    for path in files:
        for method in PRESETS:
            config = read_config(path, method, ["data.root=somewhere"])
            assert config.method.name == method


def test_a_few_pixels_in_a_million_are_rounding(lag: Lag, copy: Path) -> None:
    from lag_core.commands.evaluate import _verdict
    from lag_core.runs import open_run

    stored = open_run(copy).confusions()
    assert stored is not None
    many = 10**7 * (1 + stored)
    moved = many.copy()
    moved[0, 0, 0] -= 5
    moved[0, 0, 1] += 5
    run = open_run(copy)
    run.confusions = lambda domain=None: many  # type: ignore[method-assign]
    far = many.copy()
    far[0] = far[0, :, ::-1]
    assert [_verdict(run, m) for m in (many, moved, far, stored[:1])] == ["equal", "close", "different", "different"]
    assert _verdict(run, stored) == "other images"

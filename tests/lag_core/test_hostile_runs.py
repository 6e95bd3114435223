"""A run that opens can be drawn: what run.json, metrics, analysis and survey may hold, and what is said of the rest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import LATENT, write_run
from small_surveys import add_survey
from streamlit.testing.v1 import AppTest

from lag_core.analysis_arrays import checked_arrays
from lag_core.cli import main
from lag_core.config import LARGEST_TILE, ConfigError, resolve
from lag_core.data import aerial
from lag_core.explain.survey import ARRAYS, METADATA, SurveyMissing, open_survey
from lag_core.runs import Run, RunError, list_runs, open_run, read_json, read_tensors, write_json, write_tensors

IDS = [f"rgb-val-{i:04d}" for i in range(4)]

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_run(tmp_path_factory.mktemp("runs"), "run")
    run = open_run(path)
    rng = np.random.default_rng(0)
    for step in range(3):
        rows = run.labels.channels(step)
        arrays = {
            "prototypes.mean": rng.random((rows, LATENT)).astype(np.float32),
            "prototypes.count": np.full(rows, 5, np.float32),
            "channels.distance": rng.random(LATENT).astype(np.float32),
        }
        write_tensors(path / f"analysis_{step:02d}.safetensors", arrays)
    add_survey(run, IDS)
    return path


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "runs" / "copy"))


def change(path: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    info = read_json(path)
    how(info)
    path.write_text(json.dumps(info))


REQUIRED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no dataset.name": (lambda i: i["dataset"].pop("name"), r"dataset\.name is missing"),
    "a number as name": (lambda i: i["dataset"].update(name=3), r"dataset\.name is 3"),
    "a long class": (lambda i: i["dataset"]["classes"][1].update(name="x" * 500), r"dataset\.classes\[1\]\.name"),
    "an id of text": (lambda i: i["dataset"]["classes"][0].update(id="1"), r"dataset\.classes\[0\]\.id"),
    "NaN seconds": (lambda i: i["steps"][1].update(seconds=float("nan")), r"steps\[1\]\.seconds"),
    "true images": (lambda i: i["steps"][0].update(images=True), r"steps\[0\]\.images"),
    "aerial at 4096": (lambda i: i["config"]["data"].update(size=4096), r"data\.size = 4096"),
    "a long root": (lambda i: i["config"]["data"].update(root="r" * 5000), r"data\.root: a text of 5000 characters"),
    "many rates": (lambda i: i["config"]["model"].update(aspp_rates=[1] * 20_000), r"aspp_rates: a list of 20000"),
    "many domains": (lambda i: i["config"]["data"].update(domains=["a"] * 60_000), r"data\.domains: a list of 60000"),
    "no method": (lambda i: i.update(method=["lag"]), "method is a list of 1 entries"),
    "network of text": (lambda i: i.update(network="mine"), "network is not a table"),
    "images of numbers": (lambda i: i.update(network={"kind": "stored", "images": [1]}), r"network\.images"),
}


@pytest.mark.parametrize("case", REQUIRED)
def test_a_required_value_that_is_wrong_is_named(copy: Path, case: str) -> None:
    how, sentence = REQUIRED[case]
    change(copy / "run.json", how)
    with pytest.raises(RunError, match=rf"run\.json is damaged .*{sentence}"):
        open_run(copy)


OPTIONAL: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "hours of text": (lambda i: i.update(hours="x"), "hours is 'x', expected a numbe"),
    "memory without end": (lambda i: i.update(peak_memory_mib=float("inf")), "peak_memory_mib is inf"),
    "trained of numbers": (lambda i: i["steps"][0].update(trained=[1]), "steps[0].trained"),
    "trained of letters": (lambda i: i["steps"][0].update(trained="heads"), "steps[0].trained is 'heads'"),
    "many dead terms": (lambda i: i["steps"][1].update(dead_terms=["t"] * 5000), "steps[1].dead_terms"),
    "dead terms of lists": (lambda i: i["steps"][1].update(dead_terms=[["a"]]), "steps[1].dead_terms"),
    "versions of a list": (lambda i: i.update(versions=[1]), "versions is a list"),
    "warnings of tables": (lambda i: i.update(warnings=[{}]), "warnings is a list"),
    "domains of text": (lambda i: i["dataset"].update(domains="rgb"), "dataset.domains is 'rgb'"),
}


@pytest.mark.parametrize("case", OPTIONAL)
def test_an_optional_value_that_is_wrong_counts_as_absent(copy: Path, case: str) -> None:
    how, sentence = OPTIONAL[case]
    change(copy / "run.json", how)
    run = open_run(copy)
    assert len(run.faults()) == 1 and sentence in run.faults()[0]


def test_a_sound_run_has_no_fault(copy: Path) -> None:
    assert open_run(copy).faults() == [] and open_survey(open_run(copy)).faults == ()


def test_halves_of_characters_are_no_names(copy: Path) -> None:
    change(copy / "run.json", lambda i: i["dataset"]["classes"][0].update(name="\ud800road"))
    assert open_run(copy).classes[0].name == "\ufffdroad"


ANALYSES: dict[str, tuple[str, np.ndarray]] = {
    "a scalar": ("prototypes.mean", np.float32(3).reshape(())),
    "another width": ("prototypes.mean", np.zeros((4, 3), np.float32)),
    "NaN": ("channels.distance", np.full(LATENT, np.nan, np.float32)),
    "infinite": ("channels.distance", np.full(LATENT, np.inf, np.float32)),
    "below 0": ("prototypes.count", np.full(5, -1, np.float32)),
    "truth values": ("channels.distance", np.ones(LATENT, bool)),
}


@pytest.mark.parametrize("case", ANALYSES)
def test_a_wrong_array_leaves_its_group_out(copy: Path, case: str) -> None:
    name, array = ANALYSES[case]
    path = copy / "analysis_01.safetensors"
    write_tensors(path, {**read_tensors(path), name: array})
    run, group = open_run(copy), name.partition(".")[0]
    assert not any(found.startswith(group) for found in run.analysis(1)) and len(run.analysis(1)) in (1, 2)
    assert [f"{group} are left out" in fault for fault in run.faults()] == [True]
    with pytest.raises(RunError, match=r"analysis_01\.safetensors: .*left out; restore the file"):
        run.whole_analysis(1)


def test_an_analysis_that_is_no_file_counts_as_absent(copy: Path) -> None:
    (copy / "analysis_00.safetensors").unlink()
    os.mkfifo(copy / "analysis_00.safetensors")
    run = open_run(copy)
    assert run.analysis(0) == {} and "named pipe" in run.faults()[0]


def test_statistics_have_any_width() -> None:
    arrays = {name: np.ones((2, 7), np.float32) for name in ("statistics.mean", "statistics.pair_mean")}
    arrays["statistics.count"] = np.ones(2, np.float32)
    arrays["statistics.scatter"] = np.ones((2, 7, 7), np.float32)
    assert checked_arrays(arrays, 2, 3) == (arrays, [])
    assert checked_arrays({**arrays, "statistics.scatter": np.ones((2, 6), np.float32)}, 2, 3)[0] == {}


METRICS: dict[str, Callable[[Any], Any]] = {
    "below 0": lambda m: -1,
    "half": lambda m: 0.5,
    "text": lambda m: "1",
    "too many": lambda m: 2**60,
    "NaN": lambda m: float("nan"),
    "a list": lambda m: [1],
    "nothing": lambda m: None,
}


@pytest.mark.parametrize("case", METRICS)
@pytest.mark.parametrize("domain", [False, True])
def test_metrics_are_counts(copy: Path, case: str, domain: bool) -> None:
    def damage(content: dict[str, Any]) -> None:
        entry = content["steps"][1]
        matrix = entry["by_domain"]["irrg"] if domain else entry["confusion"]
        matrix[0][0] = METRICS[case](matrix[0][0])

    change(copy / "metrics.json", damage)
    run = open_run(copy)
    assert len(run.faults()) == 1
    if domain:
        assert run.confusions() is not None and run.domains == ("rgb",)
    else:
        with pytest.raises(RunError, match=r"metrics\.json is damaged"):
            run.confusions()


def resurvey(path: Path, name: str, array: np.ndarray) -> None:
    """Put another array into the survey, with size and digest to match."""
    entry = write_tensors(path / ARRAYS, {**read_tensors(path / ARRAYS), name: array})
    change(path / METADATA, lambda about: about.update(file=entry))


SURVEYS: dict[str, tuple[str, Any]] = {
    "rank": ("shift", np.zeros((4, 3), np.uint32)),
    "rank of pixels": ("pixels", np.zeros(4, np.uint32)),
    "an image that is not there": ("top_index", np.full((3, LATENT, 9), 99, np.int32)),
    "below -1": ("top_index", np.full((3, LATENT, 9), -2, np.int32)),
    "no activation": ("top_index", np.zeros((3, LATENT, 9), np.int32)),
    "a class that is not there": ("flows", np.array([[9, 0, 0, 0, 1]])),
    "a step that is not there": ("flows", np.array([[0, 2, 0, 0, 1]])),
    "flows of one axis": ("flows", np.zeros(5, np.int64)),
    "infinite": ("distances", np.full((1, 2, LATENT), np.inf, np.float32)),
    "NaN": ("prototypes", np.full((3, 5, LATENT), np.nan, np.float32)),
    "counts below 0": ("confusion", np.full((3, 5, 5), -1)),
    "a scalar": ("spread", np.float32(1).reshape(())),
    "another width": ("channel_mean", np.zeros((3, LATENT + 1), np.float32)),
}


@pytest.mark.parametrize("case", SURVEYS)
def test_a_survey_that_does_not_fit_counts_as_absent(copy: Path, case: str) -> None:
    name, array = SURVEYS[case]
    resurvey(copy, name, array)
    with pytest.raises(SurveyMissing, match=rf"cannot be read \(.*{name}"):
        open_survey(open_run(copy))


@pytest.mark.parametrize(
    "name, array",
    [
        ("cka.values", np.zeros((6, 3, 3), np.float32)),  # alone: its companions are missing
        ("shares.cases", np.zeros((1, 3), np.int64)),
        ("shares.cases", np.zeros((), np.int64)),
        ("pictures.rows", np.full(len(IDS), 2**40)),
        ("pictures.rows", np.full(len(IDS), -1)),
        ("pictures.moves", np.full((3, 4), 200, np.uint8)),
        ("pictures.moved", np.zeros(3, np.uint32)),
        ("pictures.confidence", np.full((len(IDS), 3, 5), 7.0)),
    ],
)
def test_a_wrong_optional_part_of_a_survey_is_left_out(copy: Path, name: str, array: np.ndarray) -> None:
    resurvey(copy, name, array)
    found = open_survey(open_run(copy))
    assert found.shares is None and found.holds is None and len(found.faults) == 1


@pytest.mark.parametrize(
    "key, value", [("ids", [1, 2, 3, 4]), ("ids", "abcd"), ("ids", IDS[:1] * 4), ("domains", [[]])]
)
def test_survey_names_are_names(copy: Path, key: str, value: object) -> None:
    change(copy / METADATA, lambda about: about.update({key: value}))
    with pytest.raises(SurveyMissing):
        open_survey(open_run(copy))


def test_the_largest_tile_is_the_generators() -> None:
    assert aerial.SIZES[-1] == LARGEST_TILE
    with pytest.raises(ConfigError, match="at most 1024"):
        resolve({"data": {"size": LARGEST_TILE + 1}})


def test_doctor_goes_on_and_prints_no_escape(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = Path(shutil.copytree(copy, copy.parent / "a-bad\x1b[31m"))
    change(bad / "run.json", lambda i: i.update(warnings=["\x1b]0;title\x07\x9b"], hours="\x1b[2J"))
    pipes = Path(shutil.copytree(copy, copy.parent / "b-pipes"))
    for name in ("metrics.json", "events.jsonl", "analysis_00.safetensors", METADATA):
        (pipes / name).unlink()
        os.mkfifo(pipes / name)
    (copy.parent / "c-none").mkdir()
    (copy.parent / "c-none" / "run.json").write_text("{")
    assert main(["doctor", "--runs", str(copy.parent)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x9b" not in said and "\x07" not in said
    assert all(f" {name} (" in said for name in ("b-pipes", "c-none", "copy")) and "a-bad\\x1b[31m" in said
    assert said.count("named pipe") == 4


def test_every_page_of_the_rest_is_drawn(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All optional parts wrong at once: the Overview names them, nothing is an error."""
    change(copy / "run.json", lambda i: (i.update(hours="x"), i["steps"][0].update(dead_terms=[1])))
    change(copy / "metrics.json", lambda m: m["steps"][0]["confusion"].append([]))
    resurvey(copy, "shift", np.zeros((4, 3), np.uint32))
    write_tensors(copy / "analysis_01.safetensors", {"channels.distance": np.zeros((), np.float32)})
    monkeypatch.setenv("LAG_RUNS", str(copy.parent))
    at = AppTest.from_string("from dashboard.app import main; main(default='overview')", default_timeout=60).run()
    assert not at.exception and not at.error
    said = " ".join(one.value for one in at.warning).replace("\\", "")
    for name in ("hours", "steps[0].dead_terms", "metrics.json", "shift", "analysis_01.safetensors"):
        assert name in said
    assert [one.name for one in list_runs(copy.parent) if isinstance(one, Run)] == ["copy"]


def test_a_run_with_a_new_name_for_nothing(copy: Path) -> None:
    write_json(copy / "run.json", {**read_json(copy / "run.json"), "stranger": {"deep": [1]}})
    assert open_run(copy).faults() == []

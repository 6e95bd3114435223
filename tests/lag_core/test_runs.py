"""The run folder: what is written is read back, and every damage is one sentence."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from repository import ROOT
from safetensors.numpy import load_file, save_file
from shapes import tiny_run, write_shapes

from lag_core import config as configuration
from lag_core.model.weights import load_segmenter, load_steps, state_arrays
from lag_core.runs import (
    SCHEMA,
    BrokenRun,
    Run,
    RunError,
    append_event,
    file_digest,
    list_runs,
    open_run,
    read_tensors,
    write_json,
    write_tensors,
)

DOCS = ROOT / "docs" / "run-format.md"


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; tests copy it before they damage it."""
    root = tmp_path_factory.mktemp("runs")
    return tiny_run(write_shapes(root / "shapes"), root / "tiny", "lag").path


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def change_info(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads((path / "run.json").read_text())
    change(info)
    (path / "run.json").write_text(json.dumps(info))


def replace_step(path: Path, step: int, tensors: dict[str, np.ndarray]) -> None:
    """Put other tensors into a step file, with size and digest to match: a foreign trainer's mistake."""
    file = path / f"step_{step:02d}.safetensors"
    save_file(tensors, file)
    entry = {"name": file.name, "bytes": file.stat().st_size, "sha256": file_digest(file)}
    change_info(path, lambda info: info["steps"][step].update(files=[entry]))


def test_a_run_is_read_back(trained: Path) -> None:
    run = open_run(trained)
    assert (run.name, run.method, run.status, run.last_step) == ("tiny", "lag", "finished", 2)
    assert [c.name for c in run.classes] == ["background", "red", "green", "blue", "yellow"]
    assert [s.classes for s in run.steps] == [(0, 1, 2), (3,), (4,)]
    assert run.labels.steps == ((0, 1, 2), (3,), (4,)) and run.labels.unknown
    assert configuration.to_dict(run.config) == configuration.to_dict(
        configuration.resolve(json.loads((trained / "run.json").read_text())["config"])
    )
    assert not (trained / "resume.pt").exists()


def test_deltas_laid_over_one_another_are_the_network(trained: Path) -> None:
    run = open_run(trained)
    merged: dict[str, np.ndarray] = {}
    for step, shared in enumerate(load_steps(run)):
        merged |= load_file(trained / f"step_{step:02d}.safetensors")
        own = state_arrays(load_segmenter(run, step))
        assert own.keys() == merged.keys() == run.tensors(step).keys() == state_arrays(shared).keys()
        for name, value in merged.items():
            assert np.array_equal(own[name], value) and np.array_equal(state_arrays(shared)[name], value)


def test_confusions_count_every_validation_pixel(trained: Path) -> None:
    run = open_run(trained)
    dataset = run.open_dataset()
    masks = [dataset.mask(name) for name in dataset.ids("val")]
    counts = np.bincount(np.concatenate([m.ravel() for m in masks]), minlength=5)
    confusions = run.confusions()
    assert confusions is not None and confusions.shape == (3, 5, 5)
    for matrix in confusions:
        assert matrix.sum(1).tolist() == counts[list(run.labels.order)].tolist()


def test_a_truncated_step_file_is_refused(copy: Path) -> None:
    file = copy / "step_01.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    open_run(copy).tensors(0)
    with pytest.raises(RunError, match=r"step_01\.safetensors is not the file that run\.json describes"):
        open_run(copy).tensors(1)


def test_a_missing_step_file_is_refused(copy: Path) -> None:
    (copy / "step_02.safetensors").unlink()
    with pytest.raises(RunError, match=r"step_02\.safetensors is missing"):
        load_steps(open_run(copy))


def test_a_file_that_is_no_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for content in (b"", b"no tensors", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(RunError, match=r"x\.safetensors is not a readable safetensors file"):
            read_tensors(path)


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda t: t.update(stranger=np.zeros(3, np.float32)), "tensor stranger does not belong"),
        (lambda t: t.pop("aspp.project.0.weight"), r"tensor aspp\.project\.0\.weight is missing"),
        (
            lambda t: t.update({"heads.0.classify.bias": np.zeros(7, np.float32)}),
            r"heads\.0\.classify\.bias has shape \(7,\), expected \(1,\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(copy: Path, change: Callable[[dict], Any], sentence: str) -> None:
    tensors = load_file(copy / "step_00.safetensors")
    change(tensors)
    replace_step(copy, 0, tensors)
    for load in (lambda run: load_segmenter(run, 0), load_steps):
        with pytest.raises(RunError, match=sentence):
            load(open_run(copy))


def test_a_newer_schema_is_refused(copy: Path) -> None:
    change_info(copy, lambda info: info.update(schema=SCHEMA + 1))
    with pytest.raises(RunError, match=f"has schema {SCHEMA + 1}, this version reads up to {SCHEMA}"):
        open_run(copy)


@pytest.mark.parametrize("schema", [None, 0, -1, "1", True, 1.0])
def test_no_schema_is_no_run(copy: Path, schema: object) -> None:
    change_info(copy, lambda info: info.update(schema=schema))
    with pytest.raises(RunError, match="names no schema version"):
        open_run(copy)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "shared/../../x.safetensors",
        "shared/0123456789abcdef.safetensors/../x",
        "step_00.safetensors\n",
        "step_00.pt",
        "",
    ],
)
def test_names_that_lead_elsewhere_are_refused(copy: Path, name: str) -> None:
    change_info(copy, lambda info: info["steps"][0]["files"][0].update(name=name))
    with pytest.raises(RunError, match="which is not a file of a run"):
        open_run(copy)


DAMAGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{f"no {key}": lambda info, key=key: info.pop(key) for key in ("method", "status", "config", "dataset")},
    **{f"no {key}": lambda info, key=key: info.pop(key) for key in ("labels", "task", "steps")},
    "unknown key": lambda info: info["config"]["optim"].update(momentun=0.9),
    "colour": lambda info: info["dataset"]["classes"][0].update(color=[0, 0, 256]),
    "classes in another order": lambda info: info["dataset"]["classes"].reverse(),
    "a class twice": lambda info: info["labels"].update(steps=[[0, 1, 2], [2], [4]]),
    "steps out of order": lambda info: info["steps"].reverse(),
    "more steps than the task": lambda info: info["steps"].append({**info["steps"][2], "step": 3}),
    "steps are a number": lambda info: info.update(steps=3),
    "labels are a list": lambda info: info.update(labels=[]),
    "a file without digest": lambda info: info["steps"][0]["files"][0].pop("sha256"),
    "infinite": lambda info: info["steps"][0].update(images=float("inf")),
    "dataset is text": lambda info: info.update(dataset="voc"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_json_is_a_sentence(copy: Path, damage: str) -> None:
    change_info(copy, DAMAGES[damage])
    with pytest.raises(RunError, match=r"run\.json"):
        open_run(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_json_that_is_none_is_a_sentence(copy: Path, content: bytes) -> None:
    (copy / "run.json").write_bytes(content)
    with pytest.raises(RunError, match=r"run\.json (cannot be read as JSON|contains no JSON object)"):
        open_run(copy)


@pytest.mark.parametrize("content", ["{}", '{"steps": 3}', '{"steps": [{"confusion": [[1]]}]}', '{"steps": []}'])
def test_damaged_metrics_are_a_sentence(copy: Path, content: str) -> None:
    (copy / "metrics.json").write_text(content)
    run = open_run(copy)
    assert run.domains == ()
    with pytest.raises(RunError, match=r"metrics\.json is damaged"):
        run.confusions()


def test_an_unfinished_run_has_the_steps_that_are_done(copy: Path) -> None:
    """A training stopped after the files of step 2, before run.json named it."""
    change_info(copy, lambda info: (info["steps"].pop(), info.update(status="training")))
    run = open_run(copy)
    assert run.status == "training" and run.last_step == 1
    assert len(load_steps(run)) == 2
    confusions = run.confusions()
    assert confusions is not None and len(confusions) == 2
    with pytest.raises(RunError, match="has no step 2; it has steps 0 to 1"):
        run.tensors(2)


def test_a_run_without_a_step_says_so(copy: Path) -> None:
    change_info(copy, lambda info: info.update(steps=[], status="training"))
    run = open_run(copy)
    assert run.confusions() is None and run.last_step == -1
    with pytest.raises(RunError, match="has no finished step yet"):
        run.tensors(0)


def test_a_half_written_line_of_events_is_left_out(copy: Path) -> None:
    path = copy / "events.jsonl"
    whole = open_run(copy).events()
    for half in ('{"step": 2, "iter', "12", "\ufffd"):
        path.write_text("".join(json.dumps(event) + "\n" for event in whole) + half)
        assert open_run(copy).events() == whole
    append_event(tmp := copy / "other.jsonl", {"step": 0})
    assert tmp.read_text() == '{"step": 0}\n'


def test_a_damaged_run_does_not_hide_the_others(copy: Path) -> None:
    for name, content in (("broken", "{"), ("newer", json.dumps({"schema": SCHEMA + 1}))):
        (copy.parent / name).mkdir()
        (copy.parent / name / "run.json").write_text(content)
    (copy.parent / "no-run").mkdir()
    found = list_runs(copy.parent)
    assert [(one.name, type(one)) for one in found] == [
        ("broken", BrokenRun),
        ("copy", Run),
        ("newer", BrokenRun),
    ]
    assert list_runs(copy.parent / "nowhere") == []


def test_a_dataset_of_other_classes_is_refused(copy: Path, tmp_path: Path) -> None:
    from lag_core.data.catalogue import DatasetMissing

    other = write_shapes(tmp_path / "other", 4, 2)
    stored = json.loads((other / "classes.json").read_text())
    stored[2]["name"] = "violet"
    (other / "classes.json").write_text(json.dumps(stored))
    with pytest.raises(DatasetMissing, match="class 2 is 'violet', not 'green'"):
        open_run(copy).open_dataset(other)


def test_the_digest_follows_the_weights(copy: Path) -> None:
    before = open_run(copy).digest
    tensors = load_file(copy / "step_01.safetensors")
    name = min(tensors)
    tensors[name] = tensors[name] + 1
    replace_step(copy, 1, tensors)
    assert open_run(copy).digest != before


def test_float16_is_read_as_float32(tmp_path: Path) -> None:
    value = np.array([1.5, -0.25], np.float16)
    entry = write_tensors(tmp_path / "step_00.safetensors", {"a": value})
    assert entry["bytes"] == (tmp_path / entry["name"]).stat().st_size
    assert entry["sha256"] == file_digest(tmp_path / entry["name"])
    assert read_tensors(tmp_path / entry["name"])["a"].dtype == np.float16


def test_the_example_of_the_documentation_is_a_run(tmp_path: Path) -> None:
    """docs/run-format.md shows a run.json and a metrics.json; both are read, and hold what the text says."""
    blocks = re.findall(r"```json\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    info, metrics = json.loads(blocks[0]), json.loads(blocks[1])
    write_json(tmp_path / "run.json", info)
    write_json(tmp_path / "metrics.json", metrics)
    run = open_run(tmp_path)
    confusions = run.confusions()
    assert len(run.steps) == 2 and confusions is not None and confusions.shape == (2, 3, 3)
    assert run.domains == ("potsdam", "vaihingen")
    by_domain = [run.confusions(domain) for domain in run.domains]
    assert np.array_equal(sum(by_domain), confusions)  # type: ignore[arg-type]


def test_the_documentation_names_every_key(trained: Path) -> None:
    """Keys of run.json, its steps and the events, and every analysis array, stand in docs/run-format.md."""
    text = DOCS.read_text("utf-8")
    run = open_run(trained)
    keys = {*run.info, *run.info["steps"][0], *run.info["dataset"], *run.info["task"], *run.info["labels"]}
    keys |= {key for event in run.events() for key in event}
    keys |= {name for step in range(3) for name in run.analysis(step)}
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []

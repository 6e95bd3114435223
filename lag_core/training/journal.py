"""Writes a run folder while it trains: run.json, step files, metrics, events, resume.pt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import config as configuration
from lag_core import reading
from lag_core.config import Config, ConfigError
from lag_core.data.catalogue import DatasetInfo
from lag_core.method.reach import FIRST_STEP_METHOD
from lag_core.model.segmenter import Segmenter
from lag_core.model.weights import changed, state_arrays
from lag_core.protocol import LabelSpace
from lag_core.runs import (
    SCHEMA,
    Run,
    append_event,
    keep_events,
    labels_to_json,
    open_run,
    read_json,
    write_json,
    write_tensors,
)
from lag_core.training.resume import Cursor, load_resume, save_resume
from lag_core.writing import write_atomically

_FREE = {("data", "workers"), ("model", "checkpointing")}
"""Keys that do not affect a run: it may resume with other values."""


class Journal:
    """The run folder of a training in progress; a crash at any moment leaves it readable."""

    def __init__(self, out: Path, config: Config, info: dict[str, Any], writes: bool = True):
        """`writes`: whether this process is the one that writes, if several train together."""
        self.out, self.writes = out, writes
        existing = self._existing(config)
        self.info = {**existing, "processes": info.get("processes", 1)} if existing else info
        self.cursor, self.states = self._where_to_go_on()
        if writes:
            self._drop_temporary_files()
            self.write_info()
            self._drop_events_behind(self.cursor)

    def _existing(self, config: Config) -> dict[str, Any] | None:
        """The present run.json. ConfigError if the folder holds a run with another configuration."""
        if not (self.out / "run.json").exists():
            return None
        run = open_run(self.out)
        stored, wanted = configuration.to_dict(run.config), configuration.to_dict(config)
        pairs = [(s, k) for s in wanted for k in wanted[s] if stored[s][k] != wanted[s][k]]
        keys = [f"{s}.{k}" for s, k in pairs if (s, k) not in _FREE]
        if keys:
            raise ConfigError(f"{self.out} was started with another configuration; these differ: {', '.join(keys)}")
        return {**run.info, "status": "training"}

    def _where_to_go_on(self) -> tuple[Cursor, dict[str, Any]]:
        done = len(self.info["steps"])
        path = self.out / "resume.pt"
        if path.exists():
            cursor, states = load_resume(path)
            if cursor.step == done:
                return cursor, states
        return Cursor(step=done), {}

    def _drop_events_behind(self, cursor: Cursor) -> None:
        """Remove the old lines of events that will happen again."""
        path = self.out / "events.jsonl"
        if path.exists():
            place = (cursor.step, cursor.iteration)
            keep_events(path, [e for e in open_run(self.out).events() if _place(e) < place])

    def _drop_temporary_files(self) -> None:
        """Remove files that a killed training was still writing."""
        for path in self.out.glob(".*.partial"):
            path.unlink()

    def write_info(self) -> None:
        if self.writes:
            write_json(self.out / "run.json", self.info)

    def warn(self, sentence: str) -> None:
        """Add a warning to run.json, once."""
        if sentence not in self.info["warnings"]:
            self.info["warnings"].append(sentence)
            self.write_info()

    def fail(self, sentence: str) -> None:
        self.info["status"] = "failed"
        self.warn(sentence)

    def event(self, event: Mapping[str, Any]) -> None:
        if self.writes:
            append_event(self.out / "events.jsonl", event)

    def save_point(self, cursor: Cursor, states: dict[str, Any]) -> None:
        """Everything needed to resume from `cursor` with the same bits."""
        if self.writes:
            save_resume(self.out / "resume.pt", cursor, states)

    def finish_step(
        self,
        model: Segmenter,
        previous: Segmenter | None,
        analysis: Mapping[str, np.ndarray],
        metrics: Mapping[str, Any],
        entry: Mapping[str, Any],
    ) -> None:
        """Write a finished step. run.json comes last: until it names the step, the step does not exist."""
        step = len(self.info["steps"])
        if not self.writes:
            self.info["steps"].append({"step": step, **entry})
            return
        before = state_arrays(previous) if previous is not None else {}
        file = write_tensors(self.out / f"step_{step:02d}.safetensors", changed(state_arrays(model), before))
        if analysis:
            write_tensors(self.out / f"analysis_{step:02d}.safetensors", analysis)
        path = self.out / "metrics.json"
        measured = read_json(path)["steps"][:step] if step else []
        write_json(path, {"schema": SCHEMA, "steps": [*measured, metrics]})
        self.info["steps"].append({"step": step, "files": [file], **entry})
        self.write_info()

    def adopt_first_step(self, other: Run) -> None:
        """Copy step 0 of a run with the same settings, including its events. ConfigError names the differences."""
        mine = configuration.resolve(self.info["config"])
        differing = first_step_differences(mine, other.config)
        if differing or labels_to_json(other.labels) != self.info["labels"]:
            raise ConfigError(f"step 0 of {other.path} was trained differently: {', '.join(differing) or 'labels'}")
        file = write_tensors(self.out / "step_00.safetensors", other.delta(0))
        analysis = other.path / "analysis_00.safetensors"
        if analysis.exists():
            write_atomically(self.out / analysis.name, reading.read_bytes(analysis, reading.ARRAYS))
        first = read_json(other.path / "metrics.json")["steps"][0]
        write_json(self.out / "metrics.json", {"schema": SCHEMA, "steps": [first]})
        keep_events(self.out / "events.jsonl", [e for e in other.events() if e.get("step") == 0])
        self.info["steps"] = [{**other.info["steps"][0], "files": [file]}]
        self.cursor, self.states = Cursor(step=1), {}
        self.write_info()

    def finish(self) -> Run:
        self.info["status"] = "finished"
        self.write_info()
        if self.writes:
            (self.out / "resume.pt").unlink(missing_ok=True)
        return open_run(self.out)


def new_info(
    name: str, config: Config, dataset: DatasetInfo, labels: LabelSpace, grouping: LabelSpace, around: Mapping[str, Any]
) -> dict[str, Any]:
    """run.json of a run that has not begun."""
    known = {c.id: c for c in dataset.classes}
    classes = [{"id": i, "name": known[i].name, "color": list(known[i].color)} for i in labels.order]
    return {
        "schema": SCHEMA,
        "name": name,
        "method": config.method.name,
        "status": "training",
        "dataset": {"name": dataset.name, "domains": list(dataset.domains), "classes": classes},
        "task": {
            "name": config.data.task,
            "setting": config.data.setting,
            "steps": [list(s) for s in grouping.steps],
        },
        "labels": labels_to_json(labels),
        "steps": [],
        "warnings": [],
        "seed": config.optim.seed,
        **around,
        "config": configuration.to_dict(config),
    }


def _place(event: Mapping[str, Any]) -> tuple[int, int]:
    """(step, iteration) of a line of events.jsonl; after all others if it has none."""
    step, iteration = event.get("step"), event.get("iteration")
    return (step, iteration) if type(step) is int and type(iteration) is int else (1 << 53, 0)


_LATER_ONLY = {
    "data": {"fraction", "selection", "workers"},
    "model": {"checkpointing"},
    "optim": {
        "epochs_later",
        "min_iterations",
        "lr_head_later",
        "lr_aspp_later",
        "lr_stage_later",
        "extractor_delay",
        "warmup",
        "clip",
    },
}
"""Keys that do not affect step 0."""


def first_step_keys(config: Config) -> list[tuple[str, str]]:
    """(section, key) of all settings that step 0 depends on."""
    tables = configuration.to_dict(config)
    keys = [(s, k) for s in ("data", "model", "optim") for k in tables[s] if k not in _LATER_ONLY.get(s, set())]
    return [
        *keys,
        *(("method", k) for k in FIRST_STEP_METHOD),
    ]


def first_step_differences(one: Config, other: Config) -> list[str]:
    """Keys in which two configurations differ and that affect step 0."""
    a, b = configuration.to_dict(one), configuration.to_dict(other)
    return [f"{s}.{k}" for s, k in first_step_keys(one) if a[s][k] != b[s][k]]

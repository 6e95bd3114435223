"""Trains tiny runs, each in a forked process that kills itself with SIGKILL at a given moment.

`python killed_training.py '[[CONFIG TABLES, OUT, MOMENT], …]'`; one process forks all, so that torch is
imported once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lag_core import config as configuration
from lag_core import writing
from lag_core.training import continual, journal
from lag_core.training.reporting import Reporter


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_the_middle_of_a_step() -> None:
    """After the update and the event of iteration 2 of step 1, before anything of it is saved."""
    _die_after_event(1, 2)


def in_the_middle_of_step_0() -> None:
    _die_after_event(0, 1)


def _die_after_event(step: int, iteration: int) -> None:
    original = journal.Journal.event

    def event(self: journal.Journal, line: Any) -> None:
        original(self, line)
        if (line["step"], line["iteration"]) == (step, iteration):
            die()

    journal.Journal.event = event  # type: ignore[method-assign]


def with_half_a_line_written() -> None:
    """While the event of iteration 2 of step 1 is written."""
    original = journal.append_event

    def append(path: Path, event: Any) -> None:
        if (event["step"], event["iteration"]) == (1, 2):
            with path.open("a") as file:
                file.write(json.dumps(event)[:40])
                file.flush()
            die()
        original(path, event)

    journal.append_event = append  # type: ignore[attr-defined]


def while_the_resume_file_is_written() -> None:
    """The fifth resume.pt of the run lies under its temporary name, whole but not renamed."""
    _die_at_rename("resume.pt", 5)


def while_a_step_file_is_written() -> None:
    _die_at_rename("step_01.safetensors", 1)


def before_run_json_names_the_step() -> None:
    """Step 1 is written, its metrics too; run.json is not."""
    original = journal.Journal.write_info

    def write_info(self: journal.Journal) -> None:
        if len(self.info["steps"]) == 2:
            die()
        original(self)

    journal.Journal.write_info = write_info  # type: ignore[method-assign]


def between_two_steps() -> None:
    """Step 1 is finished and named; resume.pt still belongs to it."""
    original = journal.Journal.finish_step

    def finish_step(self: journal.Journal, *args: Any) -> None:
        original(self, *args)
        if len(self.info["steps"]) == 2:
            die()

    journal.Journal.finish_step = finish_step  # type: ignore[method-assign]


def _die_at_rename(name: str, count: int) -> None:
    original, left = os.replace, [count]

    def replace(source: Any, target: Any) -> None:
        left[0] -= Path(target).name == name
        if left[0] == 0:
            die()
        original(source, target)

    writing.os.replace = replace  # type: ignore[attr-defined]


MOMENTS: dict[str, Callable[[], None]] = {
    moment.__name__: moment
    for moment in (
        in_the_middle_of_a_step,
        in_the_middle_of_step_0,
        with_half_a_line_written,
        while_the_resume_file_is_written,
        while_a_step_file_is_written,
        before_run_json_names_the_step,
        between_two_steps,
    )
}


def train_until_killed(tables: dict[str, Any], out: str, moment: str) -> int:
    """The child's exit status as waitpid gives it."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        os.fsync = lambda file: None  # what a killed process wrote outlives it without
        MOMENTS[moment]()
        continual.train(configuration.resolve(tables), out, reporter=Reporter(quiet=True))
    finally:
        os._exit(3)  # it should have been killed


if __name__ == "__main__":
    torch.set_num_threads(1)  # before any operation: no thread may be there when it forks
    statuses = [train_until_killed(*one) for one in json.loads(sys.argv[1])]
    sys.exit(0 if all(s == signal.SIGKILL for s in statuses) else f"not killed: {statuses}")

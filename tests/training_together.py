"""Runs jobs in several processes that join by gloo: `python training_together.py JOBS`, a JSON list of
[kind, number of processes, arguments]. One process imports torch and forks all the others.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from lag_core import config as configuration
from lag_core import processes
from lag_core.training import continual, journal
from lag_core.training.reporting import Reporter


def train(tables: dict[str, Any], out: str, resume: bool = False) -> None:
    continual.train(configuration.resolve(tables), out, resume=resume, reporter=Reporter(quiet=True))


def train_until_one_dies(tables: dict[str, Any], out: str) -> None:
    """The second process ends without a word in the middle of step 1."""
    original = continual.Batches._order

    def order(self: continual.Batches, iteration: int) -> Any:
        if processes.current().rank == 1 and (self.step, iteration) == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, iteration)

    continual.Batches._order = order  # type: ignore[method-assign]
    try:
        train(tables, out)
    except processes.ProcessLost as error:
        Path(out, "said.txt").write_text(str(error))


def stop_in_step_1(tables: dict[str, Any], out: str) -> None:
    original = journal.Journal.event

    def event(self: journal.Journal, line: Any) -> None:
        original(self, line)
        if (line["step"], line["iteration"]) == (1, 2):
            raise KeyboardInterrupt

    journal.Journal.event = event  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        train(tables, out)


def evaluate(run: str, out: str) -> None:
    from lag_core.commands.measuring import measured
    from lag_core.runs import open_run
    from lag_core.training.evaluation import totals

    opened = open_run(Path(run))
    with processes.together("cpu") as everywhere:
        found = totals(measured(opened, opened.open_dataset(None), lambda items, what: iter(items), "cpu"))
    Path(out, f"{everywhere.rank}.json").write_text(json.dumps(found.tolist()))


def survey(run: str, out: str) -> None:
    """The survey of a run, its arrays written by each process."""
    import numpy as np

    from lag_core.explain import holds_pass, survey_pass
    from lag_core.runs import open_run

    survey_pass.BATCH = holds_pass.BATCH = 1  # there are four images
    opened, said = open_run(Path(run)), list[str]()
    with processes.together("cpu") as everywhere:
        found = survey_pass.survey(
            opened, opened.open_dataset(None), lambda items, what: iter(items), "cpu", said.append
        )
    assert found.holds is not None and found.holds.probes is not None and found.shares is not None, said
    basic = {f"basic {name}": value for name, value in vars(found).items() if isinstance(value, np.ndarray)}
    shares = {f"shares {case}": one.points for case, one in found.shares.by_case.items()}
    held = {
        "cka": found.holds.cka, "masked": found.holds.masked, "lost again": found.holds.lost.called,
        "probes": found.holds.probes.confusion, "nearest": found.holds.probes.nearest,
        "calibration": found.holds.calibration.confidence, "background": found.holds.background.unlabelled,
        "pseudo": found.holds.pseudo.counts,
    }  # fmt: skip
    np.savez(Path(out, f"{everywhere.count}-{everywhere.rank}.npz"), **basic, **shares, **held)


def sums(out: str) -> None:
    """Batch norm and sums over the processes, against the whole batch in each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, 3, 5, 5, generator=generator)
    whole, parts = torch.nn.BatchNorm2d(3), torch.nn.BatchNorm2d(3)
    processes.sync_batch_norm(parts)
    with processes.together("cpu") as everywhere:
        mine = x[everywhere.rank :: everywhere.count].clone().requires_grad_()
        all_of_it = x.clone().requires_grad_()
        one = parts(mine)
        two = whole(all_of_it)
        processes.total(one.pow(3).sum()).backward()
        two.pow(3).sum().backward()
        assert torch.allclose(one, two[everywhere.rank :: everywhere.count], atol=1e-5)
        # the loss is the same on all processes, so each gradient comes once from each of them
        expected = all_of_it.grad[everywhere.rank :: everywhere.count] * everywhere.count
        assert torch.allclose(mine.grad, expected, atol=1e-3)
        assert torch.allclose(parts.running_mean, whole.running_mean, atol=1e-6)
        assert torch.allclose(parts.running_var, whole.running_var, atol=1e-6)
        assert processes.mean(torch.tensor(everywhere.rank)).item() == (everywhere.count - 1) / 2
        with processes.apart():
            assert processes.total(torch.tensor(3.0)).item() == 3.0
        assert everywhere.gathered(everywhere.rank) == list(range(everywhere.count))
    Path(out, f"{everywhere.rank}.ok").touch()


JOBS = {job.__name__: job for job in (train, train_until_one_dies, stop_in_step_1, evaluate, survey, sums)}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run(kind: str, count: int, arguments: list[Any]) -> list[int]:
    """Statuses of the processes, as waitpid gives them."""
    port, children = free_port(), []
    for rank in range(count):
        child = os.fork()
        if child == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
            try:
                os.fsync = lambda file: None
                JOBS[kind](*arguments)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(3)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps([run(*job) for job in json.loads(sys.argv[1])]))

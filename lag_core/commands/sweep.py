"""Train many runs and keep their numbers.

A sweep file names a base configuration, seeds, and runs:

    base = "../animals-3-1.toml"
    seeds = [0, 1, 2]
    [[runs]]
    name = "lag without SPM"
    method = "lag"
    set = ["method.spm=0"]

and optionally a recipe and `set` for all of them.

The results file gets a row for each run and seed. Existing rows are not made again, and an interrupted run
is resumed: call the same command again, or name another --out to repeat everything. Runs of one seed that
train step 0 alike share it, and all share their trunk features, also between workers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lag_core import reading
from lag_core.commands.arguments import place
from lag_core.config import Config, ConfigError
from lag_core.recipes import RECIPES
from lag_core.sentences import counted, say
from lag_core.writing import NotWritten, copy_folder, naming, write_atomically

if TYPE_CHECKING:
    from lag_core.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lag_core.event_files import FORMATS

    parser.add_argument("sweep", type=place, help="TOML file, see configs/sweeps/")
    parser.add_argument("--out", type=place, help="results file (default: results/SWEEP.json)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key of every run")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="only runs with this in their name")
    parser.add_argument("--seeds", type=int, nargs="+", help="these seeds instead of the file's")
    parser.add_argument("--workers", type=int, default=1, help="runs at a time, each with one thread")
    parser.add_argument("--work", type=place, help="scratch folder (default: lag-sweep in the system's)")
    parser.add_argument("--keep", type=place, help="keep the run folders here")
    parser.add_argument(
        "--log", nargs="+", default=[], choices=FORMATS, help="with --keep: the events in other formats"
    )
    parser.add_argument("--list", action="store_true", help="print what would be trained, and train nothing")


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str
    method: str
    seed: int
    base: Path
    overrides: tuple[str, ...]
    recipe: str | None = None

    @property
    def words(self) -> str:
        return f"{self.name}, seed {self.seed}"


@dataclass(frozen=True)
class Places:
    """Where a sweep's files are."""

    results: Path
    work: Path
    keep: Path | None
    log: tuple[str, ...] = ()


def run(options: argparse.Namespace) -> int:
    places = Places(
        options.out or Path("results") / f"{options.sweep.stem}.json",
        options.work or Path(tempfile.gettempdir()) / "lag-sweep",
        options.keep,
        tuple(options.log),
    )
    if options.log and options.keep is None:
        raise ConfigError("--log writes beside the run folders: name where to --keep them")
    if options.workers < 1:
        raise ConfigError(f"--workers {options.workers}: at least 1 is needed")
    every = chosen(jobs_of(options.sweep, options.set, options.seeds), options.only)
    done = {(row["name"], row["seed"]) for row in read_rows(places.results)}
    jobs = first_of_each_beginning([job for job in every if (job.name, job.seed) not in done])
    say(f"{counted(len(every), 'run')}, {len(every) - len(jobs)} of them in {places.results} already")
    if options.list:
        say("\n".join(job.words for job in jobs))
        return 0
    failed = _train_all(jobs, places, options.workers)
    say(f"{counted(len(read_rows(places.results)), 'row')} -> {places.results}")
    return 1 if failed else 0


def jobs_of(sweep: Path, common: Sequence[str], seeds: Sequence[int] | None = None) -> list[Job]:
    """Every run of a sweep file, seed by seed. ConfigError for a file that cannot be used."""
    try:
        content = reading.from_toml(reading.read_text(sweep, reading.CONFIG))
        base = (sweep.parent / content["base"]).resolve()
        recipe = content.get("recipe")
        if recipe is not None and recipe not in RECIPES:
            raise ValueError(f"recipe {recipe!r} is unknown; known: {', '.join(RECIPES)}")
        found = [
            Job(one["name"], one["method"], seed, base, (*content.get("set", ()), *one.get("set", ()), *common), recipe)
            for one in content["runs"]
            for seed in (seeds or one.get("seeds") or content["seeds"])
        ]
    except FileNotFoundError:
        raise ConfigError(f"there is no sweep file {sweep}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{sweep} cannot be read as a sweep: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{sweep} is not a sweep file: {error} is missing or of the wrong type") from None
    names = [(job.name, job.seed) for job in found]
    if len(set(names)) < len(names):
        raise ConfigError(f"{sweep} gives one name and seed to two runs")
    return sorted(found, key=lambda job: job.seed)


def chosen(jobs: Sequence[Job], only: Sequence[str]) -> list[Job]:
    """The jobs whose name contains one of the texts; all without any. ConfigError if none is left."""
    found = [job for job in jobs if not only or any(text in job.name for text in only)]
    if not found:
        known = ", ".join(dict.fromkeys(job.name for job in jobs))
        raise ConfigError(f"no run's name contains {' or '.join(map(repr, only))}; there are {known}")
    return found


def first_of_each_beginning(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, first one of each kind of step 0, so that the others wait for no other worker.

    Reads every configuration, so a mistake in one is a ConfigError before the first run.
    """
    keys = [first_step_key(config_of(job)) for job in jobs]
    firsts = {key: place for place, key in reversed(list(enumerate(keys)))}
    return sorted(jobs, key=lambda job: firsts[keys[jobs.index(job)]] != jobs.index(job))


def config_of(job: Job) -> Config:
    """The configuration of a job."""
    from lag_core.commands.train import read_config

    overrides = [*job.overrides, f"optim.seed={job.seed}", "optim.threads=1"]
    return read_config(job.base, job.method, overrides, job.recipe)


def _train_all(jobs: Sequence[Job], places: Places, workers: int) -> bool:
    """Train all jobs with a bar over them; whether any failed."""
    from multiprocessing import get_context

    from tqdm import tqdm

    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    tasks = [(job, places) for job in jobs]
    failed = False
    spawned = ProcessPoolExecutor(workers, get_context("spawn")) if workers > 1 else nullcontext()
    with spawned as pool, tqdm(total=len(tasks), desc="sweep", unit="run", leave=False, disable=None) as bar:
        for said in map(attempt, tasks) if pool is None else _answers(pool, tasks):
            failed = failed or " failed: " in said
            bar.update()
            tqdm.write(f"{bar.n} of {len(tasks)}: {said}") if bar.disable is False else say(said, flush=True)
    return failed


def _answers(pool: ProcessPoolExecutor, tasks: Sequence[tuple[Job, Places]]) -> Iterator[str]:
    """The result of each job, as it ends. ConfigError if the system killed a worker: the rows so far are kept."""
    try:
        for done in as_completed([pool.submit(attempt, task) for task in tasks]):
            yield done.result()
    except BrokenProcessPool:
        raise ConfigError("a worker was killed, perhaps for lack of memory; the same command resumes") from None
    except NotWritten:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def attempt(task: tuple[Job, Places]) -> str:
    """`do`, and its result in one line: a failed run, such as one whose loss became NaN, stops no other.

    NotWritten passes: a full disk is full for every run.
    """
    job, places = task
    try:
        row = do(job, places)
    except NotWritten:  # the others could not be written either
        raise
    except Exception as error:
        return f"{job.words}, failed: {error}"
    return f"{job.words}: all {100 * row['all']:.1f} after {row['seconds']:.0f} s"


def do(job: Job, places: Places) -> dict[str, Any]:
    """Train one run, or go on with it, and add its row."""
    from filelock import FileLock

    config = config_of(job)
    first = places.work / "first" / first_step_key(config)
    out = places.work / places.results.stem / f"{job.name.replace(' ', '-').replace('/', '-')}-{job.seed}"
    began = time.perf_counter()
    with naming(first):
        first.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(first.with_suffix(".lock"))
    with lock:
        adopted = (first / "run.json").exists()
        if not adopted:  # others with the same step 0 wait for this one
            made = _trained(config, out, None, places)
            copy_folder(made.path, partial := first.with_suffix(f".{os.getpid()}"))
            with naming(first):
                partial.rename(first)
    if adopted:
        made = _trained(config, out, first, places)
    row = {**numbers(job, made), "seconds": round(time.perf_counter() - began, 1)}
    add_row(places.results, row)
    if places.keep is not None:
        copy_folder(out, places.keep / out.name)
        _export(places.keep / out.name, places.log)
    shutil.rmtree(out, ignore_errors=True)
    return row


def _trained(config: Config, out: Path, first: Path | None, places: Places) -> Run:
    """The finished run of a configuration: resumed where it was interrupted, if it was begun with the same settings."""
    from lag_core.runs import open_run
    from lag_core.training.continual import FolderBusy, train
    from lag_core.training.features import FeatureStore
    from lag_core.training.reporting import Reporter

    settings: dict[str, Any] = {
        "first_step": None if first is None else open_run(first),
        "reporter": Reporter(quiet=True),
        "store": FeatureStore(places.work / "features"),
    }
    try:
        return train(config, out, resume=True, **settings)
    except FolderBusy:  # another sweep with the same scratch folder makes this very run
        raise
    except ConfigError:  # from an older version of the sweep
        shutil.rmtree(out, ignore_errors=True)
        return train(config, out, **settings)


def _export(run: Path, formats: Sequence[str]) -> None:
    from lag_core.event_files import export
    from lag_core.runs import open_run

    for form in formats:
        export(open_run(run), form)


def first_step_key(config: Config) -> str:
    """Digest of all that step 0 depends on."""
    from lag_core import config as configuration
    from lag_core.training.journal import first_step_keys

    tables = configuration.to_dict(config)
    parts = [(f"{s}.{k}", tables[s][k]) for s, k in first_step_keys(config)]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def numbers(job: Job, made: Run) -> dict[str, Any]:
    """The row of a finished run: what `compare` prints, and each class's IoU after each step."""
    from lag_core import metrics
    from lag_core.comparison import row

    confusions = made.confusions()
    assert confusions is not None
    ious = metrics.iou_matrix(confusions, made.labels)
    return {
        **row(made, confusions).as_dict(),
        "name": job.name,
        "seed": job.seed,
        "set": [text for text in job.overrides if not text.startswith(("data.root", "model.weights"))],
        "iou": [[None if v != v else round(float(v), 5) for v in step] for step in ious],
        "confusion": confusions.tolist(),
        "images": [step.images for step in made.steps],
        "iterations": [step.iterations for step in made.steps],
        "dead_terms": sorted({term for step in made.steps for term in step.dead_terms}),
        "machine": made.info["machine"],
    }


def add_row(results: Path, row: dict[str, Any]) -> None:
    """Add a row, or replace that of the same name and seed; other workers wait."""
    from filelock import FileLock

    with naming(results):
        results.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(results.with_suffix(".lock")):
        rows = [r for r in read_rows(results) if (r["name"], r["seed"]) != (row["name"], row["seed"])]
        text = ",\n".join(json.dumps(r) for r in [*rows, row])
        write_atomically(results, f"[\n{text}\n]\n".encode())
    results.with_suffix(".lock").unlink(missing_ok=True)


def read_rows(results: Path) -> list[dict[str, Any]]:
    """The rows of a results file; none where there is no file. ConfigError for another file."""
    if not results.exists():
        return []
    try:
        rows = reading.read_json(results)
        if not all(isinstance(row, dict) and {"name", "seed"} <= row.keys() for row in rows):
            raise ValueError("its rows have no name and seed")
        return rows
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"{results} is not a results file of a sweep: {error}") from None

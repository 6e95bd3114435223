"""Train many runs and keep their numbers: `python benchmarks/sweep.py configs/sweeps/NAME.toml [--workers 2]`.

A sweep file names a base configuration, seeds, and runs:

    base = "../animals-3-1.toml"
    seeds = [0, 1, 2]
    [[runs]]
    name = "lag without SPM"
    method = "lag"
    set = ["method.spm=0"]

Results go to benchmarks/results/NAME.json, a row for each run and seed; rows that are there are not made again. Runs
of one seed that train step 0 alike share it, and all share their trunk features.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    name: str
    method: str
    seed: int
    base: Path
    overrides: tuple[str, ...]


def jobs_of(sweep: Path, common: Sequence[str]) -> list[Job]:
    """Every run of a sweep file, seed by seed."""
    content = tomllib.loads(sweep.read_text("utf-8"))
    base = (sweep.parent / content["base"]).resolve()
    found = [
        Job(run["name"], run["method"], seed, base, (*content.get("set", ()), *run.get("set", ()), *common))
        for run in content["runs"]
        for seed in run.get("seeds", content["seeds"])
    ]
    return sorted(found, key=lambda job: job.seed)


def do(job: Job, results: Path, work: Path, keep: Path | None) -> None:
    """Train one run and add its row."""
    from lag_core.commands.train import read_config
    from lag_core.runs import open_run
    from lag_core.training.continual import train
    from lag_core.training.features import FeatureStore
    from lag_core.training.reporting import Reporter

    config = read_config(job.base, job.method, [*job.overrides, f"optim.seed={job.seed}", "optim.threads=1"])
    first = work / "first" / first_step_key(config)
    out = work / results.stem / f"{job.name.replace(' ', '-').replace('/', '-')}-{job.seed}"
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    adopted = open_run(first) if (first / "run.json").exists() else None
    run = train(config, out, first_step=adopted, reporter=Reporter(quiet=True), store=FeatureStore(work / "features"))
    add_row(results, {**numbers(job, run), "seconds": round(time.perf_counter() - began, 1)})
    if not first.exists():
        first.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(out, first, dirs_exist_ok=True)
    if keep is not None:
        shutil.copytree(out, keep / out.name, dirs_exist_ok=True)
    shutil.rmtree(out, ignore_errors=True)


def attempt(task: tuple[Job, Path, Path, Path | None]) -> str:
    """`do`, and what came of it in one line: a run that fails, as one whose loss leaves the numbers, stops no other."""
    job = task[0]
    try:
        do(*task)
    except Exception as error:
        return f"{job.name}, seed {job.seed}, failed: {error}"
    return f"{job.name}, seed {job.seed}"


def first_step_key(config: Any) -> str:
    """Digest of whatever step 0 depends on."""
    from lag_core import config as configuration
    from lag_core.training.journal import first_step_keys

    tables = configuration.to_dict(config)
    parts = [(f"{s}.{k}", tables[s][k]) for s, k in first_step_keys(config)]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def numbers(job: Job, run: Any) -> dict[str, Any]:
    """The row of a finished run: what `compare` prints, and each class's IoU after each step."""
    from lag_core import metrics
    from lag_core.comparison import row

    confusions = run.confusions()
    ious = metrics.iou_matrix(confusions, run.labels)
    return {
        **row(run, confusions).as_dict(),
        "name": job.name,
        "seed": job.seed,
        "set": [text for text in job.overrides if not text.startswith(("data.root", "model.weights"))],
        "iou": [[None if v != v else round(float(v), 5) for v in step] for step in ious],
        "images": [step.images for step in run.steps],
        "iterations": [step.iterations for step in run.steps],
        "dead_terms": sorted({term for step in run.steps for term in step.dead_terms}),
        "machine": run.info["machine"],
    }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other workers out while a results file is rewritten."""
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def add_row(results: Path, row: dict[str, Any]) -> None:
    from lag_core.runs import write_atomically

    with locked(results):
        rows = read_rows(results)
        rows = [r for r in rows if (r["name"], r["seed"]) != (row["name"], row["seed"])]
        text = ",\n".join(json.dumps(r) for r in [*rows, row])
        write_atomically(results, f"[\n{text}\n]\n".encode())


def read_rows(results: Path) -> list[dict[str, Any]]:
    return json.loads(results.read_text()) if results.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/SWEEP.json)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "lag-sweep", help="scratch folder")
    parser.add_argument("--keep", type=Path, help="keep the run folders here")
    parser.add_argument("--only", help="runs whose name contains this")
    options = parser.parse_args()
    results = options.out or RESULTS / f"{options.sweep.stem}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["name"], row["seed"]) for row in read_rows(results)}
    jobs = [job for job in jobs_of(options.sweep, options.set) if (job.name, job.seed) not in done]
    jobs = [job for job in jobs if options.only is None or options.only in job.name]
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    tasks = [(job, results, options.work, options.keep) for job in jobs]
    with get_context("spawn").Pool(options.workers) as pool:
        for number, said in enumerate(pool.imap_unordered(attempt, tasks), 1):
            print(f"{number} of {len(tasks)}: {said}", flush=True)
    results.with_suffix(".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    main()

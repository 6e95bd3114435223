"""The truth tests: are the explanations true? Results and what they mean: docs/faithfulness.md.

    python benchmarks/faithfulness.py                         # all runs in checkpoints/: a quarter of an hour
    python benchmarks/faithfulness.py --data ../voc_animals   # where the folder datasets of the runs lie
    python benchmarks/faithfulness.py --only planted null     # these checks alone; the others keep their rows
    python benchmarks/faithfulness.py --quick                 # one run, little of everything; only prints

Writes benchmarks/results/faithfulness.json, and the tables of docs/faithfulness.md from it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from streamlit_server import machine
from tables import ROOT, fill
from truth_tests import (
    conservation,
    coverage,
    null_trials,
    page,
    parts,
    pixels,
    planted,
    pointing,
    randomisation,
    terms,
    variants,
    verdicts,
)
from truth_tests.cases import COVERS, Subject

from lag_core.data.catalogue import DatasetMissing
from lag_core.runs import RunError
from lag_core.writing import write_atomically

RESULTS = ROOT / "benchmarks" / "results" / "faithfulness.json"
TERMS = RESULTS.with_name("term-shares.json")
PAGE = ROOT / "docs" / "faithfulness.md"


@dataclass(frozen=True)
class Check:
    """A check by name. n: pictures per class, cases or trials, as `rows` counts; quick: the same with --quick."""

    rows: Callable[[Subject, int], Iterable[dict[str, Any]]]
    n: int
    quick: int


CHECKS = {
    "conservation": Check(conservation.rows, n=2, quick=1),
    "pixels": Check(pixels.rows, n=1, quick=1),
    "pointing": Check(pointing.rows, n=1, quick=1),
    "variants": Check(variants.rows, n=1, quick=1),
    "randomisation": Check(randomisation.rows, n=3, quick=1),
    "planted": Check(planted.rows, n=50, quick=4),
    "null": Check(null_trials.rows, n=50, quick=2),
    "parts": Check(parts.rows, n=50, quick=1),
    "coverage": Check(coverage.rows, n=2, quick=1),
    "verdicts": Check(verdicts.rows, n=1, quick=1),
}


@dataclass(frozen=True)
class Job:
    """One check of one run."""

    run: Path
    place: int
    """Of the run among those of the same dataset."""
    check: str
    n: int
    data: Path | None


@lru_cache(maxsize=1)
def opened(run: Path, data: Path | None, place: int) -> Subject:
    return Subject(run, data, place)


def do(job: Job) -> tuple[Job, list[dict[str, Any]], float]:
    """The rows of a job, and its processor seconds: other work on the machine hardly disturbs them."""
    torch.set_num_threads(1)
    start = time.process_time()
    rows = [rounded(row) for row in CHECKS[job.check].rows(opened(job.run, job.data, job.place), job.n)]
    return job, rows, round(time.process_time() - start, 1)


def rounded(value: Any) -> Any:
    """Floats to six significant digits, NumPy numbers to Python's."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one) for one in value]
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.6g}") if isinstance(value, float) else value


def jobs_of(runs: Sequence[Path], checks: Sequence[str], quick: bool, data: Path | None) -> Iterator[Job]:
    """Every check of every run, those of one run in a row."""
    places: dict[str, int] = {}
    for run in runs:
        dataset = dataset_of(run)
        places[dataset] = places.get(dataset, -1) + 1
        for name in checks:
            check = CHECKS[name]
            yield Job(run, places[dataset], name, check.quick if quick else check.n, data)


def dataset_of(run: Path) -> str:
    """Name of a run's dataset and task, for the tables."""
    config = json.loads((run / "run.json").read_text("utf-8"))["config"]["data"]
    name = Path(config["root"]).name if config["dataset"] == "folder" else config["dataset"]
    return f"{name} {config['task']}"


def merged(before: dict[str, Any], found: Sequence[tuple[Job, list[dict[str, Any]], float]]) -> dict[str, Any]:
    """The results with the rows of the jobs in place of earlier rows of the same run and check."""
    checks = {name: dict(entry) for name, entry in before.get("checks", {}).items()}
    for job, rows, seconds in found:
        entry = checks.setdefault(job.check, {"rows": [], "seconds": {}})
        before_it, after_it = around(entry["rows"], job.run.name)
        entry |= {
            "n": job.n,
            "rows": [*before_it, *rows, *after_it],
            "seconds": {**entry["seconds"], job.run.name: seconds},
        }
    datasets = {**before.get("runs", {}), **{job.run.name: dataset_of(job.run) for job, _, _ in found}}
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "settings": settings(),
        "runs": datasets,
        "checks": checks,
    }


def around(rows: Sequence[dict[str, Any]], run: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The other runs' rows before those of `run`, and those after them; a new run comes last."""
    place = next((i for i, row in enumerate(rows) if row["run"] == run), len(rows))
    return list(rows[:place]), [row for row in rows[place:] if row["run"] != run]


def settings() -> dict[str, Any]:
    """What the numbers depend on besides runs and data."""
    return {
        "least share of the picture": COVERS,
        "least score for deletion and insertion": pixels.LEAST_SCORE,
        "seeds of random orders": pixels.SEEDS,
        "pictures for planted causes": planted.PICTURES,
        "seeds of plants": "1000 k + trial",
        "pictures for null trials": null_trials.PICTURES,
        "controls": null_trials.CONTROLS,
        "equal jitter": null_trials.JITTER,
        "random jitter": null_trials.JITTERS,
        "seeds of null trials": "trial",
    }


def text_of(results: dict[str, Any]) -> str:
    """The JSON file, one row a line."""
    head = {name: value for name, value in results.items() if name != "checks"}
    checks = []
    for name, entry in results["checks"].items():
        rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in entry["rows"])
        about = json.dumps({key: value for key, value in entry.items() if key != "rows"})[:-1]
        checks.append(f'{json.dumps(name)}: {about}, "rows": [\n{rows}\n]}}')
    return json.dumps(head, indent=1)[:-2] + ',\n "checks": {\n' + ",\n".join(checks) + "\n}\n}\n"


def tables(results: dict[str, Any]) -> dict[str, str]:
    """The page's tables by name."""
    found = {}
    for name, (check, table) in page.TABLES.items():
        if check in results["checks"]:
            found[name] = table(results["checks"][check]["rows"], results["runs"])
    found["machine"] = machine_words(results)
    return found | term_tables()


def term_tables() -> dict[str, str]:
    """What benchmarks/term_shares.py measured."""
    measured = json.loads(TERMS.read_text("utf-8"))
    return {"term-remainder": terms.remainder_table(measured), "term-agreement": terms.agreement_table(measured)}


def machine_words(results: dict[str, Any]) -> str:
    """On what, when and how long."""
    about = results["machine"]
    seconds = sum(sum(entry["seconds"].values()) for entry in results["checks"].values())
    sizes = ", ".join(f"{name} {entry['n']}" for name, entry in results["checks"].items())
    return (
        f"{about['cpu']}, {about['cores']} cores, {about['system']}; Python {about['python']}, torch {about['torch']}; "
        f"{results['made'][:10]}; {seconds / 60:.0f} processor minutes in all, load average "
        f"{about['load_average_1_5_15_min'][1]}; n: {sizes}."
    )


def usable(runs: Sequence[Path], data: Path | None) -> list[Path]:
    """The runs that can be opened with their pictures; says of the others why not."""
    found = []
    for run in runs:
        try:
            opened(run, data, 0)
            found.append(run)
        except (RunError, DatasetMissing) as reason:
            print(f"left out: {reason}", file=sys.stderr)
    return found


def work(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, list[dict[str, Any]], float]]:
    """The results of the jobs as they come."""
    if workers == 1:
        yield from map(do, jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for done in as_completed([pool.submit(do, job) for job in jobs]):
            yield done.result()


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", help="run folders (default: checkpoints/*-*)")
    parser.add_argument("--data", type=Path, help="folder of the datasets that are folders of pictures")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="these checks alone")
    parser.add_argument("--quick", action="store_true", help="the first run alone, little of everything")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--out", type=Path, help=f"results file (default: {RESULTS.relative_to(ROOT)}; --quick: none)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    options = options_of(arguments)
    torch.set_num_threads(1)
    runs = usable(options.runs or sorted((ROOT / "checkpoints").glob("*-*")), options.data)
    if not runs:
        raise SystemExit("There is no run to test: name run folders with --runs, and their pictures with --data.")
    jobs = list(jobs_of(runs[:1] if options.quick else runs, options.only, options.quick, options.data))
    out = options.out or (None if options.quick else RESULTS)
    everything = options.runs is None and options.only == list(CHECKS)
    results = {} if everything or out is None or not out.exists() else json.loads(out.read_text("utf-8"))
    for job, rows, seconds in work(jobs, 1 if options.quick else options.workers):
        print(f"{job.run.name}: {job.check}, {len(rows)} rows, {seconds:.0f} processor seconds", flush=True)
        results = merged(results, [(job, rows, seconds)])
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(out, text_of(results).encode())
    made = tables(results)
    if out == RESULTS and PAGE.exists():
        PAGE.write_text(fill(PAGE.read_text("utf-8"), made.__getitem__), "utf-8")
    for name, table in made.items():
        print(f"\n{name}\n\n{table}")


if __name__ == "__main__":
    main()

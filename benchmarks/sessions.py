"""Many sessions at once through the real server: no error, and none sees another's choices or interventions.

    python benchmarks/sessions.py                                 # 20 sessions, 200 interactions each
    python benchmarks/sessions.py --sessions 6 --interactions 30

First a single session walks through a number of views (page, image, step, class, channel and what replaces it) and
keeps a digest of all that each shows: sentences, tables, plots and pictures. Then a fresh server, which has computed
nothing yet, serves N sessions that walk through the same views in orders of their own, each on its own connection.
Whatever a session sees must be, to the byte, what it saw alone; the address must name its own choices.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

from streamlit_client import Client
from streamlit_server import ROOT, check_runs, machine, served

MOST_FINDINGS = 20


class View(NamedTuple):
    """A page and everything that is chosen on it, as a link names it."""

    page: str
    choices: tuple[tuple[str, str], ...]

    @property
    def query(self) -> str:
        return urlencode(self.choices)


@dataclass
class Outcome:
    """What a session found."""

    seconds: list[float] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


def views(client: Client, run: str, count: int, seed: int) -> list[View]:
    """Views to walk through, half of them with a channel switched off or taken from the step before."""
    client.open("overview", f"run={run}")
    images, classes = client.options("image")[:4], client.options("class")
    last = int(client.value("step.slider")[0])
    rng = random.Random(seed)
    found: dict[View, None] = {}
    while len(found) < count:
        page = rng.choice(("overview", "steps", "forgetting", "channels", "channels", "channels"))
        step = rng.randint(1 if page == "channels" else 0, last)
        choices = {"run": run, "image": rng.choice(images), "class": rng.choice(classes), "step": str(step)}
        if page == "channels":
            choices["since"] = str(step - 1)
            choices |= {"channel": str(rng.randrange(16)), "without": rng.choice(("zero", "old"))}
        found[View(page, tuple(choices.items()))] = None
    return list(found)


def visit(client: Client, view: View) -> tuple[str, list[str]]:
    """Go there; returns the digest of what is shown, and how the session's choices differ from the view's."""
    client.open(view.page, view.query)
    chosen = {"run": client.value("run"), "image": client.value("image"), "class": client.value("class")}
    chosen["step"] = str(int(client.value("step.slider")[0]))
    if view.page == "channels":
        chosen["since"] = client.query.get("since", str(int(chosen["step"]) - 1))
        channel = dict(view.choices)["channel"]
        chosen["channel"] = channel if client.has(f"channel-number-{channel}") else "another"
        chosen["without"] = client.query.get("without", "zero")
    wrong = [f"{key} is {chosen[key]}, not {value}" for key, value in view.choices if chosen[key] != value]
    return client.fingerprint(), wrong


def alone(url: str, run: str, count: int, seed: int) -> dict[View, str]:
    """Digest of each view, seen by a single session."""
    with Client(url) as client:
        return {view: visit(client, view)[0] for view in views(client, run, count, seed)}


def walk(url: str, expected: dict[View, str], interactions: int, seed: int, outcome: Outcome) -> None:
    """One session: random views, each compared with what it shows to a session alone."""
    rng, order = random.Random(seed), list(expected)
    try:
        with Client(url) as client:
            for _ in range(interactions):
                view = rng.choice(order)
                digest, wrong = visit(client, view)
                outcome.seconds.append(client.seconds)
                outcome.findings += [f"{view.page}?{view.query}: {what}" for what in wrong]
                if digest != expected[view]:
                    outcome.findings.append(f"{view.page}?{view.query}: shows something else than to a session alone")
    except Exception as error:  # it is what this looks for; the other sessions go on
        outcome.findings.append(f"{type(error).__name__}: {error}")


def together(url: str, expected: dict[View, str], sessions: int, interactions: int) -> list[Outcome]:
    """All sessions at once."""
    outcomes = [Outcome() for _ in range(sessions)]
    threads = [
        threading.Thread(target=walk, args=(url, expected, interactions, 1000 + i, outcome))
        for i, outcome in enumerate(outcomes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with served(args.runs, args.threads) as server:
        expected = alone(server.url, args.run, args.views, args.seed)
    distinct = len(set(expected.values()))
    print(f"{len(expected)} views, {distinct} of them different to look at", file=sys.stderr)
    with served(args.runs, args.threads) as server:
        start = time.perf_counter()
        outcomes = together(server.url, expected, args.sessions, args.interactions)
        seconds = time.perf_counter() - start
        errors, memory, cpu = server.errors(), server.rss_mb(), server.cpu_seconds()
    return report(args, outcomes, distinct) | {
        "wall_s": round(seconds, 1), "server_cpu_s": round(cpu, 1), "server_memory_mb": round(memory, 1),
        "errors_in_the_server's_log": errors[:MOST_FINDINGS],
    }  # fmt: skip


def report(args: argparse.Namespace, outcomes: Sequence[Outcome], distinct: int) -> dict[str, Any]:
    taken = sorted(s for outcome in outcomes for s in outcome.seconds)
    findings = [finding for outcome in outcomes for finding in outcome.findings]
    return {
        "run": args.run, "sessions": args.sessions, "interactions_each": args.interactions, "threads": args.threads,
        "as_the_budget_asks": args.sessions >= 20 and args.interactions >= 200,
        "machine": machine(), "views": args.views, "views_different_to_look_at": distinct,
        "answers": len(taken), "findings": findings[:MOST_FINDINGS], "findings_in_all": len(findings),
        "median_s": round(statistics.median(taken), 3) if taken else None,
        "p95_s": round(taken[int(0.95 * (len(taken) - 1))], 3) if taken else None,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "checkpoints", help="folder of runs")
    parser.add_argument("--run", default="aerial-2-2-1-finetune")
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--interactions", type=int, default=200, help="of each session")
    parser.add_argument("--views", type=int, default=40, help="different views that are visited")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch in the server")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/sessions.json")
    args = parser.parse_args()
    check_runs(args.runs, args.run)
    found = measure(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({k: v for k, v in found.items() if k != "machine"}, indent=2))
    complaints = found["findings_in_all"] or found["errors_in_the_server's_log"]
    raise SystemExit("Sessions disturbed each other, or the server failed: see the findings." if complaints else 0)


if __name__ == "__main__":
    main()

"""Hours of use: sessions come, look at views at random, and go; the server's memory minute by minute.

    python benchmarks/soak.py --minutes 60 --pause 1

One session at a time on the runs that ship, over three of them, every page, their steps and classes; each looks at
20 views. Growth is the slope of a line through the second half of the minutes.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from streamlit_client import Client
from streamlit_server import ROOT, machine, served

RUNS = ("aerial-2-2-1-finetune", "aerial-2-2-1-lag", "aerial-2-2-1-reference")
PAGES = ("overview", "steps", "forgetting", "channels", "relevance", "prototypes", "training", "why")
CLASSES = ("impervious surface", "building", "low vegetation", "tree", "car")
VIEWS = 20
"""Of a session."""


def query(chance: random.Random) -> str:
    step = chance.randint(1, 2)
    picked = {"run": chance.choice(RUNS), "class": chance.choice(CLASSES[: 2 + 2 * step]), "step": str(step)}
    return urlencode({**picked, "image": f"rgb-val-{chance.randrange(6):04d}"})


def used(minutes: float, pause: float, chance: random.Random) -> dict[str, Any]:
    """Use the app; what each minute was like."""
    curve: list[dict[str, float]] = []
    errors, seconds, views = [], list[float](), 0
    with served(ROOT / "checkpoints", 1) as server:
        began = last = time.monotonic()
        while time.monotonic() - began < 60 * minutes:
            try:
                with Client(server.url) as client:
                    for _ in range(VIEWS):
                        client.open(chance.choice(PAGES), query(chance))
                        seconds.append(client.seconds)
                        views += 1
                        if time.monotonic() - last >= 60:
                            last = time.monotonic()
                            slow = round(statistics.median(seconds), 3)
                            curve.append({"views": views, "rss_mb": round(server.rss_mb()), "median_s": slow})
                            print(json.dumps(curve[-1]), file=sys.stderr, flush=True)
                            seconds.clear()
                        time.sleep(pause)
            except Exception as error:  # it is what this looks for
                errors.append(f"{type(error).__name__}: {error}"[:300])
        return {"views": views, "errors": errors, "server_errors": server.errors()[:20], "curve": curve}


def growth(curve: list[dict[str, float]]) -> float:
    """MB a minute over the second half."""
    half = [minute["rss_mb"] for minute in curve[len(curve) // 2 :]]
    return float(np.polyfit(range(len(half)), half, 1)[0]) if len(half) > 1 else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two views")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/soak.json")
    options = parser.parse_args()
    found = used(options.minutes, options.pause, random.Random(options.seed))
    found |= {"mb_a_minute_in_the_second_half": round(growth(found["curve"]), 2), "machine": machine()}
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({name: value for name, value in found.items() if name != "curve"}, indent=1))
    raise SystemExit("The server failed: see the errors." if found["errors"] or found["server_errors"] else 0)


if __name__ == "__main__":
    main()

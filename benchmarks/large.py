"""What explanations of a large network take: relevance and shares of one class, picture by picture.

    python benchmarks/foreign.py resnet101 --keep r101          # a ResNet-101 with eleven steps, once
    python benchmarks/large.py r101/runs/resnet101 --data r101/four --class cat

LRP of the class at the last step, and the class's shares from the step that introduced it to the last one, on the
validation pictures of FOLDER; the whole survey is `lag survey RUN --data FOLDER`. Prints JSON: seconds by the clock
and of the processor, and the largest size so far (of a GPU: what its tensors took).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lag_core.data.remap import truth
from lag_core.device import device_named
from lag_core.explain.evidence import finish
from lag_core.explain.hybrids import groups_of, pair_of
from lag_core.explain.networks import Networks
from lag_core.explain.shares_pass import shares_on
from lag_core.explain.trace import Trace
from lag_core.runs import open_run
from lag_core.training.surroundings import describe, peak_memory_mib


def taken(work: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds and memory of one call."""
    began, used = time.perf_counter(), time.process_time()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds, processor = time.perf_counter() - began, time.process_time() - used
    return {"seconds": seconds, "processor_s": processor, "peak_mib": peak_memory_mib(device)}


def measure(path: Path, data: Path | None, name: str, device: str) -> dict[str, Any]:
    run = open_run(path)
    dataset, networks, last = run.open_dataset(data), Networks(run, device), run.last_step
    cls = run.class_index(name)
    pictures = [(dataset.image(one), truth(dataset.mask(one), run.labels)) for one in dataset.ids("val")]
    pair = pair_of((networks, run.labels.step_of(cls)), (networks, last))
    found: dict[str, list[dict[str, float]]] = {"one step's answer": [], "LRP": []}
    with torch.no_grad():
        networks.passes(networks.prepare(pictures[0][0])).output(last)  # loads the step
    for image, true in pictures:
        trace = Trace(networks, image, true)
        found["one step's answer"].append(taken(lambda trace=trace: trace.prediction(last), networks.device))
        found["LRP"].append(taken(lambda trace=trace: trace.relevance(last, cls), networks.device))
    shared = taken(lambda: finish(shares_on(pair, [cls], pictures)), networks.device)
    return {
        "run": run.name, "class": name, "pictures": len(pictures), "size": run.config.data.size,
        "parts": list(pair.parts(cls)), "tera_operations_a_picture_all_pairs": groups_of(run).operations / 1e12,
        **found, "shares of all pictures": shared, "load": os.getloadavg(), **describe(networks.device),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--class", dest="name", required=True)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    text = json.dumps(measure(options.run, options.data, options.name, device_named(options.device)), indent=1)
    if options.out:
        options.out.write_text(text + "\n", "utf-8")
    print(text)


if __name__ == "__main__":
    main()

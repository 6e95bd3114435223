"""What it takes to look at one image at all steps of a long run: memory and counted operations.

The run has the network of the default configuration (MobileNetV2, latent map of 128 channels) with random weights. As
in runs of `lag`, a step changes the ASPP and the first head, and adds a head; a run's first step holds everything.

    python benchmarks/many_steps.py RUN_FOLDER       # peak memory of this process after opening that run: JSON
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from lag_core import config as configuration
from lag_core.runs import Run, open_run

IMAGE = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)


def write_run(out: Path, steps: int) -> Run:
    """A run folder of `steps` steps, by the writer that training uses: two classes first, then one at a time."""
    import torch
    from torch import nn

    from lag_core.data.dataset import DatasetInfo
    from lag_core.model.segmenter import Segmenter
    from lag_core.protocol import ClassInfo, LabelSpace
    from lag_core.training.journal import Journal, new_info

    torch.manual_seed(0)
    config = configuration.resolve(
        {"data": {"dataset": "voc", "root": "none", "task": "2-1"}, "method": {"unknown": True}}
    )
    classes = tuple(ClassInfo(k, f"class {k}", (12 * k % 256, 0, 0)) for k in range(steps + 2))
    labels = LabelSpace(((0, 1, 2), *((k,) for k in range(3, steps + 2))), background=0, unknown=True)
    info = DatasetInfo("voc", classes, background=0)
    journal = Journal(out, config, new_info(out.name, config, info, labels, labels, {}))
    model = Segmenter(config.model, labels.head_sizes(0)).eval()
    before: Segmenter | None = None
    entry = {"images": 0, "iterations": 0, "seconds": 1.0, "images_per_second": 0.0}
    for step in range(steps):
        if step:
            before = copy.deepcopy(model)
            model.add_head(1).eval()
            for parameter in nn.ModuleList([model.aspp, model.heads[0]]).parameters():
                parameter.data += 0.01 * torch.randn_like(parameter)
        journal.finish_step(model, before, {}, {}, entry)
    return journal.finish()


def delta_bytes(run: Run) -> int:
    """Bytes that the tensors changed by steps 1 and later take in memory, float32."""
    return sum(array.nbytes for step in range(1, len(run.steps)) for array in run.delta(step).values())


def opened(folder: Path) -> dict[str, float]:
    """MiB that this process took at most: before the run was opened, and after an image went through all its steps.

    The imports and one pass of the network belong to the time before, as they cost the same for any run.
    """
    import torch

    from lag_core.explain.networks import Networks
    from lag_core.explain.trace import Trace
    from lag_core.model.segmenter import Segmenter

    torch.set_num_threads(1)
    run = open_run(folder)
    with torch.no_grad():
        warm = Segmenter(run.config.model, (2,)).eval()(torch.zeros(1, 3, 64, 64))
    del warm
    before = _peak_mib()
    trace = Trace(Networks(run), IMAGE)
    for step in trace.steps:
        trace.prediction(step)
    return {"before": before, "peak": _peak_mib()}


def _peak_mib() -> float:
    """Largest resident size so far. Not getrusage, which starts at the size of the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def memory(long: Run, short: Run, rounds: int = 3) -> dict[str, Any]:
    """Peak memory of a run of many steps against that of a one-step run plus the deltas; medians of processes.

    ratio: of the whole process. ratio_of_the_run: of what opening the run adds, which is the stricter one.
    """
    pairs = [(_in_a_process(long.path), _in_a_process(short.path)) for _ in range(rounds)]
    peak, peak_short = (float(np.median([pair[i]["peak"] for pair in pairs])) for i in (0, 1))
    own, own_short = (float(np.median([pair[i]["peak"] - pair[i]["before"] for pair in pairs])) for i in (0, 1))
    deltas = delta_bytes(long) / 2**20
    return {
        "steps": len(long.steps),
        "peak_mib": round(peak, 1),
        "peak_of_one_step_mib": round(peak_short, 1),
        "deltas_mib": round(deltas, 1),
        "ratio": round(peak / (peak_short + deltas), 3),
        "run_mib": round(own, 1),
        "run_of_one_step_mib": round(own_short, 1),
        "ratio_of_the_run": round(own / (own_short + deltas), 3),
    }


def _in_a_process(folder: Path) -> dict[str, float]:
    """`opened` in a process of its own, whose freed memory goes back at once.

    glibc otherwise keeps freed blocks, more or less of them each time: on a loaded machine the peaks of one run then
    lie 12 MiB apart, which is half of what a one-step run takes; so bounded, 0.2 MiB. Other C libraries ignore the
    two names.
    """
    command = [sys.executable, str(Path(__file__).resolve()), str(folder)]
    env = os.environ | {"MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_MMAP_THRESHOLD_": "65536"}
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=env).stdout)


def operations(run: Run) -> dict[str, Any]:
    """Counted floating-point operations (convolutions, matrix products) of an image at all steps of a run.

    ratio: against the shared part once and each step's own part; ratio_without_sharing: of one full pass per step.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lag_core.explain.networks import Networks
    from lag_core.explain.trace import Trace

    networks = Networks(run)
    trace, counted = Trace(networks, IMAGE), {}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        features = networks.steps[0].trunk(trace.inputs())
    counted["shared"] = counter.get_total_flops()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for network in networks.steps:
            network.behind_trunk(features)
    counted["own"] = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        for step in trace.steps:
            trace.prediction(step), trace.latent(step), trace.scores(step)
    counted["all"] = counter.get_total_flops()
    expected, steps = counted["shared"] + counted["own"], len(networks)
    return {
        "steps": steps,
        **{f"{name}_gflop": round(count / 1e9, 4) for name, count in counted.items()},
        "ratio": round(counted["all"] / expected, 4),
        "ratio_without_sharing": round((steps * counted["shared"] + counted["own"]) / expected, 2),
    }


if __name__ == "__main__":
    print(json.dumps(opened(Path(sys.argv[1]))))

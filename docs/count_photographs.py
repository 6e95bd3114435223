"""What the shipped runs make of the shipped photographs, counted once: writes assets/photos/counts.json.

    python docs/count_photographs.py

The fate wall of a fresh clone shows these photographs, since the validation images of the animals may not be published;
a reader must not wait for a network there. Run it again after a shipped run was trained anew
(tests/dashboard/app_pages/test_fate_wall.py asks for it).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from dashboard.cache import loaders, photographs  # noqa: E402
from dashboard.cache.photograph_counts import COUNTS, as_json  # noqa: E402
from lag_core.explain import forgetting  # noqa: E402
from lag_core.explain.networks import Networks  # noqa: E402
from lag_core.explain.picture_counts import PictureCounter  # noqa: E402
from lag_core.explain.trace import Trace  # noqa: E402
from lag_core.runs import Run, list_runs  # noqa: E402


def main() -> None:
    """Count for every shipped run whose classes the photographs show."""
    runs = [run for run in list_runs(ROOT / "checkpoints") if isinstance(run, Run) and photographs.of_run(run)]
    COUNTS.write_text(json.dumps({run.digest: counted(run) for run in runs}) + "\n", "utf-8")
    print(f"{len(runs)} runs -> {COUNTS.relative_to(ROOT)} ({COUNTS.stat().st_size / 1024:.0f} KiB)")


def counted(run: Run) -> dict[str, Any]:
    """The counts of one run."""
    ids, networks, steps = photographs.ids(run), Networks(run), len(run.steps)
    counter, lost = PictureCounter(len(ids), steps, len(run.classes)), []
    for place, image_id in enumerate(ids):
        picture = loaders.picture(run, "", image_id)
        assert picture is not None and picture.truth is not None
        trace = Trace(networks, picture.pixels, name=image_id)
        maps = np.stack([trace.prediction(step) for step in range(steps)])
        counter.add(place, maps, picture.truth)
        for step in range(steps):
            counter.add_confidence(place, step, trace.certainty(step), picture.truth)
        lost.append(forgetting.lost_pixels(maps, picture.truth, run.labels))
    return as_json(run.name, ids, np.stack(lost), counter.counts())


if __name__ == "__main__":
    main()

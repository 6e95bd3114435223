"""What it takes to look at networks of other systems: time and memory of each page, with random weights.

    python benchmarks/foreign.py segformer          # SegFormer-B0 of `transformers`, at 512 x 512
    python benchmarks/foreign.py mask2former        # Mask2Former Swin-T of `transformers`, at 256 x 256
    python benchmarks/foreign.py resnet101          # PLOP's ResNet-101, VOC 10-1: 11 steps that share nothing, at 513

Each writes checkpoints as their owner would have them, makes a run of them (`lag adopt`, `lag import`), and opens its
pages one after another in a process of its own, Steps first, without a survey. As in a browser, Steps is drawn when the
chosen step is there; the others then run in the background, and the next page is opened when they are done. Pictures
are the eight photographs that ship; for PLOP's they lie as VOC's do, and FOLDER/four lists four of them for a survey.
`--keep FOLDER` leaves files, data and runs there, and finds them again. The result goes to
benchmarks/results/foreign.json, and its lines into docs/open-your-own.md.
Times are of this machine, on as many threads as OMP_NUM_THREADS says; processor time counts all threads together.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "foreign.json"
PAGE = ROOT / "docs" / "open-your-own.md"
PHOTOS = ROOT / "assets" / "photos"
BEGIN, END = "<!-- table foreign -->", "<!-- end -->"
NETWORKS = ("segformer", "mask2former", "resnet101")
TITLES = {
    "segformer": "SegFormer-B0, 512 x 512, 2 steps",
    "mask2former": "Mask2Former Swin-T, 256 x 256, 2 steps",
    "resnet101": "PLOP's ResNet-101, 513 x 513, 11 steps",
}
VIEWS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("steps", "Steps", {}),
    ("start", "Start", {}),
    ("overview", "Overview", {}),
    ("compare", "Compare", {}),
    ("training", "Training", {}),
    ("report", "Report", {}),
    ("forgetting", "Forgetting", {}),
    ("prototypes", "Prototypes", {}),
    ("channels", "Channels", {}),
    ("channels", "transplant of a channel", {"channel": "3", "without": "old"}),
    ("relevance", "Relevance", {"method": "gradient-x-input"}),
    ("why", "Why preserved", {}),
)
"""Slug, title and choices of what is opened, in this order."""
BY_LRP = ("relevance", "Relevance by LRP", {"method": "lrp"})
IMAGE, CLASS, OTHERS = "cat", "cat", "the other steps"

# ---------------------------------------------------------------------- checkpoints


def write_transformer(name: str, folder: Path) -> list[Path]:
    """State dicts of two steps with random weights."""
    import foreign_adapters
    import torch

    adapter = getattr(foreign_adapters, foreign_adapters.BY_NAME[name])()
    paths = []
    for step in range(len(adapter.steps)):
        torch.manual_seed(step)
        path = folder / f"step-{step}.pt"
        torch.save(adapter.build(sum(adapter.steps[: step + 1])).state_dict(), path)
        paths.append(path)
    return paths


def write_resnet101(folder: Path, steps: int = 11) -> list[Path]:
    """Files as PLOP writes them, random weights, everything different at every step."""
    import torch

    paths = []
    for step in range(steps):
        state = {f"module.{key}": value for key, value in plop_state(step).items()}
        path = folder / f"10-1-voc_PLOP_{step}.pth"
        torch.save({"epoch": 30, "model_state": state}, path)
        paths.append(path)
    return paths


def plop_state(step: int, backbone: str = "resnet101", first: int = 11) -> dict[str, Any]:
    """Keys of PLOP's network after `step` -> random tensors: the reader's own requests, recorded.

    `first`: classes of step 0, the background among them; later steps bring one each.
    """
    import torch

    from lag_core.importing.formats import FORMATS
    from lag_core.importing.normalisation import in_place
    from lag_core.importing.run_writer import Request, _config, shapes_of
    from lag_core.protocol import LabelSpace

    asked = _Recorder(torch.Generator().manual_seed(step))
    config = _config(Request((), Path("run"), "10-1", class_list(), "plop", norm="iabn"), FORMATS["plop"], backbone)
    labels = LabelSpace((tuple(range(first)), *((i,) for i in range(first, 21))), background=0)
    FORMATS["plop"].tensors(asked, shapes_of(config, labels, step), in_place)  # type: ignore[arg-type]
    return asked.given


class _Recorder:
    """In place of a file: gives random numbers for every tensor that is asked for, and remembers them."""

    def __init__(self, generator: Any):
        self.generator, self.given = generator, dict[str, Any]()

    def take(self, key: str, shape: Sequence[int]) -> Any:
        import torch

        if key.endswith("running_var"):
            value = torch.ones(shape)
        elif len(shape) == 1:
            value = 0.1 * torch.randn(shape, generator=self.generator) + float(key.endswith("weight"))
        else:
            inputs = float(torch.Size(shape[1:]).numel())
            value = torch.randn(shape, generator=self.generator) * (2 / inputs) ** 0.5
        self.given[key] = value
        return value

    def __contains__(self, key: str) -> bool:
        return False


def class_list() -> Any:
    """Background and 20 classes; the first six are those of the photographs."""
    from lag_core.data.voc import palette_color
    from lag_core.importing.classes import ClassList
    from lag_core.protocol import ClassInfo

    names = [one["name"] for one in json.loads((PHOTOS / "classes.json").read_text("utf-8"))["classes"]]
    names += [f"class {i}" for i in range(len(names), 21)]
    return ClassList("folder", "photos", (), tuple(ClassInfo(i, n, palette_color(i)) for i, n in enumerate(names)))


# ---------------------------------------------------------------------- measuring


def made(name: str, folder: Path) -> tuple[Path, dict[str, float]]:
    """A run of one network, and what making it took."""
    from lag_core.cli import main

    files, out, took = folder / "files", folder / "runs" / name, dict[str, float]()
    files.mkdir()
    data = photographs(folder / "photos")
    if name == "resnet101":
        paths = write_resnet101(files)
        data = as_voc(folder / "VOC2012")
        as_voc(folder / "four", 4)
        command = ["import", "plop", *map(str, paths), "--task", "10-1", "--dataset", "voc", "--norm", "iabn"]
        command += ["--size", "513", "--data", str(data), "--out", str(out)]
        took["lag import"] = _seconds(lambda: subprocess.run([sys.executable, "-m", "lag_core", *command]).returncode)
        took["import_mib"] = round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
        took["size_gib"] = sum(path.stat().st_size for path in out.iterdir()) / 2**30
        return out, took
    import foreign_adapters

    paths = write_transformer(name, files)
    adapter = f"foreign_adapters:{foreign_adapters.BY_NAME[name]}"
    command = ["adopt", *map(str, paths), "--adapter", adapter, "--root", str(data), "--out", str(out)]
    took["lag adopt"] = _seconds(lambda: main([*command, "--device", "cpu", "--no-metrics"]))
    return out, took


def photographs(folder: Path) -> Path:
    """The photographs that ship as a dataset: they are validation images, and a dataset has training images, too."""
    folder.mkdir()
    for name in ("images", "masks", "val.txt"):
        (folder / name).symlink_to(PHOTOS / name)
    (folder / "train.txt").symlink_to(PHOTOS / "val.txt")
    listed = [{"id": one.id, "name": one.name, "color": one.color} for one in class_list().classes]
    (folder / "classes.json").write_text(json.dumps({"classes": listed, "ignore_index": 255}), "utf-8")
    return folder


def as_voc(folder: Path, count: int = 8) -> Path:
    """Some of the photographs that ship, in VOC's layout and with VOC's ids; the same ones to train and validate on."""
    import numpy as np
    from PIL import Image

    from lag_core.data.voc import NAMES

    listed = json.loads((PHOTOS / "classes.json").read_text("utf-8"))["classes"]
    ids = np.full(256, 255, np.uint8)
    for one in listed:
        ids[one["id"]] = NAMES.index(one["name"])
    names = (PHOTOS / "val.txt").read_text("utf-8").split()[:count]
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / part).mkdir(parents=True)
    for name in names:
        (folder / "JPEGImages" / f"{name}.jpg").symlink_to(PHOTOS / "images" / f"{name}.jpg")
        mask = np.asarray(Image.open(PHOTOS / "masks" / f"{name}.png"))
        Image.fromarray(ids[mask]).save(folder / "SegmentationClass" / f"{name}.png")
    for split in ("train", "val"):
        (folder / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(names) + "\n", "utf-8")
    return folder


def _seconds(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    if work() != 0:
        raise SystemExit("a command failed; see above")
    return round(time.perf_counter() - began, 1)


def pages(run: Path) -> dict[str, Any]:
    """Open a run's pages in this process: seconds, processor seconds, and the largest size so far, of each.

    The first row is the time from an empty process to the first picture, so the app's imports belong to it; the
    second is what the steps that were not there yet took in the background.
    """
    from dashboard.picture import stepwise
    from lag_core.capabilities import capabilities
    from lag_core.runs import open_run

    stepwise.waits_for_all = lambda: False  # as in a browser
    found: dict[str, Any] = {}
    clock = _Clock()
    by_lrp = [BY_LRP] if "lrp" in capabilities(open_run(run)) else []
    for slug, title, choices in (*VIEWS, *by_lrp):
        shown = open_page(slug, {"run": run.name, "step": "1", **choices})
        found[title] = {**clock.read(), "says": shown}
        if len(found) == 1:
            found[title]["steps_there"] = _steps_there(run)
            print(json.dumps(found), file=sys.stderr, flush=True)
            stepwise.QUEUE.settle()
            found[OTHERS] = clock.read()
        print(json.dumps({title: found[title], "rest_mib": _mib("VmRSS")}), file=sys.stderr, flush=True)
    gc.collect()
    return {"pages": found, "rest_mib": round(_mib("VmRSS")), "peak_mib": round(_mib("VmHWM"))}


class _Clock:
    """What passed since it was last read."""

    def __init__(self) -> None:
        self.began, self.processor = time.perf_counter(), time.process_time()

    def read(self) -> dict[str, float]:
        seconds, used = time.perf_counter() - self.began, time.process_time() - self.processor
        self.__init__()  # type: ignore[misc]
        return {"seconds": round(seconds, 1), "processor_s": round(used, 1), "peak_mib": round(_mib("VmHWM"))}


def _steps_there(path: Path) -> int:
    """How many steps' networks have run on the picture that is looked at."""
    from dashboard.cache import loaders
    from lag_core.runs import open_run

    run = open_run(path)
    picture = loaders.picture(run, "", IMAGE)
    assert picture is not None
    trace = loaders.trace(run, picture)
    return sum(trace.has(step) for step in trace.steps)


def open_page(slug: str, choices: dict[str, str]) -> list[str]:
    """Draw a page without a browser; what it says is lacking. RuntimeError if it breaks."""
    from streamlit.testing.v1 import AppTest

    app = AppTest.from_string(f"from dashboard.app import main; main(default={slug!r})", default_timeout=900)
    app.query_params.update({"image": IMAGE, "class": CLASS, **choices})
    app.run()
    if app.exception or app.error:
        raise RuntimeError(f"{slug}: {[one.value for one in (*app.exception, *app.error)]}")
    if missing := [one.value for one in app.info if "dataset" in one.value]:
        raise RuntimeError(f"{slug}: {missing}")
    if any("there is nothing to keep" in one.value for one in app.markdown):
        raise RuntimeError(f"{slug} has nothing to tell of {CLASS} at this step")
    return [one.value for one in app.warning]


def _mib(name: str) -> float:
    """Resident size of this process, now (VmRSS) or at most (VmHWM); MiB, Linux alone."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measure(name: str, keep: Path | None = None) -> dict[str, Any]:
    """Make a run and open its pages in fresh processes. keep: the folder to leave everything in."""
    with tempfile.TemporaryDirectory() as made_here:
        folder = keep or Path(made_here)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ |= {
            "LAG_RUNS": str(folder / "runs"), "LAG_CACHE": str(folder / "cache"), "LAG_DATA": "", "LAG_DEVICE": "cpu",
        }  # fmt: skip
        if name != "resnet101":
            import foreign_adapters

            os.environ["LAG_ADAPTERS"] = f"foreign_adapters:{foreign_adapters.BY_NAME[name]}"
        if (folder / "runs" / name / "run.json").exists():
            run, took = folder / "runs" / name, stored()[name]
        else:
            run, took = made(name, folder)
        return {**took, "all": _in_a_process(run), "machine": _machine()}


def _in_a_process(run: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).resolve()), "--open", str(run)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "benchmarks")))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def _machine() -> dict[str, Any]:
    import torch

    load = [round(one, 1) for one in os.getloadavg()]
    return {"cores": os.cpu_count(), "threads": torch.get_num_threads(), "torch": torch.__version__, "load": load}


# ---------------------------------------------------------------------- the page


def table(results: dict[str, Any]) -> str:
    """Lines of docs/open-your-own.md."""
    lines = [
        "| network | to the first picture | pages, processor seconds | memory at rest, at most |",
        "|---|---|---|---|",
    ]
    for name in (one for one in NETWORKS if one in results):
        found = results[name]
        first = next(iter(found["all"]["pages"].values()))
        shown = ", ".join(f"{title} {one['processor_s']:.1f}" for title, one in found["all"]["pages"].items())
        memory = f"{found['all']['rest_mib'] / 1024:.1f} GiB, {found['all']['peak_mib'] / 1024:.1f} GiB"
        memory += f" ({found['size_gib']:.1f} GiB on disk)" if "size_gib" in found else ""
        took = f"{first['seconds']:.0f} s ({first['processor_s']:.0f} s of processor time)"
        lines.append(f"| {TITLES[name]} | {took} | {shown} | {memory} |")
    return "\n".join(lines)


def fill(text: str, results: dict[str, Any]) -> str:
    """The page with its table made anew."""
    head, rest = text.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table(results)}\n{END}{rest.split(END, 1)[1]}"


def stored() -> dict[str, Any]:
    """What was measured before."""
    return json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"{', '.join(NETWORKS)}; by default all")
    parser.add_argument("--keep", type=Path, help="leave files, data and runs in this folder")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.open:
        print(json.dumps(pages(options.open)))
        return
    for name in options.networks or NETWORKS:
        found = measure(name, options.keep)
        results = {**stored(), name: found}
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", "utf-8")
        PAGE.write_text(fill(PAGE.read_text("utf-8"), results), "utf-8")
        print(json.dumps({name: results[name]}, indent=1))


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    main()

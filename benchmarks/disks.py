"""Full and read-only disks: what each command says that writes, and what the dashboard does without its caches.

    python benchmarks/disks.py         # as root on Linux: it mounts small file systems of its own (tmpfs)

On the rectangles of tests/shapes.py. Each command must end with 2 and one sentence that names a file on that disk, and
leave no half-written file; each page must be drawn while both the runs and the caches lie on such a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TASK, SIZE = "2-1-1", 32
SETTINGS = (
    "data.dataset=folder", "data.domains=[]", f"data.task={TASK}", f"data.size={SIZE}", "data.views=1",
    "model.latent=8", "model.head_width=4", "optim.epochs=1", "optim.epochs_later=1", "optim.batch=4",
    "optim.device=cpu", "log.resume_seconds=0",
)  # fmt: skip
LONG = ("optim.epochs=30",)
"""So that it can be stopped on the way."""
PAGES = ("start", "overview", "steps", "forgetting", "channels", "relevance", "prototypes", "training", "why", "report")
sys.path.append(str(ROOT / "tests"))


@contextmanager
def disk(kib: int) -> Iterator[Path]:
    """A file system of so many KiB."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no room."""
    try:
        with (folder / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
    except OSError:
        return


def settings(data: Path, *more: str) -> list[str]:
    """Of a tiny run, as options."""
    sets = [word for one in (f"data.root={data}", *SETTINGS, *more) for word in ("--set", one)]
    return ["--config", str(ROOT / "configs" / "smoke.toml"), *sets]


def lag(*words: object) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "lag_core", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=variables, timeout=600)


def judged(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    """ "named", or what is wrong."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    left = [path.name for path in folder.rglob("*.partial")]
    if done.returncode != 2:
        return f"ended with {done.returncode}: {(lines or ['nothing said'])[-1][:200]}"
    if "Traceback" in done.stderr or not lines[-1].startswith("lag: "):
        return f"no sentence: {lines[-1][:200]}"
    if str(folder) not in lines[-1]:
        return f"no file: {lines[-1][:200]}"
    return f"leaves {left}" if left else "named"


def commands(data: Path, source: Path, folder: Path) -> dict[str, list[object]]:
    """What writes into `folder`, by name; `source` is a finished run, and a copy of it lies in the folder as "run"."""
    sets, long = settings(data), settings(data, *LONG)
    image = (data / "val.txt").read_text().split()[0]
    picture = next((data / "images").glob(f"{image}.*"))
    first_classes = data.parent / "maps"
    return {
        "train": ["train", "--method", "lag", *sets, "--out", folder / "new"],
        "train --log csv": ["train", "--method", "finetune", *sets, "--log", "csv", "--out", folder / "csv"],
        "train --resume": ["train", "--method", "finetune", *long, "--resume", "--out", folder / "stopped"],
        "survey": ["survey", folder / "run"],
        "evaluate --write": ["evaluate", folder / "run", "--write"],
        "predict": ["predict", source, picture, "--out", folder / "predictions"],
        "explain": ["explain", source, "--image", image, "--class", "red", "--image-only", "--out", folder / "why"],
        "report": ["report", source, "--image", image, "--class", "red", "--image-only", "--out", folder / "why.html"],
        "pack": ["pack", source, "--out", folder / "packed", "--note", "x"],
        "import-predictions": [
            "import-predictions", first_classes, "--root", data, "--task", TASK, "--out", folder / "maps",
        ],
        "sweep": ["sweep", data.parent / "sweep.toml", "--out", folder / "rows.json", "--work", folder / "work"],
        "data check": ["data", "check", data, "--task", TASK, "--out", folder / "sheet.html"],
    }  # fmt: skip


def written_beside(data: Path) -> None:
    """A sweep file of one run, and label maps that hold classes of step 0 alone."""
    import numpy as np
    from PIL import Image

    sets = ", ".join(json.dumps(word) for word in settings(data)[3::2])
    (data.parent / "sweep.toml").write_text(
        f'base = "{ROOT / "configs" / "smoke.toml"}"\nseeds = [0]\nset = [{sets}]\n'
        '[[runs]]\nname = "a"\nmethod = "finetune"\n'
    )
    (data.parent / "maps").mkdir()
    for name in (data / "val.txt").read_text().split():
        mask = np.array(Image.open(data / "masks" / f"{name}.png"))
        Image.fromarray(np.where(mask > 2, 0, mask).astype(np.uint8)).save(data.parent / "maps" / f"{name}.png")


def prepared(folder: Path, source: Path, stopped: Path) -> None:
    shutil.copytree(source, folder / "run")
    shutil.copytree(stopped, folder / "stopped")


def size_of(*folders: Path) -> int:
    """KiB."""
    return sum(path.stat().st_size // 1024 + 4 for one in folders for path in one.rglob("*") if path.is_file())


def interrupted(data: Path, out: Path) -> Path:
    """A run that was stopped after its first saved point."""
    command = [sys.executable, "-m", "lag_core", "train", "--method", "finetune", *settings(data, *LONG)]
    with subprocess.Popen([*command, "--out", str(out), "--quiet"], cwd=ROOT, stderr=subprocess.DEVNULL) as child:
        while not (out / "resume.pt").exists() and child.poll() is None:
            time.sleep(0.01)
        child.terminate()
    assert (out / "resume.pt").exists()
    return out


def measure_commands(data: Path, work: Path) -> dict[str, dict[str, str]]:
    source = work / "source"
    assert lag("train", "--method", "finetune", *settings(data), "--out", source).returncode == 0
    stopped = interrupted(data, work / "stopped")
    needed = size_of(source, stopped) + 200
    found: dict[str, dict[str, str]] = {}
    for kind in ("full", "read-only"):
        with disk(needed) as folder:
            prepared(folder, source, stopped)
            if kind == "full":
                fill(folder)
            else:
                subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            found[kind] = {}
            for name, words in commands(data, source, folder).items():
                found[kind][name] = judged(lag(*words), folder)
                print(f"{kind}, {name}: {found[kind][name]}", file=sys.stderr, flush=True)
    with disk(size_of(source) // 2) as folder:  # full in the middle of the run
        words = commands(data, source, folder)["train"]
        found["full"]["train, half of its room"] = judged(lag(*words), folder)
    return found


def measure_dashboard(runs: Path) -> dict[str, Any]:
    """Every page with the runs and the cache folder on a full and on a read-only disk."""
    from streamlit_client import Client
    from streamlit_server import served

    found = {}
    for kind in ("full", "read-only"):
        with disk(size_of(runs) + 200) as folder:
            shutil.copytree(runs, folder / "runs")
            if kind == "full":
                fill(folder)
            else:
                subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            with served(folder / "runs", 1, cache=folder / "cache") as server, Client(server.url) as client:
                for page in PAGES:
                    client.open(page)  # raises where a view says that it could not be drawn
                if server.errors():
                    print(server.log.read_text(errors="replace")[-8000:], file=sys.stderr, flush=True)
                found[kind] = f"{len(PAGES)} pages drawn, {len(server.errors())} errors in the log"
                print(f"{kind}, dashboard: {found[kind]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=ROOT / "checkpoints", help="what the dashboard shows")
    options = parser.parse_args()
    from shapes import write_shapes

    with tempfile.TemporaryDirectory() as work:
        data = write_shapes(Path(work, "shapes"))
        written_beside(data)
        found: dict[str, Any] = measure_commands(data, Path(work))
    found["dashboard"] = measure_dashboard(options.runs)
    print(json.dumps(found, indent=1))
    wrong = [said for kind in ("full", "read-only") for said in found[kind].values() if said != "named"]
    raise SystemExit(f"{len(wrong)} commands do not say what they should" if wrong else 0)


if __name__ == "__main__":
    main()

"""The dashboard as its users start it, `streamlit run dashboard/app.py`, on a free port, for benchmarks."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0

STREAMLIT = (
    "import faulthandler, signal; faulthandler.register(signal.SIGUSR1); from streamlit.web.cli import main; main()"
)
"""`streamlit`, whose threads can be asked where they stand."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    url: str
    process: psutil.Process
    started: float
    """time.perf_counter() at which the command was given."""
    log: Path

    def cpu_seconds(self) -> float:
        """Processor time so far, in steps of 10 ms."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return self.process.memory_info().rss / 2**20

    def stacks(self) -> str:
        """Where each of its threads stands."""
        before = self.log.stat().st_size
        self.process.send_signal(signal.SIGUSR1)
        time.sleep(1)
        return self.log.read_bytes()[before:].decode(errors="replace")

    def errors(self) -> list[str]:
        """Lines of its log that tell of an error."""
        lines = self.log.read_text(errors="replace").splitlines()
        return [line for line in lines if "Traceback" in line or "Error" in line]


@contextmanager
def served(
    runs: Path, threads: int = 2, cache: Path | None = None, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The app on the runs under `runs`, with nothing in its cache on disk; `threads` is what torch may use.

    cache: where the cache lies instead of in a folder of its own. variables: further ones of its environment.
    """
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-c", STREAMLIT, "run", "dashboard/app.py"]
        command += ["--server.headless=true", f"--server.port={port}", "--server.address=127.0.0.1"]
        environment = {
            **os.environ, **(variables or {}), "LAG_RUNS": str(runs.resolve()),
            "LAG_CACHE": str(cache or Path(folder, "cache")), "OMP_NUM_THREADS": str(threads),
        }  # fmt: skip
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # only the first start of all compiles the modules
        log = Path(folder, "log")
        started = time.perf_counter()
        with log.open("wb") as output:
            child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait(child, url, log)
            yield Server(url, psutil.Process(child.pid), started, log)
        finally:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=2):
                return
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"streamlit did not start: {log.read_text(errors='replace')[-2000:]}") from None
            time.sleep(0.02)


def machine() -> dict[str, Any]:
    """What the numbers were measured on, without the machine's name; the load is what other work it does."""
    cpu = next((line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if "model name" in line), "unknown")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "streamlit": version("streamlit"),
        "torch": version("torch"),
        "load_average_1_5_15_min": [round(v, 1) for v in os.getloadavg()],
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


def check_runs(runs: Path, wanted: str) -> None:
    """Ends the program with a sentence if the run is not there."""
    if not (runs / wanted / "run.json").exists():
        raise SystemExit(f"{runs} has no run {wanted}. Name another folder with --runs, or another run with --run.")

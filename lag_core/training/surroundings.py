"""Device, seeds, and a description of the machine that a run was made on."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from lag_core import processes, reading
from lag_core.config import OptimConfig
from lag_core.device import device_named


def prepare(optim: OptimConfig) -> torch.device:
    """The device that `optim` asks for, with threads and determinism set."""
    gpu = kind(optim) == "cuda"
    if optim.threads:
        torch.set_num_threads(optim.threads)
    if optim.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(optim.deterministic, warn_only=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = optim.tf32
    # filling memory that is about to be written finds bugs, but costs a tenth of an iteration on a CPU
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")


def kind(optim: OptimConfig) -> str:
    """ "cuda" or "cpu": the choice of `prepare`. ConfigError for a missing GPU."""
    return device_named(optim.device)


def seed_all(seed: int, step: int) -> None:
    """Seed the initialisation of new layers. Data order and sampling have their own seeds."""
    torch.manual_seed(1_000_003 * seed + step)


def amp_type(name: str, device: torch.device) -> torch.dtype | None:
    """Autocast's type, or None."""
    if name == "off":
        return None
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else None
    return torch.bfloat16 if name == "bf16" else torch.float16


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)  # torch 2.11 lacks it
    return bool(ask().get("avx512_bf16", False))


def describe(device: torch.device) -> dict[str, Any]:
    """Versions, git revision and machine, for run.json. No host name."""
    return {
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in ("torch", "torchvision", "lag")}},
        "git": _revision(),
        "machine": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "tf32": torch.backends.cuda.matmul.allow_tf32,
            "system": platform.system(),
        },
        "processes": processes.current().count,
    }


def peak_memory_mib(device: torch.device) -> float:
    """Largest memory so far: the GPU's if there is one, else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _revision() -> str:
    root = Path(__file__).parents[2]
    try:
        call = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return call.stdout.strip() or "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in reading.read_text(info, reading.CONFIG, errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""A checkpoint file -> its state dict. Only tensors and plain values are read; nothing in the file can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lag_core import reading
from lag_core.importing.error import CheckpointError
from lag_core.importing.precheck import NUMPY, check
from lag_core.runs import file_digest

KEYS = ("model_state", "state_dict", "segmentor")
"""Where containers keep the state dict."""
TENSORS = 5_000
"""Most tensors of one network."""
_PREFIX = "module."


@dataclass(frozen=True)
class Checkpoint:
    """A state dict that was read, and what else is known about its file."""

    path: Path
    archive: bool
    """Whether torch 1.6 or later wrote it."""
    tensors: dict[str, Tensor]
    """Without the prefix of DataParallel; not yet checked but for being tensors in this machine's memory."""
    config: Mapping[str, Any]
    """config.json beside the file; empty: there is none."""

    @property
    def sha256(self) -> str:
        return file_digest(self.path)


class _Skipped:
    """Replaces NumPy's scalars and dtypes, which only leftovers hold: NumPy itself is not called."""

    def __init__(self, *ignored: object):
        pass

    def __setstate__(self, ignored: object) -> None:
        pass


def read_checkpoint(path: Path) -> Checkpoint:
    """The state dict of a checkpoint, wherever its container keeps it. CheckpointError if it has none that is safe."""
    archive = check(path)
    content = _loaded(path, archive)
    return Checkpoint(path, archive, _tensors(content, path), _config_beside(path))


def _loaded(path: Path, archive: bool) -> Any:
    words = [(_Skipped, name.replace(" ", ".")) for name in NUMPY]
    try:
        with torch.serialization.safe_globals(words):  # type: ignore[arg-type]
            return torch.load(reading.checked(path, reading.CHECKPOINT), "cpu", weights_only=True, mmap=archive)
    except Exception as error:  # torch.load may raise anything on a damaged or hostile file
        reason = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint of tensors ({reason})") from None


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} contains no state dict: it is a {type(content).__name__}")
    found = next((content[key] for key in KEYS if key in content), content)
    if not isinstance(found, Mapping) or not found:
        raise CheckpointError(f"{path} contains no state dict; looked for {', '.join(KEYS)}")
    if len(found) > TENSORS:
        raise CheckpointError(f"{path} has {len(found)} keys: no known network has over {TENSORS}")
    for key, value in found.items():
        if not isinstance(key, str) or type(value) not in (Tensor, torch.nn.Parameter):
            raise CheckpointError(
                f"{path}: {str(key)[:80]!r} is a {type(value).__name__}, not a tensor; looked for {', '.join(KEYS)}"
            )
        if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
            raise CheckpointError(f"{path}: {key[:80]!r} is not a plain tensor")
    wrapped = all(key.startswith(_PREFIX) for key in found)
    return {key.removeprefix(_PREFIX) if wrapped else key: value.detach() for key, value in found.items()}


def _config_beside(path: Path) -> Mapping[str, Any]:
    """config.json in the checkpoint's folder, as DKD and STAR write it."""
    beside = path.parent / "config.json"
    try:
        content = reading.read_json(beside, reading.CONFIG)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}

"""Golden fixtures of eight systems' checkpoints: the rule that fills them, read from where the data lie.

The folder is $LAG_TEST_DATA/peers, or shared/data/peers beside the project. Tests skip with a message where it is
absent.
"""

from __future__ import annotations

import importlib.util
import os
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from repository import ROOT
from torch import Tensor

from lag_core.importing.classes import ClassList, label_space
from lag_core.importing.container import Checkpoint
from lag_core.importing.formats import FORMATS, Format
from lag_core.importing.normalisation import Gamma, in_place, plain
from lag_core.importing.run_writer import Request, _config, shapes_of
from lag_core.importing.source import Source
from lag_core.model.prediction import label_map
from lag_core.model.segmenter import Segmenter, upsample
from lag_core.protocol import ClassInfo, LabelSpace

PEERS = ("ssul", "lag", "dkd", "star", "mib", "plop", "rcil", "csseg")
TASK = "3-1"
"""Background and 3, then 1, then 1."""
CLASSES = tuple(ClassInfo(i, "background" if i == 0 else f"class {i}", (40 * i, 0, 0)) for i in range(6))
LIST = ClassList("folder", "golden", (), CLASSES)
TOLERANCE = 1e-4


def folder() -> Path:
    """Where the fixtures lie; skips the test where they are absent."""
    beside = ROOT.parent / "shared" / "data"
    found = Path(os.environ.get("LAG_TEST_DATA") or beside) / "peers"
    if not (found / "weights_rule.py").is_file():
        pytest.skip(f"no fixtures in {found}: set LAG_TEST_DATA to the folder that holds peers/")
    return found


@cache
def rule() -> ModuleType:
    """weights_rule.py of the fixtures with a faster `whole`."""
    module = fresh_rule()
    module.whole = quick_whole
    return module


def fresh_rule() -> ModuleType:
    """weights_rule.py of the fixtures, by its path."""
    spec = importlib.util.spec_from_file_location("weights_rule", folder() / "weights_rule.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOW = np.uint64(0x0000FFFF_0000FFFF)
"""The first and the third of a word's four 16-bit parts."""


def quick_whole(text: str, n: int) -> np.ndarray:
    """The numbers of `weights_rule.whole`, several times as fast: two parts are added at once, in their own 32 bits."""
    parts = rule().words(text, n)
    pairs = parts >> np.uint64(16)
    pairs &= LOW
    parts &= LOW
    pairs += parts
    np.right_shift(pairs, np.uint64(32), out=parts)
    pairs &= np.uint64(0xFFFFFFFF)
    pairs += parts
    numbers = pairs.view(np.int64)
    numbers -= 131070  # 4 x 65535 / 2
    return numbers


@cache
def answers(peer: str) -> Any:
    return np.load(folder() / f"{peer}.npz")


@cache
def layout(peer: str) -> dict[str, Any]:
    return rule().load(peer)


def request(peer: str, *checkpoints: Path, out: Path = Path("run"), **more: Any) -> Request:
    norm = "iabn" if FORMATS[peer].in_place else None
    return Request(checkpoints, out, TASK, LIST, **{"format": peer, "norm": norm, **more})


def labels_of(peer: str, step: int = 2) -> LabelSpace:
    return label_space(CLASSES, TASK, [4, 1, 1][: step + 1], FORMATS[peer].unknown, "fixture")


def checkpoint_of(peer: str, step: int, tensors: dict[str, Tensor]) -> Checkpoint:
    """A state dict as if it had been read from a file."""
    return Checkpoint(Path(rule().file_name(layout(peer), step)), True, dict(tensors), {})


def segmenter(
    peer: str,
    step: int,
    tensors: dict[str, Tensor],
    gamma: Gamma | None = None,
    form: Format | None = None,
    **network: Any,
) -> Segmenter:
    """Our network with a peer's state dict. `gamma`, `form` and `network` set what is right aside."""
    return built(peer, step, converted(peer, step, tensors, gamma, form), form, **network)


def converted(
    peer: str, step: int, tensors: dict[str, Tensor], gamma: Gamma | None = None, form: Format | None = None
) -> dict[str, Tensor]:
    """A peer's state dict under our names."""
    chosen = form or FORMATS[peer]
    shapes = shapes_of(_config(request(peer), chosen, "resnet101"), labels_of(peer), step)
    source = Source(checkpoint_of(peer, step, tensors), chosen.title)
    right = in_place if chosen.in_place else plain
    found = chosen.tensors(source, shapes, gamma or right)
    source.finish()
    return found


def built(peer: str, step: int, found: dict[str, Tensor], form: Format | None = None, **network: Any) -> Segmenter:
    """Our network of what `converted` gives; `network` sets switches of the format aside."""
    config = _config(request(peer), form or FORMATS[peer], "resnet101")
    with torch.device("meta"):
        model = Segmenter(replace(config.model, **network), labels_of(peer).head_sizes(step))
    counters = {n: torch.zeros((), dtype=torch.int64) for n in model.state_dict() if n.endswith("tracked")}
    model.load_state_dict({**found, **counters}, assign=True)
    return model.requires_grad_(False).eval()


def image(name: str) -> Tensor:
    return rule().image(*{"main": (256, 256), "wide": (97, 641)}[name])


@torch.no_grad()
def full_logits(model: Segmenter, name: str) -> Tensor:
    """Logits at the image's own size, as the peers' code gives them."""
    x = image(name)
    return upsample(model(x).logits, (x.shape[2], x.shape[3]))


def difference(peer: str, logits: Tensor, variant: str, name: str, step: int) -> float:
    """Largest difference to the peer's own logits; a background without a channel is left out."""
    stored = answers(peer)[f"{variant}/{name}/{step}/logits"]
    return float(np.abs(compared(peer, rule().sampled(logits), stored)).max())


def compared(peer: str, own: np.ndarray, stored: np.ndarray) -> np.ndarray:
    """Differences of the channels that both have."""
    own = own[1:] if peer in ("dkd", "star") else own
    stored = stored[1:] if peer == "dkd" else stored
    assert own.shape == stored.shape
    return own - stored


def wrong_logits(peer: str, detail: str) -> np.ndarray:
    """Logits of a wrong reading, every 32nd pixel from the fourth, channels as ours."""
    return answers(peer)[f"wrong/{detail}/logits"]


def off_wrong(peer: str, logits: Tensor, detail: str) -> float:
    """Largest difference of `logits` to a wrong reading's."""
    own, wrong = rule().sampled(logits)[:, ::4, ::4], wrong_logits(peer, detail)
    assert own.shape == wrong.shape
    return float(np.abs(own - wrong).max())


def prediction(peer: str, logits: Tensor) -> np.ndarray:
    return label_map(logits, labels_of(peer), FORMATS[peer].loss)[0].numpy()


def differing_pixels(peer: str, logits: Tensor, variant: str, name: str, step: int) -> float:
    stored = answers(peer)[f"{variant}/{name}/{step}/prediction"]
    return float((prediction(peer, logits) != stored).mean())


def state(peer: str, step: int, variant: str = "moving") -> dict[str, Tensor]:
    return rule().state(layout(peer), step, variant)


def quick_tensor(peer: str, key: str, shape: Sequence[int], kind: str, step: int) -> Tensor:
    """What `weights_rule.tensor` makes, of the same kinds and sizes, by torch's generator, which is faster."""
    if kind == "counter":
        return torch.zeros(tuple(shape), dtype=torch.int64)
    seed = zlib.crc32(f"{peer}/{key}/{step}".encode())
    generator = torch.Generator().manual_seed(seed)
    if kind.startswith("gamma"):
        found = (torch.rand(tuple(shape), generator=generator) + 0.5) * (0.25 if "small" in kind else 1.0)
        return found * torch.randn(tuple(shape), generator=generator).sign() if "signed" in kind else found
    if kind == "variance":
        return 0.5 + torch.rand(tuple(shape), generator=generator)
    found = torch.randn(tuple(shape), generator=generator)
    if kind in ("bias", "mean"):
        return 0.1 * found
    rows = found.reshape(len(found), -1)
    rows -= rows.mean(1, keepdim=True)
    return found * ({"conv": 2.0, "classify": 400.0}[kind] / rows.shape[1]) ** 0.5


def write_steps(
    peer: str, root: Path, steps: Sequence[int], variant: str = "moving", empty: bool = False
) -> list[Path]:
    """Checkpoint files as the peer's code writes them."""
    one = layout(peer)
    return [rule().write(one, step, root / rule().file_name(one, step), variant, empty) for step in steps]

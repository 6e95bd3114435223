"""Eight systems' checkpoints through our mapping: the same logits, the same label maps, and every hazard noticed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from peers import (
    PEERS,
    TOLERANCE,
    difference,
    differing_pixels,
    full_logits,
    layout,
    request,
    segmenter,
    state,
    write_steps,
)

from lag_core.config import ConfigError
from lag_core.explain.networks import Networks
from lag_core.importing.run_writer import import_run
from lag_core.runs import RunError, open_run

REFUSALS = (ConfigError, RunError, ValueError)


@pytest.mark.slow
@pytest.mark.parametrize("peer", PEERS)
def test_logits_and_label_maps_are_the_peers_own(peer: str) -> None:
    logits = full_logits(segmenter(peer, 1, state(peer, 1)), "wide")
    assert difference(peer, logits, "moving", "wide", 1) < TOLERANCE
    assert differing_pixels(peer, logits, "moving", "wide", 1) <= 1e-4


@pytest.mark.slow
def test_a_trunk_of_another_step_is_noticed() -> None:
    """MiB's trunk moves: step 1 under the trunk of step 0 is another network."""
    tensors, still = state("mib", 1), state("mib", 0)
    wrong = {n: still[n] if ".body." in n or n.startswith("body.") else value for n, value in tensors.items()}
    assert any(not torch.equal(wrong[n], tensors[n]) for n in tensors)
    logits = full_logits(segmenter("mib", 1, wrong), "wide")
    assert difference("mib", logits, "moving", "wide", 1) > TOLERANCE


@pytest.mark.slow
def test_a_real_file_becomes_a_run_whose_trunk_moves(tmp_path: Path) -> None:
    paths = write_steps("plop", tmp_path, (0, 1))
    out = tmp_path / "run"
    import_run(request("plop", *paths, out=out))
    for path in paths:
        path.unlink()
    networks = Networks(open_run(out))
    assert len(networks) == 2 and not networks.one_trunk
    assert difference("plop", full_logits(networks.steps[1], "wide"), "moving", "wide", 1) < TOLERANCE


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (os.environ["EVIL"],)


def hostile(kind: str, path: Path) -> Path:
    if kind == "code":
        torch.save({"model_state": {"a": torch.zeros(2)}, "x": Evil()}, path)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps({"model_state": Evil()}))
    elif kind == "text":
        path.write_text("hello")
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        torch.save({"model_state": {}}, path)
    return path


@pytest.mark.parametrize("kind", ["code", "plain pickle", "text", "empty", "no tensors"])
def test_a_hostile_file_is_refused_with_a_sentence(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "executed"
    monkeypatch.setenv("EVIL", str(marker))
    bad = hostile(kind, tmp_path / "step_0.pth")
    with pytest.raises(REFUSALS, match=r"\w+ \w+"):
        import_run(request("ssul", bad, out=tmp_path / "run"))
    assert not marker.exists() and not (tmp_path / "run" / "run.json").exists()


@pytest.mark.parametrize("change", ["missing", "foreign", "misshapen"])
def test_a_wrong_key_is_named(change: str) -> None:
    peer = "ssul"
    shapes = {entry[0]: tuple(entry[1]) for entry in layout(peer)["keys"] if 0 in entry[3]}
    tensors = {name: torch.zeros(shape) for name, shape in shapes.items()}
    key = next(name for name in tensors if name.endswith("layer1.0.conv1.weight"))
    if change == "missing":
        del tensors[key]
    elif change == "foreign":
        tensors["classifier.foreign.weight"] = torch.zeros(3)
    else:
        tensors[key] = torch.zeros(1, 1)
    with pytest.raises(REFUSALS, match="foreign" if change == "foreign" else "layer1.0.conv1"):
        segmenter(peer, 0, tensors)


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    path = write_steps("ssul", tmp_path, (0,), empty=True)[0]
    held = torch.load(path, weights_only=False)
    name = next(n for n in held["model_state"] if n.endswith("conv1.weight"))
    held["model_state"][name] = torch.full_like(held["model_state"][name], float(np.nan))
    torch.save(held, path)
    with pytest.raises(REFUSALS, match=r"NaN|finite|number"):
        import_run(request("ssul", path, out=tmp_path / "run"))

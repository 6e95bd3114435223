"""Tensors of few values: stored smaller, read back bit by bit; a file that does not add up is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from lag_core.config import ModelConfig
from lag_core.model.weights import pretrained_backbone
from lag_core.palette import INDEX, VALUES, indexed, restored
from lag_core.runs import RunError, read_tensors

FEW = np.random.default_rng(0).integers(-100, 100, (64, 16, 3, 3)).astype(np.float16) / 7
"""About 200 values."""


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_nothing_is_lost(dtype):
    odd = FEW.astype(dtype)
    odd.flat[:4] = [0.0, -0.0, np.nan, np.inf]
    many = np.random.default_rng(1).normal(size=(40, 40)).astype(dtype)
    small, whole = np.ones(8, dtype), np.arange(5000)
    tensors = {"few": odd, "turned": odd.transpose(3, 0, 2, 1), "many": many, "small": small, "whole": whole}
    stored = indexed(tensors)
    coded = {f"{name}{part}" for name in ("few", "turned") for part in (INDEX, VALUES)}
    assert stored.keys() == coded | {"many", "small", "whole"}
    assert stored["few" + INDEX].nbytes * odd.itemsize == odd.nbytes
    back = restored(stored)
    assert back.keys() == tensors.keys()
    for name, value in tensors.items():
        assert back[name].dtype == value.dtype and back[name].shape == value.shape
        assert back[name].tobytes() == value.tobytes(), "every bit, minus zero and NaN too"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.pop("w" + VALUES), "an index without its values"),
        (lambda t: t.pop("w" + INDEX), "belongs to no index"),
        (lambda t: t.update({"w" + VALUES: t["w" + VALUES][:5]}), "points outside its values"),
        (lambda t: t.update({"w" + VALUES: t["w" + VALUES][None]}), "an index without its values"),
        (lambda t: t.update({"w" + INDEX: t["w" + INDEX].astype(np.int16)}), "an index without its values"),
    ],
)
def test_a_file_that_does_not_add_up_is_refused(tmp_path, change, says):
    stored = indexed({"w": FEW})
    change(stored)
    save_file(stored, tmp_path / "x.safetensors")
    with pytest.raises(RunError, match=says):
        read_tensors(tmp_path / "x.safetensors")


def test_a_backbone_is_read_from_either_form(tmp_path):
    plain = pretrained_backbone(ModelConfig(backbone="mobilenet_v2", weights="none"))
    state = {f"backbone.{n}": np.round(v.numpy() * 20).astype(np.float16) / 20 for n, v in plain.state_dict().items()
             if v.is_floating_point()}  # fmt: skip
    stored = indexed(state)
    assert any(name.endswith(INDEX) for name in stored)
    read = []
    for form in (state, stored):
        save_file(form, tmp_path / "weights.safetensors")
        config = ModelConfig(backbone="mobilenet_v2", weights=str(tmp_path / "weights.safetensors"))
        read.append(pretrained_backbone(config).state_dict())
    assert all(torch.equal(read[0][name], read[1][name]) for name in read[0])

"""Logits of many changed maps at once: against one decoding after another, for every form of head and any decoder."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lag_core.adapters.adapted_step import HeadDecoder
from lag_core.explain import decoding
from lag_core.explain.decoding import OwnDecoder, decoded, logits_of_sets
from lag_core.model.heads import Head, LinearHead

torch.set_num_threads(1)

C, SIZE = 12, (5, 7)
SETS = [np.array(one) for one in ([3], [0, 5, 11], [7, 2], list(range(C)), [4, 1, 0, 9, 8])]


def heads(kind: str, act: Literal["relu", "leaky_relu"] = "relu") -> nn.ModuleList:
    """Trained by nobody; batch norms have seen something."""
    torch.manual_seed(0)
    if kind == "linear":
        return nn.ModuleList(LinearHead(C, k) for k in (1, 2)).eval()
    found = nn.ModuleList(Head(C, 6, k, 3 if kind == "3x3" else 1, act) for k in (1, 2, 1))
    for head in found.train():
        head(torch.randn(8, C, *SIZE))
    return found.eval()


def own_decoder(own: nn.ModuleList) -> OwnDecoder:
    """Of a network that is nothing but heads."""
    model: Any = SimpleNamespace(heads=own, decode=lambda z: torch.cat([head(z) for head in own], 1))
    return OwnDecoder(model)


def maps(images: int, seed: int = 0) -> Tensor:
    """Z with negative values, too."""
    return torch.randn(images, C, *SIZE, generator=torch.Generator().manual_seed(seed))


def fillings(images: int) -> dict[str, Tensor]:
    shape = (images, C, *SIZE)
    mean = torch.arange(C, dtype=torch.float32).view(1, -1, 1, 1).expand(shape)
    return {"zero": torch.zeros(1).expand(shape), "mean": mean, "old": maps(images, 1)}


@torch.no_grad()
def slow(found: nn.ModuleList, latent: Tensor, filling: Tensor, chosen: np.ndarray) -> Tensor:
    """One image and one channel after another."""
    rows = []
    for z, other in zip(latent, filling, strict=True):
        changed = z.clone()
        for c in chosen:
            changed[c] = other[c]
        rows.append(torch.cat([head(changed[None]) for head in found], 1))
    return torch.cat(rows)


@pytest.mark.parametrize(("kind", "act"), [("3x3", "relu"), ("1x1", "leaky_relu"), ("linear", "relu")])
@pytest.mark.parametrize("name", ["zero", "mean", "old"])
@pytest.mark.parametrize("images", [1, 3])
def test_sums_of_channels_are_decodings(kind: str, act: Literal["relu"], name: str, images: int) -> None:
    own, latent, filling = heads(kind, act), maps(images), fillings(images)[name]
    found = list(logits_of_sets(own_decoder(own), latent, filling, SETS))
    assert len(found) == len(SETS)
    for logits, chosen in zip(found, SETS, strict=True):
        expected = slow(own, latent, filling, chosen)
        assert logits.shape == expected.shape
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_many_sets_come_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the sets survives groups that are smaller than their number."""
    own, latent, filling = heads("3x3"), maps(2), fillings(2)["old"]
    rng = np.random.default_rng(0)
    sets = [rng.permutation(C)[: 1 + i % 5] for i in range(150)]
    whole = list(logits_of_sets(own_decoder(own), latent, filling, sets))
    monkeypatch.setattr(decoding, "BYTES", 6 * C * 35 * 4)
    monkeypatch.setattr(decoding, "ROWS", 4)
    parts = list(logits_of_sets(own_decoder(own), latent, filling, sets))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts, strict=True))
    monkeypatch.setattr(decoding, "BYTES", 1)  # nothing fits: one by one
    assert torch.allclose(next(logits_of_sets(own_decoder(own), latent, filling, sets)), whole[0], atol=1e-5)


def test_nothing_is_changed_in_what_was_given() -> None:
    own, latent, filling = heads("3x3"), maps(2), maps(2, 1)
    kept = latent.clone(), filling.clone()
    list(logits_of_sets(own_decoder(own), latent, filling, SETS))
    assert torch.equal(latent, kept[0]) and torch.equal(filling, kept[1])


class BesidePictures:
    """A decoder that needs its pictures, as one with skip connections does."""

    def __init__(self, images: int):
        self.offset = torch.arange(float(images)).view(-1, 1, 1, 1)
        self.asked: list[list[int]] = []

    def __call__(self, latent: Tensor, rows: Tensor | None = None) -> Tensor:
        assert rows is not None
        self.asked.append(rows.tolist())
        return latent[:, :2] + 100 * self.offset[rows]


@pytest.mark.parametrize("images", [1, 3, 70])
def test_any_decoder_is_told_the_picture_of_each_row(images: int) -> None:
    decode, latent = BesidePictures(images), maps(images)
    found = list(logits_of_sets(decode, latent, torch.zeros_like(latent), SETS))
    for logits, chosen in zip(found, SETS, strict=True):
        expected = latent[:, :2] + 100 * decode.offset
        for c in set(chosen.tolist()) & {0, 1}:
            expected[:, c] = 100 * decode.offset[:, 0]
        assert torch.equal(logits, expected)
    assert max(len(rows) for rows in decode.asked) <= decoding.ROWS
    assert torch.equal(decoded(decode, latent, images), latent[:, :2] + 100 * decode.offset)


def counted(head: nn.Module) -> tuple[HeadDecoder, list[int]]:
    """An adapter's decoder, and how many maps each of its calls decodes."""
    calls: list[int] = []

    class Counted(HeadDecoder):
        def __call__(self, latent: Tensor, rows: Any = None) -> Tensor:
            calls.append(len(latent))
            return super().__call__(latent, rows)

    return Counted(head, lambda logits: torch.cat([torch.full_like(logits[:, :1], -9), logits], 1), 2), calls


FOREIGN = {
    "convolution": (nn.Conv2d(C, 3, 1), True),
    "with what follows": (nn.Sequential(nn.Conv2d(C, 4, 3, padding=1), nn.ReLU(), nn.Upsample(scale_factor=2)), True),
    "grouped": (nn.Conv2d(C, 4, 1, groups=2), False),
    "reflected": (nn.Conv2d(C, 4, 3, padding=1, padding_mode="reflect"), False),
    "no convolution first": (nn.Sequential(nn.ReLU(), nn.Conv2d(C, 3, 1)), False),
}


@pytest.mark.parametrize("name", tuple(FOREIGN))
@pytest.mark.parametrize("filling", tuple(fillings(2)))
def test_an_adapters_head_is_summed_up_where_it_begins_with_a_convolution(name: str, filling: str) -> None:
    head, summed = FOREIGN[name]
    decode, calls = counted(head)
    latent, other = maps(2), fillings(2)[filling]
    found = list(logits_of_sets(decode, latent, other, SETS))
    assert (calls == []) is summed
    for own, chosen in zip(found, SETS, strict=True):
        changed = latent.clone()
        changed[:, chosen] = other[:, chosen]
        assert torch.allclose(own, decode(changed), atol=1e-4)


def test_as_many_maps_are_changed_at_once_as_the_bound_in_bytes_says(monkeypatch: pytest.MonkeyPatch) -> None:
    decode, calls = counted(FOREIGN["no convolution first"][0])
    monkeypatch.setattr(decoding, "BYTES", 4 * maps(1).nbytes)
    list(logits_of_sets(decode, maps(2), fillings(2)["old"], SETS))
    assert calls == [4, 4, 2]

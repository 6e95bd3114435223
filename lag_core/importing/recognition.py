"""Which system wrote a checkpoint, and what its file alone cannot tell."""

from __future__ import annotations

from collections.abc import Iterable

from lag_core.importing.container import Checkpoint
from lag_core.importing.error import CheckpointError
from lag_core.importing.formats import FORMATS, Format
from lag_core.importing.normalisation import Gamma, in_place, plain

_DEPTHS = {6: "resnet50", 23: "resnet101"}
"""Blocks of the third layer."""


def recognise(checkpoint: Checkpoint, step: int, wanted: str | None) -> Format:
    """The format of a file. CheckpointError if it is unknown, ambiguous, or not `wanted`."""
    possible = _possible(checkpoint)
    if not possible:
        raise CheckpointError(
            f"{checkpoint.path} is not of a known network; known are {', '.join(FORMATS)} (first key: "
            f"{next(iter(checkpoint.tensors), 'none')[:80]})"
        )
    if wanted is not None:
        if wanted not in possible:
            raise CheckpointError(f"{checkpoint.path} is not a checkpoint of {wanted}: it looks like {_or(possible)}")
        return FORMATS[wanted]
    if set(possible) == {"dkd", "star"}:
        possible = _dkd_or_star(checkpoint, step)
    if len(possible) > 1:
        raise CheckpointError(
            f"{checkpoint.path} may be of {_or(possible)}, which the file does not say: "
            f"name it before the checkpoints, as in `lag import {possible[0]} …`"
        )
    return FORMATS[possible[0]]


def _possible(checkpoint: Checkpoint) -> list[str]:
    """Formats whose layout a state dict has."""
    keys = checkpoint.tensors
    if _any(keys, "classifier.head."):
        return ["lag"] if _any(keys, "classifier.aspp_l1.") else ["ssul", "lag"]
    if _any(keys, "aspp.last_conv."):
        _refuse_other_norm(checkpoint)
        return ["dkd", "star"]
    if _any(keys, "body.mod1.") and _any(keys, "cls."):
        return ["rcil"] if any("conv2_new" in key for key in keys) else ["mib", "plop"]
    return ["csseg"] if _any(keys, "convs_cls.") else []


def _any(keys: Iterable[str], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in keys)


def _or(names: list[str]) -> str:
    return " or ".join(names)


def _refuse_other_norm(checkpoint: Checkpoint) -> None:
    """DKD and STAR with InPlaceABN compute differently, with tensors of other names."""
    arch = checkpoint.config.get("arch")
    arguments = arch.get("args") if isinstance(arch, dict) else None
    norm = arguments.get("norm_act") if isinstance(arguments, dict) else None
    if norm not in (None, "bn_sync", "bn"):
        raise CheckpointError(
            f"{checkpoint.path.parent / 'config.json'} says norm_act = {str(norm)[:40]!r}: of DKD and STAR, networks "
            "with bn_sync can be imported"
        )


def _dkd_or_star(checkpoint: Checkpoint, step: int) -> list[str]:
    """By config.json, else by the heads: DKD has one more, of one channel."""
    name = str(checkpoint.config.get("name", "")).lower()
    if name in ("dkd", "star"):
        return [name]
    heads = sum(key.startswith("cls.") and key.endswith(".weight") for key in checkpoint.tensors)
    first = checkpoint.tensors.get("cls.0.weight")
    if first is not None and first.dim() and first.shape[0] == 1:
        return ["dkd", "star"]  # an auxiliary channel, or a first step of one class
    return ["star"] if heads == step + 1 else ["dkd", "star"]


def backbone_of(checkpoint: Checkpoint, form: Format) -> str:
    """Name of the ResNet, by the blocks of its third layer. CheckpointError for another."""
    keys = (key.removeprefix(form.layers) for key in checkpoint.tensors if key.startswith(form.layers))
    blocks = len({key.partition(".")[0] for key in keys})
    if blocks not in _DEPTHS:
        known = ", ".join(f"{name} ({n})" for n, name in _DEPTHS.items())
        raise CheckpointError(f"{checkpoint.path} has {blocks} blocks in the backbone's third layer; known are {known}")
    return _DEPTHS[blocks]


def gamma_of(checkpoint: Checkpoint, form: Format, norm: str | None) -> Gamma:
    """How to read a norm's scale. CheckpointError if it matters and no option says so.

    InPlaceABN takes |gamma| + eps, ABN gamma; the file is the same.
    """
    if not form.in_place:
        if norm is not None:
            raise CheckpointError(f"--norm is a question for MiB, PLOP, RCIL and csseg alone, not for {form.name}")
        return plain
    if norm is None and _has_negative_scale(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path} has norms with a negative scale, and does not say whether they were trained with "
            "InPlaceABN, which takes its absolute value (norm_act = iabn, the default of its authors' code), "
            "or with ABN: give --norm iabn or --norm abn"
        )
    return plain if norm == "abn" else in_place


def _has_negative_scale(checkpoint: Checkpoint) -> bool:
    """Whether a norm's scale (a vector beside a running mean) is below 0 anywhere."""
    tensors = checkpoint.tensors
    means = (key for key in tensors if key.endswith(".running_mean"))
    scales = (tensors.get(key.removesuffix("running_mean") + "weight") for key in means)
    return any(bool((one < 0).any()) for one in scales if one is not None and one.dim() == 1 and one.numel() < 10_000)

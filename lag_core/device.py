"""Which device networks run on."""

from __future__ import annotations

from lag_core.config import ConfigError

NAMES = ("auto", "cpu", "cuda")


def device_named(name: str) -> str:
    """`auto`: a GPU if torch sees one. ConfigError for another name, or for a missing GPU."""
    import torch

    if name not in NAMES:
        raise ConfigError(f"device {name!r}: allowed are {', '.join(NAMES)}")
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise ConfigError('device "cuda": torch sees no GPU here; use "auto" or "cpu"')
    return "cuda" if there and name != "cpu" else "cpu"

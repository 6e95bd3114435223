"""run.json, checked when a run is opened, so that all values have the type and range that pages expect.

A required value that is missing or wrong refuses the run. An optional one counts as absent, and a sentence names
it. Source: docs/run-format.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

NAME = 200
"""Most characters of a name."""
TEXT = 4000
"""Most characters of a sentence, and of a path."""
MANY = 256
"""Most entries of a list of names."""
IMAGES = 1_000_000
"""Most names of images."""
COUNT = 2**53
"""Above it, a number in JSON is not exact."""

Check = Callable[[Any], Any]
"""Returns a value that is sound; ValueError says what was expected."""


class InfoError(ValueError):
    """A required value of run.json that is missing or wrong."""


def text(longest: int = NAME, least: int = 0) -> Check:
    """A text of bounded length."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or not least <= len(value) <= longest:
            raise ValueError(f"a text of {least} to {longest} characters")
        return value

    return check


def whole(low: int = 0, high: int = COUNT) -> Check:
    """An integer within bounds; true and false are not integers."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def number(low: float = 0.0, high: float = 1e15) -> Check:
    """A finite number within bounds."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return value

    return check


def listed(one: Check, most: int = MANY, least: int = 0) -> Check:
    """A list of sound values."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list) or not least <= len(value) <= most:
            raise ValueError(f"a list of {least} to {most} entries")
        return [one(entry) for entry in value]

    return check


def table(inner: Check, most: int = MANY) -> Check:
    """A table whose keys are names."""
    name = text()

    def check(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise ValueError(f"a table of at most {most} entries")
        return {name(key): inner(entry) for key, entry in value.items()}

    return check


def either(*checks: Check) -> Check:
    """A value that one of the checks accepts."""

    def check(value: Any) -> Any:
        reasons = []
        for one in checks:
            try:
                return one(value)
            except ValueError as reason:
                reasons.append(str(reason))
        raise ValueError(", or ".join(reasons))

    return check


def nothing(value: Any) -> None:
    """null."""
    if value is not None:
        raise ValueError("null")


def flag(value: Any) -> bool:
    """true or false."""
    if not isinstance(value, bool):
        raise ValueError("true or false")
    return value


_IDS = listed(listed(whole(0, 254), 255, 1), 255, 1)
_PLAIN = either(text(TEXT), number(-1e15), flag, nothing)

REQUIRED: dict[str, Check] = {
    "method": text(NAME, 1),
    "status": text(NAME, 1),
    "dataset.name": text(NAME, 1),
    "dataset.classes": listed(table(lambda value: value), 255, 1),
    "task.name": text(),
    "task.setting": text(),
    "task.steps": _IDS,
    "labels.steps": _IDS,
    "labels.background": either(whole(0, 254), nothing),
    "labels.unknown": flag,
    "config": table(table(lambda value: value), 16),
    "steps": listed(table(lambda value: value), 255),
}

OPTIONAL: dict[str, Check] = {
    "name": text(TEXT),
    "dataset.domains": listed(text()),
    "warnings": listed(text(TEXT), 1000),
    "seed": whole(0, 2**63 - 1),
    "hours": number(),
    "peak_memory_mib": number(),
    "versions": table(_PLAIN),
    "git": text(),
    "machine": table(_PLAIN),
    "weights": text(),
    "imported": table(lambda value: value),
}

NETWORK: dict[str, Check] = {
    "kind": text(NAME, 1),
    "adapter": text(),
    "can": listed(text()),
    "images": listed(text(TEXT, 1), IMAGES),
    "checkpoints": listed(table(_PLAIN), 255),
}
"""Entries of run.json for networks that are not this project's; all optional, none may be wrong."""

CLASS: dict[str, Check] = {"id": whole(0, 254), "name": text(NAME, 1), "color": listed(whole(0, 255), 3, 3)}

STEP: dict[str, Check] = {
    "step": whole(0, 254),
    "files": listed(table(lambda value: value), 1000),
    "images": whole(),
    "iterations": whole(),
    "seconds": number(),
    "images_per_second": number(),
}

STEP_OPTIONAL: dict[str, Check] = {"trained": listed(text()), "dead_terms": listed(text())}


def checked_info(info: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """(run.json without its optional values that are wrong, a sentence for each of these).

    InfoError for a required value that is missing or wrong.
    """
    sound, faults = dict(info), []
    for key, check in REQUIRED.items():
        _require(sound, key, key, check)
    for key, check in OPTIONAL.items():
        faults += _leave_out(sound, key, key, check)
    _check_network(sound.get("network"))
    for place, one in enumerate(sound["dataset"]["classes"]):
        for key, check in CLASS.items():
            _require(one, key, f"dataset.classes[{place}].{key}", check)
    sound["steps"] = [dict(step) for step in sound["steps"]]
    for place, step in enumerate(sound["steps"]):
        for key, check in STEP.items():
            _require(step, key, f"steps[{place}].{key}", check)
        for key, check in STEP_OPTIONAL.items():
            faults += _leave_out(step, key, f"steps[{place}].{key}", check)
    return sound, faults


def _check_network(network: Any) -> None:
    if not network:
        return
    if not isinstance(network, dict):
        raise InfoError("network is not a table")
    for key, check in NETWORK.items():
        if key in network:
            _require({"network": network}, f"network.{key}", f"network.{key}", check)


def _require(place: Mapping[str, Any], key: str, name: str, check: Check) -> None:
    outer, _, inner = key.rpartition(".")
    if outer:
        place = place.get(outer)  # type: ignore[assignment]
        if not isinstance(place, dict):
            raise InfoError(f"{outer} is not a table" if place is not None else f"{outer} is missing")
    if inner not in place:
        raise InfoError(f"{name} is missing")
    try:
        check(place[inner])
    except ValueError as expected:
        raise InfoError(f"{name} is {_shown(place[inner])}, expected {expected}") from None


def _leave_out(place: dict[str, Any], key: str, name: str, check: Check) -> list[str]:
    """Remove an optional value that is wrong. Returns the sentence that says so, if there is one."""
    outer, _, inner = key.rpartition(".")
    within = place[outer] if outer else place
    if inner not in within:
        return []
    value = within[inner]
    try:
        check(value)
        return []
    except ValueError as expected:
        rest = {k: v for k, v in within.items() if k != inner}
        if outer:
            place[outer] = rest
        else:
            del place[inner]
        return [f"{name} is {_shown(value)}, expected {expected}; it is left out"]


def _shown(value: Any) -> str:
    """A value in a few words; a long one is never written out."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'table'} of {len(value)} entries"
    return repr(value)

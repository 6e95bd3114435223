"""Explain a picture: arrays, pictures and the verdict's words, as files.

Writes arrays.npz (every number, NumPy), PNG pictures of the size of the image, and summary.json (verdict,
conservation errors, what is missing and why, digests, versions, command). The folder must be empty or new.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lag_core.commands import subject
from lag_core.commands.arguments import place
from lag_core.config import ConfigError
from lag_core.sentences import counted, say

if TYPE_CHECKING:
    from lag_core.explain.apart import Apart
    from lag_core.explain.explanation import Explanation
    from lag_core.explain.verdict import Evidence
    from lag_core.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    subject.add_arguments(parser)
    parser.add_argument("--out", type=place, required=True, help="folder that the files are written to")


def run(options: argparse.Namespace) -> int:
    from lag_core.explain.explanation import arrays
    from lag_core.explain.rendering import png
    from lag_core.writing import whole_folder, write_atomically

    if options.out.exists() and (not options.out.is_dir() or any(options.out.iterdir())):
        raise ConfigError(f"{options.out} already contains files, which are never overwritten; choose another --out")
    opened, found = subject.explain(options)
    summary = _summary(opened, found, subject.command("explain", options, opened, found))
    numbers, drawn = arrays(found), 0
    with whole_folder(options.out):
        write_atomically(options.out / "arrays.npz", _packed(numbers))
        for name, pixels in pictures(opened, found):
            write_atomically(options.out / f"{name}.png", png(pixels))
            drawn += 1
        text = json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
        write_atomically(options.out / "summary.json", text.encode())
    if not options.quiet:
        for sentences in (*summary["verdicts"].values(), *summary["details"].values()):
            say("\n".join(one["text"] for one in sentences))
        say(f"{counted(len(numbers), 'array')} and {counted(drawn, 'picture')} -> {options.out}")
    return 0


def _packed(numbers: Mapping[str, np.ndarray]) -> bytes:
    """The content of an npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **numbers)  # type: ignore[arg-type]
    return buffer.getvalue()


def _measured_shares(found: Evidence) -> dict[str, object]:
    from lag_core.explain.shares import as_json

    assert found.shares is not None
    return {**as_json(found.shares), "measured_on": "validation" if found.whole_set else "image"}


def _against(found: Apart) -> dict[str, object]:
    from lag_core.explain.shares import as_json

    return {**as_json(found.shares), "run": found.other, "swapped": found.swapped, "how": found.how}


def pictures(run: Run, found: Explanation) -> Iterator[tuple[str, np.ndarray]]:
    """(name, picture uint8 [H, W, 3]), made one after the other: for a large photograph each takes about 12 MiB."""
    from lag_core.explain import rendering

    image, clear = found.subject.image, run.labels.background
    for step, labels in enumerate(found.predictions):
        decided = found.decided[step]
        yield f"step_{step:02d}", rendering.overlay(image, labels, run.classes, decided=decided, clear=clear)
    if found.subject.truth is not None:
        yield "truth", rendering.overlay(image, found.subject.truth, run.classes, clear=clear)
    if found.provenance is not None:
        yield "provenance", rendering.fates(image, found.provenance.state)
    if found.moved is not None:
        high = max(rendering.scale_end(found.moved.invariant), rendering.scale_end(found.moved.specific))
        yield "energy_invariant", rendering.strength(found.moved.invariant, high)
        yield "energy_specific", rendering.strength(found.moved.specific, high)
    for one in found.relevance:
        yield f"relevance_step_{one.step:02d}", rendering.signed(one.map)
    if found.cosine is not None:
        yield "cosine", rendering.strength(found.cosine - found.cosine.min())


def _summary(run: Run, found: Explanation, command: str) -> dict[str, Any]:
    from lag_core.explain import verdict
    from lag_core.explain.report import versions

    said = {"validation" if one.whole_set else "image": verdict.verdict(one) for one in found.evidence}
    verdicts: Mapping[str, Any] = {where: [vars(f) for f in one.findings] for where, one in said.items()}
    telling = next((one for one in reversed(found.evidence) if one.shares is not None), None)
    return {
        "run": {"name": run.name, "digest": run.digest},
        "image": {"name": found.subject.name, "digest": found.digest},
        "class": run.classes[found.subject.cls].name,
        "step": found.subject.step,
        "verdicts": verdicts,
        "words": {where: one.words for where, one in said.items()},
        "details": {where: [vars(f) for f in one.details] for where, one in said.items()},
        "shares": None if telling is None or telling.shares is None else _measured_shares(telling),
        "against": None if found.apart is None else _against(found.apart),
        "conservation": {f"step {one.step}": one.found.conservation for one in found.relevance},
        "missing": dict(found.missing),
        "versions": dict(versions(run)),
        "command": command,
    }

"""The events of a run in other formats: CSV, and TensorBoard's event files (written here: no package is needed).

A file holds one series for each quantity: loss, each term, its gradient, learning rates, and after each step the IoU of
each class. The position of a number is its iteration, counted over all steps.
"""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lag_core import metrics
from lag_core.runs import Run
from lag_core.writing import write_atomically

FORMATS = ("csv", "tensorboard")


class Point(NamedTuple):
    """One number of a series."""

    series: str
    place: int
    """Iterations of all steps before it."""
    step: int
    value: float


def export(run: Run, form: str) -> Path:
    """Write the events of a run into its folder: events.csv, or tensorboard/events.out.tfevents.lag."""
    points = list(points_of(run))
    if form == "csv":
        path, content = run.path / "events.csv", csv_of(points)
    else:
        path, content = run.path / "tensorboard" / "events.out.tfevents.lag", tensorboard_of(points)
    write_atomically(path, content)
    return path


def points_of(run: Run) -> Iterator[Point]:
    """Every number of the events, then of the metrics after each step."""
    before = np.cumsum([0, *(step.iterations for step in run.steps)]).tolist()
    for event in run.events():
        step = int(event["step"])
        if step < len(before):
            for series, value in _numbers(event):
                yield Point(series, before[step] + int(event["iteration"]), step, value)
    confusions = run.confusions()
    if confusions is None:
        return
    ious = metrics.iou_matrix(confusions, run.labels)
    for step, row in enumerate(ious):
        yield Point("miou/known classes", before[step + 1], step, metrics.mean(row))
        for one, value in zip(run.classes, row, strict=True):
            if not np.isnan(value):
                yield Point(f"iou/{one.name}", before[step + 1], step, float(value))


def _numbers(event: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    yield "loss", float(event["loss"])
    for name, term in event.get("terms", {}).items():
        yield f"terms/{name}", float(term["raw"]) * float(term["weight"])
    groups = {"gradients": "gradient_norms", "learning rate": "lr", "pseudo-labels": "pseudo_labels"}
    for heading, key in groups.items():
        for name, value in event.get(key, {}).items():
            if isinstance(value, int | float):
                yield f"{heading}/{name}", float(value)


def csv_of(points: list[Point]) -> bytes:
    """One line a number: series, place, step, value."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(Point._fields)
    writer.writerows(points)
    return buffer.getvalue().encode()


def tensorboard_of(points: list[Point]) -> bytes:
    """An event file: TFRecords, each an Event message with one scalar. Wall time is the place in seconds, so that the
    file depends on the run alone."""
    records = [_record(_double(1, 0.0) + _bytes(3, b"brain.Event:2"))]
    for one in sorted(points, key=lambda p: p.place):
        scalar = _bytes(1, one.series.encode()) + _float(2, one.value)
        records.append(_record(_double(1, float(one.place)) + _integer(2, one.place) + _bytes(5, _bytes(1, scalar))))
    return b"".join(records)


def _record(data: bytes) -> bytes:
    """A TFRecord: length and data, each followed by its masked CRC-32C."""
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(length)) + data + struct.pack("<I", _masked(data))


def _masked(data: bytes) -> int:
    value = crc32c(data)
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli)."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@cache
def _crc_table() -> tuple[int, ...]:
    found = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


# Protocol buffers, by hand: a key is the field's number and its wire type.


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)

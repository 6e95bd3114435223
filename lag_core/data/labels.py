"""Turns masks into ids: other ids, ids to ignore, colours, and image files with other names.

`classes.json` may be an object with, beside "classes":

| key | says |
|---|---|
| "ignore": [0, 34] | these ids of a mask are not annotated (255) |
| "remap": {"7": 0, "8": 1} | ids of a mask -> ids of classes; those that are not named stay as they are |
| "others": "ignore" | ids of a mask that belong to no class are not annotated; without it they are an error |
| "reduce_zero_label": true | id 0 is not annotated, and all others are one less |
| "palette": true | masks are RGB pictures in the classes' colours |
| "order": ["car", "tree"] | names of classes in the order in which steps introduce them, then the others by id |
| "image_suffix", "mask_suffix" | text after the id in a file's name, such as "_leftImg8bit" |

Reducing comes first; "ignore" and "remap" use the ids after it. With a palette, they use the ids of the
classes whose colours were found.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lag_core.data.files import Part, whole
from lag_core.data.pictures import DataError, opened, read_mask
from lag_core.protocol import IGNORE, ClassInfo

MaskReader = Callable[[Path, Part | None], np.ndarray]
"""Reads a mask file, or a part of it. Shape: -> uint8 [H, W] ids of classes, 255 ignored."""

ROWS = 256
"""Rows of a coloured mask that are turned into ids at once."""

KEYS = {
    "classes", "ignore", "remap", "others", "reduce_zero_label", "palette", "order", "image_suffix", "mask_suffix",
}  # fmt: skip


@dataclass(frozen=True)
class LabelRules:
    """What a mask's values mean."""

    table: tuple[int, ...] = tuple(range(256))
    """A mask's id -> a class's id, 255 ignored."""
    colors: Mapping[int, int] | None = None
    """Colour as one number (red first) -> a class's id, of RGB masks; None: masks hold ids."""
    others: bool = False
    """Whether colours of no class are ignored."""
    image_suffix: str = ""
    mask_suffix: str = ""
    order: tuple[str, ...] = field(default=())

    @property
    def reader(self) -> MaskReader:
        """What reads a mask file."""
        return plain_ids if self == LabelRules(order=self.order) else self._read

    def _read(self, path: Path, part: Part | None = None) -> np.ndarray:
        if self.colors is None:
            return np.array(self.table, np.uint8)[read_mask(path, part=part)]
        return np.array(self.table, np.uint8)[ids_of_colours(path, part, self.colors, self.others)]


def plain_ids(path: Path, part: Part | None = None) -> np.ndarray:
    """A mask whose values are the ids. Shape: -> uint8 [H, W]."""
    return read_mask(path, part=part)


def ids_of_colours(path: Path, part: Part | None, colors: Mapping[int, int], others: bool) -> np.ndarray:
    """Ids of a file whose pixels are colours, some rows at a time. Shape: -> uint8 [H, W]."""
    picture = opened(path)
    rows, columns = whole(picture.size) if part is None else part
    tops = range(rows.start, rows.stop, ROWS)
    blocks = [(slice(top, min(top + ROWS, rows.stop)), columns) for top in tops]
    return np.concatenate([ids_of_palette(picture.read(one), colors, others, path) for one in blocks])


def ids_of_palette(pixels: np.ndarray, colors: Mapping[int, int], others: bool, path: Path) -> np.ndarray:
    """Ids of an RGB mask. DataError for a colour of no class. Shape: uint8 [H, W, 3] -> uint8 [H, W]."""
    packed = (pixels.astype(np.int32) << np.array([16, 8, 0], np.int32)).sum(-1)
    found, places = np.unique(packed, return_inverse=True)
    foreign = [value for value in found.tolist() if value not in colors]
    if foreign and not others:
        red, green, blue = foreign[0] >> 16, foreign[0] >> 8 & 255, foreign[0] & 255
        raise DataError(
            f"{path} holds the colour [{red}, {green}, {blue}], which belongs to no class; give it to a class, or set "
            '"others": "ignore" in classes.json'
        )
    ids = np.array([colors.get(value, IGNORE) for value in found.tolist()], np.uint8)
    return ids[places].reshape(packed.shape)


def rules_of(stored: Any, classes: Sequence[ClassInfo], path: Path) -> LabelRules:
    """The rules in a classes.json that was read. DataError for an invalid key or value."""
    if not isinstance(stored, dict):
        return LabelRules()
    for key in sorted(map(str, stored.keys() - KEYS)):  # others may be notes of the dataset's maker
        if close := difflib.get_close_matches(key, KEYS, 1, cutoff=0.8):
            raise DataError(f"{path}: {key!r} means nothing here; did you mean {close[0]!r}?")
    for key, kind in (("reduce_zero_label", bool), ("palette", bool), ("image_suffix", str), ("mask_suffix", str)):
        if not isinstance(stored.get(key, kind()), kind):
            raise DataError(f"{path}: {key} = {stored[key]!r}: expected {kind.__name__}")
    if stored.get("others", "ignore") != "ignore":
        raise DataError(f'{path}: others = {stored["others"]!r}: only "ignore" is allowed')
    if stored.get("palette") and stored.get("reduce_zero_label"):
        raise DataError(f"{path}: reduce_zero_label is for masks of ids, not for a palette")
    others = "others" in stored
    return LabelRules(
        _table(stored, classes, others, path),
        _colors(classes, path) if stored.get("palette") else None,
        others,
        stored.get("image_suffix", ""),
        stored.get("mask_suffix", ""),
        _order(stored.get("order", []), classes, path),
    )


def _table(stored: Mapping[str, Any], classes: Sequence[ClassInfo], others: bool, path: Path) -> tuple[int, ...]:
    """A mask's id -> a class's id."""
    after = np.arange(256)
    for number in _ids(stored.get("ignore", []), "ignore", path):
        after[number] = IGNORE
    remap = stored.get("remap", {})
    if not isinstance(remap, dict):
        raise DataError(f'{path}: remap = {remap!r}: expected an object such as {{"7": 0}}')
    sources, targets = _ids([_number(key) for key in remap], "remap", path), _ids([*remap.values()], "remap", path)
    after[sources] = targets
    if others:
        known = {one.id for one in classes}
        after = np.array([value if value in known else IGNORE for value in after.tolist()])
    if stored.get("reduce_zero_label"):
        after = np.array([IGNORE, *after[:254], IGNORE])  # 255 stays ignored
    return tuple(after.tolist())


def _number(text: str) -> Any:
    return int(text) if text.isascii() and text.isdigit() else text


def _ids(values: Any, key: str, path: Path) -> list[int]:
    if not isinstance(values, list) or not all(type(value) is int and 0 <= value <= IGNORE for value in values):
        raise DataError(f"{path}: {key} = {values!r}: expected ids 0..{IGNORE}")
    return values


def _colors(classes: Sequence[ClassInfo], path: Path) -> dict[int, int]:
    found: dict[int, int] = {}
    for one in classes:
        value = one.color[0] << 16 | one.color[1] << 8 | one.color[2]
        if value in found:
            raise DataError(f"{path}: with a palette, each class needs its own colour; {one.name!r} shares one")
        found[value] = one.id
    return found


def _order(names: Any, classes: Sequence[ClassInfo], path: Path) -> tuple[str, ...]:
    known = {one.name for one in classes}
    if not isinstance(names, list) or not all(name in known for name in names) or len(set(names)) < len(names):
        raise DataError(f"{path}: order = {names!r}: expected names of classes, each once")
    return tuple(names)


def ordered(classes: Sequence[ClassInfo], order: Sequence[str]) -> tuple[ClassInfo, ...]:
    """The classes: first those of `order`, in its order, then the others by id."""
    rank = {name: place for place, name in enumerate(order)}
    return tuple(sorted(classes, key=lambda one: (rank.get(one.name, len(rank)), one.id)))


def without_suffix(files: Mapping[str, Path], suffix: str) -> dict[str, Path]:
    """Names without `suffix`, of the files that have it."""
    return {name.removesuffix(suffix): path for name, path in files.items() if name.endswith(suffix)}

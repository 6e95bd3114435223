"""Likely mistakes in a dataset that can still be trained on: sentences that are printed before training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from lag_core import reading
from lag_core.data.dataset import SPLITS, Dataset, FileDataset, spread
from lag_core.data.windows import WindowedDataset
from lag_core.protocol import IGNORE, LabelSpace
from lag_core.sentences import counted

COVERS = 0.5
"""Share of an image's labelled pixels above which a class covers it."""

LOOKED_AT = 200
"""Training masks that are checked, spread over the list."""

FEW_MASKS = 8
"""Training masks that are checked if the list of classes has a single id."""

_ENDS = 65_536
"""Bytes at each end of a file that, with its size, distinguish files."""


def findings(dataset: Dataset, labels: LabelSpace) -> list[str]:
    """Sentences on validation images that are trained on, colours given twice, and a background that is a class."""
    pictures = dataset.pictures if isinstance(dataset, WindowedDataset) else dataset
    return [
        *_shared_images(pictures),
        *_turned_images(pictures),
        *_black_and_white(dataset),
        *_shared_colours(dataset),
        *_covering_class(dataset, labels),
    ]


def _turned_images(dataset: Dataset) -> Iterator[str]:
    """Images that a tag turns: their masks may have been drawn on the pixels as they are stored."""
    if not isinstance(dataset, FileDataset):
        return
    names = [name for split in SPLITS for name in spread(dataset.ids(split), LOOKED_AT)]
    turned = [name for name in names if dataset.is_turned(name)]
    if turned:
        yield (
            f"{len(turned)} of {counted(len(names), 'image')} looked at are turned by their EXIF orientation when they "
            f"are read (the first: {turned[0]!r}), masks are not: if the masks do not lie on them, which the contact "
            "sheet of "
            "`lag data check` shows, save the images upright, for example by mogrify -auto-orient"
        )


def _black_and_white(dataset: Dataset) -> Iterator[str]:
    """Masks of 255 and one other id, whose white would not be annotated."""
    present = dataset.present("train")
    others = frozenset().union(*present.values())
    names = spread(list(present), FEW_MASKS)
    if len(others) == 1 and len(names) > 1 and all((dataset.mask(name) == IGNORE).any() for name in names):
        yield (
            f"the training masks hold {min(others)} and 255 alone, and 255 is not annotated: if white is a class, say "
            '"remap": {"255": its id} in classes.json'
        )


def _shared_images(dataset: Dataset) -> Iterator[str]:
    train, val = dataset.ids("train"), dataset.ids("val")
    shared = sorted(set(train) & set(val))
    same = shared or (copies(dataset.image_file, train, val) if isinstance(dataset, FileDataset) else [])
    if same:
        yield (
            f"{len(same)} of {counted(len(val), 'validation image')} are training images, too (the first: "
            f"{same[0]!r}): "
            "what is measured on them says nothing about new images; take them out of one of the two lists"
        )


def copies(file_of: Callable[[str], Path], train: Sequence[str], val: Sequence[str]) -> list[str]:
    """The images of `val` whose file equals one of `train`: of one size, and alike at both ends."""
    sizes = {name: file_of(name).stat().st_size for name in {*train, *val}}
    candidates = {sizes[name] for name in train} & {sizes[name] for name in val}
    known = {_ends(file_of(name)) for name in train if sizes[name] in candidates}
    return [name for name in val if sizes[name] in candidates and _ends(file_of(name)) in known]


def _ends(path: Path) -> bytes:
    """Digest of a file's size and both ends."""
    size = path.stat().st_size
    with reading.opened(path, reading.RASTER) as file:
        head = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        return hashlib.sha256(str(size).encode() + head + file.read(_ENDS)).digest()


def _shared_colours(dataset: Dataset) -> Iterator[str]:
    for one, other in combinations(dataset.info.classes, 2):
        if one.color == other.color:
            yield f"classes {one.name!r} and {other.name!r} have one colour: pictures cannot tell them apart"


def _covering_class(dataset: Dataset, labels: LabelSpace) -> Iterator[str]:
    """A class besides the background that covers every image looked at is likely the background."""
    names = spread(dataset.ids("train"), LOOKED_AT)
    covering = _covering(dataset.mask(name) for name in names)
    if covering is None or covering == dataset.info.background or len(names) < 2:
        return
    alone = " and is all that step 0 learns" if labels.steps[0] == (covering,) else ""
    name = dataset.info.class_of(covering).name
    yield (
        f"class {name!r} covers most pixels of each of {counted(len(names), 'training image')}{alone}: if it is "
        "the background, "
        "call it 'background' in classes.json"
    )


def _covering(masks: Iterable[np.ndarray]) -> int | None:
    """The id that covers each mask; None if there is none."""
    found: set[int] = set()
    for mask in masks:
        counts = np.bincount(mask.ravel(), minlength=256)
        counts[IGNORE] = 0
        if counts.max() <= COVERS * counts.sum():
            return None
        found.add(int(counts.argmax()))
        if len(found) > 1:
            return None
    return found.pop() if found else None

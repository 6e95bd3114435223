"""The dataset interface of the program, and the one implementation that all file loaders return."""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from tqdm import tqdm

from lag_core import reading
from lag_core.data import deep_pixels, presence
from lag_core.data.files import DataError, Part, Size
from lag_core.data.labels import MaskReader, plain_ids
from lag_core.data.pictures import (
    InMemory,
    Readable,
    is_deep,
    is_turned,
    opened,
    picture_size,
    read_image,
    row_blocks,
    value_parts,
)
from lag_core.data.transforms import centre_square, centre_square_of_mask
from lag_core.protocol import IGNORE, ClassInfo
from lag_core.sentences import Said

SPLITS = ("train", "val")


class DatasetMissing(Said, RuntimeError):
    """A dataset, or a part of it, is missing: one sentence says what, where it was searched, and where to get
    it."""


@dataclass(frozen=True)
class DatasetInfo:
    """What is known about a dataset without reading a picture."""

    name: str
    classes: tuple[ClassInfo, ...]
    """Every class, the background (if any) included, in order of dataset id."""
    background: int | None = None
    """Dataset id of the background; None: every id is a real class."""
    domains: tuple[str, ...] = ()
    """Names of the domains; empty: there is only one, called ""."""

    @property
    def foreground(self) -> tuple[int, ...]:
        """Dataset ids that a task introduces: all but the background."""
        return tuple(one.id for one in self.classes if one.id != self.background)

    def class_of(self, dataset_id: int) -> ClassInfo:
        """The class with this dataset id; KeyError if there is none."""
        return {one.id: one for one in self.classes}[dataset_id]


class Dataset(Protocol):
    """Images and masks by name. `split` is "train" or "val"."""

    @property
    def info(self) -> DatasetInfo: ...

    def ids(self, split: str) -> tuple[str, ...]:
        """Names of the images, in file order."""
        ...

    def image(self, name: str) -> np.ndarray:
        """uint8 [H, W, 3], RGB; DataError if the file is damaged."""
        ...

    def mask(self, name: str) -> np.ndarray:
        """uint8 [H, W], dataset ids, 255 ignored; DataError if the file is damaged or holds a foreign id."""
        ...

    def domain(self, name: str) -> str:
        """Domain of the image; "" where there is only one."""
        ...

    def present(self, split: str) -> dict[str, frozenset[int]]:
        """Image -> dataset ids in it (255 apart), in file order. Computed from the masks once, then kept."""
        ...


class FileDataset:
    """A `Dataset` of picture and mask files: what the loaders of all layouts return.

    `images` and `masks` map each name to its file; both hold every name of `splits`.
    """

    def __init__(
        self,
        info: DatasetInfo,
        splits: Mapping[str, Sequence[str]],
        images: Mapping[str, Path],
        masks: Mapping[str, Path],
        domain_of: Callable[[str], str] = lambda name: "",
        read: MaskReader = plain_ids,
        rules: str = "",
    ):
        """`read` returns a mask file's ids; `rules` names what it does, for the cache of each image's classes."""
        self.info = info
        self._splits = {split: tuple(names) for split, names in splits.items()}
        self._images = images
        self._masks = masks
        self._domain_of = domain_of
        self._read, self._rules = read, rules
        self._crop: int | None = None
        self._cropped: frozenset[str] | None = None
        """The names that are cropped; None: all."""
        self._range: tuple[float, ...] = ()
        self._bands: tuple[int, ...] = ()
        self._known = np.zeros(256, bool)
        self._known[[one.id for one in info.classes] + [IGNORE]] = True
        self._known_bytes = np.flatnonzero(self._known).astype(np.uint8).tobytes()

    def cropped(self, size: int, only: str | None = None) -> FileDataset:
        """The same dataset, of each picture the centre square of side `size` (transforms.centre_square); of the
        pictures of the split `only` alone, if it is given."""
        other = copy.copy(self)
        other._crop = size
        other._cropped = None if only is None else frozenset(self.ids(only))
        return other

    def _crop_of(self, name: str) -> int | None:
        """Side of the square that a picture is cropped to; None: not cropped."""
        return self._crop if self._cropped is None or name in self._cropped else None

    def read_by(self, value_range: tuple[float, ...], bands: tuple[int, ...]) -> FileDataset:
        """The same dataset; its images of 16 bits a channel are scaled by `value_range` (low, high), and three `bands`
        of each file are taken."""
        other = copy.copy(self)
        other._range, other._bands = value_range, bands
        return other

    def has(self, name: str) -> bool:
        """Whether there is a picture of this name."""
        return name in self._images

    def picture_size(self, name: str) -> Size:
        """(height, width) of the file's picture before any crop."""
        return picture_size(self._images[name])

    def value_range(self) -> tuple[float, ...]:
        """The range of the training images (deep_pixels.range_of); () if none has more than 8 bits a channel.

        Damaged images are left out here: `check` names them.
        """
        deep = [name for name in spread(self.ids("train"), deep_pixels.READ) if self._is_deep(name)]
        bar = tqdm(deep, f"range of values of {self.info.name}", unit="img", disable=None, leave=False)
        values = (part for name in bar for part in value_parts(self._images[name], self._bands))
        return deep_pixels.range_of(values) if deep else ()

    def _is_deep(self, name: str) -> bool:
        try:
            return is_deep(self._images[name])
        except DataError:
            return False

    def ids(self, split: str) -> tuple[str, ...]:
        return self._splits[split]

    def image(self, name: str, part: Part | None = None) -> np.ndarray:
        """`part`: rows and columns of the file's picture, instead of all that `cropped` leaves."""
        if part is not None:
            return np.ascontiguousarray(opened(self._images[name], self._range, self._bands).read(part))
        image = read_image(self._images[name], self._range, self._bands)
        crop = self._crop_of(name)
        return image if crop is None else centre_square(image, crop)

    def is_turned(self, name: str) -> bool:
        """Whether the picture is turned by a tag when it is read (pictures.is_turned)."""
        return is_turned(self._images[name])

    def readable(self, name: str) -> Readable:
        """The image, readable in parts if nothing is cropped."""
        if self._crop_of(name) is not None:
            return InMemory(self.image(name))
        return opened(self._images[name], self._range, self._bands)

    def image_file(self, name: str) -> Path:
        """The picture's file."""
        return self._images[name]

    def check(self) -> None:
        """DataError for the first listed picture whose header shows that it cannot be used, or for a damaged mask."""
        self.check_headers()
        for split in self._splits:
            self.present(split)
        self.decode_validation()

    def check_headers(self) -> None:
        """DataError for the first listed picture whose header tells that it cannot be used."""
        for names in self._splits.values():
            for name in names:
                is_deep(self._images[name], bool(self._range))

    def decode_validation(self) -> None:
        """DataError for the first validation image that cannot be decoded: otherwise this would show only after a step.

        Done once for the same files; training images are decoded before the first iteration anyway.
        """
        names = self.ids("val")
        how = "/".join(["val images", *map(str, self._bands)])
        key = presence.key_of_files(self.info.name, how, [self._images[name] for name in names])
        if presence.is_marked(self.info.name, key):
            return
        for name in tqdm(names, f"validation images of {self.info.name}", unit="img", disable=None, leave=False):
            picture = opened(self._images[name], self._range, self._bands)
            for rows in row_blocks(picture):
                picture.read((rows, slice(0, picture.size[1])))
        presence.mark(self.info.name, key)

    def mask(self, name: str, part: Part | None = None) -> np.ndarray:
        """`part`: as for `image`."""
        if part is not None:
            self._check_sizes(name, picture_size(self._masks[name]))
        mask = self._read(self._masks[name], part)
        foreign = mask.tobytes().translate(None, self._known_bytes)  # what is left: the fastest check of every pixel
        if foreign:
            raise DataError(
                f"{self._masks[name]} holds id {min(foreign)}, which is not a class of {self.info.name!r} "
                f"(known: {_ranges(self._known)})"
            )
        if part is not None:
            return mask
        self._check_sizes(name, (mask.shape[0], mask.shape[1]))
        crop = self._crop_of(name)
        return mask if crop is None else centre_square_of_mask(mask, crop)

    def _check_sizes(self, name: str, found: Size) -> None:
        """DataError unless a mask has the size of its image."""
        size = picture_size(self._images[name])
        if found != size:
            turned = "; the image is turned by its EXIF orientation: turn the mask as well, or save the image upright"
            raise DataError(
                f"{self._masks[name]} has {found[1]} x {found[0]} pixels, its image {size[1]} x {size[0]}"
                f"{turned if found == size[::-1] and self.is_turned(name) else ''}"
            )

    def domain(self, name: str) -> str:
        return self._domain_of(name)

    def present(self, split: str) -> dict[str, frozenset[int]]:
        names = self.ids(split)
        crop = self._crop_of(names[0]) if names else None
        return self.present_of(split, names, self.mask, "" if crop is None else f"/{crop}")

    def present_of(
        self, split: str, names: Sequence[str], mask: Callable[[str], np.ndarray], how: str
    ) -> dict[str, frozenset[int]]:
        """`present` of `names`, whose masks are made from the split's mask files; `how` names the way."""
        files = [self._masks[name] for name in self.ids(split)]
        key = presence.key_of_files(self.info.name, f"{split}{how}{self._rules}", files)
        return presence.cached(self.info.name, key, names, mask)


def spread(names: Sequence[str], count: int) -> list[str]:
    """At most `count` names, evenly over the list."""
    if len(names) <= count:
        return list(names)
    return [names[int(i)] for i in np.linspace(0, len(names) - 1, count)]


def read_list(path: Path, dataset: str, source: str) -> list[str]:
    """The lines of a split list that are not blank, without the blanks around them; a byte-order mark is no part of
    the first. DatasetMissing if the file is missing, DataError if it is empty, not UTF-8, or has a line twice."""
    try:
        lines = reading.read_text(path, reading.NAMES, encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise DatasetMissing(f"{dataset} has no {path.name}: looked for {path}; {source}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read as a list of names, save it as UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read as a list of names: {error}") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise DataError(f"{path} lists no image")
    require_once(names, path)
    return names


def require_once(names: Sequence[str], path: Path) -> None:
    """DataError if the list in `path` holds a name twice."""
    found: set[str] = set()
    for name in names:
        if name in found:
            raise DataError(f"{path} lists {name!r} twice")
        found.add(name)


def find_home(root: Path, below: tuple[str, ...], mark: str, dataset: str, source: str) -> Path:
    """The first of root/below that contains the folder `mark`; DatasetMissing names all places tried."""
    places = [root / part for part in below]
    for place in places:
        if (place / mark).is_dir():
            return place
    tried = ", ".join(str(place / mark) for place in places)
    raise DatasetMissing(f"{dataset} is missing: looked for {tried}; {source}")


def files_in(
    folder: Path, suffixes: Sequence[str], dataset: str, source: str, *, below: bool = False, suffix: str = ""
) -> dict[str, Path]:
    """Name without ending -> file, for the files of a folder with one of the endings (lower case, with their dot).

    With `below`, folders in it are searched too; a name is then the path from `folder` with "/", as "aachen/000".
    With `suffix`, only files whose name ends in it count, and it is no part of the name.
    DatasetMissing if there is no such folder, DataError if two files have one name."""
    try:
        paths = sorted(_walk(folder) if below else (Path(e.path) for e in os.scandir(folder)))
    except (FileNotFoundError, NotADirectoryError):
        raise DatasetMissing(f"{dataset} has no folder {folder.name}: looked for {folder}; {source}") from None
    found: dict[str, Path] = {}
    for path in paths:
        if path.suffix.lower() in suffixes:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if not name.endswith(suffix):
                continue
            name = name.removesuffix(suffix)
            if name in found:
                raise DataError(f"{found[name]} and {path.name} have one name, {name!r}: keep one of them")
            found[name] = path
    return found


def _walk(folder: Path) -> Iterator[Path]:
    """Every file below `folder`; links to folders are not followed."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path))
        else:
            yield Path(entry.path)


def require(
    names: Sequence[str], files: Mapping[str, Path], what: str, dataset: str, folder: Path, source: str
) -> None:
    """DatasetMissing unless each name has its file: says how many are missing, the first, and a file with a
    similar name."""
    lacking = [name for name in names if name not in files]
    if lacking:
        hint = _suffix_hint(lacking, files, what) or _hint(lacking[0], files)
        raise DatasetMissing(
            f"{dataset} is incomplete: {len(lacking)} of {len(names)} {what} are missing, the first is "
            f"{lacking[0]!r}{hint}; looked in {folder}; {source}"
        )


def _suffix_hint(lacking: Sequence[str], files: Collection[str], what: str) -> str:
    """What to put into classes.json if every name exists with the same extra ending; else ""."""
    if what not in ("images", "masks"):
        return ""
    ends = [name.removeprefix(lacking[0]) for name in files if name.startswith(lacking[0])]
    for end in ends:
        if end and all(name + end in files for name in lacking):
            return f' (did you mean {lacking[0] + end!r}? Say "{what[:-1]}_suffix": "{end}" in classes.json)'
    return ""


def _hint(lacking: str, files: Collection[str]) -> str:
    """The file that a name may have meant; "" if no file has a similar name."""
    word = PurePosixPath(re.split(r"[\s,;]", lacking.strip("\"'").replace("\\", "/"))[0]).stem
    names = {name: PurePosixPath(name).name for name in files}
    near = [n for n, last in names.items() if last == word] or [
        n for n, last in names.items() if last.casefold().startswith(word.casefold())
    ]
    if not near:
        return ""
    return f" (did you mean {near[0]!r}? Each line is one name; image and mask have the same, without ending)"


def _ranges(known: np.ndarray) -> str:
    ids = np.flatnonzero(known)
    groups = np.split(ids, np.flatnonzero(np.diff(ids) > 1) + 1)
    return ", ".join(f"{group[0]}..{group[-1]}" if len(group) > 1 else str(group[0]) for group in groups)

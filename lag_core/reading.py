"""All files are read here: regular files of bounded size, and text of bounded depth.

A run folder or a dataset may come from a stranger. A named pipe may never end, a device is endless, a
link may lead anywhere, and JSON may be nested deeper than Python can follow. So nothing in this project opens a file in
another way (tests/lag_core/test_reading.py checks this). Libraries that open files by name themselves get one from
`checked`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

MIB = 2**20


class Kind(NamedTuple):
    """The kind of a file, and its largest size."""

    name: str
    most: int
    """Bytes."""


CONFIG = Kind("a configuration", 1 * MIB)
JSON = Kind("a JSON file", 32 * MIB)
NAMES = Kind("a list", 64 * MIB)
EVENTS = Kind("a training log", 256 * MIB)
PICTURE = Kind("a picture", 256 * MIB)
RASTER = Kind("a picture", 4096 * MIB)
"""Of a dataset: a TIFF that is read some rows at a time."""
ARRAYS = Kind("a file of arrays", 2048 * MIB)
CHECKPOINT = Kind("a checkpoint", 16384 * MIB)

DEEPEST = 100
"""Most lists and tables inside one another in JSON or TOML."""

_BRACKETS = np.zeros(256, np.int8)
_BRACKETS[[ord("["), ord("{")]] = 1
_BRACKETS[[ord("]"), ord("}")]] = -1
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_NAMES_OF_TYPES = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip

Parsed = TypeVar("Parsed")


class Refused(OSError):
    """A file that is not read; `str` gives the reason without the file's name, as in "it is a device"."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(errno.EINVAL, reason, str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def opened(path: str | Path, kind: Kind, inside: Sequence[Path] = ()) -> BufferedReader:
    """A regular file of at most `kind.most` bytes, open for reading.

    `inside`: folders, one of which the file must lie in once links are followed; empty: anywhere.
    Refused (an OSError) for anything else, OSError if it cannot be opened. Never waits.
    """
    real = os.path.realpath(path) if inside else os.fspath(path)
    if inside and not any(_lies_in(real, folder) for folder in inside):
        raise Refused(path, f"it is a link that leads out of {inside[-1]}")
    _check(path, os.stat(real), kind)  # before it is opened: opening a device may have an effect
    handle = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        _check(path, os.fstat(handle), kind)  # it may have been replaced in the meantime
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def _lies_in(real: str, folder: Path) -> bool:
    return real.startswith(os.path.join(os.path.realpath(folder), ""))


def _check(path: str | Path, status: os.stat_result, kind: Kind) -> None:
    if not stat.S_ISREG(status.st_mode):
        found = next((name for is_one, name in _NAMES_OF_TYPES if is_one(status.st_mode)), "something else")
        raise Refused(path, f"it is {found}, not a regular file")
    if status.st_size > kind.most:
        raise _too_large(path, kind)


def _too_large(path: str | Path, kind: Kind) -> Refused:
    return Refused(path, f"it is too large: of {kind.name} at most {kind.most // MIB} MiB are read")


def checked(path: str | Path, kind: Kind, inside: Sequence[Path] = ()) -> Path:
    """The file that `path` leads to, after the checks of `opened`, for a library that opens it by name."""
    opened(path, kind, inside).close()
    return Path(os.path.realpath(path))


def run_folder(path: Path) -> tuple[Path, ...]:
    """The folders that links in a run folder may lead to: its own folder, and the one that contains the runs."""
    folder = Path(os.path.abspath(path)).parent
    return folder, folder.parent


def read_bytes(path: str | Path, kind: Kind, inside: Sequence[Path] = ()) -> bytes:
    """The whole file. OSError as `opened`."""
    with opened(path, kind, inside) as file:
        content = file.read(kind.most + 1)
    if len(content) > kind.most:  # it has grown, or its size is not known beforehand
        raise _too_large(path, kind)
    return content


def read_text(
    path: str | Path, kind: Kind, inside: Sequence[Path] = (), *, encoding: str = "utf-8", errors: str = "strict"
) -> str:
    """The whole file as text, line ends unchanged. OSError as `opened`, UnicodeDecodeError."""
    return read_bytes(path, kind, inside).decode(encoding, errors)


def read_json(path: str | Path, kind: Kind = JSON, inside: Sequence[Path] = ()) -> Any:
    """The content of a JSON file, with or without a byte-order mark. OSError as `opened`, ValueError as `from_json`."""
    return from_json(read_text(path, kind, inside, encoding="utf-8-sig"))


def from_json(text: str) -> Any:
    """The content of a JSON text. ValueError if it is invalid, or nested deeper than DEEPEST.

    Lone surrogates, which cannot be written as text, become U+FFFD.
    """
    found = _parsed(json.loads, text)
    return _without_halves(found) if _SURROGATE.search(text) else found


def from_toml(text: str) -> dict[str, Any]:
    """The content of a TOML text. ValueError if it is invalid, or nested deeper than DEEPEST."""
    found = _parsed(tomllib.loads, text)
    _check_depth(found)
    return found


def _parsed(parse: Callable[[str], Parsed], text: str) -> Parsed:
    if text.count("[") + text.count("{") > DEEPEST and _brackets_open(text) > DEEPEST:
        raise _too_deep()
    try:
        return parse(text)
    except RecursionError:
        raise _too_deep() from None


def _too_deep() -> ValueError:
    return ValueError(f"it is nested more than {DEEPEST} deep")


def _brackets_open(text: str) -> int:
    """Most brackets that are open at one place; those in texts count, too."""
    steps = _BRACKETS[np.frombuffer(text.encode("utf-8", "replace"), np.uint8)]
    return int(np.cumsum(steps[steps != 0], dtype=np.int32).max(initial=0))


def _check_depth(found: object) -> None:
    """ValueError if tables are nested deeper than DEEPEST; dotted keys of TOML nest without a bracket."""
    level: list[object] = [found]
    for _ in range(DEEPEST):
        level = [inner for one in level for inner in _inside(one)]
        if not level:
            return
    raise _too_deep()


def _inside(value: object) -> list[object]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [one for one in inner if isinstance(one, dict | list)]


def _without_halves(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_halves(one) for one in value]
    if isinstance(value, dict):
        return {_without_halves(key): _without_halves(one) for key, one in value.items()}
    return value

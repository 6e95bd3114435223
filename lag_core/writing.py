"""All files are written here: a file appears whole or not at all, and an error names the file.

Code that writes uses a function of this module, or runs inside `naming`; a test over the syntax tree checks this.
Caches are the exception: they do without a file that cannot be written. Source: ours.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class NotWritten(OSError):
    """A file that could not be written; the message names it and the space it needs. The previous file is unchanged."""


@contextmanager
def naming(path: Path, needed: int | None = None, *, at_least: bool = False) -> Iterator[None]:
    """NotWritten, which names `path`, for an OSError inside.

    `needed`: bytes to be written; `at_least`: more will follow.
    """
    try:
        yield
    except NotWritten:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in _NO_ROOM:
            more = "more than " if at_least else ""
            need = "" if needed is None else f"it needs {more}{_mebibytes(needed)}, and "
            reason = f"{need}{_free(path)} are free on its disk"
        raise NotWritten(error.errno, f"it cannot be written ({reason})", str(path)) from error


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.2f} MiB"


def _free(path: Path) -> str:
    """Free space on the disk of the nearest existing folder."""
    for folder in path.absolute().parents:
        with suppress(OSError):
            return _mebibytes(shutil.disk_usage(folder).free)
    return "too few"


class Partial:
    """A file under a temporary name, which takes bytes; `partial_file` makes it."""

    def __init__(self, handle: int, path: Path, needed: int | None):
        self._handle, self._path, self._needed, self._size = handle, path, needed, 0

    def write(self, content: bytes) -> None:
        """Append all of `content`. NotWritten if that cannot be."""
        left = memoryview(content)
        with self.naming(len(content)):
            while left:
                left = left[os.write(self._handle, left) :]
        self._size += len(content)

    def naming(self, more: int = 0) -> AbstractContextManager[None]:
        """`naming`, by what is known of its size."""
        known = self._needed is not None
        return naming(self._path, self._needed if known else self._size + more, at_least=not known)


@contextmanager
def partial_file(path: Path, needed: int | None = None) -> Iterator[Partial]:
    """A file that appears at `path` when it is completely written and flushed to disk. NotWritten if that fails."""
    with naming(path, needed):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        try:
            file = Partial(handle, path, needed)
            yield file
            with file.naming():
                os.fsync(handle)
        finally:
            os.close(handle)
        with file.naming():
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary name in the same folder, flush to the disk, rename."""
    with partial_file(path, len(content)) as file:
        file.write(content)


def append(path: Path, text: str) -> None:
    """Add text at the end of a file. UTF-8."""
    content = text.encode()
    with naming(path, len(content)), path.open("ab") as file:
        file.write(content)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder with its content; files that already exist at `target` are overwritten."""
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    with naming(target, size):
        try:
            shutil.copytree(source, target, dirs_exist_ok=True)
        except shutil.Error as error:  # one (source, target, reason) for each file
            raise _first_reason(error) from error


def _first_reason(error: shutil.Error) -> OSError:
    """The error of the first file that was not copied; copytree keeps it as text alone."""
    reason = str(error.args[0][0][2])
    number = next((one for one in _NO_ROOM if os.strerror(one) in reason), None)
    return OSError(reason) if number is None else OSError(number, os.strerror(number))


@contextmanager
def whole_folder(out: Path) -> Iterator[None]:
    """Fill an empty or new folder: if that fails, nothing of it is left behind."""
    existed = out.exists()
    try:
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        if existed:
            with suppress(OSError):
                out.mkdir(exist_ok=True)
        raise

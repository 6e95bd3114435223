"""Bounds on a checkpoint file, before anything in it is loaded.

A checkpoint is a pickle, which is a program. `torch.load(weights_only=True)` runs it with few allowed names. This
module checks it without running it, so that time and memory are bounded too. Nothing here unpickles.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

from lag_core import reading
from lag_core.importing.error import CheckpointError

ENTRIES = 20_000
"""Most files in the archive: one per tensor, and those of the optimiser."""
PROGRAM = 16 * 2**20
"""Most bytes of the pickle in the archive; it holds names and sizes, not numbers."""
OPERATIONS = 400_000
"""Most operations of the pickle; a network of 800 tensors and its optimiser take about 50,000."""

_STORAGES = ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
NUMPY = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar", "numpy dtype", "numpy.dtypes Float64DType")
"""The names in a pickled NumPy scalar (best_score)."""
WORDS = frozenset(
    (
        "collections OrderedDict",
        "collections Counter",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        "torch device",
        "_codecs encode",
        *NUMPY,
        *(f"torch {name}Storage" for name in _STORAGES),
        *(f"torch {name}" for name in _DTYPES),
    )
)
"""Classes and functions that a checkpoint of tensors, numbers and names needs."""
_SLOW_CODECS = ("punycode", "idna")
"""Their time grows with the square of the text."""


def check(path: Path) -> bool:
    """Whether the file is an archive (torch 1.6 and later). CheckpointError for a file that must not be loaded."""
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise CheckpointError(f"{path} is a plain pickle, which can run code: it is never read; name the .pth file")
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    with reading.opened(path, reading.CHECKPOINT) as file:
        archive = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if archive:
            _check_program(io.BytesIO(_program(path, file)), path, 1)
        else:
            _check_program(file, path, 5)  # magic number, protocol, machine, content, names of the storages
    return archive


def _program(path: Path, file: BinaryIO) -> bytes:
    """The pickle of an archive whose files are uncompressed and contiguous."""
    count = _entry_count(file)
    if count is None or count > ENTRIES:
        found = "no directory" if count is None else f"{count} files"
        raise CheckpointError(f"{path} is not a checkpoint: its archive has {found} (at most {ENTRIES} are read)")
    try:
        with zipfile.ZipFile(file) as opened:
            entries = opened.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in entries):
                raise CheckpointError(f"{path} is compressed, which torch.save never does; it is not unpacked")
            if sum(one.file_size for one in entries) > path.stat().st_size:
                raise CheckpointError(f"{path} would unpack to more bytes than it has; it is not unpacked")
            programs = [one for one in entries if one.filename.count("/") == 1 and one.filename.endswith("/data.pkl")]
            if len(programs) != 1 or programs[0].file_size > PROGRAM:
                raise CheckpointError(
                    f"{path} is not a checkpoint of torch.save: it has no data.pkl of a sensible size"
                )
            return opened.read(programs[0])
    except CheckpointError:
        raise
    except Exception as error:  # zipfile may raise anything on a damaged archive
        raise CheckpointError(f"{path} is damaged ({error}); copy it again") from None


def _entry_count(file: BinaryIO) -> int | None:
    """Files in an archive, by its directory's end record; None: it has none. (zipfile would read them all.)"""
    size = file.seek(0, 2)
    start = max(0, size - 65_557)
    file.seek(start)
    tail = file.read()
    file.seek(0)
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < 22:
        return None
    count, length = struct.unpack_from("<HI", tail, at + 10)
    wide = tail.rfind(b"PK\x06\x06", 0, at)
    if wide >= 0 and len(tail) - wide >= 48:
        count, length = struct.unpack_from("<QQ", tail, wide + 32)
    return max(int(count), int(length) // 1024)  # a directory that is larger than its entries need counts as long


def _check_program(file: BinaryIO, path: Path, programs: int) -> None:
    """Walk through pickles without running them."""
    seen = 0
    encodes, slow = False, False
    try:
        for _ in range(programs):
            for operation, argument, _ in pickletools.genops(file):
                seen += 1
                if seen > OPERATIONS:
                    raise CheckpointError(f"{path} holds more than a checkpoint: over {OPERATIONS} entries; not read")
                if operation.name == "GLOBAL" and argument not in WORDS:
                    asked = str(argument).replace(" ", ".")[:80]
                    raise CheckpointError(f"{path} asks for {asked!r}, which no tensor needs; nothing of it was run")
                encodes |= argument == "_codecs encode"
                slow |= isinstance(argument, str) and argument.lower() in _SLOW_CODECS
    except CheckpointError:
        raise
    except Exception:  # pickletools may raise anything on a damaged or hostile file
        raise CheckpointError(f"{path} is damaged or not a checkpoint of torch.save") from None
    if encodes and slow:
        raise CheckpointError(f"{path} asks for a text encoding that no checkpoint needs; nothing of it was run")

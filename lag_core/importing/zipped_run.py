"""A run folder in a zip file from a user: only files with known names are unpacked, within bounds.

Only files of the run format are written, under their own names, into one new folder: no path of the archive is used,
so none can lead elsewhere; links, pickles and programs are not among them. What is inside is checked when the run is
opened (docs/run-format.md).
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path, PurePosixPath

from lag_core.importing.error import CheckpointError
from lag_core.writing import NotWritten, naming, partial_file

LARGEST = 512 * 2**20
"""Bytes that an archive may hold, unpacked."""
MOST = 2000
"""Files that it may list."""
KNOWN = re.compile(r"(run|metrics|survey)\.json|events\.jsonl|[a-z][a-z0-9_]{0,40}\.safetensors")
NAME = re.compile(r"[^A-Za-z0-9._+-]+")


def unpack(archive: bytes, name: str, into: Path) -> Path:
    """The run of a zip file as the folder `into`/NAME. CheckpointError if it is no archive, no run, or too large.

    `name`: of the archive, untrusted; NAME is its harmless part. NotWritten for a disk without room.
    """
    try:
        opened = zipfile.ZipFile(io.BytesIO(archive))
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise CheckpointError("this file is not a zip archive") from error
    with opened:
        members = _members(opened)
        target = into / (NAME.sub("-", PurePosixPath(name).stem).strip("-.")[:80] or "run")
        with naming(target):
            target.mkdir(parents=True)
        left = LARGEST
        for member in members:
            left -= _write(opened, member, target / PurePosixPath(member.filename).name, left)
    return target


def _members(opened: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of the run, all from one folder of the archive."""
    listed = opened.infolist()
    if len(listed) > MOST:
        raise CheckpointError(f"the archive lists {len(listed)} files, more than {MOST}")
    heads = [one for one in listed if PurePosixPath(one.filename).name == "run.json"]
    if len(heads) != 1:
        raise CheckpointError(f"a zip with one run folder has one run.json; this one has {len(heads)}")
    folder = PurePosixPath(heads[0].filename).parent
    found = [one for one in listed if PurePosixPath(one.filename).parent == folder and _is_known(one)]
    if len({PurePosixPath(one.filename).name for one in found}) != len(found):
        raise CheckpointError("the archive has two files of the same name")
    return found


def _is_known(member: zipfile.ZipInfo) -> bool:
    return not member.is_dir() and bool(KNOWN.fullmatch(PurePosixPath(member.filename).name))


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path, left: int) -> int:
    """Bytes written; counted while unpacking, since the sizes in an archive may be wrong."""
    written = 0
    try:
        with opened.open(member) as source, partial_file(path) as target:
            while block := source.read(2**20):
                written += len(block)
                if written > left:
                    raise CheckpointError(f"unpacked, the archive is larger than {LARGEST // 2**20} MiB")
                target.write(block)
    except NotWritten:
        raise
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError, OSError) as error:
        raise CheckpointError(f"{path.name} in the archive cannot be unpacked") from error
    except Exception as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path.name} in the archive is damaged") from error
    return written

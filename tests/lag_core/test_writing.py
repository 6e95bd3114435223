"""The one door for writing: whole files or none, each named where it cannot be written, and nobody passes by."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import pytest
from repository import ROOT

from lag_core import writing
from lag_core.writing import NotWritten, copy_folder, naming, partial_file, whole_folder, write_atomically

pytestmark = pytest.mark.usefixtures("no_fsync")

PATHS = {
    "mkdir", "touch", "write_bytes", "write_text", "mkstemp", "mkdtemp", "copytree", "copyfile", "copy", "copy2",
    "move", "rename", "replace", "save", "savez", "savez_compressed", "savetxt", "save_file", "tofile", "to_csv",
}  # fmt: skip
"""Names of what puts something on a disk, as methods of paths or functions of libraries."""
IN_MEMORY = {"buffer"}
"""What stands in place of a file."""


class Writes(ast.NodeVisitor):
    """Calls that write outside `naming` and outside whatever expects an OSError."""

    def __init__(self) -> None:
        self.found: list[ast.Call] = []
        self._guarded = 0

    def visit_With(self, node: ast.With) -> None:
        heads = {ast.unparse(item.context_expr).split("(")[0] for item in node.items}
        self._inside(node, bool(heads & {"naming", "file.naming", "self.naming"}) or _suppresses(node))

    def visit_Try(self, node: ast.Try) -> None:
        caught = " ".join(ast.unparse(one.type) for one in node.handlers if one.type is not None)
        self._inside(node, "OSError" in caught)

    def _inside(self, node: ast.AST, guarded: bool) -> None:
        self._guarded += guarded
        self.generic_visit(node)
        self._guarded -= guarded

    def visit_Call(self, node: ast.Call) -> None:
        if not self._guarded and _writes(node):
            self.found.append(node)
        self.generic_visit(node)


def _suppresses(node: ast.With) -> bool:
    return any("suppress(OSError" in ast.unparse(item.context_expr) for item in node.items)


def _writes(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    opened = name == "open" and any(
        isinstance(one, ast.Constant) and isinstance(one.value, str) and set(one.value) & set("wax")
        for one in (node.args[0 if isinstance(node.func, ast.Attribute) else 1 :])[:1]
    )
    if name == "replace":  # of a path: one argument; of a text: two; of dataclasses: by name
        return isinstance(node.func, ast.Attribute) and (
            ast.unparse(node.func) == "os.replace" or (len(node.args) == 1 and not node.keywords)
        )
    if name in {"copy", "move"}:
        return ast.unparse(node.func).startswith("shutil.")
    into_memory = any(isinstance(one, ast.Name) and one.id in IN_MEMORY for one in node.args)
    serialised = name == "save" and len(node.args) == 1 and isinstance(node.func, ast.Name)  # safetensors: to bytes
    return (name in PATHS or opened) and not into_memory and not serialised


def unguarded(path: Path) -> list[str]:
    seen = Writes()
    seen.visit(ast.parse(path.read_text("utf-8")))
    return [
        f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path.name}:{node.lineno}" for node in seen.found
    ]


def test_nobody_writes_past_the_door() -> None:
    files = [path for path in (ROOT / "lag_core").rglob("*.py") if path.name != "writing.py"]
    assert [one for path in files for one in unguarded(path)] == [], "write through lag_core.writing"


def test_the_guard_sees_what_it_forbids(tmp_path: Path) -> None:
    bad = [
        "open('a', 'w')", "Path('a').write_text('')", "np.save('a', x)", "path.open('ab')", "folder.mkdir()",
        "shutil.copytree(a, b)", "os.replace(a, b)", "partial.replace(b)", "image.save(path)", "torch.save(x, path)",
    ]  # fmt: skip
    good = ["text.replace('a', 'b')", "replace(x, a=1)", "open('a', 'rb')", "np.save(buffer, x)", "path.open()"]
    path = tmp_path / "x.py"
    path.write_text(
        "\n".join([*bad, *good, "with naming(a):\n    a.mkdir()", "with suppress(OSError):\n    a.touch()"])
    )
    assert len(unguarded(path)) == len(bad)


def no_room(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_what_is_written_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep" / "x.json"
    write_atomically(path, b"before")

    def fails(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fails)
    with pytest.raises(NotWritten, match="disk full"):
        write_atomically(path, b"half")
    assert path.read_bytes() == b"before" and [p.name for p in path.parent.iterdir()] == ["x.json"]


def test_a_file_whose_size_is_not_known_says_what_it_has_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotWritten) as caught, partial_file(tmp_path / "x.png") as file:
        file.write(bytes(2 * 2**20))
        monkeypatch.setattr(writing.os, "write", no_room)
        file.write(bytes(2**20))
    assert caught.value.filename == str(tmp_path / "x.png")
    assert "it needs more than 3.00 MiB, and" in str(caught.value.strerror)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_what_is_read_meanwhile_is_not_the_disk_s(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught, partial_file(tmp_path / "x"):
        (tmp_path / "source").read_bytes()
    assert caught.value.filename == str(tmp_path / "source") and not isinstance(caught.value, NotWritten)


def test_a_copied_folder_names_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(bytes(2**20))
    copy_folder(tmp_path / "a", tmp_path / "b")
    copy_folder(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "x").stat().st_size == 2**20
    monkeypatch.setattr("shutil.copystat", no_room)
    with pytest.raises(NotWritten, match=r"it needs 1\.00 MiB") as caught:
        copy_folder(tmp_path / "a", tmp_path / "c")
    assert caught.value.filename == str(tmp_path / "c")


@pytest.mark.parametrize("existed", [False, True])
def test_a_folder_that_fails_leaves_nothing(tmp_path: Path, existed: bool) -> None:
    out = tmp_path / "out"
    if existed:
        out.mkdir()
    with pytest.raises(KeyboardInterrupt), whole_folder(out):
        write_atomically(out / "deep" / "x", b"1")
        raise KeyboardInterrupt
    assert out.exists() == existed and not (existed and list(out.iterdir()))


def test_a_disk_that_is_read_only_is_named_without_a_size(tmp_path: Path) -> None:
    with pytest.raises(NotWritten) as caught, naming(tmp_path / "x", 5):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    assert caught.value.strerror == "it cannot be written (Read-only file system)"

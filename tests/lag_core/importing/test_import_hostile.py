"""Checkpoints from strangers: refused with a sentence, nothing executed, in bounded time and memory."""

from __future__ import annotations

import os
import pickle
import resource
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lag_core.cli import main
from lag_core.importing.container import read_checkpoint
from lag_core.importing.error import CheckpointError

MARK = "LAG_TEST_EXECUTED"


class Evil:
    """Unpickled carelessly, it makes a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ[MARK],)


class Slow:
    """A text encoding whose time grows with the square of the text."""

    def __reduce__(self) -> tuple[Any, ...]:
        import _codecs

        return _codecs.encode, ("".join(map(chr, range(0x4E00, 0x9000))), "punycode")


def saved(path: Path, content: Any, archive: bool = True) -> Path:
    torch.save(content, path, _use_new_zipfile_serialization=archive)
    return path


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """A checkpoint whose archive is written anew."""
    with zipfile.ZipFile(path) as old:
        entries = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", compression) as new:
        for name, content in entries:
            new.writestr(name, change(name, content))
    return path


def code(path: Path) -> Path:
    return saved(path, {"model_state": {"a": torch.zeros(2)}, "x": Evil()})


def code_in_an_old_file(path: Path) -> Path:
    return saved(path, {"model_state": {"a": torch.zeros(2)}, "x": Evil()}, archive=False)


def code_among_the_keys(path: Path) -> Path:
    return saved(path, {"model_state": {"a": Evil()}})


def plain_pickle(path: Path) -> Path:
    path.write_bytes(pickle.dumps({"model_state": Evil()}))
    return path


def best_pkl(path: Path) -> Path:
    found = path.with_name("best.pkl")
    found.write_bytes(pickle.dumps(Evil()))
    return found


def slow_text(path: Path) -> Path:
    return saved(path, {"model_state": {"a": torch.zeros(2)}, "x": Slow()})


def compressed(path: Path) -> Path:
    saved(path, {"model_state": {"a": torch.zeros(5_000_000)}})
    return rewritten(path, lambda name, content: content, zipfile.ZIP_DEFLATED)


def one_content_many_names(path: Path) -> Path:
    """A directory that names the same bytes again and again."""
    saved(path, {"model_state": {"a": torch.zeros(100_000)}})
    with zipfile.ZipFile(path, "a") as archive:
        first = max(archive.infolist(), key=lambda one: one.file_size)
        for i in range(500):
            again = zipfile.ZipInfo(f"archive/data/copy{i}")
            again.header_offset, again.file_size = first.header_offset, first.file_size
            again.compress_size, again.CRC = first.compress_size, first.CRC
            archive.filelist.append(again)
        archive._didModify = True  # type: ignore[attr-defined]
    return path


def too_many_files(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(30_000):
            archive.writestr(f"archive/{i}", b"")
    return path


def program_of_a_million_keys() -> bytes:
    """A dict, written as the pickle's own operations, which takes less time than torch.save."""
    return b"\x80\x02}(" + b"".join(b"X\x07\x00\x00\x00%07dK\x00" % i for i in range(1_000_000)) + b"u."


def a_million_keys(path: Path) -> Path:
    saved(path, {"model_state": {"a": torch.zeros(2)}})
    program = program_of_a_million_keys()
    return rewritten(path, lambda name, content: program if name.endswith("data.pkl") else content)


def a_million_keys_in_an_old_file(path: Path) -> Path:
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {"little_endian": True})
    parts = [*(pickle.dumps(one, 2) for one in head), program_of_a_million_keys(), pickle.dumps([], 2)]
    path.write_bytes(b"".join(parts))
    return path


def ten_thousand_tensors(path: Path) -> Path:
    one = torch.zeros(1)
    return saved(path, {"model_state": {f"layer{i}.weight": one for i in range(10_000)}})


def nested(path: Path) -> Path:
    """Dicts in dicts, written as the pickle's own operations: pickle itself would not get that deep."""
    saved(path, {"model_state": {"a": torch.zeros(2)}})
    depth = 50_000
    program = b"\x80\x02" + b"}X\x01\x00\x00\x00a" * depth + b"}" + b"s" * depth + b"."
    return rewritten(path, lambda name, content: program if name.endswith("data.pkl") else content)


def numbers_in_place_of_tensors(path: Path) -> Path:
    return saved(path, {"model_state": {"a": 1.0}})


def dicts_in_place_of_tensors(path: Path) -> Path:
    return saved(path, {"model_state": {"a": {"b": torch.zeros(1)}}})


def sparse(path: Path) -> Path:
    return saved(path, {"model_state": {"a": torch.zeros(2, 2).to_sparse()}})


def a_whole_network(path: Path) -> Path:
    return saved(path, torch.nn.Linear(2, 2))


def object_array(path: Path) -> Path:
    return saved(path, {"model_state": {"a": torch.zeros(2)}, "best_score": np.array([Evil()], object)})


def a_list(path: Path) -> Path:
    return saved(path, [torch.zeros(2)])


def nothing(path: Path) -> Path:
    path.write_bytes(b"")
    return path


def text(path: Path) -> Path:
    path.write_text("hello")
    return path


def only_a_beginning(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04")
    return path


def half(path: Path) -> Path:
    saved(path, {"model_state": {"a": torch.zeros(5_000)}})
    path.write_bytes(path.read_bytes()[:10_000])
    return path


def half_of_an_old_file(path: Path) -> Path:
    saved(path, {"model_state": {"a": torch.zeros(5_000)}}, archive=False)
    path.write_bytes(path.read_bytes()[:10_000])
    return path


def more_numbers_than_bytes(path: Path) -> Path:
    """An old file whose storage claims a terabyte."""
    saved(path, {"model_state": {"a": torch.zeros(70_000)}}, archive=False)
    content = path.read_bytes()
    claim = b"J" + (70_000).to_bytes(4, "little")
    assert claim in content
    path.write_bytes(content.replace(claim, b"\x8a\x06" + (10**12).to_bytes(6, "little")))
    return path


def old_tar(path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        archive.add(__file__, "pickle")
    return path


def a_folder(path: Path) -> Path:
    path.mkdir()
    return path


def missing(path: Path) -> Path:
    return path


HOSTILE = (
    code, code_in_an_old_file, code_among_the_keys, plain_pickle, best_pkl, slow_text, compressed,
    one_content_many_names, too_many_files, a_million_keys, a_million_keys_in_an_old_file, ten_thousand_tensors, nested,
    numbers_in_place_of_tensors, dicts_in_place_of_tensors, sparse, a_whole_network, object_array, a_list, nothing,
    text, only_a_beginning, half, half_of_an_old_file, more_numbers_than_bytes, old_tar, a_folder, missing,
)  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda one: one.__name__)
def test_a_hostile_file_is_refused_with_a_sentence(
    make: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed = tmp_path / "executed"
    monkeypatch.setenv(MARK, str(executed))
    path = make(tmp_path / "step_0.pth")
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError) as found:
        read_checkpoint(path)
    assert str(path) in str(found.value) and len(str(found.value)) < 700
    assert not executed.exists()
    assert time.process_time() - began < 5
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 * 1024  # KiB


def test_leftovers_are_neither_needed_nor_read(tmp_path: Path) -> None:
    """NumPy's scalars, as best_score is written, and whatever plain values stand beside the state dict."""
    state = {"module.a.weight": torch.arange(3.0), "module.a.num_batches_tracked": torch.tensor(3)}
    leftovers = {
        "best_score": np.float64(0.5),
        "other": np.float32(1),
        "epoch": 3,
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(4)}}, "param_groups": [{"lr": 0.1}]},
    }
    for archive in (True, False):
        for key in ("model_state", "state_dict", "segmentor"):
            path = saved(tmp_path / f"{key}{archive}.pth", {**leftovers, key: state}, archive)
            found = read_checkpoint(path)
            assert set(found.tensors) == {"a.weight", "a.num_batches_tracked"} and found.archive is archive
            assert torch.equal(found.tensors["a.weight"], torch.arange(3.0))
    bare = read_checkpoint(saved(tmp_path / "bare.pth", {"a": torch.zeros(2)}))
    assert set(bare.tensors) == {"a"}


def test_reading_leaves_no_global_allowed_behind(tmp_path: Path) -> None:
    before = set(torch.serialization.get_safe_globals())  # torch keeps a set: its order says nothing
    read_checkpoint(saved(tmp_path / "a.pth", {"model_state": {"a": torch.zeros(2)}, "best_score": np.float64(1)}))
    assert set(torch.serialization.get_safe_globals()) == before


def test_the_command_says_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path / "executed"))
    path = code(tmp_path / "step_0.pth")
    options = ["--task", "15-1", "--dataset", "voc", "--out", str(tmp_path / "run")]
    assert main(["import", str(path), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"lag: {path} asks for 'posix.mkdir'") and said.count("\n") == 1
    assert not (tmp_path / "executed").exists() and not (tmp_path / "run").exists()

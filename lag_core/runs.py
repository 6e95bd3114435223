"""The run folder: the contract between training and the dashboard (docs/run-format.md).

Reading executes no code: JSON and safetensors only. Writing goes to a temporary name that is flushed and
renamed, so a reader, or a crash, sees the old file or the new one. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
from safetensors import SafetensorError, safe_open

from lag_core import config as configuration
from lag_core import palette, reading
from lag_core.analysis_arrays import checked_arrays
from lag_core.measured_matrices import checked_matrices
from lag_core.protocol import ClassInfo, LabelSpace
from lag_core.run_info import checked_info
from lag_core.sentences import Said
from lag_core.writing import append, write_atomically

if TYPE_CHECKING:
    from lag_core.data.catalogue import Dataset

SCHEMA = 1
KINDS = ("segmenter", "adapter", "stored")
"""Kinds of a run's networks: this project's, an adapter's, stored label maps."""
SHARED = "shared"
"""Folder beside the runs that holds tensors used by several of them, named by their digest."""
_STEP_FILE = re.compile(r"step_\d{2,3}\.safetensors")
_SHARED_FILE = re.compile(r"shared/[0-9a-f]{16}\.safetensors")
_DAMAGE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
"""Errors that unexpected JSON may raise."""


class RunError(Said, ValueError):
    """A run folder that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True)
class StepInfo:
    """The entry of one finished step in run.json."""

    step: int
    classes: tuple[int, ...]
    """Class indices introduced by this step."""
    images: int
    iterations: int
    seconds: float
    images_per_second: float
    trained: tuple[str, ...]
    """Parts of the network that received gradients."""
    dead_terms: tuple[str, ...]
    """Loss terms without a gradient on the shared layers."""


@dataclass(frozen=True)
class BrokenRun:
    """A folder that looks like a run and cannot be opened."""

    path: Path
    reason: str

    @property
    def name(self) -> str:
        return self.path.name


class Run:
    """A run folder, opened and checked. Tensors are read on demand."""

    def __init__(self, path: Path, info: Mapping[str, Any]):
        self.path = path
        self.name = Path(os.path.abspath(path)).name
        try:
            self.info, left_out = checked_info(info)
            info = self.info
            self._left_out = tuple(f"{path / 'run.json'}: {sentence}" for sentence in left_out)
            self.method: str = info["method"]
            self.status: str = info["status"]
            self.config = configuration.resolve(info["config"])
            self.classes = tuple(ClassInfo(c["id"], c["name"], tuple(c["color"])) for c in info["dataset"]["classes"])
            self.labels = _label_space(info["labels"])
            self.grouping = _label_space({**info["labels"], "steps": info["task"]["steps"]})
            self.steps = tuple(_step_info(s, t, self.labels) for t, s in enumerate(info["steps"]))
            self.warnings: tuple[str, ...] = tuple(info.get("warnings", ()))
            if self.kind not in KINDS:
                raise ValueError(f"its networks are of the kind {self.kind[:40]!r}, known are {', '.join(KINDS)}")
        except _DAMAGE as error:
            raise RunError(f"{path / 'run.json'} is damaged ({error}); restore it or train the run again") from None
        if tuple(c.id for c in self.classes) != self.labels.order:
            raise RunError(f"{path / 'run.json'}: the classes do not match the task's order; restore the file")

    @property
    def last_step(self) -> int:
        """The newest finished step; -1 before the first."""
        return len(self.steps) - 1

    @property
    def network(self) -> Mapping[str, Any]:
        """The entry of run.json for networks that are not this project's; empty for a Segmenter."""
        return self.info.get("network") or {}

    @property
    def kind(self) -> str:
        """What its networks are: "segmenter", "adapter" or "stored" (label maps)."""
        return str(self.network.get("kind", "segmenter"))

    @cached_property
    def digest(self) -> str:
        """Hexadecimal digest of everything that the run's predictions depend on."""
        parts = [self.info["config"], self.info["labels"], [s["files"] for s in self.info["steps"]]]
        parts += [self.network] if self.network else []
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def confusions(self, domain: str | None = None) -> np.ndarray | None:
        """Confusion matrices on the validation set, int64 [T, K, K], rows truth; None if there are none.

        K counts the classes of all steps: rows of classes that come later are there too (see metrics.seen_only).
        """
        if not os.path.lexists(self.path / "metrics.json"):
            return None
        measured, _ = self._read_metrics()
        if domain is not None and domain not in measured:
            raise RunError(f"{self.path / 'metrics.json'} has no valid measures of the domain {domain!r}")
        return measured[domain or ""] if self.steps else None

    @property
    def domains(self) -> tuple[str, ...]:
        """Image domains that the validation set was measured on apart; empty for one domain."""
        if not os.path.lexists(self.path / "metrics.json"):
            return ()
        try:
            return tuple(name for name in self._read_metrics()[0] if name)
        except RunError:  # `confusions` says what is wrong
            return ()

    def _read_metrics(self) -> tuple[dict[str, np.ndarray], list[str]]:
        """metrics.json: matrices int64 [T, K, K] of each domain and of all as "", and faults in the domains."""
        path, shape = self.path / "metrics.json", (len(self.steps), len(self.classes))
        try:
            return checked_matrices(read_json(path), *shape)
        except _DAMAGE as error:
            raise RunError(f"{path} is damaged ({error}); `lag evaluate {self.path} --write` writes it again") from None

    def events(self) -> list[dict[str, Any]]:
        """Lines of events.jsonl, oldest first. A last line that is still being written is left out."""
        path = self.path / "events.jsonl"
        if not path.exists():
            return []
        events = []
        try:
            text = reading.read_text(path, reading.EVENTS, reading.run_folder(path), errors="replace")
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error}); remove it, or restore it") from None
        for line in text.splitlines():
            try:
                event = reading.from_json(line)
            except ValueError:
                continue
            if isinstance(event, dict):  # half a line may still be a valid number
                events.append(event)
        return events

    def checked_step(self, step: int | None = None) -> int:
        """`step`, or the last one if None; RunError if the run has no such step."""
        if not self.steps:
            raise RunError(f"{self.name} has no finished step yet; `lag train … --resume` goes on with it")
        if step is None:
            return self.last_step
        if not 0 <= step <= self.last_step:
            raise RunError(f"{self.name} has no step {step}; it has steps 0 to {self.last_step}")
        return step

    def class_index(self, cls: str | int) -> int:
        """Index of the class of that name (an index passes); RunError lists the classes."""
        names = [one.name for one in self.classes]
        if isinstance(cls, str):
            if cls not in names:
                raise RunError(f"{cls!r} is not a class of {self.name}; it has {', '.join(names)}")
            return names.index(cls)
        if not 0 <= cls < len(names):
            raise RunError(f"{self.name} has no class {cls}; it has classes 0 to {len(names) - 1}")
        return int(cls)

    def tensors(self, step: int) -> dict[str, np.ndarray]:
        """Every tensor of the network after `step`, float32: the steps' deltas merged in order."""
        self.checked_step(step)
        merged: dict[str, np.ndarray] = {}
        for t in range(step + 1):
            merged.update(self.delta(t))
        return merged

    def delta(self, step: int) -> dict[str, np.ndarray]:
        """The tensors that `step` changed, float32."""
        result: dict[str, np.ndarray] = {}
        for entry in self.info["steps"][step]["files"]:
            result.update(read_tensors(self._file(entry)))
        wrong = next((n for n, v in result.items() if v.dtype.kind != "f" or not np.isfinite(v).all()), None)
        if wrong is not None:
            raise RunError(f"step {step} of {self.path}: tensor {wrong} holds values that are not finite; restore it")
        return {name: value.astype(np.float32, copy=False) for name, value in result.items()}

    def delta_names(self, step: int) -> set[str]:
        """Names of the tensors that `step` changed, from the heads of its files; their content is not checked."""
        found: set[str] = set()
        for entry in self.info["steps"][step]["files"]:
            found |= tensor_names(self._place(entry))
        return found

    def _file(self, entry: Mapping[str, Any]) -> Path:
        """Path of a listed file, after its size and digest have been checked (its name was on opening)."""
        path = self._place(entry)
        if file_digest(path) != entry["sha256"]:
            raise RunError(f"{path} is not the file that run.json describes (truncated or replaced); restore it")
        return path

    def _place(self, entry: Mapping[str, Any]) -> Path:
        """Path of a listed file. RunError if it is missing or has another size."""
        name = str(entry["name"])
        home = Path(os.path.abspath(self.path)).parent if name.startswith(f"{SHARED}/") else self.path
        path = home / name
        try:
            reading.checked(path, reading.ARRAYS, (self.path, self.path.absolute().parent))
        except FileNotFoundError:
            raise RunError(f"{path} is missing; copy it to that place or train the run again") from None
        except OSError as error:
            raise RunError(f"{path} cannot be read ({error}); restore it") from None
        if path.stat().st_size != entry["bytes"]:
            raise RunError(f"{path} is not the file that run.json describes (truncated or replaced); restore it")
        return path

    def analysis(self, step: int) -> dict[str, np.ndarray]:
        """Arrays of analysis_NN.safetensors (prototypes, statistics, channel distances) that are sound; empty if none.

        `faults` names the others; training resumes only from `whole_analysis`.
        """
        return self._analysis(step)[0]

    def whole_analysis(self, step: int) -> dict[str, np.ndarray]:
        """The same; RunError if any array is not sound."""
        arrays, faults = self._analysis(step)
        if faults:
            raise RunError(f"{faults[0]}; restore the file")
        return arrays

    def _analysis(self, step: int) -> tuple[dict[str, np.ndarray], list[str]]:
        path = self.path / f"analysis_{step:02d}.safetensors"
        if not os.path.lexists(path):
            return {}, []
        try:
            found = read_tensors(path)
        except RunError as error:
            return {}, [str(error)]
        sound, faults = checked_arrays(found, self.labels.channels(step), self.config.model.latent)
        return sound, [f"{path}: {fault}" for fault in faults]

    def faults(self) -> list[str]:
        """Faulty optional parts of the run, which count as absent, each with its file and key."""
        found = list(self._left_out)
        try:
            if os.path.lexists(self.path / "metrics.json"):
                found += [f"{self.path / 'metrics.json'}: {fault}" for fault in self._read_metrics()[1]]
        except RunError as error:
            found.append(str(error))
        for step in range(len(self.steps)):
            found += self._analysis(step)[1]
        return found

    def open_dataset(self, root: str | Path | None = None) -> Dataset:
        """The dataset that the run was trained on; `root` replaces the stored folder.

        DatasetMissing says what is missing, also if the folder holds a dataset of other classes.
        """
        from dataclasses import replace

        from lag_core.data.catalogue import DatasetMissing, open_dataset

        data = self.config.data if root is None else replace(self.config.data, root=str(root))
        dataset = open_dataset(data)
        found = {one.id: one.name for one in dataset.info.classes}
        for one in self.classes:
            if found.get(one.id) != one.name:
                raise DatasetMissing(
                    f"the dataset in {data.root or data.dataset} is not the one of run {self.name}: its "
                    f"class {one.id} is {found.get(one.id)!r}, not {one.name!r}; name another folder"
                )
        return dataset


RunKind = TypeVar("RunKind", bound=Run)


@overload
def open_run(path: str | Path) -> Run: ...
@overload
def open_run(path: str | Path, kind: type[RunKind]) -> RunKind: ...
def open_run(path: str | Path, kind: type[Run] = Run) -> Run:
    """Open a run folder. RunError if it is not a run, is damaged, or was written by a newer version.

    `kind`: the class of the result (explain.explained_run adds methods to it).
    """
    path = Path(path)
    if not (path / "run.json").is_file():
        raise RunError(f"{path} is not a run folder: it contains no run.json")
    info = read_json(path / "run.json")
    schema = info.get("schema")
    if type(schema) is not int or schema < 1:
        raise RunError(f"{path / 'run.json'} names no schema version; it was not written by this project")
    if schema > SCHEMA:
        raise RunError(
            f"{path / 'run.json'} has schema {schema}, this version reads up to {SCHEMA}; update the project"
        )
    return kind(path, info)


def list_runs(root: str | Path) -> list[Run | BrokenRun]:
    """Every run folder directly under `root`, by name; a damaged one says why and does not hide others."""
    found: list[Run | BrokenRun] = []
    for path in sorted(Path(root).iterdir()) if Path(root).is_dir() else []:
        try:
            if not (path / "run.json").is_file():
                continue
        except OSError:  # a folder that cannot be read
            continue
        try:
            found.append(open_run(path))
        except RunError as error:
            found.append(BrokenRun(path, str(error)))
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; RunError otherwise."""
    try:
        content = reading.read_json(path, reading.JSON, reading.run_folder(path))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read as JSON ({error}); restore it") from None
    if not isinstance(content, dict):
        raise RunError(f"{path} contains no JSON object; restore it")
    return content


def read_tensors(path: Path, inside: Sequence[Path] = ()) -> dict[str, np.ndarray]:
    """All arrays of a safetensors file, those of few values restored (palette); RunError if it is truncated or none."""
    try:
        place = reading.checked(path, reading.ARRAYS, inside or reading.run_folder(path))
        with safe_open(place, framework="numpy") as file:
            return palette.restored({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise RunError(f"{path} is not a readable safetensors file ({error}); restore it") from None


def tensor_names(path: Path, inside: Sequence[Path] = ()) -> set[str]:
    """Names of the arrays of a safetensors file, from its head alone; RunError if it is truncated or none."""
    try:
        place = reading.checked(path, reading.ARRAYS, inside or reading.run_folder(path))
        with safe_open(place, framework="numpy") as file:
            return {name.removesuffix(palette.INDEX).removesuffix(palette.VALUES) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is not a readable safetensors file ({error}); restore it") from None


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with reading.opened(path, reading.CHECKPOINT) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """A JSON object, atomically."""
    write_atomically(path, (json.dumps(content, indent=1, sort_keys=False) + "\n").encode())


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A safetensors file, atomically; returns its entry for run.json: name, bytes, sha256."""
    from safetensors.numpy import save

    content = save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    write_atomically(path, content)
    name = f"{SHARED}/{path.name}" if path.parent.name == SHARED else path.name
    return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def append_event(path: Path, event: Mapping[str, Any]) -> None:
    """One line at the end of events.jsonl."""
    append(path, json.dumps(event) + "\n")


def keep_events(path: Path, keep: Iterable[Mapping[str, Any]]) -> None:
    """Replace events.jsonl by the lines to keep (of a run that resumes, copies a step, or ships)."""
    write_atomically(path, "".join(json.dumps(event) + "\n" for event in keep).encode())


def labels_to_json(labels: LabelSpace) -> dict[str, Any]:
    """A LabelSpace in the form of run.json."""
    return {
        "steps": [list(s) for s in labels.steps],
        "background": labels.background,
        "unknown": labels.unknown,
    }


def _label_space(content: Mapping[str, Any]) -> LabelSpace:
    return LabelSpace(tuple(map(tuple, content["steps"])), content["background"], content["unknown"])


def _check_entry(entry: Mapping[str, Any]) -> None:
    """ValueError unless an entry of a step's `files` names a file that can belong to a run."""
    name, size, digest = str(entry["name"]), entry["bytes"], entry["sha256"]
    if not (_STEP_FILE.fullmatch(name) or _SHARED_FILE.fullmatch(name)):
        raise ValueError(f"it lists {name!r}, which is not a file of a run")
    if not isinstance(size, int) or not isinstance(digest, str):
        raise ValueError(f"{name} has no size in bytes or no SHA-256")


def _step_info(content: Mapping[str, Any], place: int, labels: LabelSpace) -> StepInfo:
    step = content["step"]
    if step != place:
        raise ValueError(f"step {step} is in the place of step {place}")
    for entry in content["files"]:
        _check_entry(entry)
    return StepInfo(
        step=step,
        classes=tuple(labels.class_indices(step)),
        images=content["images"],
        iterations=content["iterations"],
        seconds=float(content["seconds"]),
        images_per_second=float(content["images_per_second"]),
        trained=tuple(content.get("trained", ())),
        dead_terms=tuple(content.get("dead_terms", ())),
    )

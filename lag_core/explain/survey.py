"""The results of one pass over the whole validation set, read from the run folder. Imports no torch.

`lag survey RUN` (explain.survey_pass) writes two files into the run: survey.safetensors with the arrays and
survey.json, written last, which names the run, the images and the file. Files that do not fit together
are refused with a message that says what to do.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from lag_core.explain import forgetting, holds, picture_counts, stage_groups, stored_shares, survey_arrays
from lag_core.explain.holds import Holds
from lag_core.explain.picture_counts import PictureCounts
from lag_core.explain.stage_groups import StageGroups
from lag_core.explain.stored_shares import StoredShares
from lag_core.protocol import LabelSpace
from lag_core.runs import Run, RunError, file_digest, read_json, read_tensors, write_json, write_tensors
from lag_core.tiles import tiles_in

SCHEMA = 1
TOP = 9
"""Validation images kept for each channel."""

LONGEST_NAME = 1000
"""Characters of an image's name."""

Part = TypeVar("Part")

METADATA, ARRAYS = "survey.json", "survey.safetensors"


class SurveyMissing(RunError):
    """The run has no survey, or one that no longer describes it; the message says what to run."""


@dataclass(frozen=True)
class TopImage:
    """A validation image in which a channel is strong."""

    index: int
    """Place in Survey.ids."""
    id: str
    activation: float
    """Largest activation of the channel on the picture."""


@dataclass(frozen=True)
class Survey:
    """N validation images, T steps, K class indices, C channels of Z, M channel metrics.

    Arrays are read-only.
    """

    ids: tuple[str, ...]
    """Validation images in file order."""
    domains: tuple[str | None, ...]
    """Image domain of each."""
    metrics: tuple[str, ...]
    """Names of the channel metrics, as in method.decoupling."""
    labels: LabelSpace

    pixels: np.ndarray
    """uint32 [N, K], pixels of each true class."""
    right: np.ndarray
    """uint32 [N, T, K], those predicted right."""
    lost: np.ndarray
    """uint32 [N, T, K], those forgotten: wrong at the step, right at an earlier one (explain.forgetting)."""
    shift: np.ndarray
    """uint32 [N, T, 4], pixels of old classes, background apart: right, as background, as new, as other old
    class."""
    confusion: np.ndarray
    """int64 [T, K, K], the confusion matrix of each step, rows truth."""
    flows: np.ndarray
    """int64 [n, 5], rows (true class, step t, class at t, class at t + 1, pixels): the transitions that
    occur."""

    latent_pixels: np.ndarray
    """int64 [K], latent pixels of each true class (labels at the latent resolution)."""
    prototypes: np.ndarray
    """float32 [T, K, C], mean of Z over them; 0 for a class without any."""
    spread: np.ndarray
    """float32 [T, K], mean cosine distance of a class's latent pixels to its prototype;

    NaN for a class without any.
    """

    channel_mean: np.ndarray
    """float32 [T, C], mean activation over all latent pixels inside the pictures."""
    channel_energy: np.ndarray
    """float32 [T, C], mean of Z^2 over them."""
    top_index: np.ndarray
    """int32 [T, C, TOP], images with the largest activation, strongest first; -1 where there are fewer
    images."""
    top_activation: np.ndarray
    """float32 [T, C, TOP], that activation; NaN beside -1."""
    distances: np.ndarray
    """float32 [M, T - 1, C], distance of each channel from step t - 1 to t, mean over the images
    (docs/method.md#split)."""

    shares: StoredShares | None = None
    """Shares of each class's change (explain.stored_shares); None in a survey that did not measure it."""
    groups: StageGroups | None = None
    """Which stages are one part of the shares, and what they cost; None in a survey that does not say."""
    holds: Holds | None = None
    """What the features still hold (explain.holds); None in a survey that did not measure it."""
    pictures: PictureCounts | None = None
    """What every step called the pixels of each image (explain.picture_counts); None in a survey that did not count."""
    faults: tuple[str, ...] = ()
    """Faults in the file's shares, holds and pictures, which are None here."""

    def rank_images(self, step: int = -1, cls: int | None = None) -> list[forgetting.ImageLoss]:
        """Images by forgotten pixels after `step`, most first; of one true class, or of all."""
        return forgetting.rank_images(self.lost, self.pixels, self.ids, step, cls)

    def background_shift(self) -> forgetting.BackgroundShift:
        """Where the pixels of old classes go, counts [T, K] over the whole set."""
        return forgetting.background_shift(self.confusion, self.labels)

    def transitions(self, cls: int) -> np.ndarray:
        """Flows of a Sankey diagram for a true class over the whole set. Shape: int64 [T - 1, K, K]."""
        steps, n = self.confusion.shape[:2]
        dense = np.zeros((steps - 1, n, n), np.int64)
        mine = self.flows[self.flows[:, 0] == cls]
        dense[mine[:, 1], mine[:, 2], mine[:, 3]] = mine[:, 4]
        return dense

    def class_profile(self, step: int, channel: int) -> np.ndarray:
        """Mean activation of one channel on each true class.

        Shape: float32 [K], NaN for a class without pixels.
        """
        return np.where(self.latent_pixels > 0, self.prototypes[step, :, channel], np.nan).astype(np.float32)

    def top_images(self, step: int, channel: int) -> list[TopImage]:
        """The images in which a channel is strongest, strongest first; at most TOP."""
        pairs = zip(self.top_index[step, channel], self.top_activation[step, channel], strict=True)
        return [TopImage(int(i), self.ids[i], float(a)) for i, a in pairs if i >= 0]

    def distance(self, step: int, metric: str) -> np.ndarray:
        """Distance of each channel from `step` - 1 to `step`. Shape: float32 [C]. ValueError for an unknown
        metric or a step without one before it."""
        if metric not in self.metrics:
            raise ValueError(f"channel metric {metric!r}: the survey has {', '.join(self.metrics)}")
        if not 1 <= step <= self.distances.shape[1]:
            raise ValueError(f"step {step} has no distance to a previous step: choose 1 to {self.distances.shape[1]}")
        return self.distances[self.metrics.index(metric), step - 1]


_ARRAYS = tuple(f.name for f in fields(Survey) if f.type == "np.ndarray")


def open_survey(run: Run) -> Survey:
    """The survey of a run.

    SurveyMissing if there is none, if it is of another state of the run, or damaged.
    """
    command = f"run `lag survey {run.path}`"
    if not os.path.lexists(run.path / METADATA):
        raise SurveyMissing(f"{run.name} has no survey of its validation images yet: {command}")
    try:
        about = read_json(run.path / METADATA)
        _check(run, about, command)
        return _assemble(run, about, read_tensors(run.path / ARRAYS))
    except SurveyMissing:
        raise
    except (RunError, OSError, KeyError, TypeError, ValueError, IndexError) as error:
        raise SurveyMissing(f"the survey of {run.name} cannot be read ({error}): {command}") from None


def read_survey(run: Run) -> Survey | None:
    """As `open_survey`, None where there is none that can be used."""
    try:
        return open_survey(run)
    except SurveyMissing:
        return None


def _check(run: Run, about: dict[str, Any], command: str) -> None:
    """SurveyMissing if the metadata is of another version or run, or does not describe the file of arrays."""
    if about["schema"] != SCHEMA:
        raise SurveyMissing(f"the survey of {run.name} has schema {about['schema']}, not {SCHEMA}: {command}")
    if about["run"] != run.digest:
        raise SurveyMissing(f"the survey of {run.name} is of an earlier state of the run: {command} again")
    path, file = run.path / ARRAYS, about["file"]
    if not path.is_file() or path.stat().st_size != file["bytes"] or file_digest(path) != file["sha256"]:
        raise SurveyMissing(f"{path} is not the file that {METADATA} describes: {command} again")


def _assemble(run: Run, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Survey:
    """A Survey from its two files.

    ValueError for shapes that do not fit the run, KeyError for a missing array.
    """
    ids, metrics, domains = _names(about["ids"]), _names(about["metrics"]), _names(about["domains"], gaps=True)
    if len(domains) != len(ids) or len(set(ids)) != len(ids):
        raise ValueError(f"{METADATA} names {len(set(ids))} images in {len(ids)} places, and {len(domains)} domains")
    held = {name: arrays[name] for name in _ARRAYS}
    width = held["prototypes"].shape[-1] if held["prototypes"].ndim else -1
    if width not in (0, run.config.model.latent):
        raise ValueError(f"prototypes has {width} channels, the run's Z {run.config.model.latent}")
    steps, classes = len(run.steps), len(run.classes)
    lengths = {"N": len(ids), "T": steps, "K": classes, "C": width, "M": len(metrics)}
    survey_arrays.check_basic(held, lengths)
    for array in held.values():
        array.flags.writeable = False
    faults: list[str] = []
    names = [one.name for one in run.classes]
    return Survey(
        ids, domains, metrics, run.labels, **held,
        shares=_optional(lambda: _shares(arrays, lengths, names, tiles_in(ids)), "shares", faults),
        groups=_optional(lambda: _groups(about), "which stages are one part", faults),
        holds=_optional(lambda: _holds(arrays, lengths), "what the features hold", faults),
        pictures=_optional(lambda: _pictures(arrays, lengths, held["confusion"]), "the count by picture", faults),
        faults=tuple(faults),
    )  # fmt: skip


def _names(given: Any, gaps: bool = False) -> tuple[Any, ...]:
    """Names as they stand in the metadata. ValueError for anything else."""
    if not isinstance(given, list) or not all(isinstance(n, str) or (gaps and n is None) for n in given):
        raise ValueError(f"{METADATA} does not hold a list of names")
    if any(len(name or "") > LONGEST_NAME for name in given):
        raise ValueError(f"{METADATA} holds a name of more than {LONGEST_NAME} characters")
    return tuple(given)


def _optional(read: Callable[[], Part | None], what: str, faults: list[str]) -> Part | None:
    """An optional part; None, with a sentence in `faults`, if it is wrong."""
    try:
        return read()
    except (KeyError, TypeError, ValueError, IndexError) as error:
        reason = f"{error.args[0]} is missing" if isinstance(error, KeyError) else str(error)
        faults.append(f"{ARRAYS}: {what} is left out ({reason})")
        return None


def _shares(
    arrays: dict[str, np.ndarray], lengths: dict[str, int], names: list[str], images: int
) -> StoredShares | None:
    survey_arrays.check(arrays, survey_arrays.SHARES, lengths)
    cases = arrays.get(stored_shares.PREFIX + "cases")
    if cases is not None and cases.ndim == 2 and cases.shape[1] == 3:
        later = (cases[:, 1] >= 0) & (cases[:, 1] < cases[:, 2]) & (cases[:, 2] < lengths["T"])
        if cases.dtype.kind not in "iu" or not later.all():
            raise ValueError(f"{stored_shares.PREFIX}cases names a step that the run does not have")
    return stored_shares.from_arrays(arrays, names, images)


def _groups(about: dict[str, Any]) -> StageGroups | None:
    given = about.get("stages")
    return None if given is None else stage_groups.from_json(given, holds.SITES[:-1])


def _holds(arrays: dict[str, np.ndarray], lengths: dict[str, int]) -> Holds | None:
    survey_arrays.check(arrays, survey_arrays.HOLDS, lengths)
    return holds.from_arrays(arrays, lengths["T"], lengths["K"])


def _pictures(arrays: dict[str, np.ndarray], lengths: dict[str, int], confusion: np.ndarray) -> PictureCounts | None:
    survey_arrays.check(arrays, survey_arrays.PICTURES, lengths)
    return picture_counts.from_arrays(arrays, confusion)


def write_survey(run: Run, survey: Survey) -> int:
    """Write both files, each atomically, the metadata last. Returns the bytes of the arrays."""
    arrays = {name: getattr(survey, name) for name in _ARRAYS}
    if survey.shares is not None:
        arrays |= stored_shares.to_arrays(survey.shares.by_case)
    if survey.holds is not None:
        arrays |= holds.to_arrays(survey.holds)
    if survey.pictures is not None:
        arrays |= picture_counts.to_arrays(survey.pictures)
    entry = write_tensors(run.path / ARRAYS, arrays)
    about = {
        "schema": SCHEMA,
        "run": run.digest,
        "images": len(survey.ids),
        "ids": list(survey.ids),
        "ids_sha256": hashlib.sha256("\n".join(survey.ids).encode("utf-8", "surrogateescape")).hexdigest(),
        "domains": list(survey.domains),
        "metrics": list(survey.metrics),
        "file": entry,
        **({} if survey.groups is None else {"stages": stage_groups.as_json(survey.groups)}),
    }
    write_json(run.path / METADATA, about)
    return int(entry["bytes"])

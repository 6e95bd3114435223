"""Cached access to `lag_core`: whatever is slow is done once for all sessions.

Caches are keyed by ids and digests alone. Streamlit hashes only a sample of a large array, so an array as a
key would bring back the wrong result; arguments with a leading underscore are not hashed and only carry
what the key names. Cached arrays are shared by all sessions and therefore read-only. Networks are shared
too: they are used only under `network_lock`. Nothing here imports torch until a trace is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from dashboard.cache import photograph_counts, photographs
from dashboard.cache.memory_cache import Shelf, shelved
from dashboard.cache.picture_set import PictureSet
from dashboard.state import runs_folder
from dashboard.ui import untrusted
from dashboard.ui.shipped import shipped
from lag_core.data.dataset import DatasetMissing
from lag_core.data.pictures import DataError, scaled_down
from lag_core.data.remap import truth as class_indices
from lag_core.runs import BrokenRun, Run, RunError, list_runs

if TYPE_CHECKING:
    from lag_core.config import DataConfig
    from lag_core.explain.networks import Networks
    from lag_core.explain.survey import Survey
    from lag_core.explain.trace import Trace

UPLOAD = "upload:"
"""Image ids with this prefix name a picture that a user handed in; they are known to her session alone."""

NAME_LENGTH = 40
"""Characters of an upload's file name that are kept."""

UPLOADS_KEPT = 4
"""Uploaded pictures that a session keeps; the oldest goes first."""

TRACES = Shelf(128 * 2**20, least=4)
"""Traces of pictures through a run's steps, for all sessions: Z and logits of every step, and the features
if all steps share them. Four are kept however large they are: two pictures in a run and in the compared one."""

_UPLOADS = "_uploads"

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # read when torch is loaded: a waiting thread then gives up its core


@dataclass(frozen=True)
class Catalogue:
    """The run folders under one root."""

    root: Path
    runs: Mapping[str, Run]
    broken: tuple[BrokenRun, ...]
    stamp: str = ""
    """Changes with the files that say what the runs are: a key for what is computed from all of them."""


@dataclass(frozen=True)
class Picture:
    """One image with what is known of it."""

    id: str
    digest: str
    """Hexadecimal digest of the pixels: the key of everything computed from them."""
    pixels: np.ndarray
    """uint8 [H, W, 3], read-only."""
    truth: np.ndarray | None
    """Class indices uint8 [H, W], 255 where nothing is annotated; None for uploads. Read-only."""
    full_size: tuple[int, int]
    """(W, H) of the file, which is more than that of `pixels` where it was scaled down."""
    domain: str | None = None
    file_name: str = ""
    """Of an upload: one line, shortened; untrusted text all the same."""

    @property
    def uploaded(self) -> bool:
        return self.id.startswith(UPLOAD)

    @property
    def shipped(self) -> bool:
        """Whether it is a photograph that ships, which no validation set holds."""
        return photographs.is_photo(self.id)

    @property
    def name(self) -> str:
        """A name to show if its id says little."""
        if self.uploaded:
            return self.file_name or "uploaded picture"
        return f"photograph {photographs.name_of(self.id)}" if self.shipped else self.id


def runs_root() -> Path:
    """The folder whose runs can be opened: the environment's LAG_RUNS, else the project's checkpoints."""
    given = os.environ.get("LAG_RUNS")
    return Path(given) if given else shipped("checkpoints")


def device(arguments: Sequence[str] | None = None) -> str:
    """Where networks run: `streamlit run dashboard/app.py -- --device NAME`, else the environment's LAG_DEVICE.

    Default: auto, a GPU if torch sees one. ConfigError for an unknown name, and for a missing GPU.
    `arguments`: those after `--`; by default this process's.
    """
    from lag_core.device import device_named

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device", default=os.environ.get("LAG_DEVICE") or "auto")
    return device_named(parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)[0].device)


def default_data_root() -> str:
    """The data root that is used until the user names another: the environment's LAG_DATA."""
    return os.environ.get("LAG_DATA", "")


def opened() -> Catalogue:
    """The runs of this session: of a folder that it chose, else the app's own, else of one chosen before."""
    own = runs_folder.of_session()
    if own is not None:
        return catalogue(own)
    given = catalogue(runs_root())
    before = None if given.runs else runs_folder.of_server()
    return given if before is None else catalogue(before)


def catalogue(root: Path) -> Catalogue:
    """Every run under `root`; read again only when one of its files has changed."""
    return _catalogue(str(root), hashlib.sha256(repr(_signature(root)).encode()).hexdigest()[:16])


@st.cache_resource(max_entries=4, show_spinner=False)
def _catalogue(root: str, stamp: str) -> Catalogue:
    found = list_runs(root)
    runs = {item.name: item for item in found if isinstance(item, Run)}
    return Catalogue(Path(root), runs, tuple(item for item in found if isinstance(item, BrokenRun)), stamp)


def _signature(root: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, time and size of the files that say what the runs are."""
    try:
        folders = sorted(entry.path for entry in os.scandir(root))
    except OSError:
        return ()
    paths = (f"{folder}/{name}" for folder in folders for name in ("run.json", "metrics.json"))
    looked_at = ((path, *_time_and_size(path)) for path in paths)
    return tuple(one for one in looked_at if one[1:] != (0, 0))


def _time_and_size(path: str | Path) -> tuple[int, int]:
    """(nanoseconds, bytes) of a file; zeros if it cannot be read."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


def data_root(given: str) -> str | None:
    """What to pass to `Run.open_dataset`: None means the run's own setting."""
    return given or None


def image_ids(run: Run, root: str) -> tuple[str, ...]:
    """Ids of the run's validation images, in file order; of the photographs that ship where those are missing.

    DatasetMissing says what is missing if there are no such photographs either (rule: dashboard/cache/photographs.py).
    """
    try:
        return _image_ids(run.digest, root, _run=run)
    except DatasetMissing:
        shipped = photographs.ids(run)
        if not shipped:
            raise
        return shipped


def ids_here(run: Run, root: str) -> tuple[str, ...]:
    """As `image_ids`; empty if neither the validation images nor such photographs are available."""
    try:
        return image_ids(run, root)
    except (DatasetMissing, DataError):
        return ()


@st.cache_resource(max_entries=32, show_spinner=False)
def _image_ids(digest: str, root: str, *, _run: Run) -> tuple[str, ...]:
    return tuple(_run.open_dataset(data_root(root)).ids("val"))


def picture(run: Run, root: str, image_id: str) -> Picture | None:
    """An image of the run's validation set, a photograph that ships, or an upload of this session; None if unknown."""
    if image_id.startswith(UPLOAD):
        return st.session_state.get(_UPLOADS, {}).get(image_id)
    if photographs.is_photo(image_id):
        return _photograph(run.digest, image_id, _run=run) if image_id in photographs.ids(run) else None
    return _picture(run.digest, root, image_id, _run=run)


@shelved
def _picture(digest: str, root: str, image_id: str, *, _run: Run) -> Picture:
    dataset = _run.open_dataset(data_root(root))
    return _annotated(_run, image_id, dataset.image(image_id), dataset.mask(image_id), dataset.domain(image_id))


@shelved
def _photograph(digest: str, image_id: str, *, _run: Run) -> Picture:
    shipped, name = photographs.of_run(_run), photographs.name_of(image_id)
    assert shipped is not None
    return _annotated(_run, image_id, shipped.image(name), shipped.mask(name), None)


def _annotated(run: Run, image_id: str, full: np.ndarray, mask: np.ndarray, domain: str | None) -> Picture:
    """A picture with its truth, both at the size that is shown. Shapes: full [H, W, 3], mask [H, W] of ids."""
    pixels, (height, width) = _locked(scaled_down(full)), full.shape[:2]
    truth = class_indices(mask, run.labels)
    rows, columns = (
        ((np.arange(n) + 0.5) * whole / n).astype(int)
        for n, whole in zip(pixels.shape[:2], (height, width), strict=True)
    )
    truth = _locked(np.ascontiguousarray(truth[np.ix_(rows, columns)]))
    return Picture(image_id, array_digest(pixels), pixels, truth, (width, height), domain)


def thumbnail(run: Run, root: str, image_id: str, side: int = 72) -> bytes:
    """A JPEG that is sharp at `side` CSS pixels."""
    return _thumbnail(run.digest, root, image_id, side, _run=run)


@st.cache_data(max_entries=2000, show_spinner=False)
def _thumbnail(digest: str, root: str, image_id: str, side: int, *, _run: Run) -> bytes:
    shipped = photographs.of_run(_run) if photographs.is_photo(image_id) else None
    if shipped is not None:
        return _small_jpeg(shipped.image(photographs.name_of(image_id)), side)
    return _small_jpeg(_run.open_dataset(data_root(root)).image(image_id), side)


@st.cache_data(max_entries=1, show_spinner=False)
def blank_thumbnail() -> bytes:
    """Placeholder for a picture that is not available."""
    return _small_jpeg(np.full((12, 16, 3), 128, np.uint8), 16)


def upload_thumbnail(image_id: str, side: int = 72) -> bytes:
    """A JPEG of an upload of this session."""
    return _small_jpeg(upload(image_id).pixels, side)


def _small_jpeg(pixels: np.ndarray, side: int) -> bytes:
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((2 * side, 2 * side), Image.Resampling.LANCZOS)  # twice, for high-density screens
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def add_upload(content: bytes, data: DataConfig, window: tuple[int, int] | None = None, file_name: object = "") -> str:
    """Decode an uploaded file, keep it for this session, return its id. DataError says what is wrong.

    `data`: the run's, for bands and 16 bits a channel. `window`: row and column of the upper left of a window of the
    network's square, at the file's own resolution; None: all of it, reduced."""
    from lag_core.data.pictures import opened, read_small
    from lag_core.data.windows import window_part

    if window is None:
        pixels, (height, width) = read_small(content, data.range, data.bands)
    else:
        picture = opened(content, data.range, data.bands)
        pixels = picture.read(window_part("the picture", picture.size, *window, data.size))
        height, width = pixels.shape[:2]
    pixels = _locked(np.ascontiguousarray(pixels))
    digest = array_digest(pixels)
    uploads: dict[str, Picture] = st.session_state.setdefault(_UPLOADS, {})
    image_id = UPLOAD + digest
    uploads[image_id] = Picture(
        image_id, digest, pixels, None, (width, height), file_name=untrusted.plain(file_name, NAME_LENGTH)
    )
    while len(uploads) > UPLOADS_KEPT:
        del uploads[next(iter(uploads))]
    return image_id


def upload(image_id: str) -> Picture:
    """An upload that this session keeps; KeyError for others."""
    return cast(Picture, st.session_state[_UPLOADS][image_id])


def uploads() -> tuple[str, ...]:
    """Image ids of this session's uploads, newest first."""
    return tuple(reversed(st.session_state.get(_UPLOADS, {})))


@st.cache_resource(max_entries=64, show_spinner=False)
def network_lock(run_digest: str) -> threading.RLock:
    """The lock of one run's cached networks: held while they run and while hooks are in place."""
    return threading.RLock()


def networks(run: Run) -> Networks:
    """The networks of every step of `run`; use them only under `network_lock(run.digest)`.

    A step is loaded when it is asked for, and all runs share one bound in bytes (lag_core.explain.step_memory).
    """
    with network_lock(run.digest):
        return _networks(run.digest, _run=run)


@st.cache_resource(max_entries=64, show_spinner=False)
def _networks(digest: str, *, _run: Run) -> Networks:
    from lag_core.explain.networks import Networks

    return Networks(_run, device())


def trace(run: Run, image: Picture) -> Trace:
    """The trace of `image` through the steps of `run`, one for all sessions.

    A step's network runs under the run's lock when its result is first needed. Later reads (predictions, scores,
    latent maps) need no lock.
    """
    key = run.digest, image.digest, image.id if run.kind == "stored" else ""
    found = TRACES.find(key)
    if found is None:
        steps = networks(run)  # before the shelf is locked: the caller may hold the lock of the networks already
        found = TRACES.get(key, lambda: _trace(steps, image))
    TRACES.put(key, found)  # it grows with each step that runs
    return cast("Trace", found)


def _trace(steps: Networks, image: Picture) -> Trace:
    from lag_core.explain.trace import Trace

    return Trace(steps, image.pixels, name=image.id, running=lambda step: _running(steps.run, step))


@contextmanager
def _running(run: Run, step: int) -> Iterator[None]:
    """Hold the lock while the network of a step runs, and say so if a user waits for it."""
    with ExitStack() as held:
        if get_script_run_ctx(suppress_warning=True) is not None:
            words = f"Running the network of step {step} (the last is step {run.last_step})…"
            held.enter_context(st.spinner(words, show_time=True))
        held.enter_context(network_lock(run.digest))
        yield


def confusions(run: Run, domain: str | None = None) -> np.ndarray | None:
    """The run's confusion matrices int64 [T, K, K], read-only; None where it was not evaluated, or the file is damaged.

    `Run.faults` says what is wrong with it.
    """
    return _confusions(run.digest, _stamp(run, "metrics.json"), domain, _run=run)


@st.cache_resource(max_entries=512, show_spinner=False)
def _confusions(digest: str, stamp: int, domain: str | None, *, _run: Run) -> np.ndarray | None:
    try:
        matrices = _run.confusions(domain)
    except RunError:
        return None
    return None if matrices is None else _locked(matrices)


def faults(run: Run) -> tuple[str, ...]:
    """Optional parts of the run that are faulty and count as absent, each with its file and key."""
    names = ("metrics.json", "survey.json", *(f"analysis_{step:02d}.safetensors" for step in range(len(run.steps))))
    return _faults(run.digest, tuple(_stamp(run, name) for name in names), _run=run)


@st.cache_data(max_entries=128, show_spinner=False)
def _faults(digest: str, stamps: tuple[int, ...], *, _run: Run) -> tuple[str, ...]:
    from lag_core.explain.survey import METADATA, SurveyMissing, open_survey

    found = _run.faults()
    if os.path.lexists(_run.path / METADATA):
        try:
            found += open_survey(_run).faults
        except SurveyMissing as error:
            found.append(str(error))
    return tuple(found)


def survey(run: Run) -> Survey | None:
    """The result of `lag survey` on the whole validation set; None if it was not run, or no longer fits."""
    return _survey(run.digest, _stamp(run, "survey.json"), _run=run)


@st.cache_resource(max_entries=16, show_spinner=False)
def _survey(digest: str, stamp: int, *, _run: Run) -> Survey | None:
    from lag_core.explain.survey import read_survey

    return read_survey(_run) if stamp else None


def picture_set(run: Run, root: str) -> PictureSet | None:
    """The pictures that can show a run without its networks: the surveyed validation set, or the photographs that
    ship if the validation images are not available. None if neither was counted."""
    ids = ids_here(run, root)
    counted = photograph_counts.of_run(run) if ids and photographs.is_photo(ids[0]) else None
    return counted or _surveyed(run.digest, _stamp(run, "survey.json"), _run=run)


@st.cache_resource(max_entries=16, show_spinner=False)
def _surveyed(digest: str, stamp: int, *, _run: Run) -> PictureSet | None:
    found = _survey(digest, stamp, _run=_run)
    return None if found is None else PictureSet.of_survey(found)


def lost_shares(run: Run, step: int = -1, cls: int | None = None) -> dict[str, float]:
    """Image id -> share of its pixels (of one true class, or of all) forgotten after `step`, most lost pixels
    first. Images that lost nothing are left out; empty where the run has no survey."""
    return _lost_shares(run.digest, _stamp(run, "survey.json"), step, cls, _run=run)


@st.cache_resource(max_entries=256, show_spinner=False)
def _lost_shares(digest: str, stamp: int, step: int, cls: int | None, *, _run: Run) -> dict[str, float]:
    found = _survey(digest, stamp, _run=_run)
    return {image.id: image.share for image in found.rank_images(step, cls)} if found else {}


def _stamp(run: Run, name: str) -> int:
    """When a file of the run was last written, nanoseconds; 0 if never."""
    return _time_and_size(run.path / name)[0]


def array_digest(array: np.ndarray) -> str:
    """Hexadecimal digest of an array's shape, type and every byte."""
    head = f"{array.shape}{array.dtype.str}".encode()
    return hashlib.sha256(head + np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def _locked(array: Any) -> np.ndarray:
    """The array, made read-only: sessions share it."""
    array.flags.writeable = False
    return array

"""Choosing the image: a gallery of the run's validation images, those that lost most first, or an upload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import streamlit as st

from dashboard.cache import loaders, photographs
from dashboard.components.gallery import Thumbnail, thumbnails
from dashboard.state import opening, selection, settings
from dashboard.ui import untrusted, wording
from lag_core.config import DataConfig
from lag_core.data.dataset import DatasetMissing
from lag_core.data.files import DataError
from lag_core.data.pictures import LONGEST_SIDE, picture_size
from lag_core.data.windows import starts
from lag_core.runs import Run

GALLERY_PAGE, GALLERY_SIDE = 6, 60
"""Thumbnails on a page of the gallery, and their side in CSS pixels."""


def choose_image(run: Run, root: str) -> tuple[str, str]:
    """Draw the choice; returns the image id, and why there is none if it is empty."""
    ids, why = _images(run, root)
    lost = loaders.lost_shares(run)
    rank = {name: place for place, name in enumerate(lost)}
    ids = sorted(ids, key=lambda name: rank.get(name, len(rank)))  # stable: file order where nothing is known
    choices = [*loaders.uploads(), *ids]
    chosen, uploaded = "", {one: image_name(one) for one in loaders.uploads()}
    if choices:
        wished = opening.of_run(run).image
        default = wished if wished in ids else choices[0] if not ids else ids[0]
        chosen = settings.select(
            "Image", "image", choices, default, names=lambda one: uploaded.get(one) or image_name(one), stays=True
        )
        _gallery(run, root, choices, chosen, lost)
    else:
        selection.choose("image", ("",), "", "image")
        st.markdown("Image")
    if chosen and photographs.is_photo(chosen):
        st.caption(photographs.credit(chosen))
        st.caption(f"{photographs.SAID} To see the run's own, set the data root under Data and export.")
    if why:
        st.caption(f"{why}: here, the data root under Data and export. Or upload a picture.")
    _upload(run.config.data)
    return chosen, why and f"{why}: here, the data root in the sidebar, under Data and export. Or upload a picture."


def _images(run: Run, root: str) -> tuple[Sequence[str], str]:
    """The run's validation images, or else the photographs that ship; and why there are none."""
    try:
        return loaders.image_ids(run, root), ""
    except (DatasetMissing, DataError) as error:
        return (), untrusted.markdown(error)


def image_name(image_id: str) -> str:
    """What a list shows for an image id."""
    if image_id.startswith(loaders.UPLOAD):
        return _upload_name(image_id)
    if photographs.is_photo(image_id):
        return photographs.name_of(image_id)
    return untrusted.plain(image_id, 60)


def _upload_name(image_id: str) -> str:
    """The file's name; with four characters of the digest where another upload has the same name, or it has none."""
    kept = {other: loaders.upload(other).name for other in loaders.uploads()}
    name = kept.get(image_id, "uploaded picture")
    alone = sum(other == name for other in kept.values()) == 1 and name != "uploaded picture"
    return name if alone else f"{name} {image_id.removeprefix(loaders.UPLOAD)[:4]}"


def _gallery(run: Run, root: str, choices: Sequence[str], chosen: str, lost: Mapping[str, float]) -> None:
    """Thumbnails to choose from; a picture is made only when its page of the gallery is shown."""
    items = [
        Thumbnail(
            name,
            partial(_thumbnail, run, root, name),
            image_name(name),
            badge=wording.lost(lost.get(name, 0.0)),
            tone="bad",
            version=f"{run.digest}/{root}/{name}",
        )
        for name in choices
    ]
    if any(lost.get(name) for name in choices):
        st.caption("Number: share of the picture's pixels that were once right and are lost by the last step.")
    picked = thumbnails(items, key="gallery", selected=chosen, page_size=GALLERY_PAGE, size=GALLERY_SIDE)
    if picked is not None and picked != chosen:
        selection.go(image=picked)


def _thumbnail(run: Run, root: str, image_id: str) -> bytes:
    if image_id.startswith(loaders.UPLOAD):
        return loaders.upload_thumbnail(image_id)
    return loaders.thumbnail(run, root, image_id)


def _upload(data: DataConfig) -> None:
    windows = data.fit == "windows"
    scaled = f"scaled down to {LONGEST_SIDE} pixels and two megapixels if it is larger"
    cut = f"if it is larger than {data.size} pixels a side, you choose the window to show, at full resolution"
    with st.popover("Upload", icon=":material/upload:", width="stretch"):
        st.file_uploader(
            "A picture of your own",
            ["png", "jpg", "jpeg", "webp", "tif", "tiff"],
            key="upload",
            on_change=_take_upload,
            args=(data,),
            max_upload_size=10,
            help=f"It stays in this session, {cut if windows else scaled}.",
        )
        if windows and st.session_state.get("upload") is not None:
            _choose_window(data)


def _choose_window(data: DataConfig) -> None:
    """Which window of the uploaded picture is shown."""
    try:
        places, middle = _places(data)
    except DataError:  # the error was shown when it was uploaded
        return
    if len(places) > 1:
        st.selectbox(
            "Window (row, column of its upper left)", list(places), middle, key="upload_window",
            on_change=_take_upload, args=(data,),
        )  # fmt: skip


def _places(data: DataConfig) -> tuple[dict[str, tuple[int, int]], int]:
    """Row and column of each window of the uploaded picture by name, and which of them is in the middle."""
    height, width = picture_size(st.session_state["upload"].getvalue())
    tops, lefts = (starts(length, data.size, data.overlap) for length in (height, width))
    places = {f"{top},{left}": (top, left) for top in tops for left in lefts}
    return places, len(tops) // 2 * len(lefts) + len(lefts) // 2


def _window(data: DataConfig) -> tuple[int, int] | None:
    """The chosen window, at first the one in the middle; None if the picture has only one."""
    if data.fit != "windows":
        return None
    places, middle = _places(data)
    chosen = st.session_state.get("upload_window", "")
    return places.get(chosen, list(places.values())[middle]) if len(places) > 1 else None


def _take_upload(data: DataConfig) -> None:
    """Keep what was uploaded; `data`: the run's, for its bands, its range of values, and windows."""
    file = st.session_state.get("upload")
    if file is None:
        return
    name = untrusted.name(file.name, 60)
    try:
        image_id = loaders.add_upload(file.getvalue(), data, _window(data), file.name)
    except DataError as error:
        selection.note(f"{name}: {untrusted.markdown(error)}.")
        return
    st.session_state["image"] = image_id
    kept = loaders.upload(image_id)
    height, width = kept.pixels.shape[:2]
    if (width, height) != kept.full_size:
        full = " x ".join(map(str, kept.full_size))
        selection.note(
            f"{name} was scaled down from {full} to {width} x {height} pixels; everything here uses that size."
        )

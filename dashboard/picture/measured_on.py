"""The part of the pictures that verdicts are measured on: chosen on Overview, used by Forgetting and Why, too.

It is kept in the session and in the address: the kind of pictures, the digest of their names, and one bit a picture,
packed. Confusion matrices and flows of the part are sums of what the survey counted picture by picture, so no network
runs. A part is valid only for its pictures: a run that was surveyed on others is measured on all of its own.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass

import numpy as np
import streamlit as st

from dashboard.cache import loaders
from dashboard.cache.picture_set import PictureSet
from dashboard.page import Page
from dashboard.state import selection
from dashboard.ui import untrusted
from lag_core.explain.picture_counts import PictureCounts
from lag_core.runs import Run

KEY = "pictures"
"""Of the session and the address."""


@dataclass(frozen=True)
class MeasuredOn:
    """Some of a run's pictures."""

    pictures: PictureSet
    counts: PictureCounts
    chosen: np.ndarray
    """bool [N]."""

    @property
    def count(self) -> int:
        return int(self.chosen.sum())

    @property
    def words(self) -> str:
        """Such as "3 of 445 validation pictures"."""
        return f"{self.count} of {len(self.pictures)} {self.pictures.noun}"

    def confusions(self, domain: str | None = None) -> np.ndarray:
        """Confusion matrices int64 [T, K, K] of these pictures, of one domain or of all."""
        return self.counts.confusions(self.of_domain(domain))

    def of_domain(self, domain: str | None) -> np.ndarray:
        """bool [N], those of one domain or of all."""
        return self.chosen if domain is None else self.chosen & np.array([d == domain for d in self.pictures.domains])


def encode(pictures: PictureSet, chosen: np.ndarray) -> str:
    """The part as text for the address. Shape: bool [N]."""
    packed = zlib.compress(np.packbits(chosen).tobytes(), 9)
    return f"{pictures.kind[0]}{pictures.digest}{base64.urlsafe_b64encode(packed).decode().rstrip('=')}"


def decode(pictures: PictureSet, text: str) -> np.ndarray | None:
    """The reverse of `encode`, bool [N]; None if it is no part of these pictures, or empty."""
    head = f"{pictures.kind[0]}{pictures.digest}"
    if not text.startswith(head):
        return None
    size = -(-len(pictures) // 8)
    try:
        packed = base64.b64decode(text[len(head) :] + "=" * (-len(text[len(head) :]) % 4), b"-_", validate=True)
        stream = zlib.decompressobj()
        inflated = stream.decompress(packed, size + 1)
    except (ValueError, binascii.Error, zlib.error):
        return None
    if len(inflated) != size or not stream.eof or stream.unused_data:
        return None
    chosen = np.unpackbits(np.frombuffer(inflated, np.uint8))[: len(pictures)].astype(bool)
    return chosen if chosen.any() else None


def of_page(page: Page) -> MeasuredOn | None:
    """The part that the user has chosen, for the open run; None for all pictures."""
    pictures = loaders.picture_set(page.run, page.data_root)
    if pictures is None or pictures.counts is None:
        return None
    text = selection.text(KEY, lambda raw: decode(pictures, raw) is not None, "", "part of the pictures")
    if not text:
        return None
    if len(text) <= selection.LONGEST_VALUE:
        selection.use(KEY, text, "")
    chosen = decode(pictures, text)
    return None if chosen is None else MeasuredOn(pictures, pictures.counts, chosen)


def in_run(own: MeasuredOn | None, run: Run | None, root: str) -> MeasuredOn | None:
    """The same part in a compared run; None where that was not measured on the same pictures."""
    if own is None or run is None:
        return None
    theirs = loaders.picture_set(run, root)
    if theirs is None or theirs.counts is None or theirs.digest != own.pictures.digest:
        return None
    return MeasuredOn(theirs, theirs.counts, own.chosen)


def take(pictures: PictureSet, chosen: np.ndarray) -> None:
    """Measure on these from now on (a button's callback). All of them, or none, means all pictures."""
    some = bool(chosen.any()) and not bool(chosen.all())
    st.session_state[KEY] = encode(pictures, chosen) if some else ""


def chip(page: Page, own: MeasuredOn | None) -> None:
    """What the page is measured on, with a button to go back to all; nothing if it is all pictures."""
    if own is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="measured-on"):
        st.markdown(f":material/filter_alt: measured on **{own.words}**", width="content")
        st.button(
            f"Measure on all {len(own.pictures)}", key="measured-on-all", icon=":material/close:", type="tertiary",
            on_click=lambda: st.session_state.update({KEY: ""}),
        )  # fmt: skip
        if page.run2 is not None and in_run(own, page.run2, page.data_root) is None:
            name = untrusted.name(page.run2.name, 40)
            st.caption(f"{name} was measured on other pictures, so its numbers cover all of those.")

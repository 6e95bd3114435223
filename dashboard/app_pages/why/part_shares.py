"""Shares on a chosen part of the pictures: measured after a click, with a bar that can be cancelled, and kept.

A survey keeps shares of the whole validation set alone. Those of a part need its pictures and every hybrid of the
networks on them: the same pass as `lag survey`, on fewer pictures.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dashboard.cache import loaders
from dashboard.page import Empty, Page
from dashboard.picture import measured_on, reasons
from dashboard.picture.measured_on import MeasuredOn
from dashboard.ui import untrusted
from dashboard.ui.wording import counted
from lag_core.explain.shares import Shares
from lag_core.runs import Run
from lag_core.tiles import tiles_in

if TYPE_CHECKING:
    from lag_core.explain.cache import ResultCache
    from lag_core.explain.evidence import Work
    from lag_core.explain.networks import Networks


def of(page: Page, run: Run, part: MeasuredOn, cls: int, step: int) -> Shares:
    """The shares of class index `cls` of `run` at `step` on the part.

    Raises `Empty` until the user asks for them, and if no picture of the part shows the class.
    """
    from lag_core.explain.cache import ResultCache, key_of

    name = untrusted.markdown(run.classes[cls].name)
    if not part.pictures.pixels[part.chosen, cls].any():
        raise Empty(f"None of these pictures shows {name}, so there is no IoU to explain on them.")
    text, cache = measured_on.encode(part.pictures, part.chosen), ResultCache()
    key = key_of(run.digest, text, "shares-of-part", cls=cls, step=step, root=page.data_root)
    found = _kept(run, part, cls, step, cache, key)
    if found is not None:
        return found
    asked = f"part/{text}/{cls}/{step}"
    reasons.wait_for_asking(
        asked, True, f"Measure the shares on {counted(part.count, 'picture')}",
        f"The shares of {untrusted.name(run.name, 40)} on these pictures are not measured yet.",
    )  # fmt: skip
    pictures = ChosenPictures(run, page.data_root, part)
    return reasons.worked_off(_measured(loaders.networks(run), pictures, cls, step, cache, key), run, key, "Measuring")


def _kept(run: Run, part: MeasuredOn, cls: int, step: int, cache: ResultCache, key: str) -> Shares | None:
    from lag_core.explain import stored_shares

    arrays = cache.get(key)
    try:
        stored = stored_shares.from_arrays(arrays or {}, [one.name for one in run.classes], tiles_in(_names(part)))
    except (KeyError, ValueError):
        return None
    return None if stored is None else stored.of(cls, step)


def _measured(
    networks: Networks, pictures: ChosenPictures, cls: int, step: int, cache: ResultCache, key: str
) -> Work[Shares]:  # fmt: skip
    from lag_core.explain import stored_shares
    from lag_core.explain.hybrids import pair_of
    from lag_core.explain.shares_pass import shares_on

    source = networks.run.labels.step_of(cls)
    pair = pair_of((networks, source), (networks, step))
    (found,) = yield from shares_on(pair, [cls], pictures, names=pictures.ids)
    cache.put(key, stored_shares.to_arrays({(cls, source, step): found}))
    return found


def _names(part: MeasuredOn) -> list[str]:
    return [name for name, chosen in zip(part.pictures.ids, part.chosen, strict=True) if chosen]


class ChosenPictures(Sequence[tuple[np.ndarray, np.ndarray]]):
    """The part's pictures with their truths in the run's class indices, read when they are asked for."""

    def __init__(self, run: Run, root: str, part: MeasuredOn):
        self._run, self._root = run, root
        self.ids = _names(part)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: Any) -> Any:
        found = loaders.picture(self._run, self._root, self.ids[place])
        if found is None or found.truth is None:
            raise Empty(f"{untrusted.name(self.ids[place])} is not available with its annotation.")
        return found.pixels, found.truth

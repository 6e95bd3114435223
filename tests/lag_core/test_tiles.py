"""Windows of one tile are drawn together wherever an interval is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from lag_core.explain.shares import Counts, bootstrap_weights
from lag_core.image_counts import ImageCounts
from lag_core.protocol import LabelSpace
from lag_core.tiles import by_tile, tiles_in, tiles_of, window_name

LABELS = LabelSpace(((0, 1),), 0)
WINDOWS = 9


def test_windows_find_their_tile_and_other_names_stand_alone() -> None:
    names = [window_name("a", 0, 0), "b", window_name("a", 0, 64), "mail@home", window_name("c@1,2", 3, 4)]
    assert tiles_of(names).tolist() == [0, 1, 0, 2, 3]
    assert tiles_in(names) == 4 and tiles_in([]) == 0


def test_counts_of_a_tile_are_the_sums_over_its_windows() -> None:
    counts = np.arange(12).reshape(4, 3)
    assert by_tile(counts, np.array([0, 1, 0, 1])).tolist() == [[6, 8, 10], [12, 14, 16]]


def measured(names: list[str], rights: np.ndarray) -> ImageCounts:
    """Images of a hundred pixels of class 1, of which so many are found."""
    found = ImageCounts(LABELS)
    for name, right in zip(names, rights, strict=True):
        called = np.zeros((10, 10), np.uint8)
        called.flat[:right] = 1
        found.add(0, name, np.ones((10, 10), np.uint8), called)
    return found


def test_windows_that_say_the_same_make_no_interval_narrower() -> None:
    """Nine windows of a tile that are alike know as much as the tile."""
    rights = np.array([20, 35, 50, 65, 80, 90])
    tiles = measured([f"t{i}" for i in range(6)], rights).intervals(draws=4000)
    names = [window_name(f"t{i}", 0, 64 * k) for i in range(6) for k in range(WINDOWS)]
    windows = measured(names, np.repeat(rights, WINDOWS)).intervals(draws=4000)
    assert windows.iou[0, 1] == pytest.approx(tiles.iou[0, 1])
    assert (windows.low[0, 1], windows.high[0, 1]) == pytest.approx((tiles.low[0, 1], tiles.high[0, 1]))


def test_one_tile_has_no_interval() -> None:
    names = [window_name("t", 0, 64 * k) for k in range(4)]
    found = measured(names, np.array([20, 40, 60, 80])).intervals()
    assert found.iou[0, 1] == pytest.approx(0.5)
    assert np.isnan(found.low[0]).all() and found.as_dict(0)["high"][1] is None


def test_shares_draw_tiles_too() -> None:
    rng = np.random.default_rng(0)
    of_tiles = Counts(
        rng.integers(1, 50, (5, 4)), rng.integers(50, 99, (5, 4)), rng.integers(1, 60, 5), np.zeros(5, int)
    )
    arrays = (of_tiles.hits, of_tiles.called, of_tiles.true, of_tiles.called_new)
    halved = Counts(*(np.concatenate([one // 2, one - one // 2]) for one in arrays))
    together = halved.by_tile(np.tile(np.arange(5), 2))
    assert len(together) == 5 and np.array_equal(together.hits, of_tiles.hits)
    assert bootstrap_weights(len(together), 3).shape == (3, 5)

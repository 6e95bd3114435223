"""What `lag evaluate` says of its intervals."""

from __future__ import annotations

import pytest

from lag_core.commands.evaluate import _measured_on


@pytest.mark.parametrize(
    "images, said",
    [
        (["a"], "1 image, too few for an interval"),
        (["a", "b"], "2 images, with its 95 % bootstrap interval over them"),
        (["a@0,0", "a@0,9", "b"], "3 windows of 2 tiles, with its 95 % bootstrap interval over the tiles"),
        (["a@0,0", "a@0,9"], "2 windows of 1 tile, too few for an interval"),
    ],
)
def test_over_what_the_intervals_are(images: list[str], said: str) -> None:
    assert _measured_on(images) == said

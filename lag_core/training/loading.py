"""Views read and augmented ahead of the training, in worker processes.

A view depends on its image and number alone (`draw_view`), so the batches are the same to the bit however many workers
draw them, and an interrupted training gets the same ones again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lag_core.data.pictures import DataError
from lag_core.data.transforms import MEAN, STD
from lag_core.sentences import Said

AHEAD = 3
"""Batches that each worker keeps ready."""

Draw = Callable[[int, int], tuple[Tensor, Tensor]]
"""(row of the image, number of the view) -> uint8 [3, S, S], uint8 [s, s]."""

Order = tuple[Sequence[int], Sequence[int]]
"""Rows and numbers of the views of one batch."""


class WorkerLost(Said, RuntimeError):
    """A worker process ended without being asked to."""


class _Drawn(Dataset):
    """Items by (row, view). A DataError is returned, since one raised in a worker loses its message."""

    def __init__(self, draw: Draw):
        self.draw = draw

    def __getitem__(self, place: tuple[int, int]) -> tuple[Tensor, Tensor] | DataError:
        try:
            return self.draw(*place)
        except DataError as error:
            return error


def stack(drawn: Sequence[tuple[Tensor, Tensor] | DataError]) -> tuple[Tensor, Tensor] | DataError:
    """One batch of views; the first error, if there is one. Shape: -> uint8 [b, 3, S, S], uint8 [b, s, s]."""
    views: list[tuple[Tensor, Tensor]] = []
    for one in drawn:
        if isinstance(one, DataError):
            return one
        views.append(one)
    return torch.stack([image for image, _ in views]), torch.stack([mask for _, mask in views])


def loaded(draw: Draw, orders: Iterable[Order], workers: int, pin: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of `orders`, drawn ahead by `workers` processes; 0: drawn here on demand.

    pin: into memory that a GPU reads while it computes.
    Raises DataError for a picture that cannot be used, WorkerLost if a worker process dies.
    """
    places = ([*zip(map(int, rows), map(int, picks), strict=True)] for rows, picks in orders)
    loader = DataLoader(
        _Drawn(draw),
        batch_sampler=_Once(places),
        num_workers=workers,
        collate_fn=stack,
        pin_memory=pin,
        prefetch_factor=AHEAD if workers else None,
    )
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch[0], batch[1]
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerLost("a process that reads images ended, perhaps for lack of memory") from error


class _Once:
    """A batch sampler over an iterator."""

    def __init__(self, places: Iterator[list[tuple[int, int]]]):
        self.places = places

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.places


def normalised(images: Tensor, device: torch.device) -> Tensor:
    """The network's input, made on `device`; bit-identical to `transforms.to_input`.

    Shape: uint8 [..., 3, S, S] -> float32, same shape.
    """
    mean, std = (torch.from_numpy(np.asarray(v)).to(device).view(3, 1, 1) for v in (MEAN, STD))
    return images.to(device, non_blocking=True).float().div_(255).sub_(mean).div_(std)

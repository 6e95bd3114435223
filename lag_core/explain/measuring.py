"""Counts the predictions of a run's steps on validation images, for any kind of run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from lag_core import processes
from lag_core.data.dataset import Dataset
from lag_core.data.pictures import Readable
from lag_core.data.remap import truth
from lag_core.data.windows import readable
from lag_core.explain.networks import Networks
from lag_core.explain.trace import Trace
from lag_core.metrics import added, confusion
from lag_core.model.windows import Decided, predict_bands
from lag_core.runs import Run


def windowed(networks: Networks, picture: Readable, step: int, overlap: float) -> Iterator[tuple[slice, Decided]]:
    """A step's prediction for a picture of any size, by windows at its own resolution, some rows at a time
    (model.windows)."""
    config = networks.run.config
    return predict_bands(
        picture,
        lambda inputs: networks.passes(inputs).output(step).logits,
        networks.run.labels,
        config.method.loss,
        config.data.size,
        overlap,
    )


def _mine(names: Iterable[str], everywhere: processes.Processes) -> Iterator[str]:
    """Every `count`-th of the names; a progress bar around them moves with each."""
    return (name for place, name in enumerate(names) if place % everywhere.count == everywhere.rank)


def window_confusions(
    run: Run,
    dataset: Dataset,
    names: Iterable[str],
    overlap: float,
    device: str = "cpu",
    listener: Callable[[int, str, np.ndarray, np.ndarray], object] | None = None,
) -> list[dict[str, np.ndarray]]:
    """As `confusions`, each image predicted by overlapping windows at its own resolution."""
    networks, classes = Networks(run, device), len(run.classes)
    totals: list[dict[str, np.ndarray]] = [{} for _ in range(len(networks))]
    everywhere = processes.current()
    for name in _mine(names, everywhere):
        true, domain = truth(dataset.mask(name), run.labels), dataset.domain(name)
        for step, total in enumerate(totals):
            bands = [found.labels for _, found in windowed(networks, readable(dataset, name), step, overlap)]
            predicted = np.concatenate(bands)
            if listener is not None:
                listener(step, name, true, predicted)
            counted = confusion(true, predicted, classes)
            total[domain] = total.get(domain, np.zeros_like(counted)) + counted
    return added(everywhere.gathered(totals))


def confusions(
    run: Run,
    dataset: Dataset,
    names: Iterable[str],
    device: str = "cpu",
    listener: Callable[[int, str, np.ndarray, np.ndarray], object] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Confusion matrix int64 [K, K] of each domain, for each step, over the named images at their own size.

    `listener` is called for each image, as `training.evaluation.Listener`.
    """
    networks, classes = Networks(run, device), len(run.classes)
    totals: list[dict[str, np.ndarray]] = [{} for _ in range(len(networks))]
    everywhere = processes.current()
    for name in _mine(names, everywhere):
        true = truth(dataset.mask(name), run.labels)
        trace, domain = Trace(networks, dataset.image(name), true, name), dataset.domain(name)
        for step, total in enumerate(totals):
            predicted = trace.prediction(step)
            if listener is not None:
                listener(step, name, true, predicted)
            counted = confusion(true, predicted, classes)
            total[domain] = total.get(domain, np.zeros_like(counted)) + counted
    return added(everywhere.gathered(totals))

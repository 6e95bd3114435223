"""The training images of a configuration: those of each step, and those held out of all steps."""

from __future__ import annotations

from lag_core.config import Config, ConfigError
from lag_core.data.dataset import Dataset
from lag_core.data.splits import domain_of_step, hold_out, images_of_step
from lag_core.protocol import LabelSpace


def held_out(config: Config, dataset: Dataset) -> list[str]:
    """The training images that no step trains on; empty if the configuration holds none out."""
    return hold_out(list(dataset.ids("train")), config.data.holdout, seed=0)[1]


def step_images(config: Config, dataset: Dataset, labels: LabelSpace, step: int) -> list[str]:
    """The training images of a step: the protocol's choice among those that are not held out.

    Joint training sees the images of every domain. ConfigError if no image fits.
    """
    kept, _ = hold_out(list(dataset.ids("train")), config.data.holdout, seed=0)
    present = dataset.present("train")
    joint = config.method.labels == "all"
    ids = images_of_step(
        {name: present[name] for name in kept},
        labels,
        step,
        config.data.setting,
        fraction=config.data.fraction,
        selection=config.data.selection,
        seed=config.optim.seed,
        domain_of=dataset.domain,
        domains=() if joint else config.data.domains,
    )
    if not ids:
        raise ConfigError(f"step {step} of task {config.data.task!r} has no training image ({config.data.setting})")
    return ids


def from_other_domains(config: Config, labels: LabelSpace, step: int) -> list[int]:
    """The old channels whose own step had images of another domain than `step`."""
    here = domain_of_step(config.data.domains, step)
    return [
        channel
        for earlier in range(step)
        if domain_of_step(config.data.domains, earlier) != here
        for channel in labels.new_channels(earlier)
        if channel >= labels.first_foreground
    ]

"""How an owner describes a network so that it can be explained: a class of under 30 lines.

    class Mine(Adapter):
        classes = ("background", "road", "roof", "tree")
        steps = (3, 1)
        size = 512
        latent = "decoder.project"

        def load(self, path, step, device):
            net = MyNetwork(classes=sum(self.steps[: step + 1]))
            net.load_state_dict(torch.load(path, map_location=device, weights_only=True))
            return net

Source: ours (docs/adr/0006-the-interface-of-a-network.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from lag_core.data.transforms import MEAN, STD
from lag_core.runs import RunError


class AdapterError(RunError):
    """An adapter that cannot be used; the message says why."""


class Adapter:
    """Opens the step checkpoints of a network. Subclasses define the attributes and `load`, and often `logits`."""

    classes: tuple[str, ...] = ()
    """Names of the classes in the order of the logits' channels and of their introduction. They are looked
    up in the dataset. A class called "background" must be the first."""
    steps: tuple[int, ...] = ()
    """How many classes each step introduces, the background counted in step 0."""
    size: int = 512
    """Side of the square that the network sees; longer pictures are scaled down, shorter ones padded."""
    latent: str = ""
    """Path of the module whose output is Z, float [B, C, h, w], as in `net.get_submodule`; empty: there is none."""
    head: str = ""
    """Path of the module that makes the logits of Z alone; empty: the pass is replayed with Z replaced."""
    rule: Literal["softmax", "sigmoid"] = "softmax"
    """How logits become probabilities; the highest wins."""
    mean: tuple[float, ...] = tuple(map(float, MEAN))
    std: tuple[float, ...] = tuple(map(float, STD))
    """Standard deviation of RGB in [0, 1] that normalises the network's input; default: ImageNet's."""

    def load(self, path: Path, step: int, device: str) -> nn.Module:
        """The network of a step from its checkpoint, on `device`. Read tensors alone: `weights_only=True`."""
        raise NotImplementedError

    def logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """Logits of normalised images. Shape: [B, 3, S, S] -> [B, classes known, h, w], of any h and w."""
        return net(images)


def check(adapter: Adapter) -> None:
    """AdapterError for attributes that do not fit together."""
    name = type(adapter).__name__
    if not adapter.classes or not adapter.steps:
        raise AdapterError(f"adapter {name} names no classes or no steps: set `classes` and `steps`")
    if min(adapter.steps) < 1 or sum(adapter.steps) != len(adapter.classes):
        raise AdapterError(
            f"adapter {name} has {len(adapter.classes)} classes, but its steps introduce {list(adapter.steps)}"
        )
    if len(set(adapter.classes)) != len(adapter.classes) or "background" in adapter.classes[1:]:
        raise AdapterError(f'adapter {name}: a class appears twice, or "background" is not the first')
    if adapter.rule not in ("softmax", "sigmoid"):
        raise AdapterError(f"adapter {name}: rule = {adapter.rule!r}; allowed are 'softmax' and 'sigmoid'")
    if adapter.head and not adapter.latent:
        raise AdapterError(f"adapter {name} names a head but no module for Z: set `latent`")

"""One image through every step of a run; the trunk runs once."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from lag_core.data.transforms import content_size, fit, to_input
from lag_core.model.prediction import class_probabilities, full_size, label_map
from lag_core.model.segmenter import Output, Segmenter, upsample
from lag_core.model.weights import load_steps
from lag_core.runs import Run


class Networks:
    """The networks of all steps of a run. Tensors that a step did not change are held once."""

    def __init__(self, run: Run, device: str = "cpu"):
        self.run = run
        self.device = torch.device(device)
        self.steps: list[Segmenter] = load_steps(run, device)

    def __len__(self) -> int:
        return len(self.steps)


class Trace:
    """What every step makes of one image. Arrays are NumPy; computed when asked for, and kept.

    `image` is uint8 [H, W, 3]. The network sees it in a square of side `square`, of which it fills `inside` (h, w);
    latent maps and logits have the square's proportions, predictions and scores the image's.
    """

    def __init__(self, networks: Networks, image: np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f"expected an image uint8 [H, W, 3], found {image.dtype} {image.shape}")
        self.networks, self.image = networks, image
        self.run = networks.run
        self.square = self.run.config.data.size
        self.inside = content_size(image.shape[0], image.shape[1], self.square)
        self.outputs: dict[int, Output] = {}
        self._trunk: Tensor | None = None

    @property
    def steps(self) -> range:
        """Steps of the run."""
        return range(len(self.networks))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the image."""
        return self.image.shape[0], self.image.shape[1]

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the image's pixels."""
        return image_digest(self.image)

    @torch.no_grad()
    def trunk(self) -> Tensor:
        """Features at the end of the shared trunk, float32 [1, T, h, w]."""
        if self._trunk is None:
            square = fit(self.image, self.square)[0][None]
            inputs = torch.from_numpy(to_input(square)).to(self.networks.device)
            self._trunk = self.networks.steps[0].trunk(inputs)
        return self._trunk

    @torch.no_grad()
    def output(self, step: int) -> Output:
        """Stage, latent and logits of `step` as tensors [1, ...]."""
        if step not in self.outputs:
            self.outputs[step] = self.networks.steps[step].behind_trunk(self.trunk())
        return self.outputs[step]

    def latent(self, step: int) -> np.ndarray:
        """The latent map Z, float32 [C, h, w]."""
        return self.output(step).latent[0].cpu().numpy()

    def logits(self, step: int) -> np.ndarray:
        """float32 [channels, h, w], one a training channel."""
        return self.output(step).logits[0].cpu().numpy()

    @torch.no_grad()
    def prediction(self, step: int, logits: Tensor | None = None) -> np.ndarray:
        """Class indices, uint8 [H, W]. With `logits` [1, channels, h, w], of those instead of the step's own."""
        own = self.output(step).logits if logits is None else logits
        full = full_size(own, self.square, self.inside, self.size)
        return label_map(full, self.run.labels, self.run.config.method.loss)[0].cpu().numpy()

    @torch.no_grad()
    def scores(self, step: int, long_side: int = 64) -> np.ndarray:
        """Probability of each class known at `step`, float32 [seen, gh, gw] on a grid over the image.

        BCE-trained networks score each class by itself, so the scores need not add up to 1.
        """
        height, width = self.size
        factor = min(1.0, long_side / max(height, width))
        grid = max(1, round(height * factor)), max(1, round(width * factor))
        full = full_size(self.output(step).logits, self.square, self.inside, self.inside)
        scores = class_probabilities(full, self.run.labels, self.run.config.method.loss)
        return upsample(scores, grid)[0].clamp(0, 1).cpu().numpy()


def image_digest(image: np.ndarray) -> str:
    """Hexadecimal digest of an image: its shape and every pixel."""
    return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()[:24]

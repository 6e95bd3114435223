"""Replay of class statistics: Gaussian feature vectors of old classes, instead of stored images.

Source: ours (docs/method.md#additions); in the spirit of LAG's prototypes, but not part of the paper. What is kept of a
class is a count, means and second moments of the latent map Z: no image, and nothing that could be turned
into one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lag_core.method.regions import membership, region_sums
from lag_core.model.heads import AnyHead
from lag_core.protocol import IGNORE

Covariance = Literal["mean", "diagonal", "rectified", "full"]

_FIELDS = ("count", "mean", "scatter", "pairs", "pair_mean", "pair_product")


class ClassStatistics:
    """Running statistics of Z at the pixels of each training channel, in float64 on the CPU.

    `count` [K], `mean` [K, C], `scatter` [K, C] or, with `full`, [K, C, C]: sums of (products of) deviations
    from the mean. `pairs` [K], `pair_mean` [K, C], `pair_product` [K, C]: sums over neighbouring pixels of
    one class, from which `neighbour_correlation` follows. `rectified` says that the features come out of a ReLU,
    so that samples below 0 become 0.
    """

    def __init__(self, channels: int, latent: int, *, full: bool = False, rectified: bool = True):
        self.floor = 0.0 if rectified else -math.inf
        shape = (latent, latent) if full else (latent,)
        self.count = torch.zeros(channels, dtype=torch.float64)
        self.mean = torch.zeros(channels, latent, dtype=torch.float64)
        self.scatter = torch.zeros(channels, *shape, dtype=torch.float64)
        self.pairs = torch.zeros(channels, dtype=torch.float64)
        self.pair_mean = torch.zeros(channels, latent, dtype=torch.float64)
        self.pair_product = torch.zeros(channels, latent, dtype=torch.float64)
        self._shapes: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def full(self) -> bool:
        """Whether the whole covariance is kept."""
        return self.scatter.dim() == 3

    @property
    def known(self) -> Tensor:
        """Channels with at least one pixel. Shape: bool [K]."""
        return self.count > 0

    @torch.no_grad()
    def update(self, latent: Tensor, labels: Tensor) -> None:
        """Add the labelled pixels of a batch. Shape: Z [B, C, h, w], labels int64 [B, h, w], 255 ignored."""
        z, labels = latent.detach().double().cpu(), labels.cpu()
        regions = membership(labels, range(len(self.count)))
        added = regions.flatten(1).sum(1).double()
        means = region_sums(z, regions) / added.clamp(min=1)[:, None]
        self._merge(added, means, self._scatter_of(z, regions, means))
        for axis in (2, 3):
            self._add_pairs(z, labels, axis)
        self._shapes.clear()

    def _scatter_of(self, z: Tensor, regions: Tensor, means: Tensor) -> Tensor:
        """Scatter of one batch about its own means. Shape: Z, bool [K, B, h, w], [K, C] -> like `scatter`."""
        pixels, scatter = z.movedim(1, -1), torch.zeros_like(self.scatter)
        for k in regions.flatten(1).any(1).nonzero()[:, 0].tolist():
            deviation = pixels[regions[k]] - means[k]
            scatter[k] = deviation.T @ deviation if self.full else deviation.square().sum(0)
        return scatter

    def _merge(self, count: Tensor, mean: Tensor, scatter: Tensor) -> None:
        """Pool two sets of moments; centred sums avoid the cancellation of raw ones."""
        total = (self.count + count).clamp(min=1)
        delta = mean - self.mean
        between = delta[:, :, None] * delta[:, None] if self.full else delta.square()
        share = self.count * count / total
        self.scatter += scatter + between * share.view(-1, *[1] * (self.scatter.dim() - 1))
        self.mean += delta * (count / total)[:, None]
        self.count += count

    def _add_pairs(self, z: Tensor, labels: Tensor, axis: int) -> None:
        length = z.shape[axis] - 1
        first, second = z.narrow(axis, 0, length), z.narrow(axis, 1, length)
        here, there = labels.narrow(axis - 1, 0, length), labels.narrow(axis - 1, 1, length)
        regions = membership(here.masked_fill(here != there, IGNORE), range(len(self.count)))
        self.pairs += regions.flatten(1).sum(1)
        self.pair_mean += region_sums((first + second) / 2, regions)
        self.pair_product += region_sums(first * second, regions)

    @torch.no_grad()
    def pool(self, channels: Sequence[int], others: Sequence[Mapping[str, Tensor]]) -> None:
        """Take `channels` from several statistics that saw different pixels (`state_dict` of each)."""
        rows = list(channels)
        self.reset(rows)
        for state in others:
            own = {name: torch.zeros_like(getattr(self, name)) for name in _FIELDS}
            for name in _FIELDS:
                own[name][rows] = state[name][rows].to(own[name])
            self._merge(own["count"], own["mean"], own["scatter"])
            for name in ("pairs", "pair_mean", "pair_product"):
                getattr(self, name).add_(own[name])

    def grow(self, channels: int) -> None:
        """Make room for `channels` training channels in all; the new ones are empty."""
        for name in _FIELDS:
            value = getattr(self, name)
            more = value.new_zeros(channels - len(value), *value.shape[1:])
            setattr(self, name, torch.cat([value, more]))
        self._shapes.clear()

    def reset(self, channels: Sequence[int]) -> None:
        """Forget `channels`, so that they can be measured again."""
        for name in _FIELDS:
            getattr(self, name)[list(channels)] = 0
        self._shapes.clear()

    def variance(self) -> Tensor:
        """Variance of each channel of Z within each class. Shape: float64 [K, C]."""
        scatter = self.scatter.diagonal(dim1=1, dim2=2) if self.full else self.scatter
        return scatter / self.count.clamp(min=1)[:, None]

    def covariance(self) -> Tensor:
        """Covariance of Z within each class. Shape: float64 [K, C, C]. ValueError without `full`."""
        if not self.full:
            raise ValueError("only variances were kept: build ClassStatistics with full=True")
        return self.scatter / self.count.clamp(min=1)[:, None, None]

    def neighbour_correlation(self) -> Tensor:
        """Correlation of Z between neighbouring pixels of a class, pooled over channels. Shape: [K] in 0..1.

        A class without any two neighbouring pixels has 1, so its patches are constant.
        """
        pairs = self.pairs.clamp(min=1)[:, None]
        covariance = self.pair_product / pairs - (self.pair_mean / pairs).square()
        correlation = covariance.sum(1) / self.variance().sum(1).clamp(min=1e-12)
        return torch.where(self.pairs > 0, correlation.clamp(0, 1), torch.ones_like(correlation))

    @torch.no_grad()
    def sample(
        self,
        classes: Sequence[int],
        n: int,
        generator: torch.Generator,
        covariance: Covariance = "diagonal",
    ) -> tuple[Tensor, Tensor]:
        """`n` feature vectors of each of `classes`; training channels without statistics are left out.

        Values below 0 become 0, as Z comes out of a ReLU; that lifts the mean of sparse channels. "rectified"
        chooses the Gaussian so that mean and variance are right *after* the cut. "mean" repeats the mean.

        Shape: -> features float32 [N, C] >= 0, channels int64 [N].
        """
        patches, channels = self._draw(classes, n, generator, covariance, 1)
        return patches[:, :, 0], channels

    @torch.no_grad()
    def sample_patches(
        self,
        classes: Sequence[int],
        n: int,
        generator: torch.Generator,
        covariance: Covariance = "diagonal",
    ) -> tuple[Tensor, Tensor]:
        """As `sample`, but 3x3 patches whose pixels vary as neighbours of the class do (see `as_patches`).

        Any two pixels of a patch have the class's `neighbour_correlation`.

        Shape: -> patches float32 [N, C, 3, 3] >= 0, channels int64 [N]; the logit at the centre counts.
        """
        patches, channels = self._draw(classes, n, generator, covariance, 9)
        return patches.unflatten(2, (3, 3)), channels

    @torch.no_grad()
    def sample_maps(
        self,
        classes: Sequence[int],
        n: int,
        size: tuple[int, int],
        generator: torch.Generator,
        covariance: Covariance = "diagonal",
        around: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """`n` feature maps for each of `classes`: a rectangle of the class, and channel `around` about it.

        The rectangle covers between a third of each side and all of it. Pixels of one region vary as neighbours of
        the class do. Where `around` has no statistics its pixels repeat the class and carry label 255.

        Shape: -> maps float32 [N, C, *size], labels int64 [N, *size].
        """
        height, width = size
        inner, channels = self._draw(classes, n, generator, covariance, height * width)
        if len(channels) == 0:
            return inner.reshape(0, inner.shape[1], height, width), channels.new_zeros(0, height, width)
        inside = _rectangles(len(channels), size, generator)
        labels = torch.where(inside, channels[:, None, None], around if self.count[around] > 0 else IGNORE)
        maps = inner.unflatten(2, size)
        if self.count[around] > 0:
            outer, _ = self._draw([around], len(channels), generator, covariance, height * width)
            maps = torch.where(inside[:, None], maps, outer.unflatten(2, size))
        return maps, labels

    def _draw(
        self, classes: Sequence[int], n: int, generator: torch.Generator, covariance: Covariance, pixels: int
    ) -> tuple[Tensor, Tensor]:
        """Patches of `pixels` pixels. Shape: -> float32 [N, C, pixels], int64 [N]."""
        wanted = torch.tensor([k for k in classes if self.count[k] > 0], dtype=torch.int64)
        location, spread = self._shape_of(covariance)
        noise = torch.randn(len(wanted), n, pixels + 1, self.mean.shape[1], generator=generator)
        if pixels == 1:
            noise = noise[:, :, :1]
        else:
            shared = self.neighbour_correlation()[wanted].float().view(-1, 1, 1, 1)
            noise = shared.sqrt() * noise[:, :, :1] + (1 - shared).sqrt() * noise[:, :, 1:]
        if spread.dim() == 3:
            deviation = (noise.flatten(1, 2) @ spread[wanted].mT).view_as(noise)
        else:
            deviation = noise * spread[wanted, None, None]
        features = (location[wanted, None, None] + deviation).clamp(min=self.floor)
        return features.flatten(0, 1).mT.contiguous(), wanted.repeat_interleave(n)

    def _shape_of(self, covariance: Covariance) -> tuple[Tensor, Tensor]:
        """Location [K, C] and spread ([K, C], or a triangular factor [K, C, C]), kept until an update."""
        if covariance not in self._shapes:
            self._shapes[covariance] = self._fit(covariance)
        return self._shapes[covariance]

    def _fit(self, covariance: Covariance) -> tuple[Tensor, Tensor]:
        if covariance == "mean":
            return self.mean.float(), torch.zeros_like(self.mean).float()
        if covariance == "diagonal":
            return self.mean.float(), self.variance().sqrt().float()
        if covariance == "rectified":
            location, spread = rectified_gaussian(self.mean, self.variance())
            return location.float(), spread.float()
        if covariance == "full":
            return self.mean.float(), _triangular_factor(self.covariance()).float()
        raise ValueError(f"replay_covariance {covariance!r}: known are mean, diagonal, rectified, full")

    def state_dict(self) -> dict[str, Tensor]:
        """All that is needed to continue, and to replay from a stored run."""
        return {name: getattr(self, name).clone() for name in _FIELDS}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load stored statistics (any float type), whatever their number of channels."""
        for name in _FIELDS:
            setattr(self, name, state[name].double().cpu().clone())
        self._shapes.clear()


def _rectangles(n: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A random rectangle in each of `n` maps. Shape: -> bool [n, *size]."""
    sides = []
    for length in size:
        extent = (torch.rand(n, generator=generator) * 2 / 3 + 1 / 3) * length
        start = torch.rand(n, generator=generator) * (length - extent)
        place = torch.arange(length) + 0.5
        sides.append((place >= start[:, None]) & (place < (start + extent)[:, None]))
    return sides[0][:, :, None] & sides[1][:, None, :]


def as_patches(features: Tensor) -> Tensor:
    """Constant 3x3 patches: the 3x3 convolution of a head sees one vector; the centre logit counts.

    Shape: [N, C] -> [N, C, 3, 3].
    """
    return features[:, :, None, None].expand(-1, -1, 3, 3)


def patch_logits(heads: nn.ModuleList, patches: Tensor) -> Tensor:
    """All heads' logits at the centre of 3x3 patches: the convolution unpadded, nothing else computed.

    Shape: [N, C, 3, 3] -> [N, K, 1, 1], ready for the classification losses with labels [N, 1, 1].
    """
    return torch.cat([head.of_patches(patches) for head in cast(list[AnyHead], heads)], 1)


def rectified_gaussian(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Location m and spread s such that max(0, m + s x), x normal, has the given mean (>= 0) and variance.

    The ratio mean^2 / (mean^2 + variance) grows with a = m / s alone, so a is found by bisection.

    Shape: twice [...] -> twice [...], float64. Source: ours.
    """
    mean, variance = mean.double(), variance.double()
    ratio = mean.square() / (mean.square() + variance).clamp(min=1e-30)
    low, high = torch.full_like(ratio, -6.0), torch.full_like(ratio, 60.0)
    for _ in range(60):
        middle = (low + high) / 2
        first, second = _rectified_moments(middle)
        below = first.square() / second < ratio
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    spread = mean / _rectified_moments(low)[0]
    return low * spread, spread


def _rectified_moments(a: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of max(0, a + x), x normal."""
    density = torch.exp(-a.square() / 2) / math.sqrt(2 * math.pi)
    below = torch.special.ndtr(a)
    return density + a * below, (1 + a.square()) * below + a * density


def _triangular_factor(covariance: Tensor) -> Tensor:
    """Cholesky factor; a class with fewer pixels than channels gets a little noise to be invertible.

    Shape: float64 [K, C, C] -> same.
    """
    size = covariance.diagonal(dim1=1, dim2=2).mean(1)
    jitter = (1e-4 * size).clamp(min=1e-12)[:, None, None] * torch.eye(covariance.shape[1], dtype=torch.float64)
    return torch.linalg.cholesky(covariance + jitter)

"""One step's network behind an adapter, with the interface that explanations need."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lag_core.adapters.adapter import Adapter, AdapterError
from lag_core.adapters.replay import Replay, latent_and_logits, rows_of, upstream
from lag_core.data.transforms import MEAN, STD
from lag_core.model.linear_start import LinearStart, sums_up
from lag_core.model.segmenter import Output
from lag_core.protocol import LabelSpace
from lag_core.relevance.lrp import NotFinite
from lag_core.relevance.tape import NoRule, TapedPass
from lag_core.relevance.target import Target

SIDE = 128
"""Side of the self-test's pictures, if the network accepts it; else the adapter's own."""
TOLERANCE = 1e-4
"""Largest difference in the self-test, as a share of the largest logit."""
CONSERVED = 1e-3
"""Largest conservation error with which LRP is offered."""
OTHERS = "the logits decoded from Z differ from the network's"
UNMOVED = "the logits do not change when Z changes"
"""Faults that the self-test finds. `UNMOVED`: no logit depends on what the adapter calls Z."""
NEVER = -1e4
"""Logit of the unknown class, which a network without a background has no channel for."""


class HeadDecoder:
    """The way from Z to logits through the module that the adapter names as head."""

    def __init__(self, head: nn.Module, complete: Callable[[Tensor], Tensor], pictures: int):
        self.head, self.complete, self.pictures = head, complete, pictures

    def __call__(self, latent: Tensor, rows: Any = None) -> Tensor:
        rows_of(rows, len(latent), self.pictures)
        return self.complete(self.head(latent.clone()))

    def linear_heads(self) -> list[LinearStart]:
        """The head, if it begins with a convolution; see `HasLinearHeads`."""
        modules = list(self.head) if isinstance(self.head, nn.Sequential) else [self.head]
        first, rest = modules[0], nn.Sequential(*modules[1:])
        if not sums_up(first):
            return []
        assert isinstance(first, nn.Conv2d)
        return [LinearStart(first, lambda x: self.complete(rest(x)), first.out_channels)]


class AdaptedStep(nn.Module):
    """The network of one step. Images are normalised by ImageNet's values; its own normalisation is applied here.

    Shape: [B, 3, S, S] -> `Output`. AdapterError if the network does not fit the adapter's description.
    """

    def __init__(self, adapter: Adapter, net: nn.Module, step: int, labels: LabelSpace):
        super().__init__()
        self.adapter, self.step, self.labels = adapter, step, labels
        self.net = net.eval().requires_grad_(False)
        self.lock = threading.RLock()
        self._target = self._module(adapter.latent) if adapter.latent else None
        self._head = self._module(adapter.head) if adapter.head else None
        self._early: list[nn.Module] = []
        self.eval()
        self._test()

    def __deepcopy__(self, memo: dict[int, Any]) -> AdaptedStep:
        import copy

        return AdaptedStep(self.adapter, copy.deepcopy(self.net, memo), self.step, self.labels)

    def _module(self, path: str) -> nn.Module:
        try:
            return self.net.get_submodule(path)
        except AttributeError as error:
            raise AdapterError(f"adapter {self.name}: the network has no module {path!r} ({error})") from None

    @property
    def name(self) -> str:
        return type(self.adapter).__name__

    def trunk(self, images: Tensor) -> Tensor:
        """The images themselves: an adapter does not say what steps share."""
        return images

    def behind_trunk(self, images: Tensor) -> Output:
        """The whole pass."""
        if self._target is None:
            logits = self._logits(images)
            return Output(logits, logits[:, :0], logits)
        with self.lock:
            latent, logits = latent_and_logits(self._target, self._logits, images, self.adapter.latent)
        return Output(latent, latent, logits)

    def forward(self, images: Tensor) -> Output:
        return self.behind_trunk(images)

    def decoder(self, images: Tensor) -> Callable[..., Tensor]:
        """The way from Z of these images to logits; see `Replay`. AdapterError where the adapter names no Z."""
        if self._target is None:
            raise AdapterError(f"adapter {self.name} names no module for Z: set `latent`")
        if self._head is None:
            return Replay(self._target, self._early, self._logits, images, self.lock)
        return HeadDecoder(self._head, self._with_unknown, len(images))

    def recording(self, images: Tensor) -> TapedPass:
        """A pass of these images for LRP. `NoRule` for a network with a layer that has none (relevance.tape)."""
        if self._target is None:
            raise NoRule("a network without Z")
        inputs = self._normalised(images).contiguous()
        own, hidden = self.adapter, int(self.labels.unknown)
        with self.lock:
            return TapedPass(lambda x: own.logits(self.net, x), self._target, inputs, own.mean, own.std, hidden)

    def without_lrp(self) -> str:
        """Why LRP is not offered for this network, as found on pictures of noise; empty if it is."""
        try:
            recording = self.recording(self._pictures()[:1])
            for composite in ("epsilon", "composite"):
                error = float(recording.relevance(Target(int(self.labels.unknown)), composite).error.max())
                if not error < CONSERVED:
                    return f"relevance is not conserved (error {error:.1g})"
        except (NoRule, NotFinite) as reason:
            return str(reason)
        return ""

    def _logits(self, images: Tensor) -> Tensor:
        """One logit per training channel."""
        return self._with_unknown(self.adapter.logits(self.net, self._normalised(images).contiguous()))

    def _with_unknown(self, logits: Any) -> Tensor:
        known = self.labels.seen(self.step)
        if not isinstance(logits, Tensor) or logits.dim() != 4 or logits.shape[1] != known:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise AdapterError(f"adapter {self.name}: step {self.step} gives {shape} for {known} classes [B, K, h, w]")
        if not self.labels.unknown:
            return logits
        return torch.cat([torch.full_like(logits[:, :1], NEVER), logits], 1)

    def _normalised(self, images: Tensor) -> Tensor:
        """By the adapter's mean and deviation instead of ImageNet's."""
        own, theirs = (self.adapter.mean, self.adapter.std), (tuple(map(float, MEAN)), tuple(map(float, STD)))
        if own == theirs:
            return images
        mean, std, own_mean, own_std = (images.new_tensor(v).view(1, 3, 1, 1) for v in (*theirs, *own))
        return (images * std + mean - own_mean) / own_std

    # ------------------------------------------------------------------ self-test

    @torch.no_grad()
    def _test(self) -> None:
        """decode(Z) must be the logits, for each picture of a batch; it must follow a change of Z."""
        images = self._pictures()
        if self._target is None:
            return
        if self._head is None:
            self._early = upstream(self.net, self._target, self._logits, images)
            if not self._fault(images):
                return
            self._early = []  # the remembered outputs cannot be split by picture: the whole pass is replayed
        if fault := self._fault(images):
            what = "head" if self._head is not None else "latent"
            raise AdapterError(
                f"adapter {self.name}, step {self.step}: {fault} ({what} = {getattr(self.adapter, what)!r}); "
                f"{self._remedy(fault)}"
            )

    def _remedy(self, fault: str) -> str:
        if fault == UNMOVED and self._head is None:
            return "name a module whose output determines the logits"
        return "leave `head` out to replay the pass" if self._head is not None else "name another module"

    def _pictures(self) -> Tensor:
        """Two pictures of noise that the network takes, on its device."""
        generator = torch.Generator().manual_seed(0)
        like = next(self.net.parameters(), torch.zeros(()))
        sides = sorted({min(SIDE, self.adapter.size), self.adapter.size})
        for side in sides:
            images = torch.randn(2, 3, side, side, generator=generator).to(like.device)
            try:
                self.behind_trunk(images)
            except AdapterError:
                raise
            except Exception as error:  # a network that accepts only one size may raise anything
                if side == sides[-1]:
                    raise AdapterError(f"adapter {self.name}, step {self.step}: a pass failed ({error})") from error
                continue
            break
        return images

    def _fault(self, images: Tensor) -> str:
        """What is wrong with decoding; empty where it gives the network's logits, in another order of the pictures,
        and follows a change of Z."""
        latent, _, logits = cast("tuple[Tensor, ...]", self.behind_trunk(images))
        decode, order = self.decoder(images), [1, 0]
        changed = latent.flip(-1) * 1.5
        if torch.equal(changed, latent):  # a map of zeros
            changed = latent + 1
        try:
            same = decode(latent[order], order)
            moved = decode(changed[order], order)
            whole = moved if not self._early else self._replayed(changed, images)[order]
        except AdapterError:
            raise
        except Exception:  # remembered outputs of an unknown form
            return OTHERS
        if same.shape != logits.shape:
            return OTHERS
        scale = float(logits[:, int(self.labels.unknown) :].abs().max()) or 1.0
        close = (same - logits[order]).abs().max() <= TOLERANCE * scale
        if not close:
            return OTHERS
        if torch.equal(moved, same):
            return UNMOVED
        most = max(scale, float(whole[:, int(self.labels.unknown) :].abs().max()))
        return "" if (moved - whole).abs().max() <= TOLERANCE * most else OTHERS

    def _replayed(self, latent: Tensor, images: Tensor) -> Tensor:
        """With nothing remembered."""
        assert self._target is not None
        return Replay(self._target, (), self._logits, images, self.lock)(latent)

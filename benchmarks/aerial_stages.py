"""Which stages of the frozen trunk see the classes of the aerial tiles: `python benchmarks/aerial_stages.py`.

A small network (1x1 and dilated 3x3 convolution, 64 wide, 1x1) is trained on the features of 50 training tiles of
each domain with all labels, and measured on 15 other training tiles of each. Several stages are brought to
the size of the finest. Prints IoU in percent of each class, and their mean.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.config import ModelConfig
from lag_core.data.aerial import CLASSES, AerialDataset
from lag_core.data.transforms import to_input
from lag_core.model.backbone import STAGES
from lag_core.model.weights import pretrained_backbone
from lag_core.protocol import IGNORE

TRAINED, MEASURED, SIZE, ITERATIONS, BATCH = 50, 15, 256, 250, 4
KNOWN = [one[0] for one in CLASSES if 0 < one[0] < IGNORE]
SETS = (("layer4",), ("layer3",), ("layer1", "layer2", "layer3"), ("layer2", "layer3"), ("layer2",), ("layer1",))


def features(backbone: nn.Module, tiles: AerialDataset, ids: list[str]) -> tuple[dict[str, Tensor], Tensor]:
    """float16 [N, C, h, w] of each stage from layer1 on, and int64 [N, S, S] labels, 255 ignored."""
    found: dict[str, list[Tensor]] = {name: [] for name in STAGES[1:]}
    for start in range(0, len(ids), 5):
        maps = torch.from_numpy(to_input(np.stack([tiles.image(one) for one in ids[start : start + 5]])))
        with torch.no_grad():
            for name in STAGES:
                maps = getattr(backbone, name)(maps)
                if name in found:
                    found[name].append(maps.half())
    table = torch.full((256,), IGNORE)
    table[KNOWN] = torch.arange(len(KNOWN))
    masks = torch.from_numpy(np.stack([tiles.mask(one) for one in ids])).long()
    return {name: torch.cat(parts) for name, parts in found.items()}, table[masks]


def joined(maps: dict[str, Tensor], names: tuple[str, ...], rows: list[int]) -> Tensor:
    """Float maps of `names`, enlarged to the size of the first, beside one another."""
    parts = [maps[name][rows].float() for name in names]
    size = parts[0].shape[-2:]
    return torch.cat([F.interpolate(part, size=size, mode="bilinear") for part in parts], 1)


def fitted(maps: dict[str, Tensor], labels: Tensor, names: tuple[str, ...]) -> nn.Module:
    """The small network, trained on every second pixel of the labels."""
    torch.manual_seed(0)
    width = joined(maps, names, [0]).shape[1]
    body = [nn.Conv2d(width, 64, 1), nn.BatchNorm2d(64), nn.ReLU()]
    body += [nn.Conv2d(64, 64, 3, padding=2, dilation=2), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, len(KNOWN), 1)]
    net = nn.Sequential(*body)
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: (1 - i / ITERATIONS) ** 0.9)
    rng = np.random.default_rng(0)
    for _ in range(ITERATIONS):
        rows = rng.integers(0, len(labels), BATCH).tolist()
        wanted = labels[rows][:, 1::2, 1::2]
        logits = F.interpolate(net(joined(maps, names, rows)), size=wanted.shape[1:], mode="bilinear")
        optimiser.zero_grad()
        F.cross_entropy(logits, wanted, ignore_index=IGNORE).backward()
        optimiser.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def iou(net: nn.Module, maps: dict[str, Tensor], labels: Tensor, names: tuple[str, ...]) -> np.ndarray:
    """Of each class, in percent."""
    confusion = np.zeros((len(KNOWN), len(KNOWN)))
    for start in range(0, len(labels), 5):
        rows = list(range(start, min(start + 5, len(labels))))
        said = F.interpolate(net(joined(maps, names, rows)), size=(SIZE, SIZE), mode="bilinear").argmax(1)
        counted = labels[rows] != IGNORE
        np.add.at(confusion, (labels[rows][counted].numpy(), said[counted].numpy()), 1)
    hits = confusion.diagonal()
    return 100 * hits / (confusion.sum(0) + confusion.sum(1) - hits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=Path("checkpoints/shared/e0c5910a7ee5b661.safetensors"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    tiles = AerialDataset(TRAINED + MEASURED, 0, SIZE)
    domains = ("rgb", "irrg")
    backbone = pretrained_backbone(ModelConfig(output_stride=8, weights=str(options.weights))).eval()
    train = features(backbone, tiles, [f"{d}-train-{i:04d}" for d in domains for i in range(TRAINED)])
    held = features(backbone, tiles, [f"{d}-train-{TRAINED + i:04d}" for d in domains for i in range(MEASURED)])
    for names in SETS:
        found = iou(fitted(*train, names), *held, names)
        print(" + ".join(names), found.round(1), f"mean {found.mean():.1f}", flush=True)


if __name__ == "__main__":
    main()

"""What one linear layer reads from a frozen trunk: `python benchmarks/trunk_probe.py --data ROOT --backbone NAME …`.

A 1x1 convolution is trained with softmax and AdamW on the trunk's output for all classes of a folder dataset, on
evenly spaced training images, and measured on evenly spaced validation images at the network's square.
Prints a line of JSON: IoU in percent of each class and their mean.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lag_core.config import ModelConfig
from lag_core.data.dataset import Dataset
from lag_core.data.folder import open_folder
from lag_core.data.transforms import fit, fit_mask, to_input
from lag_core.metrics import confusion, iou
from lag_core.model.weights import pretrained_backbone
from lag_core.protocol import IGNORE

STRIDE, EPOCHS, BATCH, RATE = 4, 30, 16, 2e-3
"""Pixels between labels that train; passes over the images; images of a batch; AdamW's rate, falling to 0."""


def spaced(ids: list[str], number: int) -> list[str]:
    """`number` of the ids, evenly spaced; 0: all."""
    return ids if not 0 < number < len(ids) else [ids[i * len(ids) // number] for i in range(number)]


def features(trunk: nn.Module, dataset: Dataset, ids: list[str], size: int) -> tuple[Tensor, Tensor]:
    """float16 [N, C, h, w] and uint8 [N, S, S] dataset ids, 255 ignored."""
    found = []
    for start in range(0, len(ids), 8):
        images = np.stack([fit(dataset.image(one), size)[0] for one in ids[start : start + 8]])
        with torch.no_grad():
            found.append(trunk(torch.from_numpy(to_input(images))).half())
    return torch.cat(found), torch.from_numpy(np.stack([fit_mask(dataset.mask(one), size) for one in ids]))


def fitted(maps: Tensor, labels: Tensor, classes: int) -> nn.Module:
    """Batch norm, which only scales, and one linear layer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm2d(maps.shape[1]), nn.Conv2d(maps.shape[1], classes, 1))
    optimiser = torch.optim.AdamW(net.parameters(), RATE)
    batches = [order for _ in range(EPOCHS) for order in torch.randperm(len(maps)).split(BATCH)]
    for step, rows in enumerate(batches):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / len(batches))
        small = labels[rows][:, STRIDE // 2 :: STRIDE, STRIDE // 2 :: STRIDE].long()
        logits = F.interpolate(net(maps[rows].float()), size=small.shape[-2:], mode="bilinear")
        optimiser.zero_grad()
        F.cross_entropy(logits, small, ignore_index=IGNORE).backward()
        optimiser.step()
    return net.eval()


@torch.no_grad()
def measured(net: nn.Module, maps: Tensor, labels: Tensor, classes: int) -> np.ndarray:
    """IoU of each class."""
    total = np.zeros((classes, classes), np.int64)
    for row in range(len(maps)):
        logits = F.interpolate(net(maps[row : row + 1].float()), size=labels.shape[-2:], mode="bilinear")
        total += confusion(labels[row].numpy(), logits.argmax(1)[0].numpy(), classes)
    return iou(total)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder dataset whose ids are 0..K-1")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--weights", required=True, help="as model.weights")
    parser.add_argument("--size", type=int, default=240)
    parser.add_argument("--train", type=int, default=0, help="training images; 0: all")
    parser.add_argument("--val", type=int, default=0, help="validation images; 0: all")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_folder(options.data)
    classes = 1 + max(one.id for one in dataset.info.classes)
    trunk = pretrained_backbone(ModelConfig(backbone=options.backbone, weights=options.weights)).eval()
    parts = {
        split: features(trunk, dataset, spaced(list(dataset.ids(split)), number), options.size)
        for split, number in (("train", options.train), ("val", options.val))
    }
    net = fitted(*parts["train"], classes)
    found = 100 * measured(net, *parts["val"], classes)
    counts = {split: len(maps) for split, (maps, _) in parts.items()}
    result = {"iou": found.round(1).tolist(), "mean": round(float(found.mean()), 1)}
    print(json.dumps({"backbone": options.backbone, **counts, **result}))


if __name__ == "__main__":
    main()

"""A folder dataset of coloured rectangles, and configurations that train on it in a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lag_core import config as configuration
from lag_core.config import Config
from lag_core.data.pictures import read_image
from lag_core.data.transforms import to_input
from lag_core.method.presets import preset
from lag_core.model.backbone import classifier
from lag_core.runs import Run
from lag_core.training.continual import train
from lag_core.training.model_card import changed_toml
from lag_core.training.reporting import Reporter

SIDE = 32
CLASSES = [
    {"id": 0, "name": "background", "color": [0, 0, 0]},
    {"id": 1, "name": "red", "color": [220, 40, 40]},
    {"id": 2, "name": "green", "color": [40, 200, 60]},
    {"id": 3, "name": "blue", "color": [50, 70, 230]},
    {"id": 4, "name": "yellow", "color": [230, 220, 50]},
]


def write_shapes(root: Path, train_images: int = 18, val_images: int = 4, ground: str = "background") -> Path:
    """Write the dataset: each image has rectangles of two classes, neighbours in a circle of four.

    `ground` names class 0; called anything but "background", it is a class like the others.
    """
    rng = np.random.default_rng(0)
    names = [f"s{k:02d}" for k in range(train_images + val_images)]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    (root / "classes.json").write_text(json.dumps([{**CLASSES[0], "name": ground}, *CLASSES[1:]]))
    for k, name in enumerate(names):
        image, mask = picture(rng, (k % 4 + 1, (k + 1) % 4 + 1))
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    for split, part in (("train", names[:train_images]), ("val", names[train_images:])):
        (root / f"{split}.txt").write_text("".join(f"{name}\n" for name in part))
    return root


def picture(rng: np.random.Generator, classes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [SIDE, SIDE, 3] and its mask uint8 [SIDE, SIDE]."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for cls in classes:
        y, x = rng.integers(0, SIDE // 2, 2)
        mask[y : y + SIDE // 2, x : x + SIDE // 2] = cls
    colors = np.array([one["color"] for one in CLASSES], np.int64)
    noisy = colors[mask] + rng.integers(-20, 20, (SIDE, SIDE, 3))
    return noisy.clip(0, 255).astype(np.uint8), mask


def tables(root: Path, name: str, **sections: dict[str, Any]) -> dict[str, Any]:
    """The nested tables of a tiny run; `sections` are laid over them."""
    small: dict[str, Any] = {
        "data": {
            "dataset": "folder", "root": str(root), "task": "2-1-1", "size": SIDE, "views": 1, "holdout": 0.2,
        },
        "model": {"latent": 8, "head_width": 4, "aspp_rates": [1]},
        "optim": {"epochs": 2, "epochs_later": 3, "batch": 4, "threads": 1, "device": "cpu"},
        "log": {"events_every": 1, "gradients_every": 1, "resume_seconds": 1e6},
    }  # fmt: skip
    return configuration.merge([preset(name), small, sections])


def tiny_config(root: Path, name: str, **sections: dict[str, Any]) -> Config:
    return configuration.resolve(tables(root, name, **sections))


def tiny_run(root: Path, out: Path, name: str, **sections: dict[str, Any]) -> Run:
    """Train a tiny run without a word."""
    return train(tiny_config(root, name, **sections), out, reporter=Reporter(quiet=True))


def lively_backbone(data: Path, out: Path) -> Path:
    """Write a random MobileNetV2 whose batch norms know the pictures, so that its features are of order 1."""
    torch.manual_seed(0)
    backbone = classifier("mobilenet_v2")
    for norm in (m for m in backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.momentum = None  # type: ignore[assignment]  # cumulative mean
    pictures = np.stack([read_image(path) for path in sorted((data / "images").glob("*.png"))])
    with torch.no_grad():
        backbone.train()(torch.from_numpy(to_input(pictures)))
    torch.save(backbone.state_dict(), out)
    return out


def write_toml(path: Path, config: Config) -> Path:
    path.write_text(changed_toml(config) + "\n")
    return path

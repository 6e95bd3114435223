"""A training of seconds on generated tiles, for browser tests that need real networks."""

from pathlib import Path

from lag_core.cli import main

CONFIG = """
[data]
dataset = "aerial"
task = "2-2-1"
domains = ["rgb", "irrg"]
size = 64
views = 1
tiles = 12
[model]
backbone = "mobilenet_v2"
latent = 16
head_width = 8
[optim]
epochs = 1
epochs_later = 1
batch = 4
threads = 1
"""


def train_small(root: Path, *methods: str) -> None:
    """Write the finished runs root/aerial-2-2-1-METHOD."""
    file = root / "small.toml"
    file.write_text(CONFIG)
    for method in methods:
        command = ["train", "--config", str(file), "--quiet", "--method", method]
        assert main([*command, "--out", str(root / f"aerial-2-2-1-{method}")]) == 0

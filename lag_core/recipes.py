"""Recipes: settings for a kind of data, overridden by a method's own and by the file's. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RECIPES: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    # A few dozen to a few thousand images: a frozen trunk whose output is kept, four views of each image, a least
    # number of iterations for each step, and a warm-up, as the shipped results on photographs were made.
    "small": {
        "data": {"views": 4},
        "optim": {
            "lr_stage": 0.0,
            "epochs": 12,
            "epochs_later": 8,
            "min_iterations_first": 400,
            "min_iterations": 150,
            "warmup": 0.1,
            "amp": "auto",
        },
    },
}

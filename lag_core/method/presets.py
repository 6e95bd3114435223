"""The methods by name. A method is a choice of parts; adding one is adding an entry here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lag_core.config import ConfigError

Tables = Mapping[str, Mapping[str, Any]]

_LIVE = {"extractor": "live", "old_heads": "live"}

PRESETS: dict[str, Tables] = {
    # The lower bound: the new labels alone, everything after the trunk trains.
    "finetune": {"method": {"loss": "bce", **_LIVE}, "optim": {"extractor_delay": 0.0}},
    # The upper bound: all classes annotated, all images, one step.
    "joint": {"method": {"loss": "bce", "labels": "all"}},
    # Probing: frozen extractor and old heads, a fresh head for the new classes.
    "frozen": {"method": {"loss": "bce"}},
    # What the authors' released runs did (docs/method.md#reference): LAG's terms are there, but have no effect.
    "reference": {
        "method": {
            "loss": "bce",
            "unknown": True,
            "transfer": True,
            "pseudo": "hard",
            "kd_latent": 1.0,
            "spm": 1.0,
            "sfp": 1.0,
            "nsc": 1.0,
        }
    },
    # LAG with losses that have an effect: ASPP (and the last stage, if it is not part of the trunk) train.
    "lag": {
        "method": {
            "loss": "bce",
            "unknown": True,
            "transfer": True,
            "pseudo": "hard",
            "extractor": "live",
            "kd_logits": 10.0,
            "kd_latent": 10.0,
            "spm": 0.5,
            "sfp": 0.5,
            "nsc": 0.5,
        }
    },
    # Ours: statistics of the old classes at the frozen trunk's output. The step's own images are carried over to the
    # old classes and pass through everything that trains; a new head starts from the old class that its class looks
    # like; classes compete by softmax. LAG's own three terms are off: they are not shown to help here
    # (docs/results.md).
    "lag+": {
        "method": {
            "loss": "ce",
            "unknown": True,
            "transfer": True,
            "transfer_from": "nearest",
            "pseudo": "hard",
            "kd_logits": 10.0,
            "replay": 1.0,
            "replay_at": "trunk",
            "replay_maps": "carried",
            "replay_domain": "same",
            "replay_kd": 3.0,
            "replay_samples": 2,
            "replay_covariance": "full",
            **_LIVE,
        },
        "optim": {"extractor_delay": 0.1, "warmup": 0.1, "clip": 10.0, "lr_head_later": 0.003, "lr_aspp_later": 0.005},
    },
    # Modelling the background (arXiv 2002.00718).
    "mib": {
        "method": {"loss": "mib", "mib_kd": 10.0, "init_from_background": True, **_LIVE},
        "optim": {"extractor_delay": 0.0},
    },
    # Decomposed knowledge distillation (NeurIPS 2022).
    "dkd": {
        "method": {
            "loss": "bce_foreground",
            "transfer": True,
            "kd_logits": 5.0,
            "dkd": 5.0,
            "auxiliary": 0.1,  # with 1, a short step does not undo what it learned (docs/results.md#dkd-and-star)
            **_LIVE,
        },
        "optim": {"extractor_delay": 0.0},
    },
    # Prototype replay (NeurIPS 2023), without exemplars.
    "star": {
        "method": {
            "loss": "bce_foreground",
            "pseudo": "hard",
            "replay": 1.0,
            "replay_balance": True,
            "ocfm": 10.0,
            "sad": 0.1,
            **_LIVE,
        },
        "optim": {"extractor_delay": 0.0},
    },
    # Pooled outputs distillation with local POD (arXiv 2011.11390).
    "plop": {
        "method": {"loss": "ce", "pseudo": "entropy", "pod": 0.01, "init_from_background": True, **_LIVE},
        "optim": {"extractor_delay": 0.0},
    },
}


def preset(name: str) -> dict[str, dict[str, Any]]:
    """The tables of a method, its name in them. ConfigError for an unknown one."""
    if name not in PRESETS:
        raise ConfigError(f"method {name!r} is unknown; known: {', '.join(PRESETS)}")
    tables = {section: dict(values) for section, values in PRESETS[name].items()}
    tables.setdefault("method", {})["name"] = name
    return tables

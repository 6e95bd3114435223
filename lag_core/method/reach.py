"""Which parameters a loss term trains, and which keys of a method affect step 0. No torch."""

from __future__ import annotations

from lag_core.config import MethodConfig
from lag_core.loss_terms import LOSS_TERMS

FIRST_STEP_METHOD = (
    "loss", "unknown", "labels", "replay_covariance", "replay_at", "replay_maps", "positive", "auxiliary",
)  # fmt: skip
"""Keys of [method] that affect step 0 or what it stores for the next one."""


def heads_only(method: MethodConfig) -> frozenset[str]:
    """Terms that reach the heads alone by design: DKD's auxiliary classifier, and replay at Z.

    At the trunk's output, replay reaches everything after it.
    """
    always = frozenset(name for name, term in LOSS_TERMS.items() if term.heads_only)
    return always | {"replay"} if method.replay_at == "latent" else always

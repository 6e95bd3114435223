"""Which parameters a loss term can reach, as the configuration has it. No torch."""

from __future__ import annotations

from lag_core.config import MethodConfig
from lag_core.loss_terms import LOSS_TERMS


def heads_only(method: MethodConfig) -> frozenset[str]:
    """Terms that reach the heads alone by design: DKD's auxiliary classifier, and replay at Z.

    At the trunk's output, replay reaches all behind it.
    """
    always = frozenset(name for name, term in LOSS_TERMS.items() if term.heads_only)
    return always | {"replay"} if method.replay_at == "latent" else always

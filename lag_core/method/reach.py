"""Which parameters a loss term can reach, as the configuration has it. No torch."""

from __future__ import annotations

from lag_core.config import MethodConfig


def heads_only(method: MethodConfig) -> frozenset[str]:
    """Terms that reach the heads alone by design: DKD's auxiliary classifier, and replay at Z.

    At the trunk's output, replay reaches all behind it.
    """
    return frozenset({"replay", "auxiliary"}) if method.replay_at == "latent" else frozenset({"auxiliary"})

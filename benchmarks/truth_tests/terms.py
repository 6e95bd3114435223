"""Do shares, rollouts and training again agree on which loss term held the old classes? Tables from stored results.

All three as "held by": a share with its sign turned, and what leaving a term out adds to the probe's loss, in nats,
mean over the old classes. Segmentation is no candidate: nobody trains without it. Agreement: Spearman's rank
correlation over the candidate terms, against the shares measured most often.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

import numpy as np

from lag_core.explain.attribution_checks import rank_correlation

ALL = "all"
SETTINGS = ("without distillation", "with distillation")


def remainder_table(results: dict[str, Any]) -> str:
    """What is left unexplained, by distance between measurements."""
    lines = [
        "| `lag` | measured | sum of the shares | measured change | unexplained | of the largest share |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for setting in (name for name in SETTINGS if name in results):
        for name, event in results[setting]["shares"].items():
            net, change = event["net"][ALL], event["loss"][ALL] - mean(event["before"])
            left, largest = change - sum(net.values()), max(map(abs, net.values()))
            lines.append(
                f"| {setting} | {name} | {sum(net.values()):+.2f} | {change:+.2f} | {left:+.2f} "
                f"| {100 * abs(left) / largest:.0f} % |"
            )
    return "\n".join(lines)


def held_by(row: dict[str, Any]) -> dict[str, dict[str, float]]:
    """By way of measuring: how much each candidate term held the old classes, nats."""
    found = {
        f"shares, {name}": {term: -event["net"][ALL].get(term, 0.0) for term in row["terms"]}
        for name, event in row["shares"].items()
    }
    for one in row["rollouts"]:
        name = f"rollout of {one['count']} iterations from {one['first']}"
        if one["first"] == 0 and one["count"] == 150:
            name = "the step again"
        found[name] = {term: mean(one["cost"][term]) for term in row["terms"]}
    return found


def agreement_table(results: dict[str, Any]) -> str:
    """How each way ranks the terms, and how it agrees with the shares that were measured most often."""
    lines = ["| `lag` | way | held by (nats) | rank agreement |", "| --- | --- | --- | --- |"]
    for setting in (name for name in SETTINGS if name in results):
        ways = held_by(results[setting])
        first = next(iter(ways.values()))
        for way, found in ways.items():
            order = sorted(found, key=lambda term: -found[term])
            words = ", ".join(f"{term} {found[term]:+.2f}" for term in order)
            agree = rank_correlation(np.array([first[t] for t in first]), np.array([found[t] for t in first]))
            lines.append(f"| {setting} | {way} | {words} | {agree:+.2f} |")
    return "\n".join(lines)

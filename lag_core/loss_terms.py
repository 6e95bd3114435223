"""Every loss term that preserves something, once: its weight key, bounds, schedule, words and formula. No torch.

A term is a field of `TermWeights`, which `MethodConfig` inherits: the field's name is the term's name in logs and its
key in the configuration, its default is the weight without a preset. The computation has the same name
in lag_core/method/terms.py. A new term needs no other change (docs/extending.md).

The segmentation term is not here: every method has it, with weight 1.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

from lag_core.bounds import bounded

Schedule = Literal["constant", "decayed", "ramped"]
"""The weight over a step: constant; times kd_decay ** progress; growing from 0 over the first `ramp` of the step.
docs/method.md#schedule."""

LARGEST = 1e6
"""Upper bound of a weight."""


@dataclass(frozen=True)
class LossTerm:
    """One loss term in words."""

    short: str
    """Its name in a sentence."""
    meaning: str
    """One sentence for the Training page."""
    formula: str
    """LaTeX."""
    colour: str
    """#RRGGBB of its curves: Okabe and Ito's palette, and a violet."""
    schedule: Schedule = "constant"
    needs_split: bool = False
    """Whether it uses the split of the channels."""
    sparse: bool = False
    """Whether it is taken on every nsc_every-th iteration only."""
    needs_teacher: bool = True
    """Whether it is defined only if there is a network of the previous step."""
    heads_only: bool = False
    """Whether it reaches the heads alone, whatever else trains."""


def _weight(short: str, meaning: str, formula: str, colour: str, **more: Any) -> Any:
    return bounded(0.0, 0.0, LARGEST, term=LossTerm(short, meaning, formula, colour, **more))


@dataclass(frozen=True)
class TermWeights:
    """The weight of each loss term; 0: the term is not computed. In the order in which terms are computed."""

    spm: float = _weight(
        "SPM",
        "Semantic-prototype matching: keeps each class's mean latent on the invariant channels near its prototype, and "
        "away from the other classes' and the unknown's.",
        r"\mathrm{mean}_k \lVert p_k(B) - p_k^{ref} \rVert^2"
        r" + \lambda\, \mathrm{mean} \max(0, \cos(p_k(B), p_j^{ref}) - m)^2",
        "#D55E00",
        schedule="ramped",
        needs_split=True,
    )
    sfp: float = _weight(
        "SFP",
        "Specific-feature preserving: keeps the sample-specific channels of old classes near the old network's.",
        r"\mathrm{mean}_k \max(0, \lVert v_k^{old} - v_k \rVert - \lVert v_k^{old} - n_k \rVert + 1)"
        r" + \mathrm{mean}_b \lVert g_b^{old} - g_b \rVert^2",
        "#E69F00",
        schedule="ramped",
        needs_split=True,
    )
    nsc: float = _weight(
        "NSC",
        "Neuron-relevant semantic consistency: old classes must be recognised by the same evidence as before.",
        r"\mathrm{mean}_k \lVert r_k^{old} - r_k \rVert^2,"
        r" \quad r_k = \mathrm{relu}(\textstyle\sum_c Z_c\, \partial s_k / \partial Z_c)",
        "#0072B2",
        schedule="ramped",
        sparse=True,
    )
    kd_logits: float = _weight(
        "distillation of the logits",
        "Distillation of the logits: old classes score as the old network scored them.",
        r"\mathrm{BCE}(z, \sigma(z^{old})) - \mathrm{BCE}(z^{old}, \sigma(z^{old}))",
        "#009E73",
        schedule="decayed",
    )
    kd_latent: float = _weight(
        "distillation of Z",
        "Distillation of the latent map: the features before the heads stay the same.",
        r"\lVert Z - Z^{old} \rVert^2 / \lVert Z^{old} \rVert^2",
        "#56B4E9",
        schedule="decayed",
    )
    kd_stages: float = _weight(
        "distillation of the stages",
        "Distillation of the backbone's output: its features stay the same.",
        r"\lVert F - F^{old} \rVert^2 / \lVert F^{old} \rVert^2",
        "#CC79A7",
        schedule="decayed",
    )
    mib_kd: float = _weight(
        "MiB's distillation",
        "MiB's unbiased distillation: what is new to the student counts as background to the teacher.",
        r"-\mathrm{mean} \textstyle\sum_k q_k^{old} \log \hat q_k, \quad \hat q_b = q_b + \textstyle\sum_{new\,n} q_n",
        "#CC79A7",
    )
    pod: float = _weight(
        "local POD",
        "PLOP's local POD: features pooled over strips, at several scales, stay the same.",
        r"\textstyle\sum_F \lVert \mathrm{pooled}(F) - \mathrm{pooled}(F^{old}) \rVert",
        "#009E73",
    )
    dkd: float = _weight(
        "DKD",
        "DKD's decomposed distillation: the evidence for an old class stays the same, and so does the evidence "
        "against it.",
        r"\mathrm{BCE}(z^+, \sigma(z^{+old})) + \mathrm{BCE}(z^-, \sigma(z^{-old}))",
        "#D55E00",
    )
    ocfm: float = _weight(
        "OCFM",
        "STAR's old-class features: the latent map stays the same where an old class is.",
        r"\lVert Z - Z^{old} \rVert^2 / \lVert Z^{old} \rVert^2 \text{ where an old class is}",
        "#56B4E9",
    )
    sad: float = _weight(
        "SAD",
        "STAR's discriminative term: a new class is pushed away from the old class that it resembles most.",
        r"\mathrm{mean}_{new\,n} \cos(\mu_n, p_{k(n)}), \quad k(n) = \arg\max_{old\,k} \cos(\mu_n^{old}, p_k)",
        "#D55E00",
    )
    replay: float = _weight(
        "replay",
        "Replay: features drawn from the old classes' statistics are still told apart.",
        r"L(y(z), k), \quad z \sim N(m_k, S_k),\ k \text{ old}",
        "#8C6BB1",
    )
    auxiliary: float = _weight(
        "auxiliary classifier",
        "DKD's auxiliary classifier learns to reject everything seen so far; the next step's new head starts from it.",
        r"\mathrm{BCE}(h, 0)",
        "#E69F00",
        needs_teacher=False,
        heads_only=True,
    )


LOSS_TERMS: dict[str, LossTerm] = {one.name: one.metadata["term"] for one in fields(TermWeights)}
"""Name -> the term."""

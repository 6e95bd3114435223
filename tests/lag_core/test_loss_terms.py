"""The table of loss terms: config, objective and dashboard derive from it, and each schedule does what it says."""

from __future__ import annotations

import pytest

from dashboard.app_pages.training import terms as words
from dashboard.ui import design
from lag_core import config
from lag_core.config import ConfigError, MethodConfig
from lag_core.explain.term_shares import term_words
from lag_core.loss_terms import LARGEST, LOSS_TERMS
from lag_core.method.reach import heads_only
from lag_core.method.terms import COMPUTED, weight_of


def test_each_term_that_needs_a_teacher_is_computed() -> None:
    assert set(COMPUTED) == {name for name, term in LOSS_TERMS.items() if term.needs_teacher}
    assert set(LOSS_TERMS) - set(COMPUTED) == {"auxiliary"}


@pytest.mark.parametrize("name", LOSS_TERMS)
def test_everything_derives_from_the_table(name: str) -> None:
    term = LOSS_TERMS[name]
    assert getattr(MethodConfig(), name) == 0.0
    assert config.all_bounds()[f"method.{name}"] == (0.0, LARGEST)
    with pytest.raises(ConfigError, match=rf"method\.{name}"):
        config.resolve({"method": {name: -1.0}})
    assert term_words(name) == term.short
    assert design.TERMS[name] == term.colour
    if name != "replay":  # its sentence follows from the configuration
        assert words.meaning(name, MethodConfig()).startswith(term.meaning)


@pytest.mark.parametrize(
    ("name", "progress", "expected"),
    [
        ("pod", 0.0, 3.0), ("pod", 0.9, 3.0),
        ("kd_latent", 0.0, 3.0), ("kd_latent", 0.5, 1.5), ("kd_latent", 1.0, 0.75),
        ("spm", 0.0, 0.0), ("spm", 0.1, 1.5), ("spm", 0.2, 3.0), ("spm", 0.9, 3.0),
    ],
)  # fmt: skip
def test_schedules(name: str, progress: float, expected: float) -> None:
    method = config.resolve({"method": {name: 3.0, "kd_decay": 0.25, "ramp": 0.2}}).method
    assert weight_of(name, method, progress) == pytest.approx(expected, abs=1e-6)


def test_without_a_ramp_the_weight_is_whole_at_once() -> None:
    assert weight_of("nsc", config.resolve({"method": {"nsc": 2.0, "ramp": 0.0}}).method, 0.0) == pytest.approx(2.0)


def test_which_terms_reach_the_heads_alone() -> None:
    at_trunk = config.resolve({"method": {"replay_at": "trunk"}}).method
    assert heads_only(MethodConfig()) == {"replay", "auxiliary"}
    assert heads_only(at_trunk) == {"auxiliary"}

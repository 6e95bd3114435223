"""A mistake in the configuration is one sentence: the key, the value, what is allowed."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT

from lag_core import config
from lag_core.commands.train import read_config
from lag_core.config import Config, ConfigError
from lag_core.method.presets import PRESETS

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))


def test_defaults_are_sound_and_survive_json() -> None:
    resolved = config.resolve({})
    assert resolved == Config()
    assert config.resolve(json.loads(json.dumps(config.to_dict(resolved)))) == resolved


def test_every_field_survives_json() -> None:
    tables: dict[str, Any] = {
        "data": {"dataset": "folder", "root": "x", "domains": ["a", "b"], "setting": "disjoint"},
        "model": {"aspp_rates": [6, 12, 18], "output_stride": 8, "shared": "layer3"},
        "optim": {"lr_stage_later": 1e-4, "amp": "bf16"},
        "method": {"unknown": True, "spm": 0.5},
    }
    resolved = config.resolve(tables)
    assert resolved.data.domains == ("a", "b") and resolved.model.aspp_rates == (6, 12, 18)
    assert config.resolve(json.loads(json.dumps(config.to_dict(resolved)))) == resolved


def test_a_configuration_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().data.task = "1-1"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"optim": {"lr_hed": 0.1}}, ["unknown key optim.lr_hed", "did you mean optim.lr_head?"]),
        ({"optm": {}}, ["unknown key optm", "did you mean optim?"]),
        ({"xyz": 1}, ["unknown key xyz", "known: data, model, optim, method"]),
        ({"data": {"zzzzzz": 1}}, ["unknown key data.zzzzzz", "known: dataset, root, task"]),
        ({"data": 3}, ["data", "expected a table", "3"]),
        ({"data": {"size": "large"}}, ["data.size = 'large'", "expected int"]),
        ({"data": {"size": 1.5}}, ["data.size = 1.5", "expected int"]),
        ({"data": {"size": True}}, ["data.size = True", "expected int"]),
        ({"optim": {"momentum": False}}, ["optim.momentum = False", "expected float"]),
        ({"data": {"task": 15}}, ["data.task = 15", "expected str"]),
        ({"method": {"unknown": 1}}, ["method.unknown = 1", "expected bool"]),
        ({"data": {"domains": "rgb"}}, ["data.domains = 'rgb'", "expected a list"]),
        ({"data": {"domains": [1]}}, ["data.domains = 1", "expected str"]),
        ({"data": {"setting": "overlap"}}, ["data.setting = 'overlap'", "'overlapped', 'disjoint'"]),
        ({"model": {"output_stride": 32}}, ["model.output_stride = 32", "8, 16"]),
        ({"data": {"fraction": 0.0}}, ["data.fraction = 0.0", "between 1e-06 and 1"]),
        ({"data": {"fraction": 1.2}}, ["data.fraction = 1.2", "between"]),
        ({"optim": {"lr_head": -1}}, ["optim.lr_head = -1.0", "between 0 and 100"]),
        ({"optim": {"lr_head": float("nan")}}, ["optim.lr_head = nan", "between"]),
        ({"model": {"aspp_rates": []}}, ["model.aspp_rates = []", "one or more rates"]),
        ({"model": {"aspp_rates": [0, 6]}}, ["model.aspp_rates = [0, 6]", "of at least 1"]),
        ({"method": {"kd_logits": float("nan")}}, ["method.kd_logits = nan", "between"]),
        ({"method": {"rho": 1.5}}, ["method.rho = 1.5", "between 0 and 1"]),
        ({"optim": {"lr_stage_later": 0.1}}, ["optim.lr_stage_later", 'model.shared = "layer3"']),
        ({"data": {"dataset": "voc"}}, ["data.root is missing", "'voc'"]),
    ],
)
def test_mistakes_are_named(tables: dict[str, Any], said: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.resolve(tables)
    for part in said:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", config.all_bounds())
def test_every_bound_holds_on_both_sides(key: str) -> None:
    section, name = key.split(".")
    low, high = config.all_bounds()[key]
    kind = type(getattr(getattr(Config(), section), name))
    for value in (low, high):
        data = {"dataset": "folder", "root": "shapes"}  # aerial cannot draw the largest tiles
        other = {"data": data, "model": {"shared": "layer3"}, "method": {"loss": "bce_foreground"}}
        tables = config.merge([other, {section: {name: kind(value)}}])
        assert getattr(getattr(config.resolve(tables), section), name) == value
    for value in (low - 1, high + 1):
        with pytest.raises(ConfigError, match=f"{name} = "):
            config.resolve({section: {name: kind(value)}})


def test_every_number_has_bounds() -> None:
    """A number that nobody checks is a value that nobody refuses."""
    unchecked = set()
    for section in dataclasses.fields(Config):
        values = getattr(Config(), section.name)
        unchecked |= {
            f"{section.name}.{one.name}"
            for one in dataclasses.fields(values)
            if typing.get_type_hints(type(values))[one.name] in (int, float)
            and f"{section.name}.{one.name}" not in config.all_bounds()
        }
    assert not unchecked


def test_whole_numbers_are_accepted_where_fractions_are_expected() -> None:
    assert config.resolve({"optim": {"lr_head": 1}}).optim.lr_head == 1.0


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("optim.lr_head=0.005", {"optim": {"lr_head": 0.005}}),
        ("data.task=15-1", {"data": {"task": "15-1"}}),
        ('data.task="2-2"', {"data": {"task": "2-2"}}),
        ("method.unknown=true", {"method": {"unknown": True}}),
        ("model.aspp_rates=[6, 12]", {"model": {"aspp_rates": [6, 12]}}),
        ("data.root=/a=b", {"data": {"root": "/a=b"}}),
        ("data.domains=['rgb', 'irrg']", {"data": {"domains": ["rgb", "irrg"]}}),
    ],
)
def test_overrides(text: str, tables: dict[str, Any]) -> None:
    assert config.parse_override(text) == tables


@pytest.mark.parametrize("text", ["optim.lr_head", "=3", " =3", ""])
def test_wrong_overrides_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"expected section\.key=value"):
        config.parse_override(text)


def test_later_layers_lie_on_top() -> None:
    layers = [{"optim": {"epochs": 1, "batch": 2}}, {"optim": {"batch": 3}}, {"data": {"size": 64}}]
    assert config.merge(layers) == {"optim": {"epochs": 1, "batch": 3}, "data": {"size": 64}}
    assert layers[0] == {"optim": {"epochs": 1, "batch": 2}}


def test_files_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no config file .*absent\.toml"):
        config.load(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[data\n")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        config.load(broken)
    broken.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"broken\.toml is not valid TOML"):
        config.load(broken)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configurations_are_sound(path: Path) -> None:
    root = [] if config.load(path).get("data", {}).get("root") else ["data.root=anywhere"]
    for method in PRESETS:
        assert read_config(path, method, root).method.name == method

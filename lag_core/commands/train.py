"""Train all steps of a task and write the run folder."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from lag_core import config as configuration
from lag_core.commands.arguments import place
from lag_core.config import Config, ConfigError
from lag_core.sentences import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from lag_core.event_files import FORMATS
    from lag_core.recipes import RECIPES

    parser.add_argument("--config", type=place, required=True, help="TOML file, see configs/")
    parser.add_argument("--method", help="a method by name, instead of the file's [method] name")
    parser.add_argument("--recipe", choices=tuple(RECIPES), help="settings for keys that the file leaves out")
    parser.add_argument("--out", type=place, help="run folder (default: checkpoints/CONFIG-METHOD)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override one key")
    parser.add_argument("--resume", action="store_true", help="resume an interrupted run")
    parser.add_argument("--log", nargs="+", default=[], choices=FORMATS, help="also write the events in these formats")
    parser.add_argument("--quiet", action="store_true", help="print nothing")


def read_config(
    path: Path, method: str | None = None, overrides: Sequence[str] = (), recipe: str | None = None
) -> Config:
    """The resolved configuration: defaults < the recipe < the method's preset < the file < overrides.

    A table [methods.NAME] in the file applies to that method alone.
    """
    from lag_core.method.presets import preset
    from lag_core.recipes import RECIPES

    below = RECIPES[recipe] if recipe is not None else {}
    file = configuration.load(path)
    special = file.pop("methods", {})
    changes = configuration.merge(configuration.parse_override(text) for text in overrides)
    named = {"method": {"name": method}} if method is not None else {}
    chosen = configuration.merge([{"method": {"name": "reference"}}, file, changes, named])
    table = chosen["method"]  # other keys are checked after the preset, since they may depend on it
    early = {"name": table["name"]} if isinstance(table, dict) and "name" in table else table
    name = configuration.resolve({"method": early}).method.name
    own = special.get(name, {}) if isinstance(special, dict) else special
    if not isinstance(own, dict):
        raise ConfigError(f"{path}: [methods.{name}] must be a table")
    return configuration.resolve(configuration.merge([below, preset(name), file, own, changes, named]))


def command_for(config: Config, folder: Path = Path("configs")) -> str:
    """The shortest command that trains `config` from one of the files in `folder`; empty if none fits.

    Only the last part of paths is given, since folders differ between machines.
    """
    wanted = configuration.neutral(configuration.to_dict(config))
    best: list[str] | None = None
    for path in sorted(folder.glob("*.toml")):
        try:
            file = configuration.to_dict(read_config(path, config.method.name, ['data.root="unset"']))
        except ConfigError:
            continue
        changes = [
            f"--set {shlex.quote(f'{section}.{key}={json.dumps(value)}')}"
            for section, table in wanted.items()
            for key, value in table.items()
            if value != file[section][key] and (key != "root" or value)
        ]
        if best is None or len(changes) < len(best) - 1:
            best = [f"python -m lag_core train --config {path} --method {config.method.name}", *changes]
    return " \\\n    ".join(best) if best is not None and len(best) <= 12 else ""


def run(options: argparse.Namespace) -> int:
    from lag_core.processes import ProcessLost, first
    from lag_core.training.continual import train
    from lag_core.training.finite import NotFiniteError
    from lag_core.training.loading import WorkerLost
    from lag_core.training.reporting import Reporter

    config = read_config(options.config, options.method, options.set, options.recipe)
    out = options.out or Path("checkpoints") / f"{options.config.stem}-{config.method.name.replace('+', 'plus')}"
    reporter = Reporter(options.quiet or not first())
    reporter.say(f"{config.method.name} on {config.data.dataset} {config.data.task} ({config.data.setting}) -> {out}")
    try:
        train(config, out, resume=options.resume, reporter=reporter)
    except (NotFiniteError, WorkerLost, ProcessLost) as error:
        say(f"lag: {error}; the last saved point is kept in {out}", sys.stderr)
        return 1
    finally:
        if first():
            _export(out, options.log)
    return 0


def _export(out: Path, formats: Sequence[str]) -> None:
    """Write the run so far in other formats, also after an interruption."""
    from lag_core.event_files import export
    from lag_core.runs import open_run

    for form in formats if (out / "run.json").exists() else ():
        export(open_run(out), form)

"""Do the tests notice a changed program? `make mutants`, or `python benchmarks/mutants.py --each 40 --seed 0`.

Of each module below, `--each` mutants are drawn (Cosmic Ray's operators: other comparisons, other numbers, dropped
`not`, …), each put into a copy of the project, and the module's own tests run there until one fails. A mutant that no
test notices survives, and is printed with its change. Needs the extra `mutants`.

The libraries are imported once: each mutant's tests run in a fork.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import gc
import importlib
import os
import random
import resource
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "lag_core/metrics.py": ("lag_core/test_metrics",),
    "lag_core/protocol.py": ("lag_core/test_protocol", "lag_core/data/test_remap", "lag_core/data/test_splits"),
    "lag_core/data/splits.py": ("lag_core/data/test_splits",),
    "lag_core/data/remap.py": ("lag_core/data/test_remap",),
    "lag_core/method/classification.py": ("lag_core/method/test_classification",),
    "lag_core/method/distillation.py": ("lag_core/method/test_distillation",),
    "lag_core/method/preserving.py": ("lag_core/method/test_preserving",),
    "lag_core/method/transport.py": ("lag_core/method/test_transport",),
    "lag_core/method/terms.py": ("lag_core/method/test_terms", "lag_core/test_loss_terms"),
    "lag_core/relevance/rules.py": ("lag_core/relevance/test_rules",),
    "lag_core/explain/why.py": ("lag_core/explain/test_why", "lag_core/explain/test_verdict"),
    "lag_core/explain/verdict.py": ("lag_core/explain/test_verdict",),
}
"""Module -> the files of its direct tests, the quickest first."""

COPIED = ("lag_core", "dashboard", "tests", "configs", "docs", "checkpoints", "benchmarks", "assets", "pyproject.toml")
LIBRARIES = ("numpy", "PIL.Image", "torchvision", "torchmetrics", "safetensors.numpy", "streamlit", "plotly")
PATIENCE = 20
"""Seconds of processor time, and five times what the tests need without a mutant: a mutant that takes more never ends,
which is noticed."""
LEFT_OUT = ("core/VariableInserter", "core/VariableReplacer")
"""Operators that want to be told which variables to change."""


class Mutant(NamedTuple):
    module: str
    operator: str
    occurrence: int
    code: str


def places(module: str) -> list[tuple[str, int]]:
    """(operator, occurrence) of every change that an operator could make to a module, annotations included."""
    nodes = list(ast_nodes(get_ast((ROOT / module).read_text("utf-8"))))
    found = []
    for name in sorted(set(operator_names()) - set(LEFT_OUT)):
        operator = get_operator(name)()
        count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        found += [(name, occurrence) for occurrence in range(count)]
    return found


def drawn_from(module: str, every: Sequence[tuple[str, int]], count: int, seed: int) -> list[Mutant]:
    """`count` mutants (0: all) that are programs and differ in more than annotations."""
    code = (ROOT / module).read_text("utf-8")
    before, found = behaviour(code), list[Mutant]()
    for name, occurrence in random.Random(seed).sample(every, len(every)):
        changed = mutate_code(code, get_operator(name)(), occurrence)
        if changed is not None and behaviour(changed) not in (before, None):
            found.append(Mutant(module, name, occurrence, changed))
        if len(found) == count:
            break
    return found


def behaviour(code: str) -> str | None:
    """A program without its annotations, which `X | None` makes look like arithmetic; None: it is no program."""
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def noticed(mutant: Mutant, copy: Path, seconds: int) -> bool:
    """Whether a test of the module fails on the mutant, or does not end within `seconds` of processor time."""
    path = copy / mutant.module
    path.write_text(mutant.code, "utf-8")
    try:
        return not tried(mutant.module, copy, seconds).passed
    finally:
        shutil.copy2(ROOT / mutant.module, path)


class Tried(NamedTuple):
    passed: bool
    seconds: float
    """Processor time."""


def tried(module: str, copy: Path, seconds: int = 600) -> Tried:
    """The module's tests in the copy, in a process of their own."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        _run_tests([f"tests/{name}.py" for name in TESTS[module]], copy)
    _, status, used = os.wait4(child, 0)
    return Tried(status == 0, used.ru_utime + used.ru_stime)


def _run_tests(files: list[str], copy: Path) -> None:
    """Run pytest and end the process; never returns."""
    code = 1
    try:
        os.chdir(copy)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.path.insert(0, str(copy))
        os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:logging", *files]))
    finally:
        os._exit(code)


def copied(folder: Path) -> Path:
    """A copy of what the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, folder / name)
    return folder


def change(mutant: Mutant) -> str:
    """The changed lines."""
    before = (ROOT / mutant.module).read_text("utf-8").splitlines()
    lines = difflib.unified_diff(before, mutant.code.splitlines(), lineterm="", n=0)
    return "\n".join(f"    {line}" for line in list(lines)[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=40, help="mutants of each module (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=[""], help="modules whose name contains one of these")
    options = parser.parse_args()
    for name in LIBRARIES:  # never lag_core: a fork imports the mutant
        importlib.import_module(name)
    torch.set_num_threads(1)
    gc.freeze()  # what is imported by now is no garbage, and need not be looked through in each fork
    killed = drawn = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for module in (one for one in TESTS if any(part in one for part in options.only)):
            without = tried(module, copy)
            if not without.passed:
                sys.exit(f"{module}: its tests fail without a mutant")
            seconds = round(PATIENCE + 5 * without.seconds)
            every = places(module)
            some = drawn_from(module, every, options.each, options.seed)
            alive = [one for one in some if not noticed(one, copy, seconds)]
            killed, drawn = killed + len(some) - len(alive), drawn + len(some)
            print(f"{module}: {len(some) - len(alive)} of {len(some)} noticed ({len(every)} places)", flush=True)
            for one in alive:
                print(f"  {one.operator}\n{change(one)}", flush=True)
    print(f"{killed} of {drawn} noticed: {100 * killed / max(drawn, 1):.0f} %")


if __name__ == "__main__":
    main()

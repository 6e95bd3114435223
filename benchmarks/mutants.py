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
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "lag_core/metrics.py": ("test_metrics",),
    "lag_core/protocol.py": ("test_protocol", "test_remap", "test_splits"),
    "lag_core/data/splits.py": ("test_splits",),
    "lag_core/data/remap.py": ("test_remap",),
    "lag_core/method/classification.py": ("test_method_classification",),
    "lag_core/method/distillation.py": ("test_method_distillation",),
    "lag_core/method/preserving.py": ("test_method_preserving",),
    "lag_core/method/transport.py": ("test_method_transport",),
    "lag_core/method/terms.py": ("test_method_terms", "test_loss_terms"),
    "lag_core/relevance/rules.py": ("test_rules", "test_lrp"),
    "lag_core/explain/why.py": ("test_why", "test_verdict"),
    "lag_core/explain/verdict.py": ("test_verdict",),
}
"""Module -> the files of its direct tests, the quickest first."""

COPIED = ("lag_core", "dashboard", "tests", "configs", "docs", "checkpoints", "benchmarks", "assets", "pyproject.toml")
LIBRARIES = ("numpy", "PIL.Image", "torchvision", "torchmetrics", "safetensors.numpy", "streamlit", "plotly")
PATIENCE = 20
"""Seconds, and as many again as the tests need without a mutant, times five: until a mutant counts as one that never
ends, which is noticed."""
LEFT_OUT = ("core/VariableInserter", "core/VariableReplacer")
"""Operators that want to be told which variables to change."""


class Mutant(NamedTuple):
    module: str
    operator: str
    occurrence: int
    code: str


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, annotations apart."""
    code = (ROOT / module).read_text("utf-8")
    before, found = behaviour(code), []
    for name in sorted(set(operator_names()) - set(LEFT_OUT)):
        operator = get_operator(name)()
        occurrence = 0
        while (changed := mutate_code(code, operator, occurrence)) is not None:
            if behaviour(changed) != before:
                found.append(Mutant(module, name, occurrence, changed))
            occurrence += 1
    return found


def behaviour(code: str) -> str:
    """A program without its annotations, which `X | None` makes look like arithmetic."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(None)
        elif isinstance(node, ast.FunctionDef):
            node.returns = None
    return ast.dump(tree)


def noticed(mutant: Mutant, copy: Path, seconds: float) -> bool:
    """Whether a test of the module fails on the mutant, or does not end within `seconds`."""
    path = copy / mutant.module
    path.write_text(mutant.code, "utf-8")
    try:
        return not passes(mutant.module, copy, seconds)
    finally:
        shutil.copy2(ROOT / mutant.module, path)


def passes(module: str, copy: Path, seconds: float = 600.0) -> bool:
    """Whether the module's tests pass in the copy, in a process of their own."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        _run_tests([f"tests/{name}.py" for name in TESTS[module]], copy)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _run_tests(files: list[str], copy: Path) -> None:
    """Run pytest and end the process; never returns."""
    code = 1
    try:
        os.chdir(copy)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        sys.path.insert(0, str(copy))
        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *files]))
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
    killed = drawn = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for module in (one for one in TESTS if any(part in one for part in options.only)):
            began = time.monotonic()
            if not passes(module, copy):
                sys.exit(f"{module}: its tests fail without a mutant")
            seconds = PATIENCE + 5 * (time.monotonic() - began)
            every = mutants(module)
            some = random.Random(options.seed).sample(every, min(options.each or len(every), len(every)))
            alive = [one for one in some if not noticed(one, copy, seconds)]
            killed, drawn = killed + len(some) - len(alive), drawn + len(some)
            print(f"{module}: {len(some) - len(alive)} of {len(some)} noticed ({len(every)} in all)", flush=True)
            for one in alive:
                print(f"  {one.operator}\n{change(one)}", flush=True)
    print(f"{killed} of {drawn} noticed: {100 * killed / max(drawn, 1):.0f} %")


if __name__ == "__main__":
    main()

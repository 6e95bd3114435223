"""Do the tests notice a changed program? `make mutants`, or `python benchmarks/mutants.py --each 12 --seed 0`.

Of each module below, `--each` mutants are drawn (Cosmic Ray's operators: other comparisons, other numbers, dropped
`not`, …), each put into a copy of the project, and the module's own tests run there. A mutant that no test notices
survives, and is printed with its change. Needs the extra `mutants`.
"""

from __future__ import annotations

import argparse
import difflib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

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
    "lag_core/relevance/rules.py": ("test_lrp",),
    "lag_core/explain/why.py": ("test_why", "test_verdict"),
    "lag_core/explain/verdict.py": ("test_verdict",),
}
"""Module -> the files of its direct tests."""

COPIED = ("lag_core", "tests", "configs", "docs", "checkpoints", "benchmarks", "pyproject.toml")
LONGEST = 180
"""Seconds; a mutant whose tests take longer never ends, and is noticed by that."""
LEFT_OUT = ("core/NumberReplacer", "core/RemoveDecorator", "core/VariableInserter", "core/VariableReplacer")
"""Operators that mostly change what no test should hold, or that want to be told which variables to change."""


class Mutant(NamedTuple):
    module: str
    operator: str
    occurrence: int
    code: str


def mutants(module: str) -> list[Mutant]:
    """Every mutant of a module, annotations apart."""
    code = (ROOT / module).read_text("utf-8")
    found = []
    for name in sorted(set(operator_names()) - set(LEFT_OUT)):
        operator = get_operator(name)()
        occurrence = 0
        while (changed := mutate_code(code, operator, occurrence)) is not None:
            if _behaves_otherwise(code, changed):
                found.append(Mutant(module, name, occurrence, changed))
            occurrence += 1
    return found


def _behaves_otherwise(code: str, changed: str) -> bool:
    """Whether a mutant differs in more than annotations, which `X | None` makes look like arithmetic."""
    lines = [line for line in difflib.ndiff(code.splitlines(), changed.splitlines()) if line.startswith("- ")]
    return not any("->" in line or ": " in line.split("=")[0] for line in lines)


def noticed(mutant: Mutant, copy: Path) -> bool:
    """Whether a test of the module fails on the mutant."""
    path = copy / mutant.module
    before = path.read_text("utf-8")
    path.write_text(mutant.code, "utf-8")
    try:
        return not passes(mutant.module, copy)
    finally:
        path.write_text(before, "utf-8")


def passes(module: str, copy: Path) -> bool:
    files = [f"tests/{name}.py" for name in TESTS[module]]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    variables = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        return subprocess.run(command, cwd=copy, env=variables, capture_output=True, timeout=LONGEST).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def change(mutant: Mutant) -> str:
    """The changed lines."""
    before = (ROOT / mutant.module).read_text("utf-8").splitlines()
    lines = difflib.unified_diff(before, mutant.code.splitlines(), lineterm="", n=0)
    return "\n".join(f"    {line}" for line in list(lines)[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=12, help="mutants of each module (0: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="modules whose name contains this")
    options = parser.parse_args()
    killed = drawn = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / name)
        for module in (one for one in TESTS if options.only in one):
            if not passes(module, copy):
                sys.exit(f"{module}: its tests fail without a mutant")
            every = mutants(module)
            some = random.Random(options.seed).sample(every, min(options.each or len(every), len(every)))
            alive = [one for one in some if not noticed(one, copy)]
            killed, drawn = killed + len(some) - len(alive), drawn + len(some)
            print(f"{module}: {len(some) - len(alive)} of {len(some)} noticed ({len(every)} in all)", flush=True)
            for one in alive:
                print(f"  {one.operator}\n{change(one)}", flush=True)
    print(f"{killed} of {drawn} noticed: {100 * killed / max(drawn, 1):.0f} %")


if __name__ == "__main__":
    main()

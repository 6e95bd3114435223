"""The arrows of docs/architecture.md, read from the imports: a floor uses only floors below it."""

from __future__ import annotations

import ast
import dataclasses
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from repository import ROOT

FLOORS = {
    "reading": 8, "sentences": 8, "writing": 8, "bounds": 8, "allocator": 8, "loss_terms": 9,
    "protocol": 10, "config": 11, "metrics": 11, "palette": 11,
    "device": 12, "processes": 12,
    "data": 20, "runs": 21, "comparison": 22, "model": 22, "capabilities": 22, "predictions": 22,
    "tiles": 8, "tabulating": 11, "boundary": 12, "image_counts": 12, "event_files": 22, "recipes": 12, "groups": 23,
    "image_pairs": 24,
    "interruption": 12, "run_info": 11, "analysis_arrays": 11, "measured_matrices": 11,
    "relevance": 30, "importing": 30,
    "adapters": 31,
    "method": 40,
    "training": 50, "explain": 50,
    "commands": 60, "cli": 61, "__main__": 62,
}  # fmt: skip
"""Parts of lag_core from bottom to top: a part may import itself and what has a smaller number."""

WITHOUT_TORCH = (
    "protocol", "config", "metrics", "runs", "data.catalogue", "data.splits", "data.transforms",
    "explain.explained_run", "capabilities", "predictions",
)  # fmt: skip
"""What pages that only read results import, and what opens a run in a notebook."""

PURE = ("protocol", "metrics", "data.splits", "data.remap", "data.transforms")
TOUCHES_THE_WORLD = {
    "os",
    "io",
    "pathlib",
    "shutil",
    "tempfile",
    "subprocess",
    "socket",
    "urllib",
    "random",
    "time",
}
TOUCHES_THE_WORLD_BY_NAME = {"open", "print", "input"}

Import = tuple[str, bool]
"""(dotted name of what is imported, whether at module level: when the module itself is imported)"""


def modules(package: str) -> dict[str, Path]:
    """Dotted name -> file of every module in a package of the project."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


LAG_CORE = modules("lag_core")
DASHBOARD = modules("dashboard")


@cache
def imports_of(path: Path) -> tuple[Import, ...]:
    return tuple(_imports(ast.parse(path.read_text("utf-8"), str(path)).body, True, path))


def _imports(nodes: list[ast.stmt] | list[ast.AST], top: bool, path: Path) -> Iterator[Import]:
    """Imports in `nodes` and below. In functions they run later, under TYPE_CHECKING never."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}:{node.lineno}: write absolute imports"
            yield node.module, top
            # `from package import module` imports the module, too.
            yield from ((f"{node.module}.{alias.name}", top) for alias in node.names)
        else:
            later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
                isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            )
            yield from _imports(list(ast.iter_child_nodes(node)), top and not later, path)


def part_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", [name for name in LAG_CORE if name != "lag_core"])
def test_a_floor_uses_only_floors_below_it(module: str) -> None:
    part = part_of(module)
    assert part in FLOORS, f"{module}: give {part!r} its floor, here and in docs/architecture.md"
    for name, _ in imports_of(LAG_CORE[module]):
        if not name.startswith("lag_core."):
            continue
        other = part_of(name)
        # `from lag_core import open_run`: the public API stands above all floors.
        assert other in FLOORS, f"{module} imports {name}: import it from the module that defines it"
        assert other == part or FLOORS[other] < FLOORS[part], f"{module} imports {name}: arrows point down only"


@pytest.mark.parametrize("part", sorted(set(FLOORS) & {part_of(name) for name in LAG_CORE}))
def test_no_circle_inside_a_floor(part: str) -> None:
    """Imports in functions and for types count, too: of two modules that name each other, neither can be read alone."""
    inside = {name for name in LAG_CORE if part_of(name) == part} - {f"lag_core.{part}"}  # a package lists its modules
    used = {name: {other for other, _ in imports_of(LAG_CORE[name]) if other in inside - {name}} for name in inside}
    for name in sorted(inside):
        waiting, met = list(used[name]), set[str]()
        while waiting:
            other = waiting.pop()
            if other not in met:
                met.add(other)
                waiting.extend(used[other])
        assert name not in met, f"{name} imports, by way of others, itself: {sorted(met)}"


def test_explain_and_training_do_not_know_each_other() -> None:
    """They meet in the run folder. The floors say so; this says it by name."""
    for module, path in LAG_CORE.items():
        for name, _ in imports_of(path):
            pair = {part_of(module), part_of(name) if name.startswith("lag_core.") else ""}
            assert pair != {"explain", "training"}, f"{module} imports {name}"


@pytest.mark.parametrize("module", LAG_CORE)
def test_lag_core_does_not_know_the_dashboard(module: str) -> None:
    for name, _ in imports_of(LAG_CORE[module]):
        assert name.split(".")[0] not in {"streamlit", "plotly", "dashboard"}, f"{module} imports {name}"


@pytest.mark.parametrize("module", DASHBOARD)
def test_the_dashboard_does_not_train(module: str) -> None:
    """It draws what explain and runs return."""
    for name, _ in imports_of(DASHBOARD[module]):
        other = part_of(name) if name.startswith("lag_core.") else ""
        assert other not in {"training", "method", "relevance", "cli", "commands"}, f"{module} imports {name}"


ROOMS = {
    "ui": 1, "state": 2, "components": 3, "cache": 4, "page": 5, "picture": 6, "shell": 7, "sidebar": 8, "app_pages": 9,
    "app": 10,
}  # fmt: skip
"""Rooms of the dashboard from bottom to top, as docs/architecture.md lists them."""


def room_of(module: str) -> str:
    """A page is a room of its own: app_pages.<slug>."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1] == "app_pages" else parts[1]


def arrows_of(module: str) -> Iterator[tuple[str, str]]:
    """(room, other room) of every import from one room of the dashboard into another."""
    for name, _ in imports_of(DASHBOARD[module]):
        if name.startswith("dashboard.") and room_of(name) != room_of(module):
            yield room_of(module), room_of(name)


@pytest.mark.parametrize("module", [name for name in DASHBOARD if name != "dashboard"])
def test_a_room_of_the_dashboard_uses_only_rooms_below_it(module: str) -> None:
    for room, other in arrows_of(module):
        assert ROOMS[other.split(".")[0]] < ROOMS[room.split(".")[0]], f"{module} ({room}) imports {other}"


def test_the_dashboard_has_as_many_arrows_as_its_page_says() -> None:
    modules = [name for name in DASHBOARD if name != "dashboard"]
    rooms = {room_of(name) for name in modules} - {"app_pages"}
    arrows = {arrow for name in modules for arrow in arrows_of(name)}
    assert f"{len(rooms)} rooms and {len(arrows)} arrows" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


def test_the_loop_knows_no_method() -> None:
    """It is handed an objective: of method it may know that one interface."""
    for name, _ in imports_of(LAG_CORE["lag_core.training.loop"]):
        if name.startswith("lag_core.method."):
            assert name.startswith("lag_core.method.objective"), f"the loop imports {name}"


METHOD_SEEN_BY_TRAINING = {"name", "loss", "labels", "unknown", "extractor", "old_heads"}
"""Keys of [method] that training may read: how to predict, which labels there are, which parts train."""


@pytest.mark.parametrize("module", [name for name in LAG_CORE if part_of(name) == "training"])
def test_the_trainer_knows_no_method(module: str) -> None:
    """How heads start and where replay takes its maps from is method/'s; training hands over network and images."""
    from lag_core.config import MethodConfig

    doors = ("objective", "regions", "starting", "reach")
    for name, _ in imports_of(LAG_CORE[module]):
        if name.startswith("lag_core.method."):
            assert name.split(".")[2] in doors, f"{module} imports {name}"
    hidden = {one.name for one in dataclasses.fields(MethodConfig)} - METHOD_SEEN_BY_TRAINING
    for node in ast.walk(ast.parse(LAG_CORE[module].read_text("utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in hidden | {"carrier"}, f"{module}:{node.lineno} reads {node.attr}"
        assert not (isinstance(node, ast.Constant) and node.value in hidden), f"{module}:{node.lineno}: {node.value!r}"


@pytest.mark.parametrize("module", [name for name in LAG_CORE if part_of(name) == "method"])
def test_a_loss_term_does_not_know_the_optimiser(module: str) -> None:
    for name, _ in imports_of(LAG_CORE[module]):
        assert not name.startswith("torch.optim"), f"{module} imports {name}"


def loaded_with(module: str) -> dict[str, str]:
    """Every module that importing `module` loads, with the one that asked for it first."""
    asked: dict[str, str] = {}
    waiting = [module]
    while waiting:
        current = waiting.pop()
        parents = [current.rsplit(".", n)[0] for n in range(1, current.count(".") + 1)]
        names = parents + [name for name, top in imports_of(LAG_CORE[current]) if top]
        for name in names:
            if name not in asked:
                asked[name] = current
                if name in LAG_CORE:
                    waiting.append(name)
    return asked


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_reading_results_needs_no_torch(module: str) -> None:
    heavy = {
        name: by for name, by in loaded_with(f"lag_core.{module}").items() if name.split(".")[0].startswith("torch")
    }
    assert not heavy


def test_reading_results_loads_no_torch_in_truth() -> None:
    lines = [*(f"import lag_core.{module}" for module in WITHOUT_TORCH), "import sys"]
    code = "; ".join([*lines, "sys.exit(1 if {'torch', 'streamlit', 'plotly'} & set(sys.modules) else 0)"])
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr or "torch, streamlit or plotly was loaded"


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_touch_no_file_clock_or_global_chance(module: str) -> None:
    path = LAG_CORE[f"lag_core.{module}"]
    for name, _ in imports_of(path):
        assert name.split(".")[0] not in TOUCHES_THE_WORLD | {"torch"}, f"{module} imports {name}"
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in TOUCHES_THE_WORLD_BY_NAME, f"{module}:{node.lineno} calls {called}"
            assert not called.startswith("np.random."), f"{module}:{node.lineno} calls {called}: take a generator"


def test_ids_change_in_one_place_only() -> None:
    """Nobody but remap looks into a label space's tables; training applies one to batches on its device."""
    tables = {"target_table", "truth_table", "dataset_table"}
    for module, path in (LAG_CORE | DASHBOARD).items():
        if module in ("lag_core.protocol", "lag_core.data.remap", "lag_core.training.continual"):
            continue
        used = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
        assert not used & tables, f"{module} uses {used & tables}: call lag_core.data.remap"


def test_the_reader_of_imports_sees_them(tmp_path: Path) -> None:
    path = tmp_path / "example.py"
    path.write_text(
        "import torch.nn\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from lag_core.explain import trace\n"
        "try:\n    import plotly\nexcept ImportError:\n    pass\n"
        "class A:\n    import streamlit\n    def f(self):\n        import captum\n"
    )
    found = dict(imports_of(path))
    assert found["torch.nn"] and found["plotly"] and found["streamlit"]
    assert found["lag_core.explain.trace"] is False and found["captum"] is False


@pytest.mark.parametrize("module", DASHBOARD)
def test_pictures_travel_inside_their_message(module: str) -> None:
    """Streamlit drops a file that it serves once a newer run of the script shows another: the browser gets a 404."""
    for node in ast.walk(ast.parse(DASHBOARD[module].read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("st.image", "place.image", "column.image"):
            first = ast.unparse(node.args[0])
            embedded = first.startswith(("embedded.picture(", "embedded.again("))
            assert embedded, f"{module}:{node.lineno}: st.image takes embedded.picture(…)"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "st.set_page_config":
            assert ast.unparse(node.args[1]) == "ICON"


def test_the_icon_is_embedded() -> None:
    from dashboard import app

    assert app.ICON.startswith("data:image/png;base64,")


CALLED_FROM_OUTSIDE = {
    "why_lost",  # for a notebook
    "bytes_read",  # how a test sees that a log is read on, not anew
    "_get_help_string",  # argparse calls it
}


def test_nothing_is_there_for_tests_alone() -> None:
    """Every function, class and constant is named a second time, in the packages, a benchmark or the documents."""
    packages = [path for package in ("lag_core", "dashboard") for path in modules(package).values()]
    others = [
        path for pattern in ("benchmarks/**/*.py", "docs/*.*", "docs/adr/*.md", "*.md") for path in ROOT.glob(pattern)
    ]
    texts = [path.read_text("utf-8") for path in (*packages, *others)]
    words = Counter(word for text in texts for word in re.findall(r"\w+", text))
    defined = {name for path in packages for name in _defined(ast.parse(path.read_text("utf-8")))}
    assert sorted(name for name in defined - CALLED_FROM_OUTSIDE if words[name] < 2 and name[:2] != "__") == []


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))

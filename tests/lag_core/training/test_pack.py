"""Runs as they ship: what is stored, what is shared, what is measured, and what is not told."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from shapes import tiny_run, write_shapes

from lag_core import config as configuration
from lag_core.cli import main
from lag_core.comparison import percent, step_rows
from lag_core.model.weights import load_segmenter
from lag_core.runs import Run, RunError, file_digest, open_run
from lag_core.training.evaluation import evaluate, totals
from lag_core.training.packing import EVENT_LINES, normalisation_names, pack, shared_groups, thinned
from lag_core.training.reporting import Reporter
from lag_core.training.vital_signs import median_norms, vital_signs

QUIET = Reporter(quiet=True).bar


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("pack") / "shapes")


@pytest.fixture(scope="module")
def originals(root: Path) -> dict[str, Run]:
    """Two methods with the same step 0, and one that shares the untrained backbone alone."""
    frozen = {"lr_stage": 0.0}
    return {name: tiny_run(root, root.parent / name, name, optim=frozen) for name in ("lag", "reference", "joint")}


@pytest.fixture(scope="module")
def packed(root: Path, originals: dict[str, Run]) -> dict[str, Run]:
    out = root.parent / "packed"
    paths = pack(list(originals.values()), out, note="Drawn by a test.", progress=QUIET)
    assert [path.name for path in paths] == list(originals)
    assert sorted(p.name for p in out.iterdir()) == ["joint", "lag", "reference", "shared"]
    return {path.name: open_run(path) for path in paths}


def test_weights_are_the_rounded_ones_and_normalisation_is_untouched(
    originals: dict[str, Run], packed: dict[str, Run]
) -> None:
    for name, run in packed.items():
        exact = normalisation_names(run)
        assert any("running_var" in tensor for tensor in exact)
        for step in range(len(run.steps)):
            before, after = originals[name].tensors(step), run.tensors(step)
            assert before.keys() == after.keys()
            for tensor, value in before.items():
                wanted = value if tensor in exact else value.astype(np.float16).astype(np.float32)
                assert np.array_equal(after[tensor], wanted), tensor
            load_segmenter(run, step)


def test_normalisation_is_told_by_the_layers_not_by_names(originals: dict[str, Run]) -> None:
    run = originals["lag"]
    exact = normalisation_names(run)
    sizes = Counter(value.ndim for name, value in run.tensors(2).items() if name in exact)
    assert set(sizes) == {1}
    others = {name for name, value in run.tensors(2).items() if name not in exact and value.ndim == 1}
    assert all(name.endswith("classify.bias") or name.startswith("aspp.branches.2.project") for name in others)


def test_shared_tensors_are_stored_once(packed: dict[str, Run]) -> None:
    out = packed["lag"].path.parent
    used = {
        name: [[f["name"] for f in step["files"] if f["name"].startswith("shared/")] for step in run.info["steps"]]
        for name, run in packed.items()
    }
    assert used["lag"] == used["reference"] and all(names == [] for names in used["lag"][1:])
    for path in (out / "shared").iterdir():
        assert path.stem == file_digest(path)[:16]
    everywhere = set(used["lag"][0]) & set(used["joint"][0])
    (common,) = everywhere
    tensors = load_file(out / common)
    # layers of the ASPP that no gradient reached are equal, too
    assert {"backbone.stem.0.0.weight"} <= set(tensors) and not any(n.startswith("heads") for n in tensors)
    stored = [load_file(p) for p in [*out.glob("*/step_*.safetensors"), *(out / "shared").iterdir()]]
    assert sum("backbone.stem.0.0.weight" in one for one in stored) == 1
    assert {p.name for p in (out / "shared").iterdir()} == {
        name.removeprefix("shared/") for names in used.values() for step in names for name in step
    }


def test_groups_by_an_obvious_second_implementation() -> None:
    rng = np.random.default_rng(0)
    big = {name: rng.normal(size=(80, 80)).astype(np.float32) for name in "abcd"}
    deltas = [
        [{"x": big["a"], "y": big["b"], "own": big["c"]}, {"z": big["d"]}],
        [{"x": big["a"], "y": big["b"]}, {}],
        [{"x": big["a"], "y": big["c"]}, {"z": big["d"] + 1}],
        [{"other": big["d"]}, {"tiny": np.ones(2, np.float32)}],
        [{}, {"tiny": np.ones(2, np.float32)}],
    ]
    found = {places: set(tensors) for places, tensors in shared_groups(deltas)}
    expected: dict[tuple, set[str]] = {}
    for name in ("x", "y", "z", "own", "other"):
        values = {(r, s): t[name] for r, steps in enumerate(deltas) for s, t in enumerate(steps) if name in t}
        for value in values.values():
            places = tuple(sorted(p for p, other in values.items() if np.array_equal(other, value)))
            if len({r for r, _ in places}) > 1:
                expected.setdefault(places, set()).add(name)
    assert found == expected == {((0, 0), (1, 0), (2, 0)): {"x"}, ((0, 0), (1, 0)): {"y"}}


def test_metrics_are_those_of_the_rounded_weights(packed: dict[str, Run]) -> None:
    for run in packed.values():
        dataset = run.open_dataset(run.path.parents[1] / "shapes")
        assert np.array_equal(totals(evaluate(run, dataset, QUIET)), run.confusions())


def test_nothing_tells_of_the_machines_folders(root: Path, packed: dict[str, Run]) -> None:
    for run in packed.values():
        assert run.config.data.root == "shapes"
        for path in run.path.iterdir():
            assert str(root.parent).encode() not in path.read_bytes(), path
        expected = {"run.json", "metrics.json", "events.jsonl", "MODEL_CARD.md"}
        expected |= {f"analysis_{step:02d}.safetensors" for step in range(len(run.steps))}
        found = {path.name for path in run.path.iterdir()}
        assert expected <= found and all(n in expected or n.startswith("step_") for n in found)


def test_analysis_is_kept(originals: dict[str, Run], packed: dict[str, Run]) -> None:
    for name, run in packed.items():
        for step in range(len(run.steps)):
            mine, theirs = run.analysis(step), originals[name].analysis(step)
            assert mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)


def test_packing_again_changes_nothing(packed: dict[str, Run], root: Path, tmp_path: Path) -> None:
    paths = pack(list(packed.values()), tmp_path / "again", data=root, note="Drawn by a test.", progress=QUIET)
    for path in paths:
        before = packed[path.name].path
        assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in before.iterdir()}


def test_the_card_says_whether_the_run_is_well(root: Path, packed: dict[str, Run]) -> None:
    for name, run in packed.items():
        health = (run.path / "MODEL_CARD.md").read_text().split("## Health")[1].split("## Intended use")[0]
        dead = re.search(r"Dead among the (\d+) latent channels .*: (step 0: .*)\.", health)
        assert dead and int(dead[1]) == run.config.model.latent
        counted = vital_signs(run, run.open_dataset(root)).dead
        assert dead[2] == ", ".join(f"step {step}: {count}" for step, count in enumerate(counted))
        norms = median_norms(run.events(), len(run.steps))
        assert "segmentation" in norms
        for term, values in norms.items():
            cells = " | ".join("-" if value is None else f"{value:.3g}" for value in values)
            assert f"| {term} | {cells} |" in health, name


def test_the_card_states_what_was_measured_and_trains_the_run(packed: dict[str, Run]) -> None:
    for name, run in packed.items():
        card = (run.path / "MODEL_CARD.md").read_text()
        assert card.startswith(f"# {name}\n") and "Drawn by a test." in card and "Seed 0" in card
        confusions = run.confusions()
        assert confusions is not None
        for one in step_rows(run, confusions):
            numbers = (one.old_without_background, one.old, one.new, one.all)
            assert f"| {one.name} | {' | '.join(percent(value) for value in numbers)} |" in card
        toml = tomllib.loads(card.split("```toml\n")[1].split("```")[0])
        assert configuration.resolve(toml) == run.config
        for heading in ("## Data", "## Training", "## Metrics", "## Intended use", "## Limits"):
            assert heading in card


def test_a_missing_shared_file_is_a_sentence(packed: dict[str, Run], tmp_path: Path) -> None:
    lonely = Path(shutil.copytree(packed["lag"].path, tmp_path / "lag"))
    run = open_run(lonely)
    assert run.confusions() is not None
    with pytest.raises(RunError, match=r"shared/[0-9a-f]{16}\.safetensors is missing; copy it to that place"):
        run.tensors(0)


def test_nothing_is_left_behind_when_it_fails(
    root: Path,
    originals: dict[str, Run],
    packed: dict[str, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lag, out = str(originals["lag"].path), tmp_path / "out"
    before = {p: p.stat().st_mtime_ns for p in packed["lag"].path.parent.rglob("*")}
    assert main(["pack", lag, "--out", str(packed["lag"].path.parent), "--quiet"]) == 2
    assert "exists and is never overwritten" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in packed["lag"].path.parent.rglob("*")} == before
    assert main(["pack", lag, "--out", str(out), "--data", str(tmp_path / "nowhere")]) == 2
    assert main(["pack", lag, lag, "--out", str(out)]) == 2
    err = capsys.readouterr().err
    assert "there is no folder" in err and "two of the runs are called 'lag'" in err and not out.exists()

    def stops(items, what):  # type: ignore[no-untyped-def]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack([originals["lag"], originals["reference"]], out, progress=stops)
    assert [p for p in out.rglob("*") if p.is_file()] == []


def test_weights_beyond_float16_are_refused(originals: dict[str, Run], tmp_path: Path) -> None:
    from lag_core.training.packing import _rounded

    with pytest.raises(RunError, match=r"tensor a does not fit float16: it holds 100000"):
        _rounded("a", np.array([1e5], np.float32), frozenset())
    assert _rounded("a", np.array([1e5], np.float32), frozenset("a")).dtype == np.float32


def test_events_are_thinned_evenly() -> None:
    events = [
        {"step": step, "iteration": i, **({"gradient_norms": {}} if i % 2 == 0 else {})}
        for step in range(3)
        for i in range(0, 4000, 5)
    ]
    kept = thinned(events, EVENT_LINES)
    assert EVENT_LINES - 10 <= len(kept) <= EVENT_LINES + 6
    assert [events.index(e) for e in kept] == sorted(events.index(e) for e in kept)
    for step in range(3):
        own = [e["iteration"] for e in kept if e["step"] == step]
        assert own[0] == 0 and own[-1] == 3995 and max(np.diff(own)) <= 40
    assert sum("gradient_norms" in e for e in kept) >= EVENT_LINES - 10
    assert thinned(events[:50], EVENT_LINES) == events[:50]
    rare = [{"step": 0, "iteration": i, **({"gradient_norms": {}} if i % 50 == 0 else {})} for i in range(2000)]
    few = thinned(rare, 100)
    assert len(few) <= 102 and sum("gradient_norms" in e for e in few) == 40

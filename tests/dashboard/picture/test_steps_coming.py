"""A picture is drawn when the step that is looked at has run; the others come in the background, and say so.

No test here looks at a clock: the networks stand still at a gate until a test opens it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from moving_runs import with_moving_trunk
from shapes import tiny_run, write_shapes
from streamlit.testing.v1 import AppTest

from dashboard.cache import loaders
from dashboard.cache.memory_cache import SHELF
from dashboard.components.viewer import Layer
from dashboard.picture import predictions, stepwise, viewer
from lag_core.explain.networks import Passes
from lag_core.runs import Run, RunError

torch.set_num_threads(1)

IMAGE = "s18"
WAITS = stepwise.waits_for_all


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three steps, each with a trunk of its own."""
    root = tmp_path_factory.mktemp("coming")
    trained = tiny_run(write_shapes(root / "shapes"), root / "trained", "finetune")
    return with_moving_trunk(trained, root / "runs" / "moving")


class Gate:
    """Stands before every network: lets the steps in `open` pass at once, the others when it is lifted."""

    def __init__(self, patch: pytest.MonkeyPatch):
        self.ran: list[int] = []
        self.open: set[int] = set()
        self.broken: set[int] = set()
        self._lifted = threading.Event()
        original = Passes.output

        def output(passes: Passes, step: int) -> Any:
            if step not in self.open:
                assert self._lifted.wait(60)
            if step in self.broken:
                raise RunError(f"step {step} is broken")
            found = original(passes, step)
            self.ran.append(step)
            return found

        patch.setattr(Passes, "output", output)

    def lift(self) -> None:
        self._lifted.set()
        stepwise.QUEUE.settle()


@pytest.fixture
def gate(run: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """As in a browser, without patience, on a server that has computed nothing."""
    monkeypatch.setenv("LAG_RUNS", str(run.path.parent))
    monkeypatch.setattr(stepwise, "waits_for_all", lambda: False)
    monkeypatch.setattr(stepwise, "PATIENCE", 0.0)
    SHELF.clear()
    loaders.TRACES.clear()
    made = Gate(monkeypatch)
    yield made
    made.lift()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[Layer]]:
    """The layers of each viewer that was drawn."""
    seen: list[Sequence[Layer]] = []
    original = viewer.viewer

    def spy(image: bytes, layers: Sequence[Layer], *rest: Any, **given: Any) -> Any:
        seen.append(layers)
        return original(image, layers, *rest, **given)

    monkeypatch.setattr(viewer, "viewer", spy)
    return seen


def page(slug: str, run: Run, step: int) -> AppTest:
    app = AppTest.from_string(f"from dashboard.app import main; main(default={slug!r})", default_timeout=100)
    app.query_params.update({"run": run.name, "image": IMAGE, "step": str(step)})
    return app


def pending(layers: Sequence[Layer]) -> list[int]:
    return [layer.step for layer in layers if layer.pending and layer.step is not None]


@pytest.mark.parametrize(("slug", "step"), [("steps", 2), ("steps", 0), ("start", 1)])
def test_the_first_picture_waits_for_its_own_step_alone(
    slug: str, step: int, run: Run, gate: Gate, drawn: list[Sequence[Layer]]
) -> None:
    gate.open = {step}
    app = page(slug, run, step).run()
    assert not app.exception and not app.error
    assert gate.ran == [step]
    assert pending(drawn[-1]) == [other for other in range(3) if other != step]
    assert all(layer.note == "being computed" and layer.labels is None for layer in drawn[-1] if layer.pending)
    gate.lift()
    app.run()
    assert sorted(gate.ran) == [0, 1, 2]
    assert not pending(drawn[-1]) and not app.exception and not app.error


def test_a_step_that_is_not_there_is_said_and_goes_next(run: Run, gate: Gate, drawn: list[Sequence[Layer]]) -> None:
    gate.open = {0}
    app = page("steps", run, 0).run()
    app.session_state["step"] = 2
    app.run()
    assert any("Step 2 is being computed" in one.value for one in app.markdown)
    assert pending(drawn[-1]) == [1, 2] and gate.ran == [0]
    gate.lift()
    assert gate.ran == [0, 1, 2] or gate.ran == [0, 2, 1]  # step 1 may have been under way
    app.run()
    assert not any("being computed" in one.value for one in app.markdown)


def test_the_order_follows_whoever_steps_on(run: Run, gate: Gate) -> None:
    picture = loaders.picture(run, "", IMAGE)
    assert picture is not None
    for step, order in ((0, [0, 1, 2]), (2, [2, 1, 0]), (1, [1, 0, 2])):
        assert stepwise.wish(run, picture, step).order == order


def test_what_is_shown_in_parts_is_in_the_end_what_is_shown_at_once(run: Run, gate: Gate) -> None:
    picture = loaders.picture(run, "", IMAGE)
    assert picture is not None
    gate.open = {1}
    part = stepwise.answers(run, picture, 1)
    assert part.pending == {0, 2}
    gate.lift()
    whole = stepwise.answers(run, picture, 1)
    SHELF.clear()
    loaders.TRACES.clear()
    at_once = predictions.answers(run, picture)
    for one, other in zip(whole.predictions + whole.grids, at_once.predictions + at_once.grids, strict=True):
        assert (one == other).all()
    assert (part.predictions[1] == at_once.predictions[1]).all() and not whole.pending


def test_a_step_that_breaks_is_told_and_tried_again(run: Run, gate: Gate) -> None:
    picture = loaders.picture(run, "", IMAGE)
    assert picture is not None
    gate.open, gate.broken = {0, 1, 2}, {1}
    stepwise.wish(run, picture, 2)
    stepwise.QUEUE.settle()
    assert gate.ran == [2]
    app = page("steps", run, 2).run()
    assert any("step 1 is broken" in one.value for one in app.warning) and not app.error
    gate.broken = set()
    stepwise.wish(run, picture, 2)
    stepwise.QUEUE.settle()
    app.run()
    assert not app.warning and gate.ran == [2, 1, 0]


def test_other_pages_run_only_the_steps_that_they_ask_about(run: Run, gate: Gate) -> None:
    gate.open = {0, 1}
    app = page("channels", run, 1).run()
    assert not app.exception and not app.error
    assert sorted(gate.ran) == [0, 1]


def test_without_a_browser_everything_is_there_at_once(
    run: Run, gate: Gate, drawn: list[Sequence[Layer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stepwise, "waits_for_all", WAITS)
    gate.open = {0, 1, 2}
    app = page("steps", run, 0).run()
    assert not pending(drawn[-1]) and gate.ran == [0, 1, 2] and not app.error

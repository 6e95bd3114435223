"""The inner loop: it does not wait for the device, and what saves memory or time changes the result as said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shapes import lively_backbone, tiny_config, tiny_run, write_shapes
from test_allocation import loop_of
from torch.utils._python_dispatch import TorchDispatchMode

from lag_core.config import ConfigError
from lag_core.method.objective import Batch, Term
from lag_core.model.segmenter import Output
from lag_core.runs import Run, RunError
from lag_core.training.continual import ContinualTraining
from lag_core.training.features import FeatureStore
from lag_core.training.finite import FiniteCheck, NotFiniteError
from lag_core.training.loop import StepLoop, cut, gradient_norms, term_gradients
from lag_core.training.reporting import Reporter
from lag_core.training.resume import Cursor, load_resume, save_resume

pytestmark = pytest.mark.usefixtures("no_fsync")

LATENT = {"replay_at": "latent", "replay_maps": "drawn"}

WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.is_nonzero", "aten.unique", "aten._unique2", "aten.equal")
"""Operations whose result the host needs before it can go on."""


class Waits(TorchDispatchMode):
    """Collects the operations that would make the host wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func.overloadpacket) in WAITS:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("inner") / "shapes")


@pytest.mark.parametrize("name", ["finetune", "reference", "mib", "plop", "lag"])
def test_an_iteration_that_logs_nothing_waits_for_nothing(root: Path, tmp_path: Path, name: str) -> None:
    method = {"nsc": 0.0} if name == "lag" else {}  # NSC has to know which classes there are
    log = {"events_every": 100, "gradients_every": 100}
    loop = loop_of(root, tmp_path / "run", name, method=method, log=log)
    loop._finite.immediate = False
    loop._iterate(0, iter([loop.batch_of(0)]))
    batch = loop.batch_of(1)
    with Waits() as waits:
        assert loop._iterate(1, iter([batch])) is None
    assert waits.found == []
    with Waits() as waits:
        assert loop._iterate(0, iter([batch])) is not None
    assert waits.found, "a logged iteration reads its numbers"


def count_teacher(loop: StepLoop) -> list[int]:
    """A list that grows by each call of the teacher's part behind the trunk."""
    assert loop.teacher is not None
    original, calls = loop.teacher.behind_trunk, list[int]()

    def counted(features: torch.Tensor) -> Output:
        calls.append(1)
        return original(features)

    object.__setattr__(loop.teacher, "behind_trunk", counted)
    return calls


@pytest.mark.parametrize(
    ("name", "method", "asked"),
    [
        ("finetune", {}, 0),
        ("frozen", {}, 0),
        ("mib", {}, 3),
        ("plop", {}, 3),
        ("lag", {}, 3),
        ("reference", {}, 3),  # for its pseudo-labels
        ("reference", {"pseudo": "off"}, 1),  # its terms have no gradient: the first iteration finds that out
    ],
)
def test_the_teacher_is_asked_only_where_something_looks_at_its_answer(
    root: Path, tmp_path: Path, name: str, method: dict[str, Any], asked: int
) -> None:
    log = {"events_every": 100, "gradients_every": 100, "shares_every": 0}
    loop = loop_of(root, tmp_path / "run", name, method=method, log=log)
    loop.total = 10  # the last iteration is logged, with every term
    calls = count_teacher(loop)
    for iteration in range(3):
        loop._iterate(iteration, iter([loop.batch_of(iteration)]))
    assert len(calls) == asked


def test_joint_training_has_no_teacher(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, "joint")
    training = ContinualTraining(config, tmp_path / "run", Reporter(quiet=True), FeatureStore())
    assert len(training.labels.steps) == 1
    assert training._prepare(None, 0)[1].teacher is None


def test_without_its_teacher_an_iteration_is_the_same(root: Path, tmp_path: Path) -> None:
    found = []
    for place in ("as it is", "asked"):
        loop = loop_of(root, tmp_path / place, "finetune", optim={"lr_aspp_later": 0.01})
        if place == "asked":
            loop.objective.needs_teacher = lambda *_: True  # type: ignore[method-assign]
        loop._iterate(1, iter([loop.batch_of(1)]))
        found.append(loop.student.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_fp16_scales_the_loss_and_leaves_out_an_update_that_overflows(root: Path, tmp_path: Path) -> None:
    config = tiny_config(root, "finetune", optim={"amp": "fp16", "epochs": 1}, log={"shares_every": 1})
    training = ContinualTraining(config, tmp_path / "run", Reporter(quiet=True), FeatureStore())
    first = training._step(None, 0)
    _, loop = training._prepare(first, 1)
    scaler = loop.schedule.scaler
    assert scaler.is_enabled() and loop.allocation is None
    before = {name: value.clone() for name, value in loop.student.state_dict().items()}
    event = loop._iterate(0, iter([loop.batch_of(0)]))
    assert event is not None and event["loss"] > 0
    moved = {name: value for name, value in loop.student.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(value.isfinite().all() for value in moved.values())

    kept = {name: value.clone() for name, value in loop.student.state_dict().items()}
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**110})
    loop._iterate(1, iter([loop.batch_of(1)]))
    assert all(torch.equal(value, kept[name]) for name, value in loop.student.state_dict().items())
    assert scaler.get_scale() == 2.0**109

    save_resume(tmp_path / "resume.pt", Cursor(1, 2), loop.state_dict())
    training.journal.cursor, training.journal.states = load_resume(tmp_path / "resume.pt")
    again = training._prepare(first, 1)[1]
    assert again.schedule.scaler.get_scale() == 2.0**109
    training.journal.states.pop("scaler")
    with pytest.raises(RunError, match=r"does not belong to this run"):
        training._prepare(first, 1)


def test_gradients_of_terms_do_not_depend_on_the_scale() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    terms = {"one": Term((weight * 2).sum(), 1.0), "over": Term((weight * 1e30).sum(), 1.0)}
    plain, scaled = (term_gradients(terms, [weight], scale) for scale in (1.0, 2.0**16))
    assert plain["one"][id(weight)].item() == scaled["one"][id(weight)].item() == 2
    over = term_gradients(terms, [weight], 2.0**100)
    assert gradient_norms(terms, over, [weight]) == {"one": 2.0}, "a norm that overflows is left out"


@pytest.mark.parametrize("at", ["trunk", "latent"])
def test_replay_lives_on_after_a_batch_without_a_new_class(root: Path, tmp_path: Path, at: str) -> None:
    loop = loop_of(root, tmp_path / "run", "lag+", method={"replay_at": at} if at == "trunk" else LATENT)
    batch = loop.batch_of(0)
    new = loop.objective.space.new_channels(1)
    none = torch.where((batch.targets >= new.start) & (batch.targets < new.stop), 255, batch.targets)
    loop._iterate(0, iter([batch._replace(targets=none)]))
    assert loop.dead == set() and loop.take_findings() == []
    event = loop._iterate(1, iter([batch]))
    assert event is not None and event["terms"]["replay"]["raw"] > 0


def test_a_term_that_is_no_number_is_named_when_it_is_asked_for() -> None:
    check = FiniteCheck(immediate=False)
    fine, broken = Term(torch.tensor(1.0), 1.0), Term(torch.tensor(float("nan")), 1.0)
    check.note({"segmentation": fine, "sfp": fine})
    check.ask()
    check.note({"segmentation": fine, "sfp": broken})
    check.note({"segmentation": fine, "sfp": fine})
    with pytest.raises(NotFiniteError, match="term sfp is not finite; lower its weight"):
        check.ask()
    with pytest.raises(NotFiniteError, match="term sfp is nan"):
        FiniteCheck(immediate=True).note({"sfp": broken})


def test_nothing_is_saved_that_cannot_be_gone_on_from(root: Path, tmp_path: Path) -> None:
    loop = loop_of(root, tmp_path / "run", "lag")
    loop._finite.immediate = False
    loop._finite.note({"sfp": Term(torch.tensor(float("inf")), 1.0)})
    with pytest.raises(NotFiniteError, match="term sfp"):
        loop.state_dict()


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return {
        f"{step}/{name}": torch.from_numpy(value)
        for step in range(len(run.steps))
        for name, value in run.delta(step).items()
    }


def test_checkpointing_changes_no_bit(root: Path, tmp_path: Path) -> None:
    parts = {"optim": {"lr_stage": 0.01, "epochs": 1, "epochs_later": 1}, "data": {"task": "2-2"}}
    plain = tensors(tiny_run(root, tmp_path / "plain", "finetune", **parts))
    again = tensors(tiny_run(root, tmp_path / "again", "finetune", **parts, model={"checkpointing": True}))
    assert plain.keys() == again.keys() and any("backbone" in name for name in plain)
    assert all(torch.equal(plain[name], again[name]) for name in plain)


@pytest.mark.parametrize("optim", [{"channels_last": True}, {"fused": True}])
def test_layout_and_kernel_change_the_rounding_alone(root: Path, tmp_path: Path, optim: dict[str, bool]) -> None:
    weights = str(lively_backbone(root, tmp_path / "backbone.pt"))
    parts = {"model": {"weights": weights}, "data": {"task": "2-2"}, "optim": {"epochs": 1, "epochs_later": 1}}
    plain = tiny_run(root, tmp_path / "plain", "finetune", **parts)
    other = tiny_run(root, tmp_path / "other", "finetune", **{**parts, "optim": {**parts["optim"], **optim}})
    pairs = [(one["loss"], two["loss"]) for one, two in zip(plain.events(), other.events(), strict=True)]
    assert len(pairs) == 4 and pairs[0][0] == pytest.approx(pairs[0][1], rel=1e-4)
    assert all(one == pytest.approx(two, rel=0.02) for one, two in pairs)


def test_parts_of_a_batch_give_its_gradient(root: Path, tmp_path: Path) -> None:
    """Without ignored pixels, the mean over a batch is the mean of its parts'."""
    loop = loop_of(root, tmp_path / "run", "finetune", model={"weights": str(lively_backbone(root, tmp_path / "b.pt"))})
    batch = loop.batch_of(0)
    batch = batch._replace(targets=batch.targets.masked_fill(batch.targets == 255, 0))
    gradients: list[list[torch.Tensor]] = []

    def keep(progress: float) -> dict[str, float]:
        gradients.append([p.grad for p in loop.student.parameters() if p.grad is not None])
        loop.schedule.optimiser.zero_grad(set_to_none=True)
        return {}

    loop.schedule.step = keep  # type: ignore[method-assign]
    loop.allocation = None  # it follows the updates, and there is none here
    for parts in (1, 2, 4):
        loop.accumulate = parts
        loop._iterate(1, iter([batch]))
    assert gradients[0] and gradients[0][0].abs().max() > 0
    for other in gradients[1:]:
        assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(gradients[0], other, strict=True))


@pytest.mark.parametrize(("images", "parts", "sizes"), [(4, 1, [4]), (6, 3, [2, 2, 2]), (2, 4, [1, 1])])
def test_cut(images: int, parts: int, sizes: list[int]) -> None:
    batch = Batch(torch.arange(images), torch.arange(images), torch.arange(images))
    found = list(cut(batch, parts))
    assert [len(one.inputs) for one in found] == sizes
    assert torch.cat([one.targets for one in found]).tolist() == list(range(images))


def test_parts_must_divide_the_batch(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"optim\.batch = 4: 1 processes and optim\.accumulate = 3 must divide it"):
        tiny_run(root, tmp_path / "run", "finetune", optim={"accumulate": 3})

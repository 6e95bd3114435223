"""Networks behind an adapter: replay of Z, the self-test, run folders that name one, and what is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import own_adapters
import pytest
import torch
from own_adapters import FCN, DeepLab, Linear, Own, Shapes, write_checkpoints
from shapes import write_shapes
from torch import Tensor, nn

from lag_core.adapters.adapted_step import NEVER, AdaptedStep
from lag_core.adapters.adapter import Adapter, AdapterError, check
from lag_core.adapters.finding import find_adapter
from lag_core.adapters.replay import Replay, rows_of, upstream
from lag_core.capabilities import Lacks, capabilities, lacking
from lag_core.cli import main
from lag_core.explain.networks import Networks
from lag_core.explain.survey import open_survey
from lag_core.explain.trace import Trace
from lag_core.protocol import LabelSpace
from lag_core.relevance.target import Target
from lag_core.runs import open_run, read_json, write_json

LABELS = LabelSpace(((0, 1, 2), (3, 4)), background=0)

NEEDS = {"SegFormer": "transformers", "SegFormerReplayed": "transformers", "Mask2Former": "transformers",
         "UNet": "segmentation_models_pytorch"}  # fmt: skip
NETWORKS = ("Own", "Smooth", "DeepLab", "DeepLabReplayed", "FCN", "LRASPP", *NEEDS)


def adapter_of(name: str) -> Shapes:
    needed = NEEDS.get(name)
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed: pip install 'lag[adapters]'")
    return getattr(own_adapters, name)()


def adapted(adapter: Shapes, folder: Path, step: int = 1) -> AdaptedStep:
    path = write_checkpoints(adapter, folder)[step]
    return AdaptedStep(adapter, adapter.load(path, step, "cpu"), step, LABELS)


def noise(count: int, side: int = 64, seed: int = 1) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------------- decoding


@pytest.mark.parametrize("name", NETWORKS)
def test_decoding_z_gives_the_networks_logits(name: str, tmp_path: Path) -> None:
    """For each picture of a batch in any order, by what is remembered and by a whole pass."""
    step = adapted(adapter_of(name), tmp_path)
    images = noise(3)
    with torch.no_grad():
        output = step(images)
        plain = step.adapter.logits(step.net, images)
        order = [2, 0, 0, 1, 2]
        decoded = step.decoder(images)(output.latent[order], order)
    assert torch.equal(output.logits, plain)
    assert torch.allclose(decoded, plain[order], atol=1e-4 * float(plain.abs().max()))
    assert plain.std() > 1e-4, "a constant answer would prove nothing"


@pytest.mark.parametrize("name", NETWORKS)
def test_a_changed_z_is_followed_as_by_a_whole_pass(name: str, tmp_path: Path) -> None:
    step = adapted(adapter_of(name), tmp_path)
    images = noise(2)
    with torch.no_grad():
        output = step(images)
        changed = output.latent.clone()
        changed[:, ::2] = 0
        found = step.decoder(images)(changed)
        target = step.net.get_submodule(step.adapter.latent)
        handle = target.register_forward_hook(lambda *_: changed.clone())  # the slow, obvious way
        expected = step.adapter.logits(step.net, images)
        handle.remove()
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(found, output.logits)


def marks(step: AdaptedStep) -> list[tuple[bool, list[int], list[int]]]:
    """Of each module: whether its forward is replaced, and its hooks."""
    return [("forward" in vars(m), [*m._forward_hooks], [*m._forward_pre_hooks]) for m in step.net.modules()]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_afterwards_as_it_was(name: str, tmp_path: Path) -> None:
    step = adapted(adapter_of(name), tmp_path)
    images = noise(1)
    with torch.no_grad():
        before = step(images)
        hooks = marks(step)  # a network may have its own: those of transformers come with the first pass
        step.decoder(images)(before.latent * 2)
        after = step(images)
    assert torch.equal(before.logits, after.logits)
    assert marks(step) == hooks


def test_what_lies_before_z_does_not_run_again(tmp_path: Path) -> None:
    step = adapted(own_adapters.DeepLabReplayed(), tmp_path)
    images, runs = noise(1), []
    step.net.backbone["0"].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        latent, decode = step(images).latent, step.decoder(images)
        for factor in (0.5, 2.0, 3.0):
            decode(latent * factor)
    assert len(runs) == 2, "one pass, and one to remember"


def test_gradients_reach_z_and_the_picture(tmp_path: Path) -> None:
    """Against the matrix product that the network is."""
    step = adapted(Own(), tmp_path)
    images = noise(1).requires_grad_()
    step(images).logits[0, 2].sum().backward()
    weights = step.net.classify.weight[2, :, 0, 0] @ step.net.features.weight[:, :, 0, 0]
    assert torch.allclose(images.grad, weights.view(1, 3, 1, 1).expand_as(images))
    latent = step(noise(1)).latent.requires_grad_()
    step.decoder(noise(1))(latent)[0, 2].sum().backward()
    assert torch.allclose(latent.grad[0, :, 0, 0], step.net.classify.weight[2, :, 0, 0])


class Late(nn.Module):
    """`shared` runs before and after Z; `first` runs twice before it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shared, self.latent = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = self.latent(self.shared(self.first(self.first(x))))
        return self.shared(z) + x


def test_a_module_that_also_runs_after_z_is_not_remembered() -> None:
    net = Late().requires_grad_(False)
    images = noise(2, 8)
    early = upstream(net, net.latent, net, images)
    assert early == [net.first]
    import threading

    latent = net.latent(net.shared(net.first(net.first(images))))
    replay = Replay(net.latent, early, net, images, threading.RLock())
    assert torch.allclose(replay(latent[[1, 0]] + 1, [1, 0]), (net.shared(latent + 1) + images)[[1, 0]], atol=1e-6)


def test_rows_are_asked_for_where_they_cannot_be_told() -> None:
    assert rows_of(None, 6, 3).tolist() == [0, 1, 2, 0, 1, 2]
    with pytest.raises(ValueError, match="4 maps of 3 pictures"):
        rows_of(None, 4, 3)
    with pytest.raises(ValueError, match="2 maps, but 3 rows"):
        rows_of([0, 1, 2], 2, 3)


def test_its_own_normalisation_and_the_missing_unknown(tmp_path: Path) -> None:
    """The network gets RGB in [0, 1]; without a background an unknown that never wins stands in front."""

    class Plain(Own):
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    adapter = Plain()
    net = adapter.load(write_checkpoints(adapter, tmp_path)[1], 1, "cpu")
    step = AdaptedStep(adapter, net, 1, LabelSpace(((0, 1, 2), (3, 4)), None, unknown=True))
    grey = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    with torch.no_grad():
        found = step(torch.zeros(1, 3, 4, 4)).logits
    assert torch.allclose(found[:, 1:], net(grey), atol=1e-6)
    assert (found[:, 0] == NEVER).all()


# ---------------------------------------------------------------------- what does not fit


class DeadEnd(nn.Module):
    def __init__(self, classes: int):
        super().__init__()
        self.aside, self.classify = nn.Conv2d(3, 4, 1), nn.Conv2d(3, classes, 1)
        self.flat = nn.Flatten()

    def forward(self, images: Tensor) -> Tensor:
        self.aside(images), self.flat(images)
        return self.classify(images)


class Elsewhere(Shapes):
    def build(self, classes: int) -> nn.Module:
        return DeadEnd(classes)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"latent": "aside"}, r"the logits do not change when Z changes \(latent = 'aside'\); name a module whose"),
        ({"latent": "nowhere"}, "no module 'nowhere'"),
        ({"latent": "flat"}, "Z must be a map"),
        ({"latent": "aside", "head": "classify"}, "a pass failed|leave `head` out|the logits decoded from Z"),
    ],
)
def test_a_wrong_module_is_noticed(attributes: dict[str, str], words: str, tmp_path: Path) -> None:
    adapter = type("Wrong", (Elsewhere,), attributes)()
    with pytest.raises(AdapterError, match=words):
        adapted(adapter, tmp_path)


class Asleep(Shapes):
    latent = "1"

    def build(self, classes: int) -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, classes, 1))
        nn.init.constant_(net[0].bias, -100.0)
        return net


def test_a_map_of_zeros_is_no_fault(tmp_path: Path) -> None:
    """Pictures of noise wake nothing, but the logits follow Z."""
    step = adapted(Asleep(), tmp_path)
    with torch.no_grad():
        assert step(torch.zeros(1, 3, 8, 8)).latent.abs().max() == 0


def test_a_wrong_number_of_classes_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="for 3 classes"):
        AdaptedStep(Own(), Linear(5), 0, LABELS)


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"steps": (3, 1)}, "5 classes, but its steps"),
        ({"classes": ()}, "names no classes"),
        ({"classes": ("red", "background", "green", "blue", "yellow")}, "not the first"),
        ({"rule": "threshold"}, "allowed are"),
        ({"head": "classify", "latent": ""}, "no module for Z"),
    ],
)
def test_attributes_that_do_not_fit_together(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(AdapterError, match=words):
        check(type("Wrong", (Own,), attributes)())


# ---------------------------------------------------------------------- finding


def test_a_name_brings_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAG_ADAPTERS", raising=False)
    monkeypatch.setattr("lag_core.adapters.finding._allowed", set())
    for name in ("own_adapters:Own", "os:system"):
        with pytest.raises(AdapterError, match="was not allowed here"):
            find_adapter(name)
    with pytest.raises(AdapterError, match="there is no adapter"):
        find_adapter("__import__('os')")
    monkeypatch.setenv("LAG_ADAPTERS", "x:Y, own_adapters:Own")
    assert isinstance(find_adapter("own_adapters:Own"), Own)
    with pytest.raises(AdapterError, match="cannot be imported"):
        find_adapter("x:Y")
    monkeypatch.setenv("LAG_ADAPTERS", "own_adapters:Linear")
    with pytest.raises(AdapterError, match="no adapter: expected a subclass"):
        find_adapter("own_adapters:Linear")


def test_an_installed_adapter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("mine", "own_adapters:Own", "lag.adapters")
    monkeypatch.setattr("lag_core.adapters.finding.entry_points", lambda group: [entry])
    assert isinstance(find_adapter("mine"), Own)


# ---------------------------------------------------------------------- run folders


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("adapters") / "shapes")


@pytest.fixture(autouse=True)
def allowed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAG_ADAPTERS", ",".join(f"own_adapters:{name}" for name in NETWORKS))
    monkeypatch.setenv("LAG_CACHE", str(tmp_path / "cache"))


def adopted(adapter: Shapes, data: Path, tmp_path: Path) -> Path:
    paths = write_checkpoints(adapter, tmp_path / "checkpoints")
    name, out = f"own_adapters:{type(adapter).__name__}", tmp_path / "run"
    command = ["adopt", *map(str, paths), "--adapter", name, "--root", str(data), "--out", str(out), "--device", "cpu"]
    assert main(command) == 0
    return out


@pytest.mark.parametrize("name", ["Own", "DeepLab", "SegFormer", "Mask2Former", "UNet"])
def test_adopt_writes_a_run_that_answers(name: str, data: Path, tmp_path: Path) -> None:
    """Metrics are those of plain passes; trace, survey, evidence and evaluation know the interface alone."""
    adapter = adapter_of(name)
    run = open_run(adopted(adapter, data, tmp_path))
    assert [c.name for c in run.classes] == list(own_adapters.CLASSES) and run.kind == "adapter"
    lrp = {"lrp"} if name in ("Own", "DeepLab", "UNet") else set()
    assert capabilities(run) == {"labels", "logits", "gradients", "latent"} | lrp
    dataset = run.open_dataset()
    image, mask = dataset.image("s20"), dataset.mask("s20")
    trace = Trace(Networks(run), image, mask, "s20")
    with torch.no_grad():
        net = adapter.load(tmp_path / "checkpoints" / "step-1.pt", 1, "cpu").eval()
        plain = adapter.logits(net, trace.inputs())
    full = torch.nn.functional.interpolate(plain, size=(64, 64), mode="bilinear", align_corners=False)
    assert np.array_equal(trace.prediction(1), full[0, :, :32, :32].argmax(0).numpy())
    assert main(["evaluate", str(run.path), "--device", "cpu"]) == 0
    assert main(["survey", str(run.path), "--device", "cpu", "--quiet"]) == 0
    survey, stored = open_survey(run), run.confusions()
    assert stored is not None and np.array_equal(survey.confusion, stored)
    assert survey.prototypes.shape[2] == run.config.model.latent == trace.latent(1).shape[0]


def test_questions_about_channels_and_why(data: Path, tmp_path: Path) -> None:
    import lag_core

    run = lag_core.open_run(adopted(own_adapters.DeepLabReplayed(), data, tmp_path))
    trace = run.trace("s20")
    own, old = trace.latent(1), trace.latent(0)
    effect = trace.transplant(1, range(own.shape[0]), 0, controls=1)
    step = trace.networks.steps[1]
    with torch.no_grad():
        expected = step.decoder(trace.inputs())(torch.from_numpy(old)[None])
    assert np.array_equal(effect.prediction, trace.prediction(1, expected))
    for method in ("gradient-x-input", "grad-cam"):
        assert np.isfinite(trace.relevance(1, 1, method).map).all()
    for method in ("lrp", "lrp-epsilon"):
        assert trace.relevance(1, 1, method).conservation < 1e-3
    found = run.why_preserved("red", trace)
    assert found.evidence.effects is not None and found.verdict.status
    shares = found.evidence.shares
    assert shares is not None and shares.parts[1] == "features"
    assert abs(shares.points.sum() - (shares.end - shares.start)) < 1e-6


def test_a_network_with_a_layer_that_has_no_rule_gets_no_lrp(data: Path, tmp_path: Path) -> None:
    import lag_core

    trace = lag_core.open_run(adopted(own_adapters.Smooth(), data, tmp_path)).trace("s20")
    with pytest.raises(Lacks, match=r"There is no LRP .* no rule for gelu"):
        trace.relevance(1, 1, "lrp")


def test_an_unknown_class_that_the_network_has_not_takes_no_relevance(tmp_path: Path) -> None:
    adapter = Own()
    net = adapter.load(write_checkpoints(adapter, tmp_path)[1], 1, "cpu")
    step = AdaptedStep(adapter, net, 1, LabelSpace(((0, 1, 2), (3, 4)), None, unknown=True))
    found = step.recording(noise(1)).relevance(Target(2), "epsilon")
    with torch.no_grad():
        assert float(found.score) == pytest.approx(float(net(noise(1))[0, 1].double().sum()), rel=1e-4)
    assert float(found.error) < 1e-3


def test_a_run_names_its_adapter_and_its_checkpoints(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = adopted(Own(), data, tmp_path)
    monkeypatch.delenv("LAG_ADAPTERS")
    monkeypatch.setattr("lag_core.adapters.finding._allowed", set())
    with pytest.raises(AdapterError, match="LAG_ADAPTERS=own_adapters:Own"):
        Networks(open_run(out))
    monkeypatch.setenv("LAG_ADAPTERS", "own_adapters:Own")
    checkpoint = tmp_path / "checkpoints" / "step-1.pt"
    checkpoint.write_bytes(checkpoint.read_bytes() + b"x")
    with pytest.raises(Exception, match="is not the checkpoint"):
        Networks(open_run(out)).steps[1]
    checkpoint.unlink()
    with pytest.raises(Exception, match="is missing"):
        Networks(open_run(out)).steps[1]


def test_a_kind_cannot_claim_more_than_it_can(data: Path, tmp_path: Path) -> None:
    out = adopted(Own(), data, tmp_path)
    info = read_json(out / "run.json")
    info["network"]["can"] = ["lrp", "labels", "magic"]
    write_json(out / "run.json", info)
    run = open_run(out)
    assert capabilities(run) == {"labels", "lrp"} and "Name the module" in lacking(run, ["latent"])
    info["network"]["kind"] = "magic"
    write_json(out / "run.json", info)
    with pytest.raises(Exception, match="of the kind 'magic'"):
        open_run(out)


def test_adopt_says_what_is_wrong(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = ["adopt", "--adapter", "own_adapters:Own", "--root", str(data), "--out", str(tmp_path / "run")]
    assert main([*base, str(tmp_path / "none.pt")]) == 2 and "there is no checkpoint" in capsys.readouterr().err
    (tmp_path / "foreign.pt").write_bytes(b"no checkpoint at all")
    assert main([*base, str(tmp_path / "foreign.pt")]) == 2 and "cannot load" in capsys.readouterr().err
    paths = [str(p) for p in write_checkpoints(Own(), tmp_path / "c")]
    assert main([*base, *paths, paths[0]]) == 2 and "3 checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_adapter_may_be_short() -> None:
    """What docs/open-your-own.md promises: under 30 lines."""
    import inspect

    assert len(inspect.getsource(DeepLab).splitlines()) + len(inspect.getsource(Shapes).splitlines()) < 30
    assert issubclass(FCN, Adapter)

"""Eight systems' checkpoints through our mapping: the same logits, the same label maps, every wrong detail noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
import pytest
import torch
from peers import PEERS, TOLERANCE
from torch import Tensor

from lag_core.explain.networks import Networks
from lag_core.importing.container import read_checkpoint
from lag_core.importing.formats import FORMATS
from lag_core.importing.normalisation import plain
from lag_core.importing.run_writer import import_run
from lag_core.model.prediction import label_map
from lag_core.relevance.lrp import FoldedSegmenter
from lag_core.relevance.target import Target
from lag_core.runs import open_run

torch.set_num_threads(1)

FAST = ("ssul", "dkd", "plop", "rcil")
"""One of each kind of layout."""
IMAGES = ("wide", "main")
VARIANTS = {"ssul": ("frozen", "frozen weights"), "lag": ("frozen",)}


def cases() -> Iterator[Any]:
    """(peer, variant, step, whether through a file); a file once a peer."""
    for peer in PEERS:
        fast = peer in FAST
        yield pytest.param(peer, "moving", 0, fast, marks=pytest.mark.slow)
        yield pytest.param(peer, "moving", 1, not fast, marks=[] if fast else pytest.mark.slow)
        for variant in VARIANTS.get(peer, ()):
            yield pytest.param(peer, variant, 1, False, marks=pytest.mark.slow)


@pytest.mark.parametrize(("peer", "variant", "step", "by_file"), tuple(cases()))
def test_logits_and_label_maps_are_the_systems_own(
    peer: str, variant: str, step: int, by_file: bool, tmp_path: Path
) -> None:
    tensors = _from_file(peer, variant, step, tmp_path) if by_file else peers.state(peer, step, variant)
    model = peers.segmenter(peer, step, tensors)
    for image in IMAGES:
        logits = peers.full_logits(model, image)
        assert peers.difference(peer, logits, variant, image, step) < TOLERANCE
        assert peers.differing_pixels(peer, logits, variant, image, step) <= 1e-4
        if step:
            _notice_wrong_logits(peer, logits, variant, image)
            if image == "main":
                _notice_wrong_predictions(peer, logits, variant)
                if peer == "dkd":
                    _notice_the_auxiliary_channel(tensors, logits)


def _from_file(peer: str, variant: str, step: int, folder: Path) -> dict[str, Tensor]:
    path = peers.write_steps(peer, folder, (step,), variant)[0]
    tensors = {name: value.clone() for name, value in read_checkpoint(path).tensors.items()}
    path.unlink()
    return tensors


def _notice_wrong_logits(peer: str, logits: Tensor, variant: str, image: str) -> None:
    """Every wrong reading that the fixtures describe for this variant and image gives other logits than ours."""
    stored = peers.answers(peer)
    for detail, about in peers.layout(peer)["wrong"].items():
        key = f"wrong/{detail}/logits"
        if key in stored and about["image"] == image and about.get("variant", "moving") == variant:
            off = peers.off_wrong(peer, logits, detail)
            # the described difference is of all pixels, this of every 32nd, so it is smaller, but not another
            assert TOLERANCE < off <= 1.01 * about["largest_logit_difference"], detail


def _no_threshold(logits: Tensor) -> Tensor:
    return logits[0, 1:].argmax(0) + 1


def _softmax(logits: Tensor) -> Tensor:
    scores = logits[0].softmax(0)
    return torch.cat([scores[:1] + scores[1:2], scores[2:]]).argmax(0)


AUXILIARY = "auxiliary as background"
WRONG_PREDICTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "no threshold": _no_threshold,
    "unknown dropped": lambda logits: logits[0, 1:].argmax(0),
    "softmax": _softmax,
}


def _notice_wrong_predictions(peer: str, logits: Tensor, variant: str) -> None:
    """A wrong rule changes as many pixels as the fixtures say."""
    right = peers.prediction(peer, logits)
    for detail, about in peers.layout(peer)["wrong"].items():
        if detail in WRONG_PREDICTIONS and variant == "moving":
            changed = float((WRONG_PREDICTIONS[detail](logits).numpy() != right).mean())
            assert changed == pytest.approx(about["pixels_that_change_class"], abs=1e-3), detail
            assert changed > 1e-3


def _notice_the_auxiliary_channel(tensors: dict[str, Tensor], logits: Tensor) -> None:
    """DKD's first channel in the background's place changes as many pixels as the fixtures say."""
    model = peers.segmenter("dkd", 1, tensors)
    first = model.heads[0].classify
    with torch.no_grad():
        first.weight[0], first.bias[0] = tensors["cls.0.weight"][0], tensors["cls.0.bias"][0]
    wrong = peers.full_logits(model, "main")[0].argmax(0).numpy()
    about = peers.layout("dkd")["wrong"][AUXILIARY]
    changed = float((wrong != peers.prediction("dkd", logits)).mean())
    assert changed == pytest.approx(about["pixels_that_change_class"], abs=1e-3)


@pytest.mark.parametrize("peer", PEERS)
def test_no_answer_and_no_wrong_reading_is_left_out(peer: str) -> None:
    """Every stored answer is compared by the test above, and every wrong detail noticed by it."""
    compared = {
        f"{variant}/{image}/{step}/{what}"
        for name, variant, step, _ in (one.values for one in cases())
        for image in IMAGES
        for what in ("logits", "prediction")
        if name == peer
    }
    stored = set(peers.answers(peer).files)
    assert {key for key in stored if not key.startswith("wrong/")} == compared
    noticed = {key.split("/")[1] for key in stored if key.startswith("wrong/")}
    assert set(peers.layout(peer)["wrong"]) - noticed <= {*WRONG_PREDICTIONS, AUXILIARY}


@pytest.mark.slow
def test_each_switch_set_wrong_gives_the_wrong_answer_that_is_described() -> None:
    """RCIL has every switch: turning one, and reading the norm's scale otherwise, gives what the fixtures store."""
    peer, tensors = "rcil", peers.state("rcil", 1)
    right, unsigned = (peers.converted(peer, 1, tensors, gamma) for gamma in (None, plain))
    for detail, image, change in (
        ("relu", "main", {"activation": "relu"}),
        ("dilation", "main", {"dilated_first_block": False}),
        ("stem active", "main", {"stem_activation": True}),
        ("global pooling", "wide", {"pooling_window": 0}),
        ("gamma signed", "main", {}),
    ):
        model = peers.built(peer, 1, unsigned if detail == "gamma signed" else right, **change)
        logits = peers.full_logits(model, image)
        assert peers.difference(peer, logits, "moving", image, 1) > TOLERANCE
        assert peers.off_wrong(peer, logits, detail) < TOLERANCE, detail


def test_a_background_without_a_logit_is_where_no_class_is_above_a_half() -> None:
    """DKD's and STAR's rule, against its definition; the background is probable where all others are not."""
    labels = peers.labels_of("star")
    torch.manual_seed(0)
    logits = torch.cat([torch.zeros(2, 1, 9, 9), torch.randn(2, 5, 9, 9)], 1)
    logits[0, 1:, 0, 0] = 0  # exactly a half: not above it
    found = label_map(logits, labels, FORMATS["star"].loss)
    scores = logits[:, 1:].sigmoid()
    wanted = torch.where((scores > 0.5).any(1), scores.argmax(1) + 1, 0)
    assert torch.equal(found.long(), wanted)
    assert (found == 0).any() and (found > 0).any() and found[0, 0, 0] == 0
    assert torch.equal(found, label_map(logits, labels, "bce")), "argmax over the logits says the same"


@pytest.mark.slow
def test_relevance_is_conserved_on_plops_network() -> None:
    """Leaky ReLU on R101, a window that is smaller than the map: LRP's account closes, at pixels, too."""
    model = peers.segmenter("plop", 1, peers.state("plop", 1))
    image = peers.rule().image(33, 641)  # a map of 3 x 41 cells, more than the window holds
    recording = FoldedSegmenter(model).record(image)
    with torch.no_grad():
        logits = model(image).logits
    assert torch.allclose(recording.logits, logits, atol=1e-3)
    where = (logits[0, 1] > logits[0, 0]).float()
    for composite in ("epsilon", "composite"):
        found = recording.relevance(Target(1, where), composite)
        assert float(found.error.max()) < 1e-3, composite


@pytest.mark.slow
def test_files_of_all_steps_become_a_run_that_keeps_what_moves(tmp_path: Path) -> None:
    """SSUL --freeze without --bn_freeze: no weight of the trunk moves, its running statistics do."""
    paths = peers.write_steps("ssul", tmp_path, (0, 1), "frozen weights")
    run = import_run(peers.request("ssul", *paths, out=tmp_path / "run", root=str(tmp_path)))
    for path in paths:
        path.unlink()
    moved = {name for name in run.delta(1) if name.startswith("backbone.")}
    assert moved and all(name.endswith(("running_mean", "running_var")) for name in moved)
    networks = Networks(open_run(run.path))
    assert not networks.one_trunk
    logits = peers.full_logits(networks.steps[1], "wide")
    assert peers.difference("ssul", logits, "frozen weights", "wide", 1) < TOLERANCE
    _notice_wrong_logits("ssul", logits, "frozen weights", "wide")


def test_the_quick_rule_makes_the_same_bits() -> None:
    """tests/peers.py puts a faster function in the place of weights_rule.whole, which is compared here as it is."""
    module = peers.rule()
    original = peers.fresh_rule().whole
    assert module.whole is peers.quick_whole and module.whole is not original
    for text, n in (("", 1), ("plop/a/0", 7), ("rcil/b/1", 100_003)):
        found, wanted = peers.quick_whole(text, n), original(text, n)
        assert found.dtype == wanted.dtype and np.array_equal(found, wanted)


@pytest.mark.parametrize("change", ["missing", "foreign", "misshapen", "whole numbers", "not finite"])
def test_a_wrong_key_is_named(change: str) -> None:
    layout = peers.rule().hollow(peers.layout("plop"), 0)
    key = "body.mod2.block1.convs.conv1.weight"
    if change == "missing":
        del layout[key]
    elif change == "foreign":
        layout["body.mod2.block9.convs.conv1.weight"] = torch.zeros(3)
    else:
        layout[key] = {
            "misshapen": torch.zeros(1).expand(10**9, 10**6),  # huge, and nothing behind it
            "whole numbers": torch.zeros(64, 64, 1, 1, dtype=torch.int64),
            "not finite": torch.full((64, 64, 1, 1), float("nan")),
        }[change]
    words = {"missing": "lacks", "foreign": "does not belong", "misshapen": "has shape", "whole numbers": "int64"}
    named = "block9" if change == "foreign" else key
    with pytest.raises(ValueError, match=words.get(change, "not finite")) as found:
        peers.segmenter("plop", 0, layout)
    assert named in str(found.value)


def test_counters_of_batch_norm_may_be_there_or_not() -> None:
    hollow = peers.rule().hollow(peers.layout("csseg"), 0)
    without = {name: value for name, value in hollow.items() if not name.endswith("num_batches_tracked")}
    assert len(without) < len(hollow)
    for tensors in (hollow, without):
        peers.segmenter("csseg", 0, tensors)


def test_half_precision_is_read() -> None:
    hollow = peers.rule().hollow(peers.layout("plop"), 0)
    model = peers.segmenter("plop", 0, {name: value.half() for name, value in hollow.items()})
    assert {value.dtype for value in model.parameters()} == {torch.float32}


def test_formats_differ_as_their_titles_do() -> None:
    assert tuple(FORMATS) == PEERS
    assert len({one.title for one in FORMATS.values()}) == len(PEERS)
    assert replace(FORMATS["mib"], name="plop", title="PLOP").network == FORMATS["plop"].network

"""Propagation rules on one dense layer, against their sums written out; each switch of a rule by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lag_core.relevance import rules
from lag_core.relevance.rules import (
    Composite,
    Favour,
    From,
    Ledger,
    Passing,
    Product,
    Quotient,
    Rule,
    Share,
    alpha_beta_rule,
    composite_named,
    composites,
    epsilon_rule,
    flat_rule,
    gamma_rule,
    identity,
    negative,
    ones,
    positive,
    propagate,
    propagate_sum,
    quotient,
    zbox_rule,
    zeros,
)

X = torch.tensor([-2.0, 0.0, 3.0])


class Dense:
    """A linear layer on single pixels: weights [D, C], bias [D] or None."""

    def __init__(self, weights: Tensor, bias: Tensor | None):
        self.weights, self.bias = weights, bias

    def forward_with(self, x: Tensor, weights: rules.TensorMap, bias: Tensor | None = None) -> Tensor:
        z = torch.einsum("dc,bchw->bdhw", weights(self.weights), x)
        return z if bias is None else z + bias[:, None, None]

    def backward_with(self, s: Tensor, weights: rules.TensorMap, like: Tensor) -> Tensor:
        return torch.einsum("dc,bdhw->bchw", weights(self.weights), s)

    def bias_with(self, weights: rules.TensorMap) -> Tensor | None:
        return None if self.bias is None else weights(self.bias)

    def spread(self, s: Tensor, like: Tensor) -> Tensor:
        return (s.sum(1, keepdim=True) / like.shape[1]).expand_as(like).clone()


def tensors(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- The maps. ------------------------------------------------------------------------------------


def test_maps() -> None:
    assert identity(X) is X
    assert positive(X).tolist() == [0, 0, 3] and negative(X).tolist() == [-2, 0, 0]
    assert ones(X).tolist() == [1, 1, 1] and zeros(X).tolist() == [0, 0, 0]
    assert Favour(0.5, positive)(X).tolist() == [-2, 0, 4.5] and Favour(0.5, negative)(X).tolist() == [-3, 0, 3]


def test_the_distance_from_the_box() -> None:
    x = torch.zeros(1, 2, 1, 3)
    assert From((1.0, -2.0))(x)[0, :, 0].tolist() == [[-1, -1, -1], [2, 2, 2]]
    with pytest.raises(ValueError, match="bounds 2 channels, but the input has 3"):
        From((1.0, -2.0))(torch.zeros(1, 3, 1, 1))


@pytest.mark.parametrize("inputs", [identity, positive, negative])
@pytest.mark.parametrize("nonnegative", [True, False])
def test_a_term_knows_what_inputs_spare_it(inputs: rules.TensorMap, nonnegative: bool) -> None:
    product = Product(inputs, identity)
    assert product.vanishes(nonnegative) == (nonnegative and inputs is negative)
    a = X.abs() if nonnegative else X
    assert torch.equal(product.of_inputs(a, nonnegative), inputs(a))
    spared = inputs is identity or (inputs is positive and nonnegative)
    assert (product.of_inputs(a, nonnegative) is a) == spared


def test_which_shares_are_plain_and_which_have_one_sign() -> None:
    plain = epsilon_rule().shares[0]
    assert plain.is_plain and not plain.is_one_signed
    assert not plain._replace(bias=zeros).is_plain and not plain._replace(products=plain.products * 2).is_plain
    agreeing = alpha_beta_rule().shares[0]
    assert agreeing.is_one_signed and not agreeing.is_plain
    assert not gamma_rule().shares[0].is_one_signed
    assert not agreeing._replace(products=(agreeing.products[0], Product(identity, positive))).is_one_signed
    assert not agreeing._replace(products=(agreeing.products[0], Product(positive, identity))).is_one_signed


def test_which_rules_are_plain() -> None:
    plain = epsilon_rule().shares[0]
    assert epsilon_rule().is_plain and not alpha_beta_rule().is_plain and not flat_rule().is_plain
    assert not Rule("below", (plain,), (plain,)).is_plain and not Rule("twice", (plain, plain)).is_plain


# --- The rules. -----------------------------------------------------------------------------------


def test_what_each_rule_is_made_of() -> None:
    assert [make().epsilon for make in (epsilon_rule, gamma_rule, alpha_beta_rule, flat_rule)] == [1e-6] * 4
    assert zbox_rule((0.0,), (1.0,)).epsilon == 1e-6 and Rule("x", ()).epsilon == 1e-6
    assert gamma_rule().shares[0].products[0].weights == Favour(0.25, positive)
    assert gamma_rule(0.0).shares_below is not None
    agree = (Product(positive, positive), Product(negative, negative))
    oppose = (Product(positive, negative), Product(negative, positive))
    one = alpha_beta_rule()
    assert one.name == "alpha1-beta0" and one.shares == (Share(1.0, agree, positive),)
    assert one.shares_below == (Share(1.0, oppose, negative),)
    two = alpha_beta_rule(2, 1, bias=False)
    assert two.name == "alpha2-beta1"
    assert two.shares == (Share(2, agree, zeros, True, True), Share(-1, oppose, zeros, False, True))
    assert two.shares_below == (Share(2, oppose, zeros, True, True), Share(-1, agree, zeros, False, True))
    for rule in (zbox_rule((0.0,), (1.0,)), flat_rule()):
        (share,) = rule.shares
        assert (share.coefficient, share.bias, share.aligned, share.spread) == (1.0, zeros, False, False)
        assert rule.shares_below is None
    (share,) = epsilon_rule().shares
    assert (share.coefficient, share.aligned, share.spread) == (1.0, True, False)


@pytest.mark.parametrize(("alpha", "beta"), [(2.0, 0.0), (1.0, 1.0), (0.5, -0.5), (1.001, 0.0)])
def test_alpha_and_beta_that_do_not_conserve_are_refused(alpha: float, beta: float) -> None:
    with pytest.raises(ValueError, match="alpha - beta = 1"):
        alpha_beta_rule(alpha, beta)


def test_what_no_rule_can_be() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        gamma_rule(-0.1)
    for epsilon in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="epsilon > 0"):
            epsilon_rule(epsilon)


def test_composites_by_name() -> None:
    known = composites()
    assert list(known) == ["epsilon", "composite", "composite-gamma", "composite-flat"]
    assert all(one.name == name for name, one in known.items())
    assert [one.decoder.name for one in known.values()] == ["epsilon"] * 4
    assert [one.image.name for one in known.values()] == ["epsilon", "z-box", "z-box", "flat"]
    backbones = [one.backbone for one in known.values()]
    assert [one.name for one in backbones] == ["epsilon", "alpha1-beta0", "gamma", "alpha1-beta0"]
    assert backbones[1].shares[0].bias is zeros and backbones[3].shares[0].spread
    own = Composite("own", flat_rule(), flat_rule(), flat_rule())
    assert composite_named(own) is own and composite_named("composite").name == "composite"
    with pytest.raises(ValueError, match="unknown composite 'best'; known: epsilon, composite"):
        composite_named("best")


def test_the_box_holds_every_picture() -> None:
    black = [(0 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    white = [(1 - mean) / std for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)]
    for low, dark, bright, high in zip(rules.IMAGENET_LOW, black, white, rules.IMAGENET_HIGH, strict=True):
        assert dark - 1e-3 < low <= dark and bright <= high < bright + 1e-3


# --- Quotients and what is booked. ----------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-6, 0.5])
def test_a_quotient_keeps_the_sign_and_damps_by_the_images_mean(epsilon: float) -> None:
    z = torch.tensor([[1.0, -3.0], [-20.0, 60.0]], dtype=torch.float64).view(2, 1, 1, 2)
    found = quotient(torch.ones_like(z), z.clone(), epsilon)
    eps = epsilon * torch.tensor([2.0, 40.0], dtype=torch.float64)[:, None]
    expected = z.view(2, 2) + eps * z.view(2, 2).sign()
    assert torch.allclose(found.s.view(2, 2), 1 / expected)
    assert torch.allclose(found.stabiliser.view(2, 2), eps * z.view(2, 2).sign())


def test_an_upward_quotient_has_one_stabiliser_an_image() -> None:
    z = torch.tensor([[1.0, 3.0], [0.0, 0.0]]).view(2, 1, 1, 2)
    found = quotient(torch.ones_like(z), z, 0.5, upward=True)
    assert found.stabiliser.shape == (2, 1, 1, 1) and float(found.stabiliser[0]) == 1.0
    assert found.s[0].flatten().tolist() == [0.5, 0.25]
    assert (
        float(found.stabiliser[1]) == pytest.approx(torch.finfo(torch.float32).tiny ** 0.5) and found.s.isfinite().all()
    )


def test_a_quotient_takes_zs_place_only_where_it_may() -> None:
    z = torch.tensor([2.0, -4.0]).view(1, 1, 1, 2)
    quotient(torch.ones_like(z), z, 1e-6)
    assert z.flatten().tolist() == [2.0, -4.0]
    found = quotient(torch.ones_like(z), z, 1e-6, overwrite=True)
    assert found.s.data_ptr() == z.data_ptr()


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("uniform", [True, False])
def test_what_stabiliser_and_bias_keep_is_booked(uniform: bool, with_bias: bool) -> None:
    s, bias = tensors(0, 2, 3, 2, 2), tensors(1, 3) if with_bias else None
    stabiliser = tensors(2, 2, 1, 1, 1) if uniform else tensors(2, 2, 3, 2, 2)
    ledger = Ledger(2, s.device)
    ledger.book(torch.ones(2, 3))
    Quotient(s, stabiliser).book(ledger, bias)
    expected = [3.0, 3.0]
    for b in range(2):
        for d in range(3):
            for place in ((0, 0), (0, 1), (1, 0), (1, 1)):
                held = stabiliser.expand_as(s)[b, d][place] + (0.0 if bias is None else bias[d])
                expected[b] += float(s[b, d][place] * held)
    assert ledger.absorbed.dtype == torch.float64 and ledger.absorbed.tolist() == pytest.approx(expected)


def test_little_is_booked_and_much_is_taken_back() -> None:
    s = torch.ones(2, 1, 1, 2, dtype=torch.float64)
    stabiliser = torch.tensor([0.4e-4, 0.3], dtype=torch.float64).view(2, 1, 1, 1)
    ledger, relevance = Ledger(2, s.device), torch.tensor([1.0, -1.0]).double().expand(2, 1, 1, 2)
    found = Quotient(s, stabiliser).unsupported(relevance, ledger)
    assert found is not None and found.flatten().tolist() == pytest.approx([0, 0, 0.3, 0.3])
    assert ledger.absorbed.tolist() == pytest.approx([0, -0.6])
    ledger = Ledger(1, s.device)
    assert Quotient(s[:1], stabiliser[:1]).unsupported(relevance[:1], ledger) is None and not ledger.absorbed.any()
    assert rules.NEGLIGIBLE == 1e-4


def test_exactly_negligible_is_little() -> None:
    s = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    ledger = Ledger(1, s.device)
    assert Quotient(s, s * 1e-4).unsupported(s, ledger) is None


# --- Propagation. ---------------------------------------------------------------------------------


RULES = {
    "epsilon": epsilon_rule(0.1),
    "gamma": gamma_rule(0.5, 0.1),
    "alpha1-beta0": alpha_beta_rule(epsilon=0.1),
    "alpha2-beta1": alpha_beta_rule(2, 1, epsilon=0.1),
    "alpha1-beta0 without biases": alpha_beta_rule(bias=False, epsilon=0.1),
    "alpha2-beta1 without biases": alpha_beta_rule(2, 1, bias=False, epsilon=0.1),
    "z-box": zbox_rule((-4.0,) * 3, (4.0,) * 3, 0.1),
    "flat": flat_rule(0.1),
}


def written_out(
    rule: Rule, weights: Tensor, bias: Tensor, a: Tensor, outputs: Tensor, relevance: Tensor
) -> tuple[Tensor, float]:
    """Relevance of the inputs [C, N] and what is kept, share by share, for inputs [C, N] of one image.

    The stabiliser of a share is a share of the mean |z'| of all its outputs.
    """
    found, kept = torch.zeros_like(a), 0.0
    below = outputs < 0
    parts = [(rule.shares, relevance)]
    if rule.shares_below is not None:
        parts = [(rule.shares, relevance * ~below), (rule.shares_below, relevance * below)]
    for shares, part in parts:
        for share in shares:
            mapped = [
                (product.inputs(a[None, :, :, None])[0, :, :, 0], product.weights(weights))
                for product in share.products
            ]
            z = sum(w @ x for x, w in mapped) + share.bias(bias)[:, None]
            if rule.shares_below is not None and shares is rule.shares and share.aligned and not share.is_one_signed:
                z = z.clamp(min=0)  # below zero there is no relevance
            eps = rule.epsilon * z.abs().mean() * torch.where(z < 0, -1.0, 1.0)
            s = share.coefficient * part / (z + eps)
            held = s * eps
            found += sum(x * (w.T @ s) for x, w in mapped)
            kept += float((s * share.bias(bias)[:, None]).sum())
            if share.spread:
                found += held.sum(0, keepdim=True) / len(a)
            else:
                kept += float(held.sum())
    return found, kept


@pytest.mark.parametrize("nonnegative", [True, False])
@pytest.mark.parametrize("kind", RULES)
def test_propagation_is_its_sum_written_out(kind: str, nonnegative: bool) -> None:
    weights, bias, a = tensors(1, 4, 3), tensors(2, 4), tensors(3, 1, 3, 2, 2)
    a = a.abs() if nonnegative else a
    layer = Dense(weights, bias)
    outputs = layer.forward_with(a, identity, bias)
    relevance, ledger = tensors(4, 1, 4, 2, 2), Ledger(1, a.device)
    before = [x.clone() for x in (weights, bias, a, outputs, relevance)]
    found = propagate(layer, RULES[kind], Passing(a, outputs, nonnegative, False), relevance, ledger)
    expected, kept = written_out(
        RULES[kind], weights, bias, a[0].flatten(1), outputs[0].flatten(1), relevance[0].flatten(1)
    )
    assert torch.allclose(found[0].flatten(1), expected)
    assert float(ledger.absorbed) == pytest.approx(kept)
    assert float(found.sum() + ledger.absorbed) == pytest.approx(float(relevance.sum()))
    assert all(torch.equal(x, y) for x, y in zip(before, (weights, bias, a, outputs, relevance), strict=True))


@pytest.mark.parametrize("kind", RULES)
def test_behind_a_relu_negative_outputs_take_no_part(kind: str) -> None:
    """What an aligned share says about outputs at zero counts for nothing, in its stabiliser either."""
    weights, bias, a = tensors(1, 4, 3), tensors(2, 4), tensors(3, 1, 3, 2, 2).abs()
    layer, rule = Dense(weights, bias), RULES[kind]
    outputs = layer.forward_with(a, identity, bias).relu()
    relevance, ledger = tensors(4, 1, 4, 2, 2) * (outputs > 0), Ledger(1, a.device)
    found = propagate(layer, rule, Passing(a, outputs, True, True), relevance, ledger)
    assert float(found.sum() + ledger.absorbed) == pytest.approx(float(relevance.sum()))
    share = rule.shares[0]
    if len(rule.shares) > 1 or share.spread or not share.aligned:
        return
    z = sum(layer.forward_with(t.inputs(a), t.weights) for t in share.products) + share.bias(bias)[:, None, None]
    z = outputs if share.is_plain else z.clamp(min=0)
    s = relevance / (z + rule.epsilon * z.mean())
    expected = sum(t.inputs(a) * layer.backward_with(s, t.weights, a) for t in share.products)
    assert torch.allclose(found, expected)


def test_only_the_sign_of_what_has_relevance_matters() -> None:
    """All relevance at outputs that are not negative: one pass, with the shares for those."""
    rule, outputs = alpha_beta_rule(), torch.tensor([[2.0, -1.0]]).view(1, 2, 1, 1)
    up, down = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1), torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    assert [(s, u) for s, _, u in rules._by_sign(rule, outputs, up, False)] == [(rule.shares, True)]
    for relevance in (down, -down, up + down):
        parts = rules._by_sign(rule, outputs, relevance, False)
        assert [(s, u) for s, _, u in parts] == [(rule.shares, True), (rule.shares_below, False)]
        assert torch.equal(parts[0][1], relevance * (outputs > 0)) and torch.equal(
            parts[1][1], relevance * (outputs < 0)
        )
    assert rules._by_sign(epsilon_rule(), outputs, down, False)[0][2] is False
    assert rules._by_sign(rule, outputs, down, True)[0][0] is rule.shares


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("kind", [k for k in RULES if k != "z-box"])
def test_a_sum_is_a_layer_with_weights_one(kind: str, rectified: bool) -> None:
    parts = [tensors(5, 1, 3, 2, 2), tensors(6, 1, 3, 2, 2)]
    total = parts[0] + parts[1]
    total = total.relu() if rectified else total
    relevance, ledger = tensors(7, 1, 3, 2, 2) * (total != 0), Ledger(1, total.device)
    before = [x.clone() for x in (*parts, total, relevance)]
    found = propagate_sum(RULES[kind], parts, total, rectified, relevance, ledger)
    pair = torch.cat(parts, 1)
    layer, other = (
        Dense(torch.cat([torch.eye(3), torch.eye(3)], 1).double(), torch.zeros(3).double()),
        Ledger(1, pair.device),
    )

    def spread(s: Tensor, like: Tensor) -> Tensor:
        return torch.cat([s, s], 1) / 2

    layer.spread = spread  # type: ignore[method-assign]
    if kind == "flat":  # an output of the layer sees all six inputs, a sum's its own two
        layer.weights = torch.ones(1, 2).double()
        for c in range(3):
            at = slice(c, c + 1)
            expected = propagate(
                layer, RULES[kind], Passing(pair[:, c::3], total[:, at], False, rectified), relevance[:, at], other
            )
            assert torch.allclose(torch.cat([one[:, at] for one in found], 1), expected)
    else:
        expected = propagate(layer, RULES[kind], Passing(pair, total, False, rectified), relevance, other)
        assert torch.allclose(torch.cat(found, 1), expected)
    assert float(ledger.absorbed) == pytest.approx(float(other.absorbed))
    assert all(torch.equal(x, y) for x, y in zip(before, (*parts, total, relevance), strict=True))

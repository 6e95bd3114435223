"""Carrying objects of a new class over to old ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lag_core.config import ConfigError, resolve
from lag_core.method.objective import Objective
from lag_core.method.replay import ClassStatistics
from lag_core.method.transport import LEAST_PIXELS, Carrier, gaussian_transport, matrix_power, with_ridge
from lag_core.protocol import LabelSpace

SPACE = LabelSpace(((0, 1, 2), (3,)), background=0, unknown=True)
"""Channels: 0 unknown, 1 background, 2 and 3 old, 4 new."""


def covariance(seed: int, size: int = 5) -> Tensor:
    mix = torch.randn(size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return mix @ mix.T + 0.1 * torch.eye(size, dtype=torch.float64)


def test_the_transport_gives_the_target_its_moments():
    s, t, mean, to = covariance(0), covariance(1), torch.randn(5).double(), torch.randn(5).double()
    matrix, shift = gaussian_transport(mean, s, to, t)
    a = matrix.double()
    assert torch.allclose(a @ mean + shift.double(), to, atol=1e-5)
    assert torch.allclose(a @ with_ridge(s) @ a.T, with_ridge(t), atol=1e-4)
    assert torch.allclose(a, a.T, atol=1e-5), "the optimal transport is symmetric, a Cholesky factor's would not be"
    assert torch.linalg.eigvalsh(a).min() > 0


def test_the_transport_to_itself_changes_nothing():
    s, mean = covariance(2), torch.randn(5).double()
    matrix, shift = gaussian_transport(mean, s, mean, s)
    assert torch.allclose(matrix, torch.eye(5), atol=1e-5) and shift.abs().max() < 1e-5


def test_powers_of_a_matrix_multiply():
    s = covariance(3)
    assert torch.allclose(matrix_power(s, 0.5) @ matrix_power(s, 0.5), s)
    assert torch.allclose(matrix_power(s, -0.5) @ s @ matrix_power(s, -0.5), torch.eye(5, dtype=torch.float64))


@pytest.fixture
def filled() -> tuple[ClassStatistics, Tensor, Tensor]:
    """Statistics of old and new classes from images in which each class has its own colours."""
    generator = torch.Generator().manual_seed(0)
    statistics = ClassStatistics(5, 5, full=True, rectified=False)
    features = torch.randn(9, 5, 6, 6, generator=generator)
    labels = torch.zeros(9, 6, 6, dtype=torch.int64)
    for image in range(9):
        channel = (2, 3, 4)[image % 3]
        labels[image, 1:4, 1:5] = channel
        features[image] += 3.0 * channel * torch.nn.functional.one_hot(torch.tensor(channel), 5)[:, None, None]
    statistics.update(features, labels)
    return statistics, features, labels


def test_a_carried_map_has_the_old_class_where_the_new_one_was(filled):
    statistics, features, labels = filled
    carrier = Carrier(statistics, SPACE, 1)
    maps, named = carrier.carry(features, labels, [2, 3], 3, torch.Generator().manual_seed(1))
    assert maps.shape == (6, 5, 6, 6) and named.shape == (6, 6, 6)
    assert named.flatten(1).amax(1).tolist() == [2, 2, 2, 3, 3, 3], "the new class is gone"
    assert all(((named[i] > 1) == (labels[2] == 4)).all() for i in range(6)), "the shape stays"
    for i, k in enumerate((2, 2, 2, 3, 3, 3)):
        inside = maps[i][:, named[i] == k].mean(1).double()
        others = [(inside - statistics.mean[j]).norm() for j in (2, 3, 4)]
        assert min(others) == others[k - 2], "nearest to the class that it stands for"


def test_carrying_agrees_with_a_loop_over_pixels(filled):
    statistics, features, labels = filled
    carrier = Carrier(statistics, SPACE, 1)
    maps, _ = carrier.carry(features[2:3], labels[2:3], [3], 1, torch.Generator())
    matrix, shift = gaussian_transport(
        statistics.mean[4], statistics.covariance()[4], statistics.mean[3], statistics.covariance()[3]
    )
    for y in range(6):
        for x in range(6):
            pixel = features[2, :, y, x]
            expected = matrix @ pixel + shift if labels[2, y, x] == 4 else pixel
            assert torch.allclose(maps[0, :, y, x], expected, atol=1e-4)


def test_same_generator_same_maps_and_none_without_a_new_class(filled):
    statistics, features, labels = filled
    carrier = Carrier(statistics, SPACE, 1)
    once, again = (carrier.carry(features, labels, [2], 4, torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert once.equal(again)
    assert len(carrier.carry(features[:2], labels[:2], [2], 4, torch.Generator())[0]) == 0
    assert len(carrier.carry(features, labels, [], 4, torch.Generator())[0]) == 0


def test_carried_maps_need_full_covariances_at_the_trunk():
    with pytest.raises(ConfigError, match="carried"):
        resolve({"method": {"replay_maps": "carried", "replay_at": "trunk", "replay_covariance": "diagonal"}})


def test_the_ridge_is_a_hundredth_of_the_mean_variance():
    s = torch.tensor([[1.0, 0.5], [0.5, 3.0]], dtype=torch.float64)
    assert torch.allclose(with_ridge(s), torch.tensor([[1.02, 0.5], [0.5, 3.02]], dtype=torch.float64))
    assert with_ridge(s).dtype == torch.float64


def test_a_power_of_a_singular_matrix_is_finite():
    flat = torch.ones(3, 3, dtype=torch.float64)
    assert matrix_power(flat, -0.5).isfinite().all() and matrix_power(torch.zeros_like(flat), -0.5).isfinite().all()
    assert torch.allclose(matrix_power(flat, 0.5) @ matrix_power(flat, 0.5), flat)


def test_a_class_without_pixels_is_not_carried_to(filled):
    statistics, features, labels = filled
    statistics.reset([2])
    maps, named = Carrier(statistics, SPACE, 1).carry(features, labels, [2, 3], 3, torch.Generator().manual_seed(1))
    assert len(maps) == 3 and named.flatten(1).amax(1).tolist() == [3, 3, 3]


@pytest.mark.parametrize(("pixels", "moved"), [(LEAST_PIXELS - 1, False), (LEAST_PIXELS, True)])
def test_a_class_is_carried_to_as_it_looks_in_the_steps_own_domain(filled, pixels, moved):
    """Statistics of the step's own images take the place of stored ones where they have enough pixels."""
    statistics, features, labels = filled
    present = ClassStatistics(5, 5, full=True, rectified=False)
    here = torch.randn(1, 5, pixels, 1, generator=torch.Generator().manual_seed(3)) - 20.0
    present.update(here, torch.full((1, pixels, 1), 2))
    draw = torch.Generator().manual_seed(1)
    maps, named = Carrier(statistics, SPACE, 1, present).carry(features, labels, [2, 3], 1, draw)
    second, third = (maps[i].movedim(0, -1)[named[i] == k].mean() for i, k in enumerate((2, 3)))
    assert (second < -10) == moved and third > -10


def test_what_the_steps_own_images_showed_survives_a_resume():
    carries = {"replay_maps": "carried", "replay_at": "trunk", "replay_covariance": "full", "replay_domain": "step"}
    config = resolve({"method": carries}).method
    one, again = (Objective(config, SPACE, 1, latent=4, trunk=5) for _ in range(2))
    assert one.present is not None and again.present is not None
    one.present.update(torch.randn(1, 5, 4, 4), torch.full((1, 4, 4), 2))
    again.load_state_dict(one.state_dict())
    assert again.present.mean.equal(one.present.mean) and again.present.count.equal(one.present.count)
    assert Objective(config, SPACE, 0, latent=4, trunk=5).present is None, "step 0 carries nothing over"


def test_the_steps_domain_is_for_carried_maps():
    with pytest.raises(ConfigError, match="replay_domain"):
        resolve({"method": {"replay_domain": "step"}})


@pytest.mark.parametrize("maps", ["carried", "drawn"])
def test_classes_of_another_domain_are_left_out_of_the_replay(maps: str):
    replay = {"replay": 1.0, "replay_maps": maps, "replay_at": "trunk", "replay_covariance": "full"}

    def of(foreign: tuple[int, ...], domain: str = "same") -> Objective:
        config = resolve({"method": {**replay, "replay_domain": domain}}).method
        return Objective(config, SPACE, 1, latent=4, trunk=5, foreign=foreign)

    assert of(()).replayed == [2, 3] and of((2,)).replayed == [3]
    assert of(()).not_replayed == [] and of((2,)).not_replayed == [2]
    replay["replay"] = 0.0
    assert of((2,)).not_replayed == [], "a method without replay leaves nothing out"
    replay["replay"] = 1.0
    assert of((2,), "stored").replayed == [2, 3], 'only replay_domain = "same" looks at the domain'
    assert of((2,)).needs_teacher(0.5, 0) and (of((2,)).carrier is not None) == (maps == "carried")
    none = of((2, 3))
    assert none.replayed == [] and none.carrier is None
    assert not none.needs_teacher(0.5, 0), "a replay of nothing is no term"


def test_every_image_with_a_new_class_is_drawn_and_each_draw_is_its_own(filled):
    statistics, features, labels = filled
    maps, _ = Carrier(statistics, SPACE, 1).carry(features, labels, [3], 40, torch.Generator().manual_seed(1))
    border = {tuple(one[:, 0, 0].tolist()) for one in maps}
    assert border == {tuple(features[i, :, 0, 0].tolist()) for i in (2, 5, 8)}


def test_each_new_class_of_an_image_is_carried_by_its_own_map():
    space = LabelSpace(((0, 1), (2, 3)), background=0, unknown=True)  # channels 3 and 4 are new
    generator = torch.Generator().manual_seed(0)
    statistics = ClassStatistics(5, 5, full=True, rectified=False)
    features, labels = torch.randn(4, 5, 6, 6, generator=generator), torch.zeros(4, 6, 6, dtype=torch.int64)
    for channel in (2, 3, 4):
        labels[:, channel - 2 : channel - 1] = channel
        features[:, :, channel - 2] += channel
    statistics.update(features, labels)
    maps, named = Carrier(statistics, space, 1).carry(features[:1], labels[:1], [2], 1, torch.Generator())
    assert named[0].tolist() == labels[0].clone().masked_fill(labels[0] > 2, 2).tolist()
    for row, source in ((1, 3), (2, 4)):
        cov = statistics.covariance()
        matrix, shift = gaussian_transport(statistics.mean[source], cov[source], statistics.mean[2], cov[2])
        assert torch.allclose(maps[0, :, row], matrix @ features[0, :, row] + shift[:, None], atol=1e-4)
    assert torch.equal(maps[0, :, 0], features[0, :, 0]) and torch.equal(maps[0, :, 3:], features[0, :, 3:])

"""Geometry against slow second implementations: picture and mask stay aligned, and come back where they
were."""

from __future__ import annotations

import numpy as np
import pytest

from lag_core.data import transforms
from lag_core.protocol import IGNORE


def blocks(height: int, width: int, side: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A mask of square blocks and a picture whose grey value is 40 times the label: they tell of each
    other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 6, (-(-height // side), -(-width // side))).astype(np.uint8)
    mask = np.kron(coarse, np.ones((side, side), np.uint8))[:height, :width]
    return np.repeat((mask * 40)[..., None], 3, -1), mask


def nearest_by_hand(labels: np.ndarray, height: int, width: int) -> np.ndarray:
    result = np.empty((height, width), labels.dtype)
    for i in range(height):
        for j in range(width):
            y = int((i + 0.5) * labels.shape[0] / height + 1e-9)
            x = int((j + 0.5) * labels.shape[1] / width + 1e-9)
            result[i, j] = labels[y, x]
    return result


@pytest.mark.parametrize("size", [(7, 9), (20, 30), (33, 41), (64, 5), (1, 1)])
def test_labels_are_resized_to_the_nearest_pixel(size: tuple[int, int]) -> None:
    labels = np.random.default_rng(0).integers(0, 200, (20, 30)).astype(np.uint8)
    np.testing.assert_array_equal(transforms.resize_labels(labels, size), nearest_by_hand(labels, *size))


def agreement(image: np.ndarray, mask: np.ndarray) -> float:
    """Share of labelled pixels whose grey value is their label's; block borders are blurred by scaling."""
    inside = mask != IGNORE
    return float((np.abs(image[..., 0].astype(int) - 40 * mask.astype(int)) <= 6)[inside].mean())


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (300, 200), (128, 128), (129, 500)])
def test_fit_keeps_picture_and_mask_aligned(shape: tuple[int, int]) -> None:
    image, mask = blocks(*shape, side=max(shape) // 5)
    fitted, (h, w) = transforms.fit(image, 128)
    labels = transforms.fit_mask(mask, 128)
    assert fitted.shape == (128, 128, 3) and fitted.dtype == np.uint8
    assert (labels[:h, :w] != IGNORE).all()
    assert (labels[h:] == IGNORE).all() and (labels[:, w:] == IGNORE).all()
    assert (fitted[h:] == transforms.PADDING).all() and (fitted[:, w:] == transforms.PADDING).all()
    assert agreement(fitted, labels) > 0.85


def test_fit_never_enlarges() -> None:
    image, mask = blocks(48, 64)
    fitted, content = transforms.fit(image, 128)
    assert content == (48, 64)
    np.testing.assert_array_equal(fitted[:48, :64], image)
    np.testing.assert_array_equal(transforms.fit_mask(mask, 128)[:48, :64], mask)


@pytest.mark.parametrize(
    ("shape", "content"), [((500, 375), (128, 96)), ((375, 500), (96, 128)), ((1, 4000), (1, 128))]
)
def test_the_long_side_becomes_the_size(shape: tuple[int, int], content: tuple[int, int]) -> None:
    assert transforms.content_size(*shape, 128) == content
    assert transforms.fit(np.zeros((*shape, 3), np.uint8), 128)[1] == content


def test_padding_is_about_zero_for_the_network() -> None:
    fitted, _ = transforms.fit(np.zeros((4, 4, 3), np.uint8), 32)
    assert np.abs(transforms.to_input(fitted)[:, 8:, 8:]).max() < 0.01


def test_unfit_scores_follow_the_labels() -> None:
    _, mask = blocks(300, 200, side=50)
    content = transforms.content_size(300, 200, 128)
    fitted = transforms.fit_mask(mask, 128)
    scores = (fitted[None] == np.arange(6)[:, None, None]).astype(np.float64)
    back = transforms.unfit_scores(scores, content, (300, 200))
    assert back.shape == (6, 300, 200) and back.dtype == np.float32
    assert (back.argmax(0) == mask).mean() > 0.95
    np.testing.assert_allclose(back.sum(0), 1, atol=1e-5)


def test_unfit_scores_without_scaling_are_the_scores() -> None:
    scores = np.random.default_rng(0).random((3, 32, 32)).astype(np.float32)
    np.testing.assert_array_equal(transforms.unfit_scores(scores, (20, 30), (20, 30)), scores[:, :20, :30])


def test_to_input_pixel_by_pixel() -> None:
    image = np.random.default_rng(1).integers(0, 256, (2, 5, 7, 3)).astype(np.uint8)
    result = transforms.to_input(image)
    assert result.shape == (2, 3, 5, 7) and result.dtype == np.float32 and result.flags.c_contiguous
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for (b, y, x, c), value in np.ndenumerate(image):
        assert result[b, c, y, x] == pytest.approx((value / 255 - mean[c]) / std[c], abs=1e-5)


@pytest.mark.parametrize("shape", [(60, 90), (200, 150), (128, 128), (20, 400)])
def test_augmented_views_stay_aligned(shape: tuple[int, int]) -> None:
    image, mask = blocks(*shape, side=20)
    rng = np.random.default_rng(2)
    for _ in range(20):
        view, labels = transforms.augment(image, mask, rng, 128)
        assert view.shape == (128, 128, 3) and labels.shape == (128, 128)
        assert view.dtype == labels.dtype == np.uint8
        assert (view[labels == IGNORE] == transforms.PADDING).all()
        assert (labels != IGNORE).any()
        assert agreement(view, labels) > 0.6


def test_augmentation_at_scale_one_is_a_shift_and_perhaps_a_mirror() -> None:
    image, mask = blocks(40, 50, side=5)
    rng = np.random.default_rng(3)
    mirrored = 0
    for _ in range(40):
        view, labels = transforms.augment(image, mask, rng, 64, scale=(1.0, 1.0))
        rows, columns = np.nonzero(labels != IGNORE)
        cut = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        plain = np.array_equal(labels[cut], mask) and np.array_equal(view[cut], image)
        flipped = np.array_equal(labels[cut], mask[:, ::-1]) and np.array_equal(view[cut], image[:, ::-1])
        assert plain or flipped
        mirrored += flipped
    assert 8 < mirrored < 32


def test_augmentation_scales_within_its_bounds() -> None:
    """A small picture keeps all of itself, so that its area in the view tells the scale."""
    image, mask = blocks(40, 40)
    rng = np.random.default_rng(4)
    scales = []
    for _ in range(60):
        _, labels = transforms.augment(image, mask, rng, 64, scale=(0.75, 1.5))
        scales.append(((labels != IGNORE).sum() ** 0.5) / 40)
    assert min(scales) > 0.72 and max(scales) < 1.53
    assert min(scales) < 0.9 and max(scales) > 1.35


def test_augmentation_follows_its_generator() -> None:
    image, mask = blocks(90, 70)
    first = transforms.augment(image, mask, np.random.default_rng(5), 64)
    again = transforms.augment(image, mask, np.random.default_rng(5), 64)
    other = transforms.augment(image, mask, np.random.default_rng(6), 64)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


def test_nothing_changes_its_input() -> None:
    image, mask = blocks(90, 70)
    before = image.copy(), mask.copy()
    transforms.augment(image, mask, np.random.default_rng(0), 64)
    transforms.fit(image, 64)[0][:] = 0
    transforms.fit_mask(mask, 64)[:] = 0
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(mask, before[1])

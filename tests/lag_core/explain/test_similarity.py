"""Prototypes over steps, against loops and against geometry that is known beforehand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_runs import LATENT, STEPS, write_run

from lag_core.explain import similarity
from lag_core.explain.similarity import Prototypes
from lag_core.protocol import LabelSpace
from lag_core.runs import open_run, write_tensors

LABELS = LabelSpace(STEPS, None, unknown=True)
T, K, C = 3, 5, 7


def random_prototypes(seed: int = 0, missing: bool = False) -> Prototypes:
    rng = np.random.default_rng(seed)
    mean = rng.random((T, K, C)).astype(np.float32)
    if missing:
        mean[1, 2] = np.nan
    return Prototypes(mean, rng.random((T, K)).astype(np.float32) * 0.1)


def angle_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True))) / float(
        np.sqrt(sum(x * x for x in a)) * np.sqrt(sum(y * y for y in b))
    )


def test_cosines_are_those_of_pairs() -> None:
    p = random_prototypes()
    for other in (None, 0):
        matrix = similarity.similarity_matrix(p, 2, other)
        for i, j in np.ndindex(K, K):
            expected = angle_cosine(p.mean[2, i], p.mean[2 if other is None else other, j])
            assert matrix[i, j] == pytest.approx(expected, abs=1e-6)
    assert np.isnan(similarity.cosine(np.zeros((1, C)), p.mean[0])).all()


def test_drift_is_measured_from_where_a_class_begins() -> None:
    p = random_prototypes(missing=True)
    found = similarity.drift(p, LABELS)
    for t, k in np.ndindex(T, K):
        start = LABELS.step_of(k)
        for array, origin in ((found.since_introduced, start), (found.since_last, t - 1)):
            known = t >= start and origin >= start
            if not known or np.isnan(p.mean[[t, origin], k]).any():
                assert np.isnan(array[t, k])
            else:
                assert array[t, k] == pytest.approx(1 - angle_cosine(p.mean[t, k], p.mean[origin, k]), abs=1e-6)


def test_a_class_that_only_grows_does_not_drift() -> None:
    first = np.random.default_rng(0).random((1, K, C))
    p = Prototypes(np.concatenate([first, 2 * first, 2 * first]).astype(np.float32), np.zeros((T, K)))
    found = similarity.drift(p, LABELS)
    assert found.since_introduced[0, 0] == 0 and found.since_last[2, 0] == 0
    assert np.nanmax(found.since_introduced) < 1e-12


def test_margins_know_only_the_classes_seen() -> None:
    p = random_prototypes(missing=True)
    found = similarity.margins(p, LABELS)
    for t, k in np.ndindex(T, K):
        others = [j for j in range(LABELS.seen(t)) if j != k and not np.isnan(p.mean[t, j]).any()]
        if k >= LABELS.seen(t) or np.isnan(p.mean[t, k]).any():
            assert found.nearest[t, k] == -1 and np.isnan(found.margin[t, k])
            continue
        apart = {j: 1 - angle_cosine(p.mean[t, k], p.mean[t, j]) for j in others}
        nearest = min(apart, key=lambda j: apart[j])
        assert found.nearest[t, k] == nearest
        assert found.distance[t, k] == pytest.approx(apart[nearest], abs=1e-6)
        assert found.margin[t, k] == pytest.approx(apart[nearest] - p.spread[t, k], abs=1e-6)


def test_distance_to_the_unknown() -> None:
    p = random_prototypes()
    unknown = np.random.default_rng(1).random((T, C))
    unknown[1] = np.nan
    found = similarity.unknown_distance(p, unknown, LABELS)
    for t, k in np.ndindex(T, K):
        if t == 1 or k >= LABELS.seen(t):
            assert np.isnan(found[t, k])
        else:
            assert found[t, k] == pytest.approx(1 - angle_cosine(p.mean[t, k], unknown[t]), abs=1e-6)


def test_pixels_against_prototypes() -> None:
    rng = np.random.default_rng(2)
    latent, prototypes = rng.random((C, 4, 6)).astype(np.float32), rng.random((K, C)).astype(np.float32)
    latent[:, 1, 2] = 0
    prototypes[3] = np.nan
    cosines = similarity.prototype_cosines(latent, prototypes)
    labels, early = similarity.nearest_prototype(cosines), similarity.nearest_prototype(cosines, seen=2)
    assert np.isnan(cosines[3]).all() and (cosines[[0, 1, 2, 4], 1, 2] == 0).all()
    for y, x in np.ndindex(4, 6):
        if (y, x) == (1, 2):
            continue
        expected = {k: angle_cosine(latent[:, y, x], prototypes[k]) for k in (0, 1, 2, 4)}
        for k, value in expected.items():
            assert cosines[k, y, x] == pytest.approx(value, abs=1e-6)
        assert labels[y, x] == max(expected, key=lambda k: expected[k])
        assert early[y, x] == (expected[1] > expected[0])
    assert (similarity.nearest_prototype(np.full((2, 3, 3), np.nan)) == 255).all()


def test_a_known_plane_is_found_again() -> None:
    """Directions that vary in a plane are explained by two axes, and distances in it are kept."""
    rng = np.random.default_rng(3)
    basis = np.linalg.qr(rng.normal(size=(C, 3)))[0].T
    angle = rng.random((T, K)) * 2 * np.pi
    tilt = 0.3
    flat = np.stack([np.cos(angle) * tilt, np.sin(angle) * tilt, np.full((T, K), np.sqrt(1 - tilt**2))], -1)
    p = Prototypes((flat @ basis * rng.uniform(1, 5, (T, K, 1))).astype(np.float64), np.zeros((T, K)))
    plane = similarity.fit_projection(p)
    assert plane.explained.sum() == pytest.approx(1)
    points = plane(p.mean).reshape(-1, 2)
    places = flat.reshape(-1, 3)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    np.testing.assert_allclose(np.linalg.norm(points[:, None] - points[None], axis=-1), apart, atol=1e-6)


def test_axes_are_orthonormal_and_explain_what_the_covariance_says() -> None:
    p = random_prototypes(missing=True)
    plane = similarity.fit_projection(p)
    np.testing.assert_allclose(plane.axes @ plane.axes.T, np.eye(2), atol=1e-9)
    rows = p.mean[p.known] / np.linalg.norm(p.mean[p.known], axis=-1, keepdims=True)
    values = np.sort(np.linalg.eigvalsh(np.cov(rows.T.astype(np.float64))))[::-1]
    np.testing.assert_allclose(plane.explained, values[:2] / values.sum(), rtol=1e-6)


def test_the_picture_does_not_flip() -> None:
    """The same prototypes in another order, and with another sign of the SVD, give the same axes."""
    p = random_prototypes()
    turned = Prototypes(p.mean[::-1, ::-1].copy(), p.spread)
    np.testing.assert_allclose(similarity.fit_projection(p).axes, similarity.fit_projection(turned).axes, atol=1e-6)
    for axis in similarity.fit_projection(p).axes:
        assert axis[np.abs(axis).argmax()] > 0


def test_paths_leave_out_missing_steps() -> None:
    p = random_prototypes(missing=True)
    plane = similarity.fit_projection(p)
    found = {path.cls: path for path in similarity.paths(p, plane)}
    assert found[2].steps == (0, 2) and found[0].steps == (0, 1, 2)
    np.testing.assert_array_equal(found[2].points, plane(p.mean)[[0, 2], 2])
    assert [path.cls for path in similarity.paths(p, plane, [4, 1])] == [4, 1]
    with pytest.raises(ValueError, match="lag survey"):
        similarity.fit_projection(Prototypes(np.full((T, K, C), np.nan), np.zeros((T, K))))


def test_equal_prototypes_stay_in_one_place() -> None:
    p = Prototypes(np.ones((T, K, C), np.float32), np.zeros((T, K)))
    plane = similarity.fit_projection(p)
    assert np.isnan(plane.explained).all() and (plane(p.mean) == 0).all()


def test_stored_prototypes_and_the_unknown(tmp_path: Path) -> None:
    """Rows are training channels: the unknown class first, then the class indices."""
    path = write_run(tmp_path, "run")
    run = open_run(path)
    assert similarity.stored(run).mean.shape == (3, 5, 0)
    assert similarity.unknown_embeddings(run) is None
    for t in range(3):
        rows = run.labels.channels(t)
        mean = np.repeat(np.arange(rows, dtype=np.float32)[:, None], LATENT, 1) + 100 * t
        count = np.ones(rows, np.float32)
        count[0] = t > 0
        write_tensors(path / f"analysis_{t:02d}.safetensors", {"prototypes.mean": mean, "prototypes.count": count})
    found = similarity.stored(run)
    assert found.mean[1, 0].tolist() == [101] * LATENT and found.mean[2, 4].tolist() == [205] * LATENT
    assert found.known.tolist() == [[True] * 2 + [False] * 3, [True] * 4 + [False], [True] * 5]
    unknown = similarity.unknown_embeddings(run)
    assert (
        unknown is not None and np.isnan(unknown[0]).all() and unknown[1:].tolist() == [[100] * LATENT, [200] * LATENT]
    )


def test_spread_is_the_mean_distance_of_the_pixels_to_their_mean() -> None:
    rng = np.random.default_rng(3)
    pixels = rng.random((2, 40, 6))
    pixels[0, 7] = 0
    unit = similarity._unit(pixels)
    found = similarity.spread(np.nansum(unit, 1), pixels.sum(1), np.array([40, 40]))
    for own, value in zip(pixels, found, strict=True):
        cosines = np.nan_to_num(similarity.cosine(own, own.mean(0)[None])[:, 0])
        assert value == pytest.approx(np.mean(1 - cosines))
    nothing = similarity.spread(np.zeros((2, 6)), np.zeros((2, 6)), np.array([0, 5]))
    assert np.isnan(nothing).all(), "neither without pixels nor with a prototype of 0"


def test_equal_pixels_have_no_spread_whatever_rounding_makes() -> None:
    """Less than nothing is refused when a survey is read."""
    pixels = np.random.default_rng(0).random((20, 6))[:, None].repeat(7, 1)
    found = similarity.spread(similarity._unit(pixels).sum(1), pixels.sum(1), np.full(20, 7))
    assert found == pytest.approx(0, abs=1e-12) and (found >= 0).all()


def test_a_class_overlaps_its_neighbour_where_its_margin_is_below_0() -> None:
    margins = similarity.Margins(np.zeros((1, 3), np.int64), np.full((1, 3), 0.1), np.array([[-0.01, 0.0, np.nan]]))
    assert margins.overlap.tolist() == [[True, False, False]]

"""Where label ids change: masks to targets and truth, predictions to ids, channels to classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lag_core.data.remap import class_scores, dataset_ids, targets, truth
from lag_core.protocol import LabelSpace

WITH_BACKGROUND = LabelSpace(((0, 7), (3,)), background=0, unknown=True)
"""Channels: unknown, background, 7, 3."""
WITHOUT = LabelSpace(((7, 2), (3,)), background=None, unknown=True)
"""Channels: unknown, 7, 2, 3."""
PLAIN = LabelSpace(((0, 7), (3,)), background=0, unknown=False)


@pytest.mark.parametrize("make", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_unknown_is_folded_into_the_background(make):
    scores = make([[0.1], [0.2], [0.3], [0.4]])
    found = class_scores(scores, WITH_BACKGROUND)
    assert np.asarray(found).ravel() == pytest.approx([0.3, 0.3, 0.4])
    assert np.asarray(scores).ravel() == pytest.approx([0.1, 0.2, 0.3, 0.4]), "the given scores stay as they are"


def test_unknown_is_dropped_where_there_is_no_background():
    assert class_scores(np.array([0.4, 0.1, 0.2, 0.3]), WITHOUT) == pytest.approx([0.1, 0.2, 0.3])


def test_without_unknown_scores_are_those_of_the_classes():
    scores = np.array([0.5, 0.2, 0.3])
    assert class_scores(scores, PLAIN) is scores


def test_the_fold_may_change_the_decision():
    scores = np.array([0.3, 0.25, 0.45, 0.0])
    assert scores[1:].argmax() == 1 and class_scores(scores, WITH_BACKGROUND).argmax() == 0


def test_truth_and_back():
    mask = np.array([[0, 7], [3, 255]], np.uint8)
    found = truth(mask, WITH_BACKGROUND)
    assert found.tolist() == [[0, 1], [2, 255]]
    assert dataset_ids(found, WITH_BACKGROUND)[found != 255].tolist() == [0, 7, 3]


def test_an_id_that_no_step_introduces_is_ignored():
    assert truth(np.array([[9]], np.uint8), WITHOUT).tolist() == [[255]]


def test_targets_of_a_step_hold_its_own_classes_alone():
    """What is no class of the step goes to the unknown channel; 255 stays ignored."""
    mask = np.array([[0, 7, 3, 255]], np.uint8)
    assert targets(mask, WITH_BACKGROUND, 0, "overlapped").tolist() == [[0, 2, 0, 255]]
    assert targets(mask, WITH_BACKGROUND, 1, "overlapped").tolist() == [[0, 0, 3, 255]]
    assert targets(mask, PLAIN, 1, "overlapped").tolist() == [[0, 0, 2, 255]]

"""Scores equal the original's and a slow literal transcription of their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recipe import golden

from openseg.errors import DataError
from openseg.metrics import BoundaryCounts, ConfusionMatrix, LabelScores

K = 4


def test_running_score_golden():
    expected = golden("running_score")
    confusion = ConfusionMatrix(int(expected["num_classes"]))
    for truth, prediction in zip(expected["gt"], expected["pred"], strict=True):
        confusion.update(prediction, truth)
    np.testing.assert_array_equal(confusion.counts[:, :-1], expected["confusion"])
    np.testing.assert_allclose(confusion.class_iou, expected["class_iou"], rtol=1e-12)
    assert confusion.mean_iou == pytest.approx(float(expected["mean_iou"]), abs=1e-12)
    assert confusion.pixel_accuracy == pytest.approx(float(expected["pixel_acc"]), abs=1e-12)
    assert confusion.mean_accuracy == pytest.approx(float(expected["mean_acc"]), abs=1e-12)
    assert confusion.frequency_weighted_iou == pytest.approx(float(expected["fwavacc"]), abs=1e-12)


def test_a_prediction_that_is_no_class_is_a_miss():
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0, 255, 1, 1]], np.uint8), np.array([[0, 0, 1, 255]], np.uint8))
    assert confusion.pixel_accuracy == pytest.approx(2 / 3)
    np.testing.assert_allclose(confusion.class_iou, [1 / 2, 1.0])


def test_nothing_counted_is_nan_not_a_crash():
    scores = LabelScores(["a", "b"], (1,))
    scores.update(np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8))
    assert all(np.isnan(value) for value in scores.summary().values())


def outline(mask):
    """Pixels of the mask with a neighbour (of 8) outside it; the image border is no boundary."""
    height, width = mask.shape
    edge = set()
    for h in range(height):
        for w in range(width):
            around = [
                mask[y, x]
                for y in range(max(h - 1, 0), min(h + 2, height))
                for x in range(max(w - 1, 0), min(w + 2, width))
            ]
            if mask[h, w] and not all(around):
                edge.add((h, w))
    return edge


def literal_f(prediction, truth, distance):
    result = []
    for label in range(K):
        predicted, true = outline((prediction == label) & (truth < K)), outline(truth == label)

        def near(points, others):
            return sum(any((a - c) ** 2 + (b - d) ** 2 <= distance**2 for c, d in others) for a, b in points)

        if not true:
            result.append(np.nan)
            continue
        precision = near(predicted, true) / len(predicted) if predicted else 0.0
        recall = near(true, predicted) / len(true)
        total = precision + recall
        result.append(2 * precision * recall / total if total else 0.0)
    return result


maps = hnp.arrays(np.uint8, (9, 11), elements=st.sampled_from([0, 1, 2, 3, 255]))


@given(maps, maps, st.sampled_from([1, 2, 3]))
@settings(deadline=None, max_examples=40)
def test_boundary_f_is_its_definition(prediction, truth, distance):
    counts = BoundaryCounts(K, (distance,))
    counts.update(prediction, truth)
    np.testing.assert_allclose(counts.class_f[0], literal_f(prediction, truth, distance), atol=1e-12)


@given(st.lists(st.tuples(maps, maps), min_size=2, max_size=4))
@settings(deadline=None, max_examples=20)
def test_scores_merge_by_addition(pairs):
    names = [str(i) for i in range(K)]
    whole, parts = LabelScores(names), LabelScores(names)
    for prediction, truth in pairs:
        whole.update(prediction, truth)
        part = LabelScores(names)
        part.update(prediction, truth)
        parts += part
    np.testing.assert_array_equal(whole.confusion.counts, parts.confusion.counts)
    np.testing.assert_array_equal(whole.boundary.counts, parts.boundary.counts)


@pytest.mark.parametrize("scores", [ConfusionMatrix(K), BoundaryCounts(K)])
def test_sizes_must_agree(scores):
    with pytest.raises(DataError, match="differ in size"):
        scores.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))

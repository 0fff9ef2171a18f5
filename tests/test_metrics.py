"""Scores equal the original's and a slow literal transcription of their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from recipe import golden

from openseg.datasets.info import DatasetInfo
from openseg.errors import DataError
from openseg.metrics import (
    BoundaryCounts,
    BoundaryIoU,
    ConfusionMatrix,
    InstanceScores,
    LabelScores,
    PredictedInstance,
    joint_counts,
)

K = 4


def info_of(num_classes):
    names, ids = [f"class {i}" for i in range(num_classes)], tuple(range(num_classes))
    return DatasetInfo("made up", "folder", tuple(names), ((1, 1, 1),) * num_classes, ids)


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
    scores = LabelScores(info_of(2), (1,))
    scores.update(np.zeros((3, 3), np.uint8), np.full((3, 3), 255, np.uint8))
    assert all(np.isnan(value) for value in (scores.compute() | scores.image_means()).values())
    assert scores.absent == ["class 0", "class 1"]


def outline(mask):
    """Pixels of the mask with a neighbor (of 8) outside it; the image border is no boundary."""
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


def inner_edge(mask, ratio):
    """Boundary IoU's region, word for word: what erosion takes away, one pixel at a time, outside being no mask."""
    height, width = mask.shape
    left = mask
    for _ in range(max(round(ratio * np.sqrt(height**2 + width**2)), 1)):
        padded = np.pad(left, 1)
        shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        left = np.logical_and.reduce(shifts)
    return mask & ~left


sizes = st.tuples(st.integers(1, 13), st.integers(1, 17))
pairs_of_maps = sizes.flatmap(
    lambda size: st.tuples(*[hnp.arrays(np.uint8, size, elements=st.sampled_from([0, 1, 2, 3, 7, 255]))] * 2)
)
patches = sizes.flatmap(
    lambda size: st.tuples(
        *[
            st.lists(st.tuples(*[st.integers(0, 16)] * 4, st.sampled_from([0, 1, 2, 255])), max_size=4).map(
                lambda boxes: paint(size, boxes)
            )
        ]
        * 2
    )
)


def paint(size, boxes):
    canvas = np.full(size, 3, np.uint8)
    for top, left, height, width, value in boxes:
        canvas[top : top + height, left : left + width] = value
    return canvas


@given(st.one_of(pairs_of_maps, patches), st.sampled_from([0.02, 0.1, 0.3]))
@settings(deadline=None, max_examples=120)
def test_boundary_iou_is_its_definition(pair, ratio):
    prediction, truth = pair
    counts = BoundaryIoU(K, ratio)
    counts.update(prediction, truth)
    for label in range(K):
        predicted = inner_edge((prediction == label) & (truth < K), ratio)
        true = inner_edge(truth == label, ratio)
        union = np.count_nonzero(predicted | true)
        expected = np.count_nonzero(predicted & true) / union if union else np.nan
        np.testing.assert_allclose(counts.class_iou[label], expected, atol=1e-12)


@given(patches, st.sampled_from([0.02, 0.1, 0.3]))
@settings(deadline=None, max_examples=60)
def test_boundary_iou_of_instances_is_its_definition(pair, ratio):
    """One mask against one instance: the overlap is the smaller of mask IoU and boundary IoU."""
    mask, instance = pair[0] == 0, pair[1] == 0
    big = np.kron(instance, np.ones((12, 12), bool))  # smaller instances are not scored
    mask = np.kron(mask, np.ones((12, 12), bool))
    mask[:5] = False
    scores = InstanceScores({26: "car"}, (), ratio)
    scores.update([PredictedInstance(mask, 26, 0.5)], np.where(big, 26001, 0).astype(np.uint16))
    if not big.any():
        assert np.isnan(scores.compute()["boundary AP"])
        return
    edges = inner_edge(mask, ratio), inner_edge(big, ratio)
    overlaps = [np.count_nonzero(a & b) / max(np.count_nonzero(a | b), 1) for a, b in ((mask, big), edges)]
    np.testing.assert_array_equal(scores.average_precision("mask")[0], overlaps[0] > np.arange(0.5, 1, 0.05))
    np.testing.assert_array_equal(scores.average_precision("boundary")[0], min(overlaps) > np.arange(0.5, 1, 0.05))


@given(hnp.arrays(np.uint8, st.integers(0, 70)), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=60)
def test_pairs_of_values_are_counted_whatever_the_length(truth, seed):
    def full(joint):
        counts = np.zeros((256, 256), int)
        counts[np.ix_(joint.truth, joint.prediction)] = joint.counts
        return counts

    rng = np.random.default_rng(seed)
    prediction = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 256, truth.shape), truth).astype(np.uint8)
    expected = np.zeros((256, 256), int)
    np.add.at(expected, (truth, prediction), 1)
    np.testing.assert_array_equal(full(joint_counts(prediction, truth)), expected)
    runs = np.repeat(truth, 9), np.repeat(prediction, 9)
    np.testing.assert_array_equal(full(joint_counts(runs[1], runs[0])), 9 * expected)


@given(st.lists(st.tuples(maps, maps), min_size=2, max_size=4))
@settings(deadline=None, max_examples=20)
def test_scores_merge_by_addition(pairs):
    whole, parts = LabelScores(info_of(K)), LabelScores(info_of(K))
    for prediction, truth in pairs:
        whole.update(prediction, truth)
        part = LabelScores(info_of(K))
        part.update(prediction, truth)
        parts.merge(part)
    np.testing.assert_array_equal(whole.confusion.counts, parts.confusion.counts)
    np.testing.assert_array_equal(whole.boundary.counts, parts.boundary.counts)
    np.testing.assert_array_equal(whole.boundary_iou.counts, parts.boundary_iou.counts)
    assert whole.as_dict().keys() == parts.as_dict().keys()
    np.testing.assert_allclose(whole.boundary.image_class_f, parts.boundary.image_class_f, rtol=1e-12)


@pytest.mark.parametrize("scores", [ConfusionMatrix(K), BoundaryCounts(K), BoundaryIoU(K)])
def test_sizes_must_agree(scores):
    with pytest.raises(DataError, match="differ in size"):
        scores.update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))

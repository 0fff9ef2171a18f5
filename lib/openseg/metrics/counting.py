"""Loops over pixels, compiled: neither NumPy nor OpenCV has them (benchmarks/metrics.py)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from openseg.compiled import compiled
from openseg.errors import DataError

__all__ = ["JointCounts", "joint_counts", "nearest_counts"]

NOTHING = 255
"""Value of pixels that take no part in ``nearest_counts``."""


class JointCounts(NamedTuple):
    """Joint value counts of two maps: ``counts[i, j]`` pixels have ``truth[i]`` and ``prediction[j]``."""

    truth: np.ndarray
    prediction: np.ndarray
    counts: np.ndarray

    def mapped(self, prediction_table: np.ndarray, truth_table: np.ndarray) -> JointCounts:
        """The counts of the maps that two look-up tables ``uint8[256]`` make of these."""
        truth, rows = np.unique(truth_table[self.truth], return_inverse=True)
        prediction, columns = np.unique(prediction_table[self.prediction], return_inverse=True)
        counts = np.zeros((truth.size, prediction.size), np.int64)
        np.add.at(counts, (rows[:, None], columns), self.counts)
        return JointCounts(truth, prediction, counts)


def joint_counts(prediction: np.ndarray, truth: np.ndarray) -> JointCounts:
    """How often each pair of values meets; both maps are ``uint8`` of one shape.

    Raises:
        DataError: another type, or the shapes differ.
    """
    if prediction.dtype != np.uint8 or truth.dtype != np.uint8 or prediction.shape != truth.shape:
        found = [f"{each.dtype}{list(each.shape)}" for each in (prediction, truth)]
        raise DataError(f"maps of uint8 and of one size are counted, not {found[0]} and {found[1]}")
    counts = np.zeros((256, 256), np.uint32)  # of one image; the smaller, the more of it stays in the cache
    rows, columns = np.ascontiguousarray(truth).ravel(), np.ascontiguousarray(prediction).ravel()
    whole = rows.size // 8 * 8
    if whole:
        _count_runs(rows, columns, rows[:whole].view(np.uint64), columns[:whole].view(np.uint64), counts)
    if whole < rows.size:
        np.add.at(counts, (rows[whole:], columns[whole:]), 1)
    rows_found, columns_found = (np.flatnonzero(each) for each in _occurring(counts))
    return JointCounts(rows_found, columns_found, counts[np.ix_(rows_found, columns_found)].astype(np.int64))


@compiled
def _count_runs(
    rows: np.ndarray, columns: np.ndarray, row_words: np.ndarray, column_words: np.ndarray, counts: np.ndarray
) -> None:
    """Eight pixels at a time as long as the pair of values stays the same, which is nearly always in label maps."""
    ones = np.uint64(0x0101010101010101)
    row, column = rows[0], columns[0]
    row_word, column_word = np.uint64(row) * ones, np.uint64(column) * ones
    same = 0
    for word in range(row_words.size):
        if ((row_words[word] ^ row_word) | (column_words[word] ^ column_word)) == 0:
            same += 8
            continue
        for pixel in range(8 * word, 8 * word + 8):
            if rows[pixel] != row or columns[pixel] != column:
                counts[row, column] += same
                row, column, same = rows[pixel], columns[pixel], 0
            same += 1
        row_word, column_word = np.uint64(row) * ones, np.uint64(column) * ones
    counts[row, column] += same


@compiled
def _occurring(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns that are not all zero."""
    rows, columns = np.zeros(256, np.bool_), np.zeros(256, np.bool_)
    for row in range(256):
        for column in range(256):
            if counts[row, column]:
                rows[row] = columns[column] = True
    return rows, columns


def nearest_counts(points: np.ndarray, others: np.ndarray, distances: Sequence[int], num_values: int) -> np.ndarray:
    """How many pixels of ``points`` have an equal pixel of ``others`` within each distance.

    Args:
        points, others: ``uint8[H, W]``; pixels of ``num_values`` and more take no part.
        distances: Euclidean, in pixels, ascending.

    Returns:
        ``int64[D + 1, num_values]``; the last row is how many pixels of each value there are.
    """
    if not points.size:
        return np.zeros((len(distances) + 1, num_values), np.int64)
    reach = distances[-1]
    dy, dx = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    squared = (dy**2 + dx**2).ravel()
    order = np.argsort(squared, kind="stable")
    order = order[squared[order] <= reach**2]
    level = np.searchsorted(np.square(distances), squared[order])
    padded = cv2.copyMakeBorder(others, reach, reach, reach, reach, cv2.BORDER_CONSTANT, value=(NOTHING,))
    steps = (dy.ravel() * padded.shape[1] + dx.ravel())[order]
    counts = np.zeros((len(distances) + 1, num_values), np.int64)
    _count_nearest(points, padded.ravel(), padded.shape[1], reach, steps, level, counts)
    return np.vstack([np.cumsum(counts[:-1], axis=0), counts.sum(axis=0)])


@compiled
def _count_nearest(
    points: np.ndarray,
    others: np.ndarray,
    stride: int,
    margin: int,
    steps: np.ndarray,
    level: np.ndarray,
    counts: np.ndarray,
) -> None:
    """Adds each point to the level of its nearest equal pixel, or to the last row if there is none in reach."""
    levels, num_values = counts.shape
    for y in range(points.shape[0]):
        for x in range(points.shape[1]):
            value = points[y, x]
            if value >= num_values:
                continue
            place = (y + margin) * stride + x + margin
            found = levels - 1
            for step in range(steps.size):
                if others[place + steps[step]] == value:
                    found = level[step]
                    break
            counts[found, value] += 1

"""Banded argmax and sliding windows equal their plain definitions and the original."""

import numpy as np
import pytest
import torch
from recipe import golden
from torch.nn import functional as F

from openseg.config import Normalization
from openseg.inference import argmax_labels, predict_boundary, window_starts
from openseg.models import SegFixOutput
from openseg.models.layers import resize_logits
from openseg.segfix import directions_to_offsets


@pytest.mark.parametrize(
    ("small", "size"), [((8, 12), (32, 48)), ((33, 9), (300, 71)), ((1, 5), (7, 40)), ((6, 6), (1, 1))]
)
def test_banded_argmax_equals_the_whole(small, size):
    logits = torch.randn(2, 7, *small, generator=torch.Generator().manual_seed(0))
    labels = argmax_labels(logits, size)
    whole = resize_logits(logits, size)
    assert labels.dtype == torch.uint8 and tuple(labels.shape) == (2, *size)
    # Rounding may choose the other of two equal logits, never a worse one.
    chosen = whole.gather(1, labels[:, None].long())[:, 0]
    assert (whole.max(dim=1).values - chosen).max() < 1e-5


def test_window_starts_equal_the_original():
    expected = golden("tester_offset")
    for axis, length in (("h", 100), ("w", 130)):
        assert window_starts(length, 48, 16) == expected[f"starts_{axis}"].tolist()
    for axis, length in (("h", 1024), ("w", 2048)):
        assert window_starts(length, 512, 170) == expected[f"starts_cityscapes_{axis}"].tolist()


@pytest.mark.parametrize(("key", "window"), [("ss", None), ("sscrop", (48, 48))])
def test_boundary_prediction_equals_the_original(key, window, monkeypatch):
    expected = golden("tester_offset")
    weights = [torch.from_numpy(expected[f"toy_{name}_weight"]) for name in ("mask", "dir")]

    def toy(x):
        return SegFixOutput(*[F.conv2d(x, weight, stride=4, padding=1) for weight in weights])

    monkeypatch.setattr("openseg.inference.normalize", lambda images, _: images)
    probability, logits = predict_boundary(toy, torch.from_numpy(expected["x"]), Normalization(), window)
    np.testing.assert_allclose(probability.numpy(), expected[f"{key}_maskprob"][:, 0], atol=1e-5)
    np.testing.assert_allclose(logits.numpy(), expected[f"{key}_dirlogit"], atol=1e-5)
    moves = (probability[0] > 0.5).numpy()[..., None]
    offsets = directions_to_offsets(logits[0].argmax(dim=0).to(torch.uint8).numpy()) * moves
    np.testing.assert_array_equal(offsets, expected[f"{key}_offset_hw2"])

"""Banded argmax and sliding windows equal their plain definitions and the original."""

import numpy as np
import pytest
import torch
from recipe import golden
from torch.nn import functional as F

from openseg.catalog import get_catalog
from openseg.config import MultiScale, Normalization, SingleScale, load_experiment
from openseg.inference import (
    argmax_cubic,
    argmax_labels,
    predict_boundary,
    predict_labels,
    predict_logits,
    window_starts,
)
from openseg.models import SegFixOutput, SegmentorOutput
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


def toy_segmentor(weight):
    def toy(x, aux=True):
        return SegmentorOutput(torch.tanh(F.conv2d(x, weight, stride=4, padding=1)), None)

    return toy


@pytest.mark.parametrize(
    ("key", "image", "mode"),
    [
        ("ss", "x", SingleScale()),
        ("ss_scale0.75", "x", SingleScale(scales=(0.75,))),
        ("ms_flip_sum", "x", MultiScale()),
        ("list_ms0", "list_x0", MultiScale()),
    ],
)
def test_scales_and_flips_equal_the_original(key, image, mode):
    expected = golden("tester")
    assert MultiScale().scales == tuple(expected["scales"])
    images = torch.from_numpy(expected[image]).reshape(-1, *expected[image].shape[-3:])
    logits = predict_logits(toy_segmentor(torch.from_numpy(expected["toy_conv_weight"])), images, mode)
    np.testing.assert_allclose(logits.numpy(), expected[key], rtol=1e-4, atol=1e-4)


def test_the_last_resize_equals_the_original():
    expected = golden("tester")
    (width, height), (full_width, full_height) = expected["post_border_wh"], expected["post_ori_wh"]
    logits = torch.from_numpy(expected["ss"])[:, :, :height, :width]
    labels = argmax_cubic(logits, (int(full_height), int(full_width)))[0].numpy()
    resized = expected["post_logits_resized"]
    chosen = np.take_along_axis(resized, labels[..., None].astype(np.int64), axis=2)[..., 0]
    assert (resized.max(axis=2) - chosen).max() < 1e-5  # rounding may choose the other of two equal logits
    assert np.mean(labels != expected["post_label"]) < 1e-3


def test_many_classes_are_compared_across_their_groups():
    logits = torch.randn(1, 50, 6, 7, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, size=(11, 9), mode="bicubic", align_corners=False)
    assert torch.equal(argmax_cubic(logits, (11, 9)), whole.argmax(dim=1).to(torch.uint8))


def test_lip_averages_the_mirrored_image_with_left_and_right_exchanged():
    """A network that sees the left half as 'left arm' says the same of an image and of its mirror."""
    catalog = get_catalog("lip")
    left, right = catalog.classes.index("Left-arm"), catalog.classes.index("Right-arm")

    def network(x, aux=True):
        logits = torch.zeros(1, 20, *x.shape[-2:])
        logits[:, left, :, : x.shape[-1] // 2] = 1
        logits[:, right, :, x.shape[-1] // 2 :] = 1
        return SegmentorOutput(logits, None)

    experiment = load_experiment("configs/lip/hrnet48_ocr.yaml")
    labels = predict_labels(network, torch.zeros(1, 3, 40, 40, dtype=torch.uint8), experiment, "ss", (40, 40))[0]
    assert (labels[:, :20] == left).all() and (labels[:, 20:] == right).all()


@pytest.mark.parametrize("mode", ["ss", "ms"])
def test_padding_never_reaches_the_labels(mode):
    sizes = []

    def network(x, aux=True):
        sizes.append(tuple(x.shape[-2:]))
        return SegmentorOutput(torch.stack([x[:, 0], -x[:, 0]], dim=1), None)

    experiment = load_experiment("configs/ade20k/hrnet48_ocr.yaml", ["test.ms.scales=[0.5, 1.0]"])
    image = torch.zeros(1, 3, 37, 53, dtype=torch.uint8)
    image[:, :, :, 30:] = 255
    labels = predict_labels(network, image, experiment, mode, (74, 106))[0]
    assert sizes[-1] == (40, 56) and labels.shape == (74, 106)
    assert (labels[:, 64:] == 0).all() and (labels[:, :56] == 1).all()

"""Banded argmax and sliding windows equal their plain definitions and the original."""

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import golden
from torch.nn import functional as F

from openseg.config import Config, MultiScale, SingleScale, TestConfig, load_config
from openseg.datasets.registry import get_dataset_info
from openseg.inference import (
    argmax,
    bands,
    cubic,
    from_tensor,
    predict_boundary,
    predict_labels,
    predict_logits,
    resized,
    window_starts,
)
from openseg.models.layers import resize_logits
from openseg.models.segfix import SegFixOutput
from openseg.models.segmentor import SegmentorOutput
from openseg.segfix import DIRECTION_VECTORS, angles_to_directions


def collect(rows):
    """All rows of a map at once."""
    return rows.read(0, rows.size[0])


@pytest.mark.parametrize(
    ("small", "size"), [((8, 12), (32, 48)), ((33, 9), (300, 71)), ((1, 5), (7, 40)), ((6, 6), (1, 1))]
)
def test_banded_argmax_equals_the_whole(small, size):
    logits = torch.randn(2, 7, *small, generator=torch.Generator().manual_seed(0))
    labels = argmax(resized(from_tensor(logits), size), batch=2, most_values=5 * 2 * 7 * size[1])  # five rows at a time
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

    monkeypatch.setattr("openseg.inference.boundary.normalize", lambda images, _: images)
    values = load_config(ROOT / "configs/demo/segfix_hrnet_tiny.yaml").dump()
    values["test"] = {"window": window}
    values["segfix"]["direction"] = "argmax"
    config = Config.model_validate(values)
    boundary = predict_boundary(toy, torch.from_numpy(expected["x"]), config)
    np.testing.assert_allclose(boundary.probability.numpy(), expected[f"{key}_maskprob"][:, 0], atol=1e-5)
    np.testing.assert_allclose(boundary.logits.numpy(), expected[f"{key}_dirlogit"], atol=1e-5)
    offsets = boundary.offset_map(config)
    np.testing.assert_array_equal(offsets.offsets, expected[f"{key}_offset_hw2"])
    # How sure: the length of the mean direction, and a pixel may go that way instead.
    probabilities = boundary.logits[0].softmax(dim=0).numpy()
    angles = np.radians(45 * np.arange(8) - 180)
    right, down = (np.tensordot(f(angles), probabilities, 1) for f in (np.cos, np.sin))
    moving = offsets.codes > 0
    assert np.abs(offsets.confidence - 255 * np.hypot(right, down))[moving].max() <= 4.8  # half a step, and rounding
    mean = config.model_copy(update={"segfix": config.segfix.model_copy(update={"direction": "mean"})})
    expected = DIRECTION_VECTORS[angles_to_directions(np.degrees(np.arctan2(down, right)))]
    np.testing.assert_array_equal(boundary.offset_map(mean).offsets[moving], expected[moving])


def test_mirrored_and_scaled_views_of_a_boundary():
    """With mirror images averaged, the offsets of a mirrored image are the mirrored offsets, at any scale."""
    torch.manual_seed(0)
    weights = torch.randn(2, 3, 3, 3) * 0.3, torch.randn(8, 3, 3, 3)

    def toy(x):
        return SegFixOutput(*[F.conv2d(x, weight, stride=4, padding=1) for weight in weights])

    values = load_config(ROOT / "configs/demo/segfix_hrnet_tiny.yaml").dump()
    values["test"] |= {"ss": {"scales": [1.0, 2.0], "flip": True}}
    config = Config.model_validate(values)
    images = torch.randint(0, 256, (1, 3, 33, 45), dtype=torch.uint8)
    one, other = (predict_boundary(toy, each, config) for each in (images, images.flip(3)))
    assert one.probability.shape == (1, 33, 45) and one.logits.shape == (1, 8, 33, 45)
    torch.testing.assert_close(other.probability.flip(2), one.probability, rtol=1e-4, atol=1e-5)
    mirrored = [4, 3, 2, 1, 0, 7, 6, 5]
    torch.testing.assert_close(other.logits.flip(3)[:, mirrored], one.logits, rtol=1e-4, atol=1e-4)


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
    np.testing.assert_allclose(collect(logits).numpy(), expected[key], rtol=1e-4, atol=1e-4)


WEIGHTED = MultiScale(weights=[(i + 1) / 10 for i in range(7)])


@pytest.mark.parametrize(
    ("key", "mode", "window"),
    [
        ("ms_flip_weighted", WEIGHTED, None),
        ("sscrop_32x48", SingleScale(), (32, 48)),
        ("sscrop_35x50", SingleScale(), (35, 50)),
        ("sscrop_70x100", SingleScale(), (70, 100)),
        ("mscrop_32x48", MultiScale(scales=(0.75, 1, 1.5)), (32, 48)),
    ],
)
def test_windows_and_weights_equal_the_original(key, mode, window):
    inputs, expected = golden("tester"), golden("tester_windows")[key]
    network = toy_segmentor(torch.from_numpy(inputs["toy_conv_weight"]))
    logits = predict_logits(network, torch.from_numpy(inputs["x"]), mode, TestConfig(window=window))
    np.testing.assert_allclose(collect(logits).numpy()[:, :, ::2, ::3], expected, rtol=1e-4, atol=1e-4)
    # Any rows are the same rows.
    np.testing.assert_allclose(logits.read(31, 44).numpy(), collect(logits).numpy()[:, :, 31:44], atol=1e-5)


def test_probabilities_are_the_mean_of_softmax():
    inputs = golden("tester")
    network = toy_segmentor(torch.from_numpy(inputs["toy_conv_weight"]))
    images, mode = torch.from_numpy(inputs["x"]), MultiScale(scales=(0.5, 1.0), weights=(1, 3))
    mean = collect(predict_logits(network, images, mode, TestConfig(average="probabilities")))
    expected = 0
    for scale, weight in ((0.5, 0.125), (1.0, 0.375)):
        scaled = resize_logits(images, (int(70 * scale), int(100 * scale)))
        for flip in (False, True):
            logits = network(scaled.flip(3) if flip else scaled).logits
            logits = resize_logits(resize_logits(logits.flip(3) if flip else logits, scaled.shape[-2:]), (70, 100))
            expected = expected + weight * logits.softmax(dim=1)
    torch.testing.assert_close(mean, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(mean.sum(dim=1), torch.ones(1, 70, 100))


def test_a_network_that_sees_one_pixel_says_the_same_in_windows_of_any_size():
    def network(x, aux=True):
        return SegmentorOutput(torch.cat([x, -x], dim=1), None)

    x = torch.randn(2, 3, 50, 67, generator=torch.Generator().manual_seed(0))
    whole = collect(predict_logits(network, x, SingleScale(flip=True)))
    for limit in ((32, 32), (17, 64), (500, 500)):
        parts = collect(predict_logits(network, x, SingleScale(flip=True), limit=limit))
        torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5)


def test_the_last_resize_equals_the_original():
    expected = golden("tester")
    (width, height), (full_width, full_height) = expected["post_border_wh"], expected["post_ori_wh"]
    logits = torch.from_numpy(expected["ss"])[:, :, :height, :width]
    labels = argmax(cubic(from_tensor(logits), (int(full_height), int(full_width))))[0].numpy()
    resized = expected["post_logits_resized"]
    chosen = np.take_along_axis(resized, labels[..., None].astype(np.int64), axis=2)[..., 0]
    assert (resized.max(axis=2) - chosen).max() < 1e-5  # rounding may choose the other of two equal logits
    assert np.mean(labels != expected["post_label"]) < 1e-3


@pytest.mark.parametrize("size", [(11, 9), (40, 3), (3, 2), (6, 20), (1, 1)])
def test_the_cubic_resize_is_torchs_row_by_row(size):
    logits = torch.randn(1, 50, 6, 7, generator=torch.Generator().manual_seed(0))
    whole = F.interpolate(logits, size=size, mode="bicubic", align_corners=False)
    rows = cubic(from_tensor(logits), size)
    torch.testing.assert_close(collect(rows), whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(rows.read(size[0] // 2, size[0]), whole[:, :, size[0] // 2 :], rtol=0, atol=1e-5)


def test_lip_averages_the_mirrored_image_with_left_and_right_exchanged():
    """A network that sees the left half as 'left arm' says the same of an image and of its mirror."""
    info = get_dataset_info("lip")
    left, right = info.classes.index("Left-arm"), info.classes.index("Right-arm")

    def network(x, aux=True):
        logits = torch.zeros(1, 20, *x.shape[-2:])
        logits[:, left, :, : x.shape[-1] // 2] = 1
        logits[:, right, :, x.shape[-1] // 2 :] = 1
        return SegmentorOutput(logits, None)

    config = load_config("configs/lip/hrnet48_ocr.yaml")
    labels = predict_labels(network, torch.zeros(1, 3, 40, 40, dtype=torch.uint8), config, "ss", (40, 40))[0]
    assert (labels[:, :20] == left).all() and (labels[:, 20:] == right).all()


@pytest.mark.parametrize("mode", ["ss", "ms"])
def test_padding_never_reaches_the_labels(mode):
    sizes = []

    def network(x, aux=True):
        sizes.append(tuple(x.shape[-2:]))
        return SegmentorOutput(torch.stack([x[:, 0], -x[:, 0]], dim=1), None)

    config = load_config("configs/ade20k/hrnet48_ocr.yaml", ["test.ms.scales=[0.5, 1.0]"])
    image = torch.zeros(1, 3, 37, 53, dtype=torch.uint8)
    image[:, :, :, 30:] = 255
    labels = predict_labels(network, image, config, mode, (74, 106))[0]
    assert max(sizes) == (40, 56) and labels.shape == (74, 106)
    assert (labels[:, 64:] == 0).all() and (labels[:, :56] == 1).all()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.integers(0, 1000),
)
def test_classes_are_found_without_the_full_size(shape, size, seed):
    """The loop over pixels gives what resizing and then comparing gives, also where logits are equal."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-2, 3, shape, generator=generator).float()
    if seed % 2:
        logits += torch.randn(shape, generator=generator)
    rows = resized(from_tensor(logits), size)
    expected = torch.cat([part.argmax(dim=1) for _, part in bands(rows, shape[0])], dim=1)
    difference = argmax(rows, shape[0], most_values=97) != expected
    if difference.any():  # only where rounding decides between two of the largest
        values = rows.read(0, size[0]).topk(min(2, shape[1]), dim=1).values
        assert (values[:, 0] - values[:, -1])[difference].max() < 1e-6

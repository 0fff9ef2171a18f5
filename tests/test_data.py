"""Training samples: what the transforms promise, and that a draw is always the same sample."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openseg.catalog import get_catalog
from openseg.config import AugmentConfig, DataConfig, Normalization, load_experiment
from openseg.data.folder import list_pairs, list_split
from openseg.data.loaders import TrainSet, iterate_training
from openseg.data.transforms import FILL, augment, fit_image, fit_size, normalize
from openseg.errors import DataError
from openseg.files import write_image, write_label
from openseg.segfix.directions import codes_to_directions


def sample_maps(rng, height, width):
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return image, {
        "label": rng.integers(0, 19, (height, width), np.uint8),
        "depth": rng.integers(0, 9, (height, width), np.uint8),
        "angle_code": rng.integers(0, 181, (height, width), np.uint8),
    }


@given(st.integers(40, 90), st.integers(40, 90), st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_a_sample_is_a_piece_of_its_image_and_padding(height, width, seed):
    config = AugmentConfig(crop_size=(64, 64), scale_range=None, flip=0, brightness=0)
    image, maps = sample_maps(np.random.default_rng(seed), height, width)
    sample = augment(image, maps, config, np.random.default_rng(seed))
    top, left, h, w = sample.window
    assert (h, w) == (min(height, 64), min(width, 64))
    inside = (slice(top, top + h), slice(left, left + w))
    views = np.lib.stride_tricks.sliding_window_view(maps["label"], (h, w))
    places = np.argwhere((views == sample.maps["label"][inside]).all(axis=(2, 3)))
    assert len(places) == 1
    y, x = places[0]
    np.testing.assert_array_equal(sample.image[inside], image[y : y + h, x : x + w])
    outside = np.ones((64, 64), bool)
    outside[inside] = False
    assert all((values[outside] == FILL[kind]).all() for kind, values in sample.maps.items())


def test_a_flip_mirrors_everything():
    image, maps = sample_maps(np.random.default_rng(0), 40, 50)
    draws = {}
    for flip in (0.0, 1.0):
        config = AugmentConfig(crop_size=(64, 64), scale_range=None, flip=flip, brightness=0)
        draws[flip] = augment(image, maps, config, np.random.default_rng(3))
    plain, mirrored = draws[0.0], draws[1.0]
    np.testing.assert_array_equal(mirrored.image, plain.image[:, ::-1])
    np.testing.assert_array_equal(mirrored.maps["label"], plain.maps["label"][:, ::-1])
    assert mirrored.window[1] == 64 - plain.window[1] - plain.window[3]
    up, down = (codes_to_directions(np.array([code], np.uint8)) for code in (45, 135))
    directions = codes_to_directions(plain.maps["angle_code"])
    flipped = codes_to_directions(mirrored.maps["angle_code"])[:, ::-1]
    for vertical in (up, down):  # straight up and down stay
        exact = plain.maps["angle_code"] == {2: 45, 6: 135}[int(vertical[0])]
        assert (flipped[exact] == directions[exact]).all()


@pytest.mark.parametrize(
    ("fit", "size"), [({"short_side": 64}, (64, 80)), ({"size": (64, 64)}, (64, 64)), ({}, (40, 50))]
)
def test_images_are_brought_to_size_after_the_first_flip(fit, size):
    """As PASCAL-Context, COCO-Stuff and ADE20K (short side) and LIP (stretched) are trained; left and right change."""
    image, maps = sample_maps(np.random.default_rng(0), 40, 50)
    maps = {"label": np.where(maps["label"] > 9, 14, 15).astype(np.uint8)}
    data = DataConfig(dataset="lip", **fit)
    config = AugmentConfig(crop_size=(96, 96), scale_range=None, flip=1, flip_first=True, brightness=0)
    flipped = get_catalog("lip").flipped_classes
    sample = augment(image, maps, config, np.random.default_rng(1), data, flipped)
    top, left, height, width = sample.window
    assert (height, width) == size == fit_size((40, 50), data)
    inside = (slice(top, top + height), slice(left, left + width))
    mirrored = np.ascontiguousarray(image[:, ::-1])
    np.testing.assert_array_equal(sample.image[inside], fit_image(mirrored, data))
    exchanged = np.where(maps["label"] == 14, 15, 14).astype(np.uint8)[:, ::-1]
    expected = cv2.resize(np.ascontiguousarray(exchanged), size[::-1], interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(sample.maps["label"][inside], expected)


def test_padding_is_exactly_zero_and_channels_are_swapped():
    images = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    images[:, 0] = 0
    config = Normalization()
    out = normalize(images, config, torch.tensor([[0, 0, 8, 8], [2, 3, 4, 5]]))
    assert out[0, 2, 0, 0] == pytest.approx((0 - config.mean[2]) / config.std[2])  # red comes last
    assert out[0, 0, 0, 0] == pytest.approx((1 - config.mean[0]) / config.std[0])
    window = torch.zeros(8, 8, dtype=torch.bool)
    window[2:6, 3:8] = True
    assert torch.count_nonzero(out[1][:, ~window]) == 0
    assert torch.equal(out[1][:, window], out[0][:, window])


def stream(data_root, overrides, start, workers):
    config = "configs/demo/segfix_hrnet_tiny.yaml"
    experiment = load_experiment(config, [*overrides, "train.max_iters=6", f"data.workers={workers}"])
    dataset = TrainSet(experiment, list_split(experiment, "train"))
    return list(iterate_training(dataset, start, pin=False))


def test_a_draw_is_the_same_sample_whatever_the_workers_and_the_start(data_root, overrides):
    whole = stream(data_root, overrides, 0, workers=0)
    assert len(whole) == 6
    for start, workers in ((0, 2), (4, 0), (3, 1)):
        for ours, theirs in zip(stream(data_root, overrides, start, workers), whole[start:], strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_an_epoch_holds_every_sample_once(data_root, overrides):
    from openseg.data.loaders import _permutation

    assert sorted(_permutation(1, 5, 40)) == list(range(40))
    assert list(_permutation(1, 5, 40)) != list(_permutation(1, 6, 40))


def make_split(folder, images=("a", "b"), labels=("a", "b")):
    for name in images:
        write_image(folder / "image" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    for name in labels:
        write_label(folder / "label" / f"{name}.png", np.zeros((8, 8), np.uint8))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="label"):
        make_split(tmp_path / "1", labels=())
        list_pairs(tmp_path / "1")
    with pytest.raises(DataError, match=r"1 of 2 .*no label \(b\.png\)"):
        make_split(tmp_path / "2", labels=("a", "c"))
        list_pairs(tmp_path / "2")
    with pytest.raises(DataError, match="no such folder"):
        list_pairs(tmp_path / "3")
    make_split(tmp_path / "4")
    assert [pair.key for pair in list_pairs(tmp_path / "4")] == ["a", "b"]
    write_label(tmp_path / "4" / "label" / "old" / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="same name"):
        list_pairs(tmp_path / "4")

"""Training samples: what the transforms promise, and that a draw is always the same sample."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openseg.cli.prepare import segfix_targets
from openseg.config import AugmentConfig, DataConfig, Normalization, load_config
from openseg.datasets.augmentations import FILL
from openseg.datasets.loaders import TrainSet, iterate_training
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.samples import list_split
from openseg.datasets.splits import list_pairs, split_paths
from openseg.datasets.transforms import augment, fit_image, fit_size, mirror, normalize
from openseg.errors import DataError
from openseg.io.images import write_image, write_label
from openseg.segfix.directions import codes_to_directions
from openseg.segfix.targets import make_targets


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
    sample = augment(image, maps, config, [seed])
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


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_mirroring_twice_changes_nothing(height, width, seed):
    rng = np.random.default_rng(seed)
    image, maps = sample_maps(rng, height, width)
    maps["instance"] = rng.integers(0, 34000, (height, width)).astype(np.uint16)
    flipped = get_dataset_info("lip").flipped_classes
    mirrored = mirror(image, maps, flipped)
    again, back = mirror(*mirrored, flipped)
    np.testing.assert_array_equal(mirrored[0], image[:, ::-1])
    np.testing.assert_array_equal(mirrored[1]["instance"], maps["instance"][:, ::-1])
    np.testing.assert_array_equal(again, image)
    for kind in ("label", "depth", "instance"):
        np.testing.assert_array_equal(back[kind], maps[kind])
    directions = codes_to_directions(maps["angle_code"])
    np.testing.assert_array_equal(codes_to_directions(back["angle_code"]), directions)
    # left and right change places, up and down stay: -180 <-> 0, -135 <-> -45, 45 <-> 135
    exchanged = np.array([4, 3, 2, 1, 0, 7, 6, 5], np.uint8)
    np.testing.assert_array_equal(codes_to_directions(mirrored[1]["angle_code"])[:, ::-1], exchanged[directions])


def test_ground_truth_of_a_mirrored_label_map_is_the_mirrored_ground_truth():
    label = np.zeros((60, 70), np.uint8)
    cv2.circle(label, (30, 28), 20, 1, -1)
    targets, again = make_targets(label), make_targets(np.ascontiguousarray(label[:, ::-1]))
    maps = {"angle_code": targets.angle_code, "depth": targets.depth}
    _, maps = mirror(np.zeros((*label.shape, 3), np.uint8), maps)
    np.testing.assert_array_equal(maps["depth"], again.depth)
    near = again.depth <= 5  # far from the boundary there may be no direction
    steps = np.abs(maps["angle_code"].astype(int) - again.angle_code)[near]
    assert near.sum() > 500 and np.minimum(steps, 180 - steps).max() <= 2  # codes of 2 degrees, cut off


@pytest.mark.parametrize(
    ("fit", "size"), [({"short_side": 64}, (64, 80)), ({"size": (64, 64)}, (64, 64)), ({}, (40, 50))]
)
def test_images_are_brought_to_size_after_the_first_flip(fit, size):
    """As PASCAL-Context, COCO-Stuff and ADE20K (short side) and LIP (stretched) are trained; left and right change."""
    image, maps = sample_maps(np.random.default_rng(0), 40, 50)
    maps = {"label": np.where(maps["label"] > 9, 14, 15).astype(np.uint8)}
    data = DataConfig(dataset="lip", **fit)
    config = AugmentConfig(crop_size=(96, 96), scale_range=None, flip=1, flip_first=True, brightness=0)
    flipped = get_dataset_info("lip").flipped_classes
    sample = augment(image, maps, config, [1], data, flipped)
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
    path = "configs/demo/segfix_hrnet_tiny.yaml"
    config = load_config(path, [*overrides, "train.max_iters=6", f"data.workers={workers}"])
    dataset = TrainSet(config, list_split(config, "train"))
    return list(iterate_training(dataset, start, pin=False))


def test_a_draw_is_the_same_sample_whatever_the_workers_and_the_start(data_root, overrides):
    whole = stream(data_root, overrides, 0, workers=0)
    assert len(whole) == 6
    for start, workers in ((0, 2), (4, 0), (3, 1)):
        for ours, theirs in zip(stream(data_root, overrides, start, workers), whole[start:], strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_targets_are_the_same_from_files_and_made_while_reading(data_root, overrides):
    """The compact files, the original's .mat files, and label maps give the same training samples."""
    options = ["--datadir", str(data_root / "demo"), "--split", "train", "--outname", "as_mat", "--format", "mat"]
    assert segfix_targets(options) == 0
    plain = stream(data_root, overrides, 0, workers=0)
    for change in ("segfix.targets=label", "segfix.offset_gt=as_mat"):
        for ours, theirs in zip(stream(data_root, [*overrides, change], 0, workers=0), plain, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_targets_of_instances_are_made_while_reading(data_root, overrides):
    folder = data_root / "demo/train"
    assert segfix_targets(instances=True, argv=["--datadir", str(data_root / "demo"), "--split", "train"]) == 0
    from_files = stream(data_root, [*overrides, "segfix.offset_gt=offset_gt/dt_offset_inst_w_stuff"], 0, workers=0)
    made = stream(data_root, [*overrides, "segfix.targets=instance"], 0, workers=0)
    assert len(list((folder / "instance").iterdir())) == 4
    for ours, theirs in zip(made, from_files, strict=True):
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_compact_targets_say_how_far_they_know(data_root, overrides):
    with pytest.raises(DataError, match=r"--format mat"):
        stream(data_root, [*overrides, "segfix.max_distance=30"], 0, workers=0)


def test_an_epoch_holds_every_sample_once(data_root, overrides):
    from openseg.datasets.loaders import _permutation

    assert sorted(_permutation(1, 5, 40)) == list(range(40))
    assert list(_permutation(1, 5, 40)) != list(_permutation(1, 6, 40))


def make_split(folder, images=("a", "b"), labels=("a", "b")):
    for name in images:
        write_image(folder / "image" / f"{name}.png", np.zeros((8, 8, 3), np.uint8))
    for name in labels:
        write_label(folder / "label" / f"{name}.png", np.zeros((8, 8), np.uint8))


def pairs_of(folder):
    return list_pairs(split_paths(get_dataset_info("demo"), folder.parent, folder.name))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="label"):
        make_split(tmp_path / "1", labels=())
        pairs_of(tmp_path / "1")
    with pytest.raises(DataError, match=r"1 of 2 .*no label in .*\(b\.png\)"):
        make_split(tmp_path / "2", labels=("a", "c"))
        pairs_of(tmp_path / "2")
    with pytest.raises(DataError, match="no such folder"):
        pairs_of(tmp_path / "3")
    make_split(tmp_path / "4")
    assert [pair.key for pair in pairs_of(tmp_path / "4")] == ["a", "b"]
    write_label(tmp_path / "4" / "label" / "old" / "a.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match="same name"):
        pairs_of(tmp_path / "4")

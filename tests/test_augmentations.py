"""Transforms that a config lists: each has its own random stream, and moves all maps of a sample alike."""

import cv2
import numpy as np
import pytest
from conftest import ROOT

from openseg.config import AugmentConfig
from openseg.datasets.augmentations import FILL, TRANSFORMS, Sample, register_transform, rotation
from openseg.datasets.transforms import augment
from openseg.segfix.targets import make_targets

STANDARD = {"crop_size": (48, 64), "scale_range": (0.5, 2.0), "brightness": 10}
SEEN = {}


@register_transform("spy")
def spy(sample, rng, name: str = "spy"):
    """Remembers what it drew and what it was given."""
    SEEN[name] = (rng.random(), sample.image.copy(), sample.maps["label"].copy())
    return sample


def sample_of(transforms, seeds=(1, 2)):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (60, 80, 3), np.uint8)
    maps = {"label": rng.integers(0, 19, (60, 80), np.uint8)}
    return augment(image, maps, AugmentConfig(transforms=transforms, **STANDARD), list(seeds))


def draws(*transforms):
    SEEN.clear()
    sample_of(list(transforms))
    return {name: values[0] for name, values in SEEN.items()}


def test_inserting_a_transform_leaves_the_draws_of_the_others():
    first, second = {"type": "spy", "name": "first"}, {"type": "spy", "name": "second"}
    alone = draws(first, second)
    assert alone["first"] != alone["second"]  # the second of a type has a stream of its own
    others = [{"type": kind, **({"probability": 1} if kind != "color_jitter" else {})} for kind in TRANSFORMS.names[:4]]
    assert len(others) == 4
    assert draws(others[0], first, *others[1:], second) == alone
    assert draws(first, others[3], second, others[1]) == alone


def test_the_standard_steps_do_not_know_of_the_list():
    SEEN.clear()
    plain = sample_of([])
    sample_of([{"type": "spy"}, {"type": "cutout"}])
    _, image, label = SEEN["spy"]
    np.testing.assert_array_equal(plain.image, image)
    np.testing.assert_array_equal(plain.maps["label"], label)


def test_every_draw_differs_and_can_be_drawn_again():
    listed = [{"type": "color_jitter"}, {"type": "gaussian_blur", "probability": 1}, {"type": "cutout"}]
    a, b, c = (sample_of(listed, seeds) for seeds in ((1, 2), (1, 2), (1, 3)))
    np.testing.assert_array_equal(a.image, b.image)
    assert not np.array_equal(a.image, c.image)


def disc(angle):
    """A half plane whose boundary has a direction, and its SegFix ground truth."""
    label = np.zeros((101, 101), np.uint8)
    points = cv2.boxPoints(((50.0, 50.0), (200.0, 40.0), angle))
    cv2.fillPoly(label, [points.astype(np.int32)], 1)
    targets = make_targets(label)
    return Sample(
        np.repeat(label[..., None] * 200, 3, axis=2),
        {"label": label, "depth": targets.depth, "angle_code": targets.angle_code},
        (0, 0, 101, 101),
    )


class Always(np.random.Generator):
    """Draws a fixed angle."""

    def __init__(self, angle):
        super().__init__(np.random.PCG64(0))
        self.angle = angle

    def random(self):
        return 0.0

    def uniform(self, low, high):
        return self.angle


@pytest.mark.parametrize("degrees", [20, -30])
def test_rotation_turns_labels_and_directions_alike(degrees):
    """The ground truth of the rotated map is the rotated ground truth."""
    turned = rotation(disc(0), Always(degrees), 45)
    expected = disc(-degrees)  # box angles turn clockwise, rotations counterclockwise
    middle = (slice(25, 76), slice(25, 76))
    same = turned.maps["label"][middle] == expected.maps["label"][middle]
    assert same.mean() > 0.97
    near = same & (expected.maps["depth"][middle] <= 5)
    difference = np.abs(turned.maps["angle_code"][middle].astype(int) - expected.maps["angle_code"][middle])[near]
    assert near.sum() > 300
    assert np.median(np.minimum(difference, 180 - difference)) <= 2  # codes of 2 degrees
    assert {kind: values[0, 0] for kind, values in turned.maps.items()} == {kind: FILL[kind] for kind in expected.maps}


def test_what_is_cut_out_does_not_count():
    sample = sample_of([{"type": "cutout", "probability": 1, "holes": 3, "size": [0.2, 0.2]}])
    plain = sample_of([])
    cut = (sample.maps["label"] != plain.maps["label"]) | (sample.image != plain.image).any(axis=2)
    assert cut.any() and (sample.maps["label"][cut] == 255).all() and len(np.unique(sample.image[cut], axis=0)) == 1


def test_blur_and_jitter_keep_labels_and_padding():
    wide = {**STANDARD, "scale_range": (0.3, 0.3)}
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    label = np.full((60, 80), 3, np.uint8)
    listed = [{"type": "gaussian_blur", "probability": 1, "sigma": [2, 2]}, {"type": "color_jitter", "brightness": 0.5}]
    plain = augment(image, {"label": label}, AugmentConfig(**wide), [0])
    changed = augment(image, {"label": label}, AugmentConfig(**wide, transforms=listed), [0])
    np.testing.assert_array_equal(plain.maps["label"], changed.maps["label"])
    outside = np.ones(plain.image.shape[:2], bool)
    outside[plain.area] = False
    assert outside.any() and plain.window == changed.window
    np.testing.assert_array_equal(plain.image[outside], changed.image[outside])
    assert changed.image[changed.area].std() < 0.5 * plain.image[plain.area].std()


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        ("{type: rotate}", ["rotate", "rotation"]),
        ("{type: rotation, degree: 3}", ["degree", "degrees"]),
        ("{type: cutout, size: [0, 2]}", ["cutout", "size"]),
        ("{type: gaussian_blur, probability: 2}", ["probability"]),
    ],
)
def test_invalid_entries_are_named(transform, words, command, one_line_error):
    path = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
    code = command("train", "--config", path, f"augment.transforms=[{transform}]")
    one_line_error(code, "augment.transforms", *words)

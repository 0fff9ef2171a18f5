"""Network inputs equal those of the original's recipe: in test exactly, in training within one gray level."""

import numpy as np
import original_recipe as original
import pytest
import torch
from conftest import ROOT
from PIL import Image

from openseg.config import load_config
from openseg.datasets.loaders import ImageSet, TrainSet, ValSet
from openseg.datasets.splits import Pair
from openseg.datasets.transforms import normalize
from openseg.io.images import write_label
from openseg.segfix import make_targets
from openseg_demo.scenes import write_scene

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0)
CAFFE = ((102.9801, 115.9465, 122.7717), (1.0, 1.0, 1.0), 1.0)
SHORT = "short side 520"
# config: image size, crop, scales, aspect, flip first, fit, statistics, reduce_zero
RECIPES = {
    "cityscapes/hrnet48_ocr": ((520, 1040), (512, 1024), (0.5, 2.0), (0.9, 1.1), False, None, IMAGENET, False),
    "cityscapes/resnet101_ocr": ((420, 800), (512, 1024), (0.5, 2.0), (0.9, 1.1), False, None, CAFFE, False),
    "pascal_context/hrnet48_ocr": (
        (375, 500),
        (520, 520),
        (0.5, 2.0),
        (0.9, 1.1),
        True,
        "short side 520",
        IMAGENET,
        True,
    ),
    "coco_stuff/hrnet48_ocr": ((640, 427), (520, 520), (0.5, 2.0), (0.9, 1.1), True, SHORT, IMAGENET, False),
    "ade20k/hrnet48_ocr": ((256, 683), (520, 520), (0.5, 2.0), (0.9, 1.1), True, SHORT, IMAGENET, True),
    "lip/hrnet48_ocr": ((200, 110), (473, 473), (0.5, 1.5), (0.9, 1.1), True, (473, 473), IMAGENET, False),
}


@pytest.fixture(params=RECIPES)
def case(request, tmp_path):
    """A config of the zoo, its recipe, and a sample of it; the image is a JPEG or a PNG as in the dataset."""
    size, crop, scales, aspect, flip_first, fit, stats, reduce_zero = RECIPES[request.param]
    config = load_config(ROOT / f"configs/{request.param}.yaml")
    info, rng = config.dataset_info, np.random.default_rng(len(request.param))
    coarse = rng.integers(0, 256, (size[0] // 8 + 1, size[1] // 8 + 1, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BILINEAR)
    noise = rng.normal(0, 12, (*size, 3))
    picture = Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))
    image = tmp_path / ("a.png" if "cityscapes" in request.param else "a.jpg")
    picture.save(image)
    ids = np.array([*info.ids, *info.ignored_ids], np.uint8)
    label = ids[rng.integers(0, len(ids), (size[0] // 4 + 1, size[1] // 4 + 1))].repeat(4, 0).repeat(4, 1)
    write_label(tmp_path / "l.png", label[: size[0], : size[1]])
    return config, Pair("a", image, tmp_path / "l.png"), crop, scales, aspect, flip_first, fit, stats, reduce_zero


def test_training_samples_equal_the_original_on_the_same_draws(case):
    config, pair, crop, scales, aspect, flip_first, fit, stats, reduce_zero = case
    info, dataset = config.dataset_info, TrainSet(config, [pair])
    image, raw = original.read(pair.image, pair.label)
    labels = original.encode(raw, info.ids, reduce_zero)
    flips = set()
    for index in range(6):
        rng = np.random.default_rng([config.train.seed, index])
        draws = original.draw(rng, image.shape[:2], crop, scales, aspect, 0.5, flip_first, 10, fit)
        flips.add(bool(draws[0]))
        tensor, padded = original.training_sample(image, labels, crop, draws, flip_first, fit, info.flip_pairs, stats)
        item = dataset[index]
        np.testing.assert_array_equal(item["label"].numpy(), padded)
        ours = normalize(item["image"][None], config.normalization, item["window"][None])[0]
        level = torch.tensor([1 / (stats[2] * std) for std in stats[1]]).view(3, 1, 1)
        distance = (ours - tensor).abs() / level  # in gray levels
        assert distance.max() <= 1.001
        assert (distance > 0.5).float().mean() < 1e-4
    assert flips == {False, True}


def test_validation_inputs_equal_the_original_exactly(case):
    config, pair, _, _, _, _, fit, stats, reduce_zero = case
    image, raw = original.read(pair.image, pair.label)
    labels = original.encode(raw, config.dataset_info.ids, reduce_zero)
    if fit is not None:
        size = fit if fit != SHORT else tuple(round(x * 520 / min(image.shape[:2])) for x in image.shape[:2])
        image, _ = original.resize(image, labels, size)
    expected = original.normalize(image, *stats)
    item, test_item = ValSet(config, [pair])[0], ImageSet(config, [pair.image])[0]
    for each in (item, test_item):
        assert torch.equal(normalize(each["image"][None], config.normalization)[0], expected)
    np.testing.assert_array_equal(item["label"], labels)


def test_segfix_samples_equal_the_definitions_on_the_same_draws(tmp_path):
    settings = ["augment.crop_size=[64,64]", "segfix.targets=label"]
    config = load_config(ROOT / "configs/cityscapes/segfix_hrnet48.yaml", settings)
    write_scene((tmp_path, 0), (80, 120), seed=4)
    (image,), (label,) = ((tmp_path / kind).iterdir() for kind in ("image", "label"))
    dataset = TrainSet(config, [Pair("a", image, label)])
    truth = config.dataset_info.read_truth(label)
    truth[:20] = 255
    write_label(label, config.dataset_info.decode(truth))
    targets = make_targets(truth)
    pixels, _ = original.read(image, label)
    flips = set()
    for index in range(6):
        rng = np.random.default_rng([config.train.seed, index])
        draws = original.draw(rng, truth.shape, (64, 64), None, None, 0.5, False, 10, None)
        flipped, _, places, _ = draws
        flips.add(bool(flipped))
        item = dataset[index]
        mask, direction = original.segfix_maps(truth, targets.depth, targets.angle_code, flipped, places, (64, 64))
        np.testing.assert_array_equal(item["mask"].numpy(), mask)
        np.testing.assert_array_equal(item["direction"].numpy(), direction)
        tensor, _ = original.training_sample(pixels, truth, (64, 64), draws, False, None, (), IMAGENET)
        ours = normalize(item["image"][None], config.normalization, item["window"][None])[0]
        assert torch.equal(ours, tensor)
    assert flips == {False, True}

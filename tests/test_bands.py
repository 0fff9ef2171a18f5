"""Images of other channels than RGB: grey, and four bands of 16 bits, from the check to the report."""

import re

import numpy as np
import pytest
import tifffile
import torch
import yaml
from conftest import ROOT
from PIL import Image

import openseg
from openseg.config import load_config
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.transforms import augment
from openseg.errors import DataError
from openseg.io.bands import read_bands
from openseg.io.images import write_label

BANDS = [
    {"name": name, "mean": mean, "std": mean / 4}
    for name, mean in (("red", 400), ("green", 600), ("blue", 300), ("nir", 2000))
]
PLANES = {1: "separate", 2: None}


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Fields (bright in near infrared) and water: six 4-band TIFFs of 16 bits, interleaved, planar and as pages."""
    root = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    for number in range(6):
        split = root / ("train" if number < 4 else "val")
        label = np.zeros((64, 96), np.uint8)
        label[:, 20 + 8 * number :] = 1
        values = np.stack([np.full((64, 96), band["mean"]) for band in BANDS], axis=2).astype(float)
        values += rng.normal(0, 1, values.shape) * [band["std"] / 3 for band in BANDS]
        values[..., 3] += np.where(label == 1, 450, -450)
        pixels = values.clip(0, 65535).astype(np.uint16)
        for folder in ("image", "label"):
            (split / folder).mkdir(parents=True, exist_ok=True)
        path = split / "image" / f"{number}.tif"
        if number % 3 == 0:
            tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig", compression="zlib")
        else:  # planes, or pages
            planes = np.moveaxis(pixels, -1, 0)
            tifffile.imwrite(
                path, planes, photometric="minisblack", planarconfig="separate" if number % 3 == 1 else None
            )
        write_label(split / "label" / f"{number}.png", label)
    content = {"classes": ["water", "field"], "bands": BANDS, "display": ["nir", "red", "green"]}
    (root / "fields.yaml").write_text(yaml.safe_dump(content))
    return root


def test_from_the_check_to_the_report(fields, command, tmp_path, capsys):
    config = {
        "name": "fields",
        "data": {"dataset": str(fields / "fields.yaml"), "workers": 0},
        "augment": {"crop_size": [64, 64], "transforms": ["rotation", "gaussian_blur", "cutout"]},
        "model": {"backbone": "hrnet_tiny", "head_channels": 32, "key_channels": 16},
        "train": {"max_iters": 30, "batch_size": 2, "optimizer": "adamw", "lr": 0.005, "val_interval": 30},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    assert command("check", "--config", "c.yaml") == 0
    assert command("train", "--config", "c.yaml") == 0
    assert command("val", "--config", "c.yaml") == 0
    result = tmp_path / "data/seg_result/fields/fields_val"
    scores = yaml.safe_load((result / "scores.json").read_text())
    assert "mIoU" in str(scores) and (result / "report/index.html").is_file()
    assert command("predict", fields / "val/image", "--config", "c.yaml", "--out", "out") == 0
    with Image.open(tmp_path / "out/overlay/4.jpg") as overlay:
        assert overlay.size == (96, 64)
    predictor = openseg.Predictor("c.yaml", "checkpoints/fields/fields_latest.pth")
    path = fields / "val/image/4.tif"
    assert np.array_equal(predictor(path).labels, predictor(read_bands(path, 4)).labels)
    with pytest.raises(DataError, match=r"\[height, width, 4\]"):
        predictor(np.zeros((64, 96, 3), np.uint8))


def test_wrong_statistics_are_measured(fields, command, tmp_path, capsys):
    content = yaml.safe_load((fields / "fields.yaml").read_text()) | {"folder": str(fields)}
    content["bands"][3].update(mean=0, std=1)
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(content))
    assert command("check", "--dataset", "wrong.yaml") == 0
    found = re.search(r"band nir has mean (\S+) and standard deviation (\S+),", capsys.readouterr().out)
    assert abs(float(found[1]) - 2000) < 300 and 300 < float(found[2]) < 700


def test_augmentation_keeps_normalized_bands(fields):
    config = load_config(
        ROOT / "configs/demo/hrnet_tiny_ocr.yaml",
        [
            f"data.dataset={fields}/fields.yaml",
            "loss.class_weights=false",
            "augment.transforms=[{type: rotation, probability: 1}]",
        ],
    )
    image = get_dataset_info(str(fields / "fields.yaml")).read_image(fields / "train/image/0.tif")
    assert image.dtype == np.float32 and abs(image.mean()) < 0.5
    sample = augment(image, {"label": np.zeros((64, 96), np.uint8)}, config.augment, (0, 1))
    assert sample.image.shape == (160, 320, 4) and sample.image.dtype == np.float32
    assert np.abs(sample.image).max() < 8


def test_one_gray_band(tmp_path):
    for split in ("train", "val"):
        for folder in ("image", "label"):
            (tmp_path / split / folder).mkdir(parents=True)
        write_label(tmp_path / split / "image/a.png", np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 9)
        write_label(tmp_path / split / "label/a.png", np.eye(64, dtype=np.uint8))
    (tmp_path / "gray.yaml").write_text("classes: [a, b]\nbands: [{name: gray, mean: 18000, std: 10000}]\n")
    config = load_config(
        ROOT / "configs/demo/hrnet_tiny_ocr.yaml",
        [f"data.dataset={tmp_path}/gray.yaml", "loss.class_weights=false", "augment.crop_size=[64,64]"],
    )
    model = openseg.models.factory.build_model(config)
    assert next(model.parameters()).shape[1] == 1
    image = config.dataset_info.read_image(tmp_path / "val/image/a.png")
    assert image.shape == (64, 64, 1)
    assert model.eval()(torch.from_numpy(image.transpose(2, 0, 1))[None]).logits.shape[1] == 2


def test_broken_band_files(tmp_path):
    tifffile.imwrite(tmp_path / "three.tif", np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(DataError, match="has 3 bands, the dataset's file lists 4"):
        read_bands(tmp_path / "three.tif", 4)
    content = (tmp_path / "three.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"cut\.tif: "):
        read_bands(tmp_path / "cut.tif", 3)
    tifffile.imwrite(tmp_path / "nan.tif", np.full((8, 8), np.nan, np.float32))
    with pytest.raises(DataError, match="not finite"):
        read_bands(tmp_path / "nan.tif", 1)
    with pytest.raises(DataError, match="cannot be read"):
        read_bands(tmp_path / "missing.tif", 1)

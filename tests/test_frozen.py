"""Training of the head alone on a frozen backbone, whose features are computed once where they can be."""

import pytest
import torch
from conftest import ROOT

from openseg.config import load_config
from openseg.datasets.samples import list_split
from openseg.distributed import Group
from openseg.errors import ConfigError, DataError
from openseg.training.frozen import compute_features
from openseg.training.state import build_training
from openseg.training.trainer import run_training

TINY = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
CPU = torch.device("cpu")
FROZEN = ["model.freeze_backbone=true", "augment.scale_range=null", "augment.brightness=0"]
WHOLE = [
    *FROZEN,
    "train.optimizer=sgd",
    "train.lr=0.01",
    "augment.crop_size=[128,256]",
    "data.val_split=null",
    "loss.class_weights=inverse_log",
]


def trained(overrides, folder, *more):
    config = load_config(TINY, [*overrides, *WHOLE, *more])
    return run_training(config, CPU, folder).model.state_dict()


def test_kept_features_train_the_same_head(overrides, tmp_path):
    plain = trained(overrides, tmp_path / "a")
    kept = trained(overrides, tmp_path / "b", "data.cache_gb=1", f"data.cache_dir={tmp_path}/cache")
    start = build_training(load_config(TINY, [*overrides, *WHOLE]), CPU, tmp_path).model.state_dict()
    for key, value in plain.items():
        if key.startswith("backbone."):
            assert torch.equal(value, start[key]) and torch.equal(kept[key], start[key])
        elif value.is_floating_point():
            assert torch.allclose(kept[key], value, atol=2e-2), key  # halves, and norms that are folded
    assert not torch.equal(plain["head.classifier.weight"], start["head.classifier.weight"])
    assert len(list((tmp_path / "cache").glob("*/*.npy"))) == 12  # four labels, four images plain and mirrored


def test_features_are_computed_once_and_resumed_exactly(overrides, tmp_path, monkeypatch):
    cache = ["data.cache_gb=1", f"data.cache_dir={tmp_path}/cache"]
    trained(overrides, tmp_path / "a", *cache)
    monkeypatch.setattr("openseg.training.frozen._compute", lambda *_: pytest.fail("computed again"))
    trained(overrides, tmp_path / "b", *cache)


def test_images_of_another_size_or_too_little_room(overrides, tmp_path):
    def compute(*more):
        config = load_config(TINY, [*overrides, *FROZEN, f"data.cache_dir={tmp_path}", *more])
        return compute_features(build_training(config, CPU, tmp_path), list_split(config, "train"), Group())

    with pytest.raises(DataError, match=r"is 128x256; .*augment\.crop_size=\[64, 64\]"):
        compute("data.cache_gb=1")
    with pytest.raises(ConfigError, match=r"take .* GB, data\.cache_gb is"):
        compute("augment.crop_size=[128,256]", "data.cache_gb=0.0001")
    assert compute("augment.crop_size=[128,256]", "data.cache_gb=0") is None
    assert compute("augment.crop_size=[128,256]", "data.cache_gb=1", "augment.brightness=10") is None


def test_segfix_on_a_frozen_backbone(overrides, tmp_path, caplog):
    settings = [*overrides, *FROZEN, "data.cache_gb=1", f"data.cache_dir={tmp_path}", "train.max_iters=1"]
    config = load_config(ROOT / "configs/demo/segfix_hrnet_tiny.yaml", settings)
    start = build_training(config, CPU, tmp_path).model.state_dict()
    trained = run_training(config, CPU, tmp_path / "out").model.state_dict()
    changed = {key.partition(".")[0] for key, value in trained.items() if not torch.equal(value, start[key])}
    assert "backbone" not in changed and changed
    assert "computes features in every iteration: those of task segfix" in caplog.text

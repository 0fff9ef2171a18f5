"""The parts of a fine-tuning recipe: learning rates by layer, early stop, weights by frequency, pasted classes."""

import math

import numpy as np
import pytest
import torch
from conftest import ROOT
from torch.nn import functional as F

import openseg
from openseg.config import TrainConfig, load_config
from openseg.datasets.augmentations import Sample, paste
from openseg.datasets.frequency import count_classes, rare_classes
from openseg.datasets.loaders import TrainSet
from openseg.datasets.samples import list_split
from openseg.losses.cross_entropy import cross_entropy
from openseg.models.checkpoint.io import read_checkpoint, write_weights
from openseg.models.factory import build_model
from openseg.training.schedule import build_optimizer, lr_factor
from openseg.training.trainer import TrainingStart, run_training

TINY = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
CPU = torch.device("cpu")


def test_layers_learn_slower_the_earlier_they_are():
    config = load_config(TINY, ["train.layer_decay=0.5", "train.head_lr_multiplier=10", "train.decay_norms=false"])
    model = openseg.create_model("resnet_tiny", "mlp", num_classes=3, head_channels=8)
    groups = build_optimizer(model, config.train).param_groups
    rate = {id(parameter): group["multiplier"] for group in groups for parameter in group["params"]}
    names = {name: rate[id(parameter)] for name, parameter in model.named_parameters()}
    assert names["head.classifier.weight"] == 10
    last, first = names["backbone.layer4.0.conv1.weight"], names["backbone.resinit.conv1.weight"]
    assert (
        last == 0.5 and first < names["backbone.layer3.0.conv1.weight"] < names["backbone.layer3.1.conv1.weight"] < 0.5
    )
    assert len(rate) == len(list(model.parameters()))


def test_label_smoothing_is_that_of_pytorch():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 4, 5, 6), torch.randint(0, 4, (2, 5, 6))
    labels[0, 0] = 255
    expected = F.cross_entropy(logits, labels, ignore_index=255, label_smoothing=0.1)
    assert torch.allclose(cross_entropy(logits, labels, label_smoothing=0.1), expected)


def test_classes_are_counted_in_the_training_split(data_root, overrides):
    config = load_config(TINY, [*overrides, "loss.class_weights=inverse_log"])
    counts, expected = count_classes(config), np.zeros(19, np.int64)
    for pair in list_split(config, "train"):
        label = config.dataset_info.read_truth(pair.label)
        expected += np.bincount(label[label < 255], minlength=19)
    assert counts.tolist() == expected.tolist() and expected.sum() > 0
    shares = expected / expected.sum()
    assert set(rare_classes(config)) == {number for number in range(19) if shares[number] < 0.25 / 19}


def test_pasted_classes_come_with_their_pixels():
    image, other = np.zeros((4, 6, 3), np.uint8), np.full((4, 6, 3), 200, np.uint8)
    labels = np.full((4, 6), 5, np.uint8)
    labels[1:3, 2:5] = 2
    sample = Sample(image, {"label": np.zeros((4, 6), np.uint8)}, (0, 0, 4, 4))
    paste(sample, Sample(other, {"label": labels}, (0, 0, 4, 6)), np.array([2], np.uint8))
    assert sample.maps["label"].tolist() == [[0] * 6, [0, 0, 2, 2, 0, 0], [0, 0, 2, 2, 0, 0], [0] * 6]  # padding stays
    assert ((sample.image == 200).all(axis=2) == (sample.maps["label"] == 2)).all()


def test_copy_paste_adds_rare_pixels_and_is_repeatable(overrides):
    def rare_pixels(probability):
        config = load_config(TINY, [*overrides, f"augment.copy_paste={probability}", "augment.crop_size=[128,256]"])
        dataset, rare = TrainSet(config, list_split(config, "train")), rare_classes(config)
        items = [dataset[index] for index in range(12)]
        assert all(torch.equal(items[3][key], dataset[3][key]) for key in items[3])
        return sum(int(np.isin(item["label"].numpy(), rare).sum()) for item in items)

    assert rare_pixels(1) > rare_pixels(0) > 0


def test_crops_grow(overrides):
    config = load_config(TINY, [*overrides, "augment.crop_size=[128,256]", "augment.progressive_crop=0.5"])
    dataset, batch = TrainSet(config, list_split(config, "train")), config.train.batch_size
    sizes = [tuple(dataset[iteration * batch]["label"].shape) for iteration in range(4)]
    assert sizes == [(64, 128), (96, 160), (96, 224), (128, 256)]


def test_training_stops_when_nothing_gets_better(overrides, tmp_path, caplog):
    settings = [*overrides, "train.max_iters=12", "train.val_interval=2", "train.patience=2", "train.lr=1e-12"]
    config = load_config(TINY, settings)
    training = run_training(config, CPU, tmp_path)
    assert training.iteration == 6 and training.best_at == 2  # what does not change is never better
    content = read_checkpoint(tmp_path / "demo/hrnet_tiny_ocr_latest.pth").content
    assert content["best_at"] == 2 and math.isclose(content["best"], training.best)
    again = run_training(config, CPU, tmp_path, start=TrainingStart("must"))
    assert again.iteration == 6
    other = load_config(TINY, [*settings, "data.val_split=train"])  # whose scores do not compare
    again = run_training(other, CPU, tmp_path, start=TrainingStart("must", change=True))
    assert again.iteration > 6 and again.best_at > 6


def test_weights_of_another_number_of_classes(overrides, tmp_path, caplog):
    source = load_config(TINY, ["data.dataset=camvid"])
    model = build_model(source)
    write_weights(tmp_path / "camvid.pth", model, source)
    config = load_config(TINY, [*overrides, "train.max_iters=1", "train.lr=1e-12", "data.val_split=null"])
    with caplog.at_level("INFO", "openseg"):
        training = run_training(config, CPU, tmp_path, start=TrainingStart(weights=tmp_path / "camvid.pth"))
    assert "4 of other classes initialized anew" in caplog.text and "head.classifier.weight" in caplog.text
    ours, theirs = training.model.state_dict(), model.state_dict()
    assert torch.allclose(ours["head.pixels.0.weight"], theirs["head.pixels.0.weight"], atol=1e-6)
    assert ours["head.classifier.weight"].shape[0] == 19


@pytest.mark.parametrize("head", ["mlp", "upernet"])
def test_modern_heads(head):
    torch.manual_seed(0)
    model = openseg.create_model("resnet_tiny", head, num_classes=3, head_channels=16).train()
    output = model(torch.randn(2, 3, 65, 97))
    assert output.logits.shape[1] == 3 and output.aux_logits is None
    output.logits.mean().backward()
    assert not [name for name, value in model.named_parameters() if value.grad is None]
    model.eval()
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        before = model(images).logits
        model.head.fuse()
        assert torch.allclose(model(images).logits, before, atol=1e-5 * float(before.abs().max()))


def test_fine_tuning_starts_from_given_weights(command, overrides, capsys, one_line_error):
    config = TINY
    assert command("train", "--config", config, *overrides) == 0
    weights = "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    assert command("train", "--config", config, *overrides, "name=tuned", "--weights", weights) == 0
    assert "keys matched" in capsys.readouterr().out
    options = [*overrides, "model.head_activation=leaky_relu", "name=other", "--weights", weights]
    one_line_error(command("train", "--config", config, *options), "model.head_activation=relu")


def test_schedules():
    steps = TrainConfig(max_iters=100, schedule="step", warmup_iters=4, milestones=(0.5, 0.9), step_factor=0.1)
    found = [lr_factor(iteration, steps) for iteration in (0, 1, 3, 49, 50, 90)]
    assert found == pytest.approx([0.25, 0.5, 1, 1, 0.1, 0.01])
    cosine = TrainConfig(max_iters=100, schedule="cosine")
    assert [lr_factor(iteration, cosine) for iteration in (0, 50)] == pytest.approx([1, 0.5])
    poly = TrainConfig(max_iters=100)
    assert lr_factor(25, poly) == pytest.approx(0.75**0.9)

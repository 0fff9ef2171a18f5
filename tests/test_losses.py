"""Losses equal the original's, and stay finite where nothing counts."""

import re

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe import golden
from torch.nn import functional as F

from openseg.config import load_config
from openseg.config.losses import CrossEntropyTerm, OHEMTerm
from openseg.errors import ConfigError
from openseg.losses.boundary import boundary_loss
from openseg.losses.cross_entropy import cross_entropy, ohem_cross_entropy
from openseg.losses.region import dice, lovasz_softmax
from openseg.losses.segfix import SegFixLoss
from openseg.losses.total import SegmentationLoss, build_loss
from openseg.models.segfix import SegFixOutput
from openseg.models.segmentor import SegmentorOutput
from openseg.segfix import angles_to_directions

GOLDEN = golden("losses")
LOGITS = torch.from_numpy(GOLDEN["logit"])
LABELS = torch.from_numpy(np.where(GOLDEN["target"] < 0, 255, GOLDEN["target"]).astype(np.uint8))
WEIGHTS = {"nw": None, "w": torch.from_numpy(GOLDEN["ce_weight"])}
OHEM = [key for key in GOLDEN if re.fullmatch(r"fs_(aux)?ohemce(_SEEDVERSION)?__n?w__t[\d.]+_k\d+", key)]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_cross_entropy(weights):
    loss = cross_entropy(LOGITS, LABELS, WEIGHTS[weights])
    assert loss.item() == pytest.approx(float(GOLDEN[f"fs_ce__{weights}"]), rel=1e-5)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_labels_at_the_size_of_small_logits(weights):
    small = torch.from_numpy(GOLDEN["aux_small"])
    labels = F.interpolate(LABELS[:, None].float(), size=small.shape[-2:], mode="nearest")[:, 0].to(torch.uint8)
    expected = float(GOLDEN[f"fs_ce__{weights}__smallpred_target_nearest"])
    assert cross_entropy(small, labels, WEIGHTS[weights]).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("key", OHEM)
def test_ohem(key):
    """SEEDVERSION is the default; the others were recorded with the first pixel always kept."""
    weights, threshold, kept = re.fullmatch(r".*__(n?w)__t([\d.]+)_k(\d+)", key).groups()
    settings = {"threshold": float(threshold), "min_kept": int(kept), "class_weights": weights == "w"}
    term = OHEMTerm(count_first_pixel="SEEDVERSION" not in key, **settings)
    output = SegmentorOutput(LOGITS, torch.from_numpy(GOLDEN["aux"]) if "aux" in key else None)
    terms = SegmentationLoss([term], WEIGHTS[weights])(output, {"label": LABELS})
    assert terms["loss"].item() == pytest.approx(float(GOLDEN[key]), rel=1e-5)


def test_gradient_of_ohem():
    logits = LOGITS.clone().requires_grad_()
    ohem_cross_entropy(logits, LABELS, 0.7, 50, WEIGHTS["w"], count_first_pixel=True).backward()
    np.testing.assert_allclose(logits.grad.numpy(), GOLDEN["grad__fs_ohemce__w__t0.7_k50"], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_main_and_auxiliary(weights):
    output = SegmentorOutput(LOGITS, torch.from_numpy(GOLDEN["aux"]))
    terms = SegmentationLoss([CrossEntropyTerm(class_weights=weights == "w")], WEIGHTS[weights])(
        output, {"label": LABELS}
    )
    assert terms["loss"].item() == pytest.approx(float(GOLDEN[f"fs_auxce__{weights}"]), rel=1e-5)


def segfix_batch(expected):
    ignored = expected["seg_label"] < 0
    mask = np.where(ignored, 255, expected["distance"] <= 5).astype(np.uint8)
    direction = np.where(ignored, 255, angles_to_directions(expected["angle"])).astype(np.uint8)
    return {"mask": torch.from_numpy(mask), "direction": torch.from_numpy(direction)}


def test_segfix():
    expected = golden("segfix_loss")
    output = SegFixOutput(torch.from_numpy(expected["pred_mask"]), torch.from_numpy(expected["pred_dir"]))
    terms = SegFixLoss()(output, segfix_batch(expected))
    for name, key in (("loss", "loss"), ("mask", "mask_loss"), ("direction", "dir_loss")):
        assert terms[name].item() == pytest.approx(float(expected[key]), rel=1e-5)


def check_zero(loss, *inputs):
    assert loss.item() == 0
    loss.backward()
    assert all(x.grad is not None and torch.count_nonzero(x.grad) == 0 for x in inputs)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("function", [cross_entropy, lambda x, y, w: ohem_cross_entropy(x, y, 0.9, 10, w)])
def test_all_ignored_is_a_connected_zero(function, weights):
    logits = LOGITS.clone().requires_grad_()
    check_zero(function(logits, torch.full_like(LABELS, 255), WEIGHTS[weights]), logits)


def test_segfix_without_any_boundary_is_finite():
    expected = golden("segfix_loss")
    mask = torch.zeros(2, 2, 8, 12)
    mask[:, 0] = 9.0  # surely inside
    direction = torch.zeros(2, 8, 8, 12, requires_grad=True)
    terms = SegFixLoss()(SegFixOutput(mask, direction), segfix_batch(expected))
    assert torch.isfinite(terms["loss"]) and terms["direction"].item() == 0
    terms["loss"].backward()
    assert torch.count_nonzero(direction.grad) == 0


def random_batch(seed, classes=4, ignored=0.2):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(size=(2, classes, 6, 7)).astype(np.float32))
    labels = rng.integers(0, classes - 1, (2, 6, 7), np.uint8)  # the last class is absent
    labels[rng.random(labels.shape) < ignored] = 255
    return logits, torch.from_numpy(labels)


@pytest.mark.parametrize("seed", range(3))
def test_dice_is_its_definition(seed):
    logits, labels = random_batch(seed)
    valid = labels != 255
    probability = logits.softmax(1).movedim(1, -1)[valid]
    expected = []
    for k in range(3):
        truth = (labels[valid] == k).float()
        expected.append(1 - (2 * (probability[:, k] * truth).sum() + 1) / (probability[:, k].sum() + truth.sum() + 1))
    assert dice(logits, labels).item() == pytest.approx(float(sum(expected) / 3), rel=1e-5)
    weights = torch.tensor([1.0, 2.0, 3.0, 9.0])
    expected = sum(w * e for w, e in zip(weights[:3], expected, strict=True)) / 6
    assert dice(logits, labels, class_weights=weights).item() == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_lovasz_of_hard_predictions_is_one_minus_iou(seed):
    """The Lovász extension equals the set function at its corners; ignored pixels count nowhere."""
    logits, labels = random_batch(seed)
    prediction = logits.argmax(1)
    hard = F.one_hot(prediction, 4).movedim(-1, 1) * 1e4
    valid = labels != 255
    ious = []
    for k in range(3):
        mine, truth = (prediction == k) & valid, (labels == k) & valid
        ious.append(((mine & truth).sum() / (mine | truth).sum()).item())
    assert lovasz_softmax(hard.float(), labels).item() == pytest.approx(1 - np.mean(ious), rel=1e-5)


def test_the_boundary_loss_looks_at_outlines_alone():
    labels = torch.zeros(1, 24, 24, dtype=torch.uint8)
    labels[:, 8:16, 8:16] = 1

    def score(top, hole=False):
        guess = torch.zeros(1, 24, 24, dtype=torch.long)
        guess[:, top : top + 8, 8:16] = 1
        if hole:
            guess[:, 11:13, 11:13] = 0
        return boundary_loss(F.one_hot(guess, 2).movedim(-1, 1).float() * 20, labels).item()

    assert score(8) == score(10) == pytest.approx(0, abs=1e-5)  # within two pixels it matches
    assert 0.2 < score(11) < score(12) < score(14)
    assert score(8, hole=True) > 0.02


@pytest.mark.parametrize("function", [dice, lovasz_softmax, boundary_loss])
def test_region_losses_have_gradients_and_survive_nothing(function):
    logits, labels = random_batch(0)
    logits.requires_grad_()
    function(logits, labels).backward()
    assert torch.isfinite(logits.grad).all() and logits.grad.abs().sum() > 0
    assert (logits.grad.movedim(1, -1)[labels == 255] == 0).all()
    logits.grad = None
    loss = function(logits, torch.full_like(labels, 255))
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-6) and not logits.grad.any()


def test_a_list_is_a_weighted_sum():
    text = ["loss=[{type: ce}, {type: dice, weight: 0.5, smooth: 0.1}, {type: dice, weight: 2, aux_weight: 3}]"]
    config = load_config(ROOT / "configs/demo/hrnet_tiny_ocr.yaml", text)
    logits, labels = random_batch(1, classes=19)
    aux = random_batch(2, classes=19)[0]
    found = build_loss(config, torch.device("cpu"))(SegmentorOutput(logits, aux), {"label": labels})
    expected = cross_entropy(logits, labels, None) + 0.5 * dice(logits, labels, 0.1) + 2 * dice(logits, labels)
    expected += 0.4 * cross_entropy(aux, labels, None) + 3 * dice(aux, labels)
    assert found["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    assert set(found) == {"loss", "ce", "dice", "dice 2", "aux ce", "aux dice 2"}


@given(st.integers(2, 9), st.integers(1, 12), st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_every_nth_pixel(stride, small, height, width):
    """The chosen pixels' logits are those of the resized map, and their labels the same pixels' labels."""
    height, width = height + stride, width + stride
    torch.manual_seed(stride)
    logits = torch.randn(2, 5, small, small + 3, requires_grad=True)
    labels = torch.randint(0, 5, (2, height, width), dtype=torch.uint8)
    resized = F.interpolate(logits, (height, width), mode="bilinear", align_corners=True)
    start = stride // 2
    wanted = torch.full_like(labels, 255)
    wanted[:, start::stride, start::stride] = labels[:, start::stride, start::stride]
    loss = SegmentationLoss([CrossEntropyTerm()], stride=stride)
    found = loss(SegmentorOutput(logits, None), {"label": labels})["loss"]
    expected = cross_entropy(resized, wanted)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = [torch.autograd.grad(each, logits)[0] for each in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_losses_of_neighboring_pixels_take_all_pixels():
    with pytest.raises(ConfigError, match=r"set train\.loss_stride=1"):
        load_config(ROOT / "configs/demo/hrnet_tiny_ocr.yaml", ["loss=[ce, boundary]", "train.loss_stride=2"])

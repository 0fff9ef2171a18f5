"""Losses equal the original's, and stay finite where nothing counts."""

import re

import numpy as np
import pytest
import torch
from recipe import golden
from torch.nn import functional as F

from openseg.config.losses import CrossEntropyTerm, OHEMTerm
from openseg.losses.cross_entropy import cross_entropy, ohem_cross_entropy
from openseg.losses.segfix import SegFixLoss
from openseg.losses.total import SegmentationLoss
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

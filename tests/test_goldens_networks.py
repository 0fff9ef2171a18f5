"""Released checkpoints, in both layouts, give the original's outputs."""

import numpy as np
import pytest
import torch
from recipe import golden, golden_input, golden_state

from openseg.config import load_experiment
from openseg.models.layers import resize_logits
from openseg.models.weights import load_model

TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}
LAYOUTS = {"inplace_abn": "leaky_relu", "torchsyncbn": "relu"}


def released_model(network, layout, config, tmp_path, *overrides):
    path = tmp_path / "released.pth"
    torch.save({"config_dict": {"iters": 80000}, "state_dict": golden_state(f"{network}__{layout}")}, path)
    # The config asks for the other activation: what the file was trained with must win.
    wrong = {"leaky_relu": "relu", "relu": "leaky_relu"}[LAYOUTS[layout]]
    experiment = load_experiment(config, [f"model.head_activation={wrong}", *overrides])
    model, report = load_model(experiment, path)
    assert report.complete and report.renamed
    return model


def compare_backbone(expected, model, images):
    """Stage by stage: a difference shows where it begins."""
    with torch.inference_mode():
        for i, values in enumerate(model.backbone(images)):
            assert tuple(values.shape) == tuple(expected[f"backbone{i}_shape"])
            np.testing.assert_allclose(values[0, :4, :4, :4].numpy(), expected[f"backbone{i}_sample"], **TOLERANCE)


def compare(expected, output, file):
    for name, values in output.items():
        np.testing.assert_allclose(values.numpy(), expected[name], **TOLERANCE, err_msg=f"{file} {name}")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hrnet_w48_ocr(layout, tmp_path):
    network = "hrnet_w48_ocr_19"
    model = released_model(network, layout, "configs/cityscapes/hrnet48_ocr.yaml", tmp_path)
    for suffix in ("", "_105x139"):
        expected = golden(f"{network}__{layout}{suffix}")
        images = golden_input(expected["input_shape"])
        compare_backbone(expected, model, images)
        with torch.inference_mode():
            output = model(images)
        step = int(expected["stride"])
        full = {"seg": output.logits, "aux": output.aux_logits}
        sampled = {k: resize_logits(v, images.shape[-2:])[:, :, ::step, ::step] for k, v in full.items()}
        compare(expected, sampled, f"{network}__{layout}{suffix}")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("width", [18, 32, 48])
def test_segfix_hrnet(width, layout, tmp_path):
    network = f"segfix_hrnet{width}"
    config = "configs/cityscapes/segfix_hrnet48.yaml"
    model = released_model(network, layout, config, tmp_path, f"model.backbone=hrnet{width}")
    for suffix in ("", "_105x139") if width == 48 else ("",):
        expected = golden(f"{network}__{layout}{suffix}")
        images = golden_input(expected["input_shape"])
        compare_backbone(expected, model, images)
        with torch.inference_mode():
            output = model(images)
        named = {"mask": output.mask_logits, "dir": output.direction_logits}
        compare(expected, named, f"{network}__{layout}{suffix}")

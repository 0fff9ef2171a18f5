"""Released checkpoints, in both layouts, give the original's outputs."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import GOLDENS, golden, golden_input, golden_state, manifest_names

from openseg.config import load_config
from openseg.inference.prepare import prepare_for_inference
from openseg.models.checkpoint.io import Checkpoint
from openseg.models.checkpoint.layouts import convert_state
from openseg.models.checkpoint.load import fit_config, fits, load_network
from openseg.models.layers import resize_logits

TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}
LAYOUTS = ("inplace_abn", "torchsyncbn")
CONFIGS = {
    "base_ocnet_r101d8_19": ["cityscapes/resnet101_base_oc"],
    "isanet_r101d8_19": ["cityscapes/resnet101_isa"],
    "spatial_ocrnet_r101d8_19": ["cityscapes/resnet101_ocr"],
    "spatial_asp_ocrnet_r101d8_19": ["cityscapes/resnet101_asp_ocr"],
    "hrnet_w48_ocr_19": ["cityscapes/hrnet48_ocr"],
    "hrnet_w48_asp_ocr_19": ["cityscapes/hrnet48_asp_ocr"],
    "hrnet_w48_ocr_20": ["lip/hrnet48_ocr"],
    "hrnet_w48_ocr_59": ["pascal_context/hrnet48_ocr"],
    "hrnet_w48_ocr_60": ["pascal_context/hrnet48_ocr", "data.dataset=pascal_context_60"],
    "hrnet_w48_ocr_150": ["ade20k/hrnet48_ocr"],
    "hrnet_w48_ocr_171": ["coco_stuff/hrnet48_ocr"],
    "segfix_hrnet18": ["cityscapes/segfix_hrnet48", "model.backbone=hrnet18"],
    "segfix_hrnet32": ["cityscapes/segfix_hrnet48", "model.backbone=hrnet32"],
    "segfix_hrnet48": ["cityscapes/segfix_hrnet48"],
    "segfix_hrnet2x20": ["cityscapes/segfix_hrnext20"],
}
FILES = sorted(path.stem for path in GOLDENS.glob("*__*.npz"))


def config_of(network):
    config, *overrides = CONFIGS[network]
    # Open, since half of the files here are not of the flavour that the configs were published with.
    return load_config(f"configs/{config}.yaml", ["model.head_activation=null", *overrides])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The network of a manifest, loaded from a file as it was released; the last one is kept for the next golden."""
    folder, kept = tmp_path_factory.mktemp("released"), {}

    def load(name):
        if name not in kept:
            kept.clear()
            torch.save({"config_dict": {"iters": 80000}, "state_dict": golden_state(name)}, folder / "released.pth")
            model, report = load_network(config_of(name.split("__")[0]), folder / "released.pth")
            assert report.complete and report.renamed
            kept[name] = model
        return kept[name]

    return load


def outputs(model, images, step):
    """The outputs under the names that the goldens have."""
    with torch.inference_mode():
        output = model(images)
    if hasattr(output, "mask_logits"):
        named = {"mask": output.mask_logits, "dir": output.direction_logits}
    else:
        full = {"seg": output.logits, "aux": output.aux_logits}
        named = {key: resize_logits(values, images.shape[-2:])[:, :, ::step, ::step] for key, values in full.items()}
    return {name: values.cpu().numpy() for name, values in named.items()}


def compare(model, expected, images):
    for name, values in outputs(model, images, int(expected["stride"])).items():
        np.testing.assert_allclose(values, expected[name], **TOLERANCE, err_msg=name)


def model_of(file, released):
    network, layout = file.split("__")
    return released(f"{network}__{next(part for part in LAYOUTS if layout.startswith(part))}")


def once_in_quick(file):
    """One golden a network; the others take long and are left out of the quick run."""
    first = file.endswith("__inplace_abn") and not file.startswith(("hrnet_w48_ocr_59", "segfix_hrnet32"))
    return file if first else pytest.param(file, marks=pytest.mark.slow)


@pytest.mark.parametrize("file", map(once_in_quick, FILES))
def test_released_network(file, released):
    expected, model = golden(file), model_of(file, released)
    images = golden_input(expected["input_shape"])
    with torch.inference_mode():
        maps = model.backbone(images)
    # Stage by stage: a difference shows where it begins. The original's ResNet also lists its stem and its pooling.
    count = sum(1 for key in expected if key.startswith("backbone") and key.endswith("_shape"))
    for i, values in enumerate(maps, start=count - len(maps)):
        assert tuple(values.shape) == tuple(expected[f"backbone{i}_shape"])
        np.testing.assert_allclose(values[0, :4, :4, :4].numpy(), expected[f"backbone{i}_sample"], **TOLERANCE)
    compare(model, expected, images)


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in FILES if file.endswith("__inplace_abn")])
def test_released_network_made_ready_for_inference(file, released):
    """As ``val``, ``test`` and ``offsets`` run it."""
    expected = golden(file)
    compare(
        prepare_for_inference(copy.deepcopy(model_of(file, released))), expected, golden_input(expected["input_shape"])
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("file", FILES)
def test_released_network_on_a_gpu(file, released, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    expected = golden(file)
    compare(copy.deepcopy(model_of(file, released)).cuda(), expected, golden_input(expected["input_shape"]).cuda())


@pytest.mark.parametrize("name", manifest_names())
def test_every_manifest_fits_its_experiment(name):
    """Names and shapes of all, without memory for values."""
    with torch.device("meta"):
        state = {key.removeprefix("module."): value for key, value in golden_state(name, values=False).items()}
    checkpoint = Checkpoint(Path(name), convert_state(state))
    assert fits(checkpoint, fit_config(config_of(name.split("__")[0]), checkpoint))


def test_all_manifests_are_here():
    assert len(manifest_names()) == 29
    assert {name.split("__")[0] for name in manifest_names()} == set(CONFIGS)

"""Released checkpoints, in both layouts, give the original's outputs."""

import numpy as np
import pytest
import torch
from recipe import GOLDENS, golden, golden_input, golden_state, manifest_names

from openseg.config import load_experiment
from openseg.models import build_model
from openseg.models.layers import resize_logits
from openseg.models.weights import fit_experiment, load_model, load_weights, read_checkpoint

TOLERANCE = {"rtol": 1e-4, "atol": 2e-4}
LAYOUTS = ("inplace_abn", "torchsyncbn")
CONFIGS = {
    "base_ocnet_r101d8_19": ["cityscapes/resnet101_base_oc"],
    "isanet_r101d8_19": ["cityscapes/resnet101_isa"],
    "spatial_ocrnet_r101d8_19": ["cityscapes/resnet101_ocr"],
    "spatial_asp_ocrnet_r101d8_19": ["cityscapes/resnet101_asp_ocr"],
    "hrnet_w48_ocr_19": ["cityscapes/hrnet48_ocr"],
    "hrnet_w48_ocr_20": ["lip/hrnet48_ocr"],
    "hrnet_w48_ocr_59": ["pascal_context/hrnet48_ocr"],
    "hrnet_w48_ocr_150": ["ade20k/hrnet48_ocr"],
    "hrnet_w48_ocr_171": ["coco_stuff/hrnet48_ocr"],
    "segfix_hrnet18": ["cityscapes/segfix_hrnet48", "model.backbone=hrnet18"],
    "segfix_hrnet32": ["cityscapes/segfix_hrnet48", "model.backbone=hrnet32"],
    "segfix_hrnet48": ["cityscapes/segfix_hrnet48"],
    "segfix_hrnet2x20": ["cityscapes/segfix_hrnext20"],
}
FILES = sorted(path.stem for path in GOLDENS.glob("*__*.npz"))


def experiment_of(network):
    config, *overrides = CONFIGS[network]
    # Open, since half of the files here are not of the flavour that the experiments were published with.
    return load_experiment(f"configs/{config}.yaml", ["model.head_activation=null", *overrides])


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The network of a manifest, loaded from a file as it was released; the last one is kept for the next golden."""
    folder, kept = tmp_path_factory.mktemp("released"), {}

    def load(name):
        if name not in kept:
            kept.clear()
            torch.save({"config_dict": {"iters": 80000}, "state_dict": golden_state(name)}, folder / "released.pth")
            model, report = load_model(experiment_of(name.split("__")[0]), folder / "released.pth")
            assert report.complete and report.renamed
            kept[name] = model
        return kept[name]

    return load


def outputs(model, images, step):
    """The outputs under the names that the goldens have."""
    with torch.inference_mode():
        output = model(images)
    if hasattr(output, "mask_logits"):
        return {"mask": output.mask_logits, "dir": output.direction_logits}
    full = {"seg": output.logits, "aux": output.aux_logits}
    return {name: resize_logits(values, images.shape[-2:])[:, :, ::step, ::step] for name, values in full.items()}


@pytest.mark.parametrize("file", FILES)
def test_released_network(file, released):
    expected = golden(file)
    network, layout = file.split("__")
    suffix = next((part for part in LAYOUTS if layout.startswith(part)), layout)
    model = released(f"{network}__{suffix}")
    images = golden_input(expected["input_shape"])
    with torch.inference_mode():
        maps = model.backbone(images)
    # Stage by stage: a difference shows where it begins. The original's ResNet also lists its stem and its pooling.
    count = sum(1 for key in expected if key.startswith("backbone") and key.endswith("_shape"))
    for i, values in enumerate(maps, start=count - len(maps)):
        assert tuple(values.shape) == tuple(expected[f"backbone{i}_shape"])
        np.testing.assert_allclose(values[0, :4, :4, :4].numpy(), expected[f"backbone{i}_sample"], **TOLERANCE)
    for name, values in outputs(model, images, int(expected["stride"])).items():
        np.testing.assert_allclose(values.numpy(), expected[name], **TOLERANCE, err_msg=f"{file} {name}")


@pytest.mark.parametrize("name", [name for name in manifest_names() if not (GOLDENS / f"{name}.npz").exists()])
def test_every_manifest_fits_its_experiment(name, tmp_path):
    """The manifests without recorded outputs: names and shapes."""
    with torch.device("meta"):
        state = golden_state(name, values=False)
    path = tmp_path / "released.pth"
    torch.save({key: torch.empty_like(value, device="cpu") for key, value in state.items()}, path)
    checkpoint = read_checkpoint(path)
    model = build_model(fit_experiment(experiment_of(name.split("__")[0]), checkpoint))
    assert load_weights(model, checkpoint).complete


def test_all_manifests_are_here():
    assert len(manifest_names()) == 28
    assert {name.split("__")[0] for name in manifest_names()} == set(CONFIGS)

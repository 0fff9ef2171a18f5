"""ImageNet weights of other projects in our backbones."""

import pytest
import torch
import torchvision
from test_weights import released_tiny, tiny

from openseg.errors import CheckpointError
from openseg.models.checkpoint.io import load_backbone
from openseg.models.factory import create_backbone


@pytest.mark.parametrize("counter", ["num_batches_tracked", "nothing"])
def test_imagenet_file_fills_the_backbone_and_its_classifier_is_left_out(counter, tmp_path):
    """Also one of an old torch without batch counters, whose negative gammas must stay what they are."""
    path = tmp_path / "imagenet.pth"
    source, model = tiny(), tiny()
    source.backbone.bn1.weight.data[0] = -1
    state = {k.removeprefix("backbone."): v for k, v in source.state_dict().items() if k.startswith("backbone.")}
    state = {k: v for k, v in state.items() if counter != "nothing" or not k.endswith("num_batches_tracked")}
    torch.save({**state, "classifier.weight": torch.zeros(1000, 8)}, path)
    report = load_backbone(model.backbone, path)
    assert report.unexpected == ["classifier.weight"]
    filled = model.backbone.state_dict()
    assert all(torch.equal(filled[key], value) for key, value in state.items())


def resnet_like_torchvision(stem):
    model = torchvision.models.resnet50()
    state = model.state_dict()
    if stem is None:
        return state
    stem_keys = {"conv1.weight", *(key for key in state if key.startswith("bn1."))}
    widths = (3, *stem)
    rest = {key: value for key, value in state.items() if key not in stem_keys}
    for i in range(3):
        rest[f"conv{i + 1}.weight"] = torch.randn(widths[i + 1], widths[i], 3, 3)
        rest |= {
            f"bn{i + 1}.{leaf}": torch.rand(widths[i + 1]) for leaf in ("weight", "bias", "running_mean", "running_var")
        }
    rest["layer1.0.conv1.weight"] = torch.randn(64, stem[-1], 1, 1)
    rest["layer1.0.downsample.0.weight"] = torch.randn(256, stem[-1], 1, 1)
    return rest


def mmlab_names(state):
    names = dict(zip(("conv1.", "bn1.", "conv2.", "bn2.", "conv3.", "bn3."), (0, 1, 3, 4, 6, 7), strict=True))
    return {
        next((f"stem.{i}.{key[len(name) :]}" for name, i in names.items() if key.startswith(name)), key): value
        for key, value in state.items()
    }


STEMS = {"resnet50": (64, 64, 128), "resnet50_v1c": (32, 32, 64), "resnet50_v1b": None}


@pytest.mark.parametrize("name", STEMS)
def test_imagenet_resnets_fit_the_stem_of_their_kind(name, tmp_path):
    state = resnet_like_torchvision(STEMS[name])
    torch.save(mmlab_names(state) if name.endswith("_v1c") else state, tmp_path / "imagenet.pth")
    backbone = create_backbone(name)
    report = load_backbone(backbone, tmp_path / "imagenet.pth")
    assert sorted(report.unexpected) == ["fc.bias", "fc.weight"]
    assert torch.equal(backbone.resinit.conv1.weight, state["conv1.weight"])
    assert torch.equal(backbone.layer4[2].conv3.weight, state["layer4.2.conv3.weight"])
    other = next(each for each in STEMS if each != name)
    with pytest.raises(CheckpointError, match=r"its stem is that of the ResNets named") as error:
        load_backbone(create_backbone(other), tmp_path / "imagenet.pth")
    assert (name[8:] or "without a suffix") in str(error.value)


def test_a_whole_network_as_pretrained_backbone_keeps_its_gammas_right(tmp_path):
    model, path = released_tiny(tmp_path)
    backbone = tiny().backbone
    load_backbone(backbone, path)
    torch.testing.assert_close(backbone.state_dict(), model.backbone.state_dict())


def test_imagenet_file_of_another_backbone_is_refused(tmp_path):
    path = tmp_path / "imagenet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match="not the weights of this backbone"):
        load_backbone(tiny().backbone, path)

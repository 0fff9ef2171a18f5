"""Backbones of timm under our heads: maps, gradients, folding, weights of several projects, clear errors."""

import importlib.util

import pytest
import torch
import torchvision
from conftest import ROOT, require_onnx

import openseg
from openseg.config import load_config
from openseg.errors import CheckpointError, ConfigError
from openseg.inference.prepare import prepare_for_inference
from openseg.models.backbones.timm import TimmBackbone
from openseg.models.base import synchronize_norms
from openseg.models.checkpoint.io import load_backbone
from openseg.models.factory import create_backbone
from openseg.tools.export import Exportable, compare, write_exported

timm = pytest.importorskip("timm", reason="pip install openseg[timm]")
TINY = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"

# The smallest of each family.
CONVOLUTIONAL = [
    "resnet18",
    "regnetx_002",
    "tf_efficientnet_lite0",
    "mobilenetv3_small_050",
    "mobilenetv4_conv_small",
    "convnext_atto",
    "convnextv2_atto",
    "mobileone_s0",
    "repvit_m0_9",
    "fastvit_t8",
    "edgenext_xx_small",
    "densenet121",
    "starnet_s1",
    "inception_next_atto",
    "vgg11",
    "hrnet_w18_small",
    "dla34",
]
TRANSFORMERS = [
    "efficientvit_b0",
    "pvt_v2_b0",
    "mvitv2_tiny",
    "tiny_vit_5m_224",
    "poolformerv2_s12",
    "caformer_s18",
    "mobilevit_xxs",
    "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256",
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
    "eva02_tiny_patch14_224",
]


def settle(model):
    """Statistics of batch norms as after a training."""
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.copy_(torch.randn(layer.running_mean.shape, generator=generator) / 10)
            layer.running_var.copy_(torch.rand(layer.running_var.shape, generator=generator) / 2 + 0.75)
    return model.eval()


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TRANSFORMERS])
def test_maps_gradients_and_folding(name):
    torch.manual_seed(0)
    backbone = TimmBackbone(name)
    maps = backbone.train()(torch.randn(2, 3, 65, 97))
    assert [each.shape[1] for each in maps] == list(backbone.channels) and len(maps) == 4
    for each, stride in zip(maps, backbone.strides, strict=True):
        rows, columns = each.shape[-2:]
        assert 65 / stride - 1 < rows < 65 / stride + 9 and 97 / stride - 1 < columns < 97 / stride + 9
    sum(each.float().mean() for each in maps).backward()
    assert not [key for key, value in backbone.named_parameters() if value.grad is None]
    settle(backbone)
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        before = backbone(images)
        norms = sum(isinstance(each, torch.nn.BatchNorm2d) for each in backbone.modules())
        backbone.fuse()
        after = backbone(images)
    left = sum(isinstance(each, torch.nn.BatchNorm2d) for each in backbone.modules())
    assert left < norms or norms <= 1  # that of a ViT's pyramid stays
    for a, b in zip(before, after, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


@pytest.mark.slow
def test_another_number_of_channels_through_training_and_onnx(tmp_path):
    require_onnx()
    model = openseg.create_model("timm:convnext_tiny", "ocr", num_classes=5, in_channels=4, head_channels=32)
    images = torch.rand(2, 4, 64, 96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = sum(logits.square().mean() for logits in model(images))
    loss.backward()
    optimizer.step()
    (tmp_path / "bands.yaml").write_text(
        "classes: [a, b, c, d, e]\nbands: [" + ", ".join(f"{{name: {n}, mean: 100, std: 50}}" for n in "rgbn") + "]\n"
    )
    config = load_config(TINY, [f"data.dataset={tmp_path}/bands.yaml", "loss.class_weights=false"])
    network = Exportable(prepare_for_inference(model), config, "logits").eval()
    write_exported(tmp_path / "net.onnx", network, {})
    for found in compare(tmp_path / "net.onnx", network):
        assert found.shape[1] == 5 and found.difference < 1e-3


class Maps(torch.nn.Module):
    """The exporter wants a tuple."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, images):
        return tuple(self.backbone(images))


@pytest.mark.parametrize("name", [*CONVOLUTIONAL, *TRANSFORMERS])
@pytest.mark.slow
def test_exported_program(name):
    maps, images = Maps(TimmBackbone(name).eval()), torch.rand(1, 3, 65, 97)
    program = torch.export.export(maps, (images,)).module()
    with torch.no_grad():
        for a, b in zip(maps(images), program(images), strict=True):
            assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))


def test_output_stride_and_stochastic_depth():
    backbone = create_backbone("timm:resnet18", options={"output_stride": 8, "drop_path": 0.2})
    assert backbone.strides == [4, 8, 8, 8]
    assert [each.shape[-2:] for each in backbone(torch.zeros(2, 3, 64, 96))][-1] == (8, 12)
    drops = [each.drop_prob for each in backbone.modules() if type(each).__name__ == "DropPath"]
    assert max(drops) == pytest.approx(0.2)
    with pytest.raises(ConfigError, match="output_stride"):
        create_backbone("timm:swin_tiny_patch4_window7_224", options={"output_stride": 8})


@pytest.mark.parametrize(("name", "strides"), [("resnet18", [8, 16, 32]), ("vit_tiny_patch16_224", [8, 16, 32])])
def test_without_the_finest_map(name, strides):
    backbone = create_backbone(f"timm:{name}", options={"finest_stride": 8})
    maps = backbone(torch.zeros(2, 3, 64, 96))
    assert backbone.strides == strides == [64 // each.shape[-2] for each in maps]


def test_what_timm_cannot_do_is_one_line():
    with pytest.raises(ConfigError, match=r"no model 'resnet_18'.*resnet18"):
        create_backbone("timm:resnet_18")
    with pytest.raises(ConfigError, match="one size only"):
        create_backbone("timm:levit_128s")
    with pytest.raises(ConfigError, match="grad_checkpointing"):
        create_backbone("timm:hrnet_w18_small").set_grad_checkpointing()


def test_without_timm(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "timm" else find(name))
    with pytest.raises(ConfigError, match=r"pip install 'openseg\[timm\]'"):
        openseg.create_model("timm:resnet18", "mlp", num_classes=3)
    with pytest.raises(ConfigError, match=r"pip install 'openseg\[timm\]'"):
        load_config(TINY, ["model.backbone=timm:resnet18"])


def test_without_network(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://no-such-host.invalid")
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"no network.*model\.pretrained=FILE"):
        create_backbone("timm:resnet18").load_pretrained()
    with pytest.raises(CheckpointError, match="timm backbones"):
        openseg.create_model("hrnet_tiny", "ocr", num_classes=3, pretrained="auto")


def test_synchronized_norms_keep_their_activations():
    model = openseg.create_model("timm:tf_efficientnet_lite0", "mlp", num_classes=3, head_channels=8)
    converted = synchronize_norms(model)
    norms = [each for each in converted.modules() if isinstance(each, torch.nn.SyncBatchNorm)]
    assert not any(type(each) is torch.nn.BatchNorm2d for each in converted.modules())
    assert sum(isinstance(getattr(each, "act", None), torch.nn.ReLU6) for each in norms) > 20


def test_recomputed_activations_have_the_same_gradients():
    torch.manual_seed(0)
    backbone, images = TimmBackbone("convnext_atto").train(), torch.randn(1, 3, 64, 64)
    gradients = []
    for enable in (False, True):
        backbone.set_grad_checkpointing(enable)
        backbone.zero_grad()
        sum(each.sum() for each in backbone(images)).backward()
        gradients.append(backbone.body.stem_0.weight.grad.clone())
    assert torch.equal(*gradients)


def test_normalization_follows_the_weights(tmp_path):
    config = load_config(TINY, ["model.backbone=timm:tf_efficientnet_lite0"])
    assert (config.normalization.order, config.normalization.mean) == ("rgb", (0.5, 0.5, 0.5))
    kept = load_config(TINY, ["model.backbone=timm:tf_efficientnet_lite0", "normalization.order=bgr"])
    assert kept.normalization.order == "bgr"


def test_weights_in_the_names_of_timm(tmp_path):
    torch.manual_seed(0)
    for name in ("convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"):
        source = timm.create_model(name, **({"dynamic_img_size": True} if name.startswith("vit") else {}))
        torch.save(source.state_dict(), tmp_path / "timm.pth")
        backbone = create_backbone(f"timm:{name}").eval()
        report = load_backbone(backbone, tmp_path / "timm.pth")
        assert not report.missing and not report.shape_mismatch
        state = backbone.body.state_dict()
        same = [key for key, value in source.state_dict().items() if key in state and torch.equal(value, state[key])]
        assert len(same) > len(state) // 2 or name != "vit_tiny_patch16_224"
        if name == "convnext_atto":
            assert torch.equal(state["stages_3.blocks.1.mlp.fc1.weight"], source.stages[3].blocks[1].mlp.fc1.weight)


def test_weights_of_torchvision(tmp_path):
    torch.manual_seed(0)
    source = settle(torchvision.models.mobilenet_v2())
    torch.save(source.state_dict(), tmp_path / "mobilenet_v2.pth")
    backbone = create_backbone("timm:mobilenetv2_100").eval()
    load_backbone(backbone, tmp_path / "mobilenet_v2.pth")
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = source.features[:18](images)
        assert torch.allclose(backbone(images)[-1], expected, atol=1e-5 * float(expected.abs().max()))


def test_weights_in_unknown_names_by_their_order(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("tf_efficientnet_lite0")
    renamed = {f"_layer{i}.{key.rpartition('.')[2]}": each for i, (key, each) in enumerate(source.state_dict().items())}
    torch.save(renamed, tmp_path / "lite0.pth")
    backbone = create_backbone("timm:tf_efficientnet_lite0", in_channels=4)
    load_backbone(backbone, tmp_path / "lite0.pth")
    assert torch.equal(backbone.body.blocks[6][0].conv_pwl.weight, source.blocks[6][0].conv_pwl.weight)
    first, rgb = backbone.body.conv_stem.weight, source.conv_stem.weight
    assert first.shape[1] == 4 and torch.allclose(first[:, :3], rgb * 3 / 4)
    shuffled = dict(reversed(renamed.items()))
    torch.save(shuffled, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not the weights of this backbone"):
        load_backbone(create_backbone("timm:tf_efficientnet_lite0"), tmp_path / "other.pth")


@pytest.mark.slow
def test_hrnet_files_of_timm_load(tmp_path):
    torch.manual_seed(0)
    source = timm.create_model("hrnet_w18")
    torch.save(source.state_dict(), tmp_path / "hrnet_w18.pth")
    backbone = create_backbone("hrnet18")
    report = load_backbone(backbone, tmp_path / "hrnet_w18.pth")
    assert not report.missing
    theirs = source.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in backbone.state_dict().items())

"""What every network must do, whatever its backbone and head: each class below inherits all of it."""

import copy

import pytest
import torch

import openseg
from openseg.config import load_config
from openseg.errors import ConfigError
from openseg.inference.prepare import prepare_for_inference
from openseg.losses.total import build_loss
from openseg.models.checkpoint.io import write_weights
from openseg.models.factory import BACKBONES, build_model
from openseg.models.heads.inputs import MapSelection

SEMANTIC = "configs/demo/hrnet_tiny_ocr.yaml"
SEGFIX = "configs/demo/segfix_hrnet_tiny.yaml"


def same(outputs, expected, **tolerance):
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, **(tolerance or {"rtol": 0, "atol": 0}))


class NetworkContract:
    config_file: str
    overrides: tuple[str, ...] = ()
    stride = 4

    @pytest.fixture
    def config(self):
        return load_config(self.config_file, self.overrides)

    @pytest.fixture
    def model(self, config):
        torch.manual_seed(0)
        return build_model(config)

    def expected_size(self, size):
        return tuple((length + self.stride - 1) // self.stride for length in size)

    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (70, 96)])
    def test_every_size_gives_finite_equal_outputs(self, model, size):
        images = torch.randn(2, 3, *size)
        with torch.inference_mode():
            first, second = model.eval()(images), model(images)
        same(first, second)
        for values in first:
            assert values.shape[0] == 2 and tuple(values.shape[-2:]) == self.expected_size(size)
            assert torch.isfinite(values).all()

    @pytest.mark.parametrize("batch", [1, 2])
    def test_a_training_step_reaches_every_parameter(self, config, model, batch):
        shape = (batch, 70, 64)
        classes = {"label": 19, "mask": 2, "direction": 8}
        labels = {key: torch.randint(0, count, shape, dtype=torch.uint8) for key, count in classes.items()}
        with torch.no_grad():  # Base-OC starts without context, so the gradient of what makes the context is zero
            for name, parameter in model.named_parameters():
                if name.endswith("attention.out.weight"):
                    parameter.normal_(std=0.01)
        output = model.train()(torch.randn(batch, 3, *shape[1:]))
        build_loss(config, torch.device("cpu"))(output, labels)["loss"].backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
            assert parameter.ndim != 4 or torch.count_nonzero(parameter.grad), name

    @pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
    def test_saved_and_loaded_it_is_the_same(self, config, model, suffix, tmp_path):
        images = torch.randn(1, 3, 40, 56)
        write_weights(tmp_path / f"model{suffix}", model, config)
        loaded = openseg.load_model(self.config_file, tmp_path / f"model{suffix}", self.overrides)
        with torch.inference_mode():
            same(loaded(images), model.eval()(images))

    def test_made_ready_for_inference_it_is_the_same_function(self, model):
        images = torch.randn(1, 3, 40, 56)
        with torch.no_grad():
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):  # statistics and scales that a fold must not forget
                    module.running_mean.normal_(std=0.1)
                    module.running_var.uniform_(0.5, 1.5)
                    module.weight.uniform_(-1, 1)
                    module.bias.normal_(std=0.1)
        fast = prepare_for_inference(copy.deepcopy(model))
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
        with torch.inference_mode():
            same(fast(images), model.eval()(images), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    def test_it_can_be_exported(self, model):
        images = torch.randn(1, 3, 40, 56)
        program = torch.export.export(model.eval(), (images,))
        with torch.inference_mode():
            same(program.module()(images), model(images), rtol=1e-5, atol=1e-6)


class SemanticContract(NetworkContract):
    config_file = SEMANTIC

    def test_without_auxiliary_logits_the_main_ones_stay(self, model):
        images = torch.randn(1, 3, 40, 56)
        with torch.inference_mode():
            assert torch.equal(model.eval()(images).logits, model(images, aux=False).logits)


class OnResNet:
    stride = 8

    def expected_size(self, size):
        for length_of in (lambda n: (n + 1) // 2, lambda n: n // 2 + 1, lambda n: (n + 1) // 2):  # stem, pool, layer2
            size = tuple(length_of(length) for length in size)
        return size


RESNET = ("model.backbone=resnet_tiny", "model.aux_channels=32", "model.aux_dropout=0.05")


class TestFCNOnHRNet(SemanticContract):
    overrides = ("model.head=fcn",)


class TestBaseOCOnHRNet(SemanticContract):
    overrides = ("model.head=base_oc",)


class TestISAOnHRNet(SemanticContract):
    overrides = ("model.head=isa",)


class TestOCROnHRNet(SemanticContract):
    pass


class TestASPOCROnHRNet(SemanticContract):
    overrides = ("model.head=asp_ocr", "model.head_activation=leaky_relu")


class TestOCROnHRNeXt(SemanticContract):
    overrides = ("model.backbone=hrnext_tiny",)
    stride = 2


class TestFCNOnResNet(OnResNet, SemanticContract):
    overrides = (*RESNET, "model.head=fcn")


class TestBaseOCOnResNet(OnResNet, SemanticContract):
    overrides = (*RESNET, "model.head=base_oc")


class TestISAOnResNet(OnResNet, SemanticContract):
    overrides = (*RESNET, "model.head=isa")


class TestOCROnResNet(OnResNet, SemanticContract):
    overrides = (*RESNET, "model.head=ocr")


class TestASPOCROnResNet(OnResNet, SemanticContract):
    overrides = (*RESNET, "model.head=asp_ocr")


class TestSegFixOnHRNet(NetworkContract):
    config_file = SEGFIX


class TestSegFixOnHRNeXt(NetworkContract):
    config_file = SEGFIX
    overrides = ("model.backbone=hrnext_tiny",)
    stride = 2


class TestSegFixOnResNet(OnResNet, NetworkContract):
    config_file = SEGFIX
    overrides = ("model.backbone=resnet_tiny",)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_give_what_they_say(name):
    """Names, channels and strides; on no memory, since some are large."""
    config = load_config(SEMANTIC, [f"model.backbone={name}"])
    with torch.device("meta"):
        backbone = build_model(config).backbone.eval()
        selection = MapSelection(backbone.channels, backbone.strides)
        maps = backbone(torch.empty(1, 3, 97, 129))
        aux, main = selection(maps)
    assert [x.shape[1] for x in maps] == backbone.channels
    for x, each in zip(maps, backbone.strides, strict=True):
        assert tuple(x.shape[-2:]) == (-(-97 // each), -(-129 // each))
    assert (aux.shape[1], main.shape[1]) == (selection.aux_channels, selection.main_channels)
    fine = ("hrnext20", "hrnet2x20", "hrnext_tiny", "unet")
    stride = 8 if name.startswith("resnet") else 2 if name in fine else 4
    assert tuple(main.shape[-2:]) == (-(-97 // stride), -(-129 // stride))


def test_output_stride_16_and_multi_grid():
    config = load_config(SEMANTIC, [*RESNET, "model.output_stride=16"])
    with torch.device("meta"):
        assert build_model(config).eval()(torch.empty(1, 3, 97, 129)).logits.shape[-2:] == (7, 9)
    overrides = ["model.backbone=resnet50", "model.multi_grid=[1, 2, 4]"]
    with torch.device("meta"):
        layer4 = build_model(load_config(SEMANTIC, overrides)).backbone.layer4
    assert [block.conv2.dilation[0] for block in layer4] == [2, 8, 16]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["model.backbone=hrnet_48"], "hrnet48"),
        (["model.head=orc"], "ocr"),
        (["model.output_stride=16"], "hrnet_tiny"),
        (["model.backbone=resnet101", "model.multi_grid=[1, 2]"], "3 blocks"),
    ],
)
def test_impossible_networks_are_named(overrides, words):
    with pytest.raises(ConfigError, match=words):
        build_model(load_config(SEMANTIC, overrides))


def default_bound(conv):
    return (conv.in_channels // conv.groups * conv.kernel_size[0] * conv.kernel_size[1]) ** -0.5


def check_uniform(values, bound, name):
    """Uniform within the bound; how far a sample's deviation may be off shrinks with its size."""
    assert values.abs().max() <= bound, name
    if values.numel() > 8:
        assert values.std().item() == pytest.approx(bound / 3**0.5, rel=4 / values.numel() ** 0.5), name
        assert abs(values.mean().item()) < 5 * bound / 3**0.5 / values.numel() ** 0.5, name


def check_normal(values, deviation, name):
    assert values.std().item() == pytest.approx(deviation, rel=4 / values.numel() ** 0.5), name
    assert abs(values.mean().item()) < 5 * deviation / values.numel() ** 0.5, name


@pytest.mark.parametrize(
    "network",
    [
        *["resnet50/base_oc", "resnet101/isa", "resnet50/ocr", "resnet50/asp_ocr", "resnet50/fcn"],
        *["hrnet18/ocr", "hrnet48/asp_ocr", "hrnet32/base_oc", "hrnet18/segfix", "hrnext20/segfix"],
    ],
)
def test_initial_weights_are_drawn_as_in_the_published_trainings(network):
    """ResNets by He's rule (fan-out), all else as PyTorch makes it; Base-OC's output projection is zero."""
    torch.manual_seed(0)
    backbone, head = network.split("/")
    if head == "segfix":
        model = build_model(load_config(SEGFIX, [f"model.backbone={backbone}"]))
    else:
        model = openseg.create_model(backbone, head, num_classes=19)
    checked = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name
        elif not isinstance(module, torch.nn.Conv2d):
            assert not list(module.parameters(recurse=False)), name
            continue
        elif name == "head.attention.out" and head == "base_oc":
            assert (module.weight == 0).all() and (module.bias == 0).all()
        elif name.startswith("backbone.") and backbone.startswith("resnet"):
            height, width = module.kernel_size
            check_normal(module.weight, (2 / (height * width * module.out_channels)) ** 0.5, name)
            assert module.bias is None
        else:
            check_uniform(module.weight, default_bound(module), name)
            if module.bias is not None:
                check_uniform(module.bias, default_bound(module), name)
        checked += sum(parameter.numel() for parameter in module.parameters(recurse=False))
    assert checked == sum(parameter.numel() for parameter in model.parameters())

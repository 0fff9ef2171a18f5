"""What every network must do: any size, training and evaluation, save and load."""

import pytest
import torch

from openseg.config import load_experiment
from openseg.errors import ConfigError
from openseg.losses import build_loss
from openseg.models import build_model

CONFIGS = {"ocr": "configs/demo/hrnet_tiny_ocr.yaml", "segfix": "configs/demo/segfix_hrnet_tiny.yaml"}


@pytest.fixture(params=CONFIGS)
def experiment(request):
    return load_experiment(CONFIGS[request.param])


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96)])
def test_every_size_gives_finite_logits_at_stride_4(experiment, size):
    torch.manual_seed(0)
    model = build_model(experiment).eval()
    images = torch.randn(2, 3, *size)
    with torch.inference_mode():
        first, second = model(images), model(images)
    for a, b in zip(first, second, strict=True):
        assert a.shape[0] == 2 and tuple(a.shape[-2:]) == tuple((length + 3) // 4 for length in size)
        assert torch.isfinite(a).all() and torch.equal(a, b)


def test_training_step_reaches_every_parameter(experiment):
    torch.manual_seed(0)
    model = build_model(experiment).train()
    shape = (2, 64, 64)
    batch = {
        "label": torch.randint(0, 19, shape, dtype=torch.uint8),
        "mask": torch.randint(0, 2, shape, dtype=torch.uint8),
        "direction": torch.randint(0, 8, shape, dtype=torch.uint8),
    }
    build_loss(experiment, torch.device("cpu"))(model(torch.randn(2, 3, 64, 64)), batch)["loss"].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []


def test_unknown_backbone_names_the_nearest():
    experiment = load_experiment(CONFIGS["ocr"], ["model.backbone=hrnet_48"])
    with pytest.raises(ConfigError, match="hrnet48"):
        build_model(experiment)

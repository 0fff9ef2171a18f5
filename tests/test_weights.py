"""Files that are no checkpoint of this network are refused, and nothing in them runs."""

import pickle

import pytest
import torch

from openseg.config import load_experiment
from openseg.errors import CheckpointError
from openseg.models import build_model
from openseg.models.weights import load_backbone, load_weights, read_checkpoint


def tiny(*overrides):
    return build_model(load_experiment("configs/demo/hrnet_tiny_ocr.yaml", overrides))


class Payload:
    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


def write_garbage(path, kind):
    if kind == "html":
        path.write_text("<!DOCTYPE html><html>quota exceeded</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Payload()}))
    elif kind == "truncated":
        torch.save(tiny().state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no tensors":
        torch.save({"state_dict": {"a": 1}}, path)


@pytest.mark.parametrize("kind", ["html", "empty", "code", "truncated", "no tensors", "missing"])
def test_garbage_is_refused_by_name(kind, tmp_path, capsys):
    path = tmp_path / "file.pth"
    write_garbage(path, kind)
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        read_checkpoint(path)
    assert "ran" not in capsys.readouterr().out


def test_another_network_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "camvid.pth"
    torch.save(tiny("data.dataset=camvid").state_dict(), path)
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="misshapen"):
        load_weights(model, read_checkpoint(path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


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


def test_imagenet_file_of_another_backbone_is_refused(tmp_path):
    path = tmp_path / "imagenet.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)
    with pytest.raises(CheckpointError, match="not the weights of this backbone"):
        load_backbone(tiny().backbone, path)

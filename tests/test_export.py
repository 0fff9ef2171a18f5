"""Networks taken elsewhere give what they give here; and what a network costs, a checkpoint and a label file hold."""

import json

import numpy as np
import pytest
import torch
from conftest import ROOT, require_onnx, varied
from PIL import Image

from openseg.config import load_config
from openseg.inference.exportable import Exportable
from openseg.inference.offsets import SegFixPredictor
from openseg.inference.predictor import Predictor
from openseg.inference.prepare import prepare_for_inference
from openseg.io.images import write_image, write_label
from openseg.models.checkpoint.io import read_checkpoint, write_weights
from openseg.models.factory import HEADS, build_model
from openseg.models.segmentor import Segmentor
from openseg.segfix import OffsetMap
from openseg.tools.export import compare, write_exported
from openseg.tools.summary import summarize

SEMANTIC, SEGFIX = ROOT / "configs/demo/hrnet_tiny_ocr.yaml", ROOT / "configs/demo/segfix_hrnet_tiny.yaml"
SMALL = ["model.head_channels=32", "model.key_channels=16"]


def trained(model):
    """``model`` with statistics of batch norms that are not those of the beginning."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of each task, with random weights."""
    folder = tmp_path_factory.mktemp("checkpoints")
    torch.manual_seed(0)
    for path in (SEMANTIC, SEGFIX):
        config = load_config(path)
        (folder / "demo").mkdir(exist_ok=True)
        write_weights(folder / f"demo/{config.name}_latest.pth", trained(varied(build_model(config))), config)
    return folder


class Stem(torch.nn.Module):
    """In place of a backbone, which takes an exporter long: a map of a quarter of the image for both heads."""

    channels, strides = (24,), (4,)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 24, 7, 4, 3)

    def forward(self, images):
        return [self.conv(images).relu()]


@pytest.mark.parametrize("head, suffix", [*[(head, ".onnx") for head in HEADS], ("isa", ".pt2"), ("ocr", ".pt2")])
def test_every_head_agrees_at_two_sizes_and_batches(head, suffix, tmp_path):
    require_onnx()
    config = load_config(SEMANTIC)
    torch.manual_seed(0)
    sizes = {"head_channels": 32, **({} if head in ("mlp", "upernet") else {"key_channels": 16})}
    model = trained(Segmentor(Stem(), HEADS[head](Stem.channels, Stem.strides, 19, **sizes)))
    network = Exportable(prepare_for_inference(model), config, "logits")
    write_exported(tmp_path / f"network{suffix}", network, {})
    found = [*compare(tmp_path / f"network{suffix}", network)]
    assert [each.shape for each in found] == [(1, 19, 96, 130), (2, 19, 161, 200)]
    assert all(each.difference < 1e-3 and each.same >= 0.9999 for each in found)


def test_onnx_of_labels_is_what_predict_gives(checkpoints, command, tmp_path, capsys):
    onnxruntime = require_onnx()
    options = ["--config", SEMANTIC, "--checkpoints", checkpoints, "--output", "labels"]
    assert command("export", "labels.onnx", *options) == 0
    assert "100.000 % the same" in capsys.readouterr().out
    image = np.random.default_rng(0).integers(0, 256, (97, 140, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession("labels.onnx")
    notes = session.get_modelmeta().custom_metadata_map
    assert json.loads(notes["classes"])[0] == "road" and json.loads(notes["ids"])[0] == 7
    assert json.loads(notes["colors"])[0] == [128, 64, 128] and json.loads(notes["void_id"]) == 255
    (found,) = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32)})
    expected = Predictor(SEMANTIC, checkpoints / "demo/hrnet_tiny_ocr_latest.pth", device="cpu")(image).labels
    assert found.dtype == np.uint8 and (found[0] == expected).mean() >= 0.9999


def test_onnx_of_segfix_gives_offset_maps(checkpoints, command, tmp_path):
    onnxruntime = require_onnx()
    assert command("export", "segfix.onnx", "--config", SEGFIX, "--checkpoints", checkpoints) == 0
    image = np.random.default_rng(0).integers(0, 256, (97, 140, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession("segfix.onnx")
    (codes,) = session.run(None, {"images": image.transpose(2, 0, 1)[None].astype(np.float32)})
    config = load_config(SEGFIX, ["test.ss.flip=false", "test.window=null"])
    expected = SegFixPredictor(config, checkpoints / "demo/segfix_hrnet_tiny_latest.pth", "cpu")(image)
    found = OffsetMap(codes[0])
    assert (found.offsets == expected.offsets).all(axis=2).mean() >= 0.999 and found.offsets.any()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["there.onnx"], ["there.onnx: already exists"]),
        (["network.tflite"], ["network.tflite", ".onnx or .pt2"]),
        (["network.onnx", "--output", "offsets"], ["logits or labels, not offsets"]),
        (["network.onnx", "--checkpoint", "nothing.pth"], ["nothing.pth"]),
    ],
)
def test_what_cannot_be_exported_is_one_line(arguments, words, checkpoints, command, tmp_path, one_line_error):
    (tmp_path / "there.onnx").write_text("mine")
    one_line_error(command("export", *arguments, "--config", SEMANTIC, "--checkpoints", checkpoints), *words)
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


def test_costs_are_those_of_a_known_network():
    """Of a network of one convolution they can be counted by hand; of ours the parameters are those of PyTorch."""
    config = load_config(SEMANTIC)
    small, large = (summarize(config, size) for size in ((128, 128), (256, 256)))
    assert small["parameters"] == sum(p.numel() for p in build_model(config).parameters())
    assert large["GFLOPs"] == pytest.approx(4 * small["GFLOPs"], rel=0.02)
    model = build_model(config).eval()
    macs = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(
                lambda m, _, y: macs.append(m.weight[0].numel() * y.shape[1] * y.shape[2] * y.shape[3])
            )
    with torch.no_grad():
        model(torch.zeros(1, 3, 128, 128))
    assert small["GFLOPs"] == pytest.approx(2 * sum(macs) / 1e9, rel=0.05)  # attention is beside it
    live = small["activations MiB"]
    assert 0 < live["prediction"] < live["training"]


def test_inspect_says_what_a_checkpoint_holds(checkpoints, command, capsys):
    path = checkpoints / "demo/hrnet_tiny_ocr_latest.pth"
    assert command("inspect", "--checkpoint", path, "--size", 64, 64) == 0
    out = capsys.readouterr().out
    assert "hrnet_tiny_ocr" in out and "keys matched" in out and "GFLOPs for an image of 64 x 64" in out
    options = ["--config", SEMANTIC, "model.head=isa", "--checkpoint", path, "--size", 64, 64, "--json"]
    assert command("inspect", *options) == 1
    found = json.loads(capsys.readouterr().out)["checkpoint"]
    assert not found["fits"] and any(key.startswith("head.long_range") for key in found["missing"])


def test_inspect_prints_nothing_but_json(checkpoints, command, capsys, tmp_path):
    """Also of a file that does not say what it is of."""
    weights = read_checkpoint(checkpoints / "demo/hrnet_tiny_ocr_latest.pth").weights
    torch.save({"state_dict": weights}, tmp_path / "hrnet_tiny_ocr_1.pth")
    assert command("inspect", "--checkpoint", "hrnet_tiny_ocr_1.pth", "--size", 64, 64, "--json") == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["network"]["name"] == "hrnet_tiny_ocr" and "recognized" in printed.err


def test_inspect_needs_something_to_inspect(command, one_line_error):
    one_line_error(command("inspect"), "--config", "--checkpoint")


def test_labels_says_what_files_hold(command, capsys, tmp_path):
    write_label(tmp_path / "ids.png", np.array([[7, 7, 8, 99]], np.uint8))
    write_image(tmp_path / "colors.png", np.array([[[0, 0, 0], [128, 64, 128]]], np.uint8))
    image = Image.fromarray(np.array([[0, 1, 1, 1]], np.uint8), "P")
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "palette.png")
    assert command("labels", "ids.png", "--dataset", "demo") == 1  # 99 is no id
    out = capsys.readouterr().out
    assert "1 x 4, uint8 ids" in out
    assert [line.split() for line in out.splitlines()[3:]] == [
        ["7", "road", "50.000"],
        ["8", "sidewalk", "25.000"],
        ["99", "(unknown)", "25.000"],
    ]
    assert command("labels", "colors.png", "palette.png", "--json") == 0
    colors, palette = json.loads(capsys.readouterr().out)
    assert colors["kind"] == "colors" and [each["value"] for each in colors["values"]] == [[0, 0, 0], [128, 64, 128]]
    assert palette["kind"] == "uint8 ids, with a palette"
    assert palette["values"][1] == {"value": 1, "share": 0.75, "color": [4, 5, 6]}


def test_labels_reads_palettes_as_the_data_set_does(command, capsys, tmp_path):
    (tmp_path / "set.yaml").write_text(
        "label_colors: true\nclasses:\n  - {name: red, color: [255, 0, 0]}\n  - {name: green, color: [0, 255, 0]}\n"
    )
    image = Image.fromarray(np.array([[0, 1, 1, 1]], np.uint8), "P")
    image.putpalette([0, 255, 0, 255, 0, 0])
    image.save(tmp_path / "palette.png")
    assert command("labels", "palette.png", "--dataset", "set.yaml", "--json") == 0
    shares = {each["name"]: each["share"] for each in json.loads(capsys.readouterr().out)[0]["values"]}
    assert shares == {"green": 0.25, "red": 0.75}
    assert command("labels", "palette.png", "--dataset", "demo", "--json") == 0  # ids of no class there
    write_image(tmp_path / "colors.png", np.array([[[0, 0, 0]]], np.uint8))
    assert command("labels", "colors.png", "--dataset", "demo") == 1


def test_labels_of_a_damaged_file_is_one_line(command, tmp_path, one_line_error):
    (tmp_path / "a.png").write_bytes(b"")
    one_line_error(command("labels", "a.png"), "a.png", "empty")

"""Exported files in the place of a config and a checkpoint; float16 and int8."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, require_onnx, varied
from test_export import Stem, trained

import openseg
from openseg.config import load_config
from openseg.errors import OpensegError
from openseg.inference.exportable import Exportable
from openseg.inference.prepare import prepare_for_inference
from openseg.io.images import read_label, write_image, write_label
from openseg.models.checkpoint.io import write_weights
from openseg.models.factory import HEADS, build_model
from openseg.models.segmentor import Segmentor

DEMO = ROOT / "configs/demo/hrnet_tiny_ocr"
CHECKPOINT = DEMO.with_suffix(".safetensors")
GIVEN = ["--config", DEMO.with_suffix(".yaml"), "--checkpoint", CHECKPOINT]
VARIANTS = {
    "logits": {},
    "small": {"resize": False},
    "half": {"half": True, "resize": False},
    "labels": {"output": "labels", "uint8": True},
}
PLUGIN = """
import openseg, torch

@openseg.register_backbone("stem")
class Stem(torch.nn.Module):
    channels, strides = (24, 40), (4, 8)

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 24, 7, 4, 3), torch.nn.Conv2d(24, 40, 3, 2, 1)

    def forward(self, images):
        first = self.first(images).relu()
        return [first, self.second(first).relu()]
"""
CONFIG = """
name: stem
data: {dataset: demo}
plugins: [stem_plugin]
model: {backbone: stem, head: fcn, head_channels: 32}
"""


def require(package, extra):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"pip install openseg[{extra}]")


def stem_network(folder):
    """Write a plugin with a small backbone, a config that names it, and weights."""
    (folder / "stem_plugin.py").write_text(PLUGIN)
    (folder / "stem.yaml").write_text(CONFIG)
    config = load_config(folder / "stem.yaml")
    torch.manual_seed(0)
    write_weights(folder / "stem.pth", trained(varied(build_model(config))), config)
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network of a plugin, which nobody who has the files needs, in each of the ways of VARIANTS."""
    require_onnx()
    folder = stem_network(tmp_path_factory.mktemp("exported"))
    for name, options in VARIANTS.items():
        made = openseg.export(folder / f"{name}.onnx", folder / "stem.yaml", checkpoint=folder / "stem.pth", **options)
        assert all(each.same >= 0.99 for each in made.comparisons)
    return folder


@pytest.mark.slow
def test_predict_needs_nothing_but_the_file(exported, data_root, tmp_path, run):
    images = data_root / "demo/val/image"
    predictor = openseg.Predictor(exported / "stem.yaml", exported / "stem.pth", device="cpu")
    expected = {path.stem: predictor(path).ids for path in images.iterdir()}
    runtimes = ["onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])]
    for name, runtime in [*((name, "onnxruntime") for name in VARIANTS), ("small", runtimes[-1])]:
        out = tmp_path / f"{name}_{runtime}"
        words = ["predict", images, "--model", exported / f"{name}.onnx", "--out", out, f"test.runtime={runtime}"]
        result = run(ROOT / "main.py", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        for stem, ids in expected.items():
            same = (read_label(out / "label" / f"{stem}.png") == ids).mean()
            assert same >= (0.99 if name == "half" else 0.9999), (name, runtime, same)


@pytest.mark.slow
def test_val_scores_it_and_it_has_passes_like_another_network(exported, data_root, tmp_path, run):
    torch_network = ["--config", exported / "stem.yaml", "--checkpoint", exported / "stem.pth"]
    scores = {}
    for name, given in (("torch", torch_network), ("file", ["--model", exported / "small.onnx"])):
        words = ["val", *given, "--mode", "ms", "--also", "none", "--out", tmp_path / name, "--device", "cpu"]
        result = run(ROOT / "main.py", *words, f"data.root={data_root}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        found = json.loads((tmp_path / name / "scores.json").read_text())
        scores[name] = next(iter(found.values()))["summary"]["mIoU"]
    assert scores["file"] == pytest.approx(scores["torch"], abs=1e-3)


@pytest.mark.slow
def test_a_dataset_of_ones_own_is_in_the_file(exported, tmp_path, run):
    """Also where its YAML file is not, and for processes that read images."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/set.yaml").write_text("classes: [{name: left, id: 40}, {name: right, id: 50}]\n")
    config = load_config(exported / "stem.yaml", [f"data.dataset={tmp_path}/mine/set.yaml", "name=mine"])
    write_weights(tmp_path / "mine.pth", varied(build_model(config)), config)
    openseg.export(tmp_path / "mine.onnx", config, checkpoint=tmp_path / "mine.pth")
    (tmp_path / "mine/set.yaml").unlink()
    (tmp_path / "images").mkdir()
    write_image(tmp_path / "images/a.png", np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8))
    words = ["predict", tmp_path / "images", "--model", tmp_path / "mine.onnx", "--out", tmp_path / "out"]
    result = run(ROOT / "main.py", *words, "data.workers=2", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert set(np.unique(read_label(tmp_path / "out/label/a.png"))) <= {40, 50}


def test_what_a_file_cannot_do_is_one_line(exported, data_root, tmp_path, command, one_line_error):
    images = data_root / "demo/val/image"
    for content in (b"hello", b""):
        (tmp_path / "bad.onnx").write_bytes(content)
        one_line_error(command("predict", images, "--model", "bad.onnx"), "bad.onnx")
    whole = (exported / "small.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    one_line_error(command("predict", images, "--model", "cut.onnx"), "cut.onnx", "damaged")
    one_line_error(command("predict", images, "--model", "none.onnx"), "none.onnx: no such exported network")
    import onnx

    foreign = onnx.load(exported / "small.onnx")
    del foreign.metadata_props[:]
    onnx.save(foreign, "foreign.onnx")
    one_line_error(command("predict", images, "--model", "foreign.onnx"), "foreign.onnx: not written by openseg")
    labels = ["predict", images, "--model", exported / "labels.onnx"]
    one_line_error(command(*labels, "--mode", "ms"), "gives labels")
    one_line_error(command(*labels, "--also", "probabilities"), "gives labels")
    one_line_error(command(*labels, "test.runtime=torch"), "onnxruntime or openvino, not in torch")
    (tmp_path / "other.yaml").write_text("classes: [one, two]\n")
    small = exported / "small.onnx"
    one_line_error(command("predict", images, "--model", small, "data.dataset=other.yaml"), "has other classes or IDs")
    one_line_error(command("train", "--model", exported / "small.onnx", f"data.root={data_root}"), "exported")


def test_fixed_shapes(data_root, tmp_path, command, one_line_error, capsys):
    require_onnx()
    onnx = pytest.importorskip("onnx")
    assert command("export", "fixed.onnx", *GIVEN, "--size", 64, 96, "--batch", 1) == 0
    capsys.readouterr()
    graph = onnx.load("fixed.onnx")
    onnx.checker.check_model(graph, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(graph, strict_mode=True, data_prop=True).graph
    dynamic = {"If", "Loop", "Scan", "NonZero", "Shape", "Range", "ConstantOfShape"}
    assert not dynamic & {node.op_type for node in inferred.node}  # what TensorRT would have to guess
    for value in (*inferred.input, *inferred.output, *inferred.value_info):
        assert all(dim.dim_value > 0 for dim in value.type.tensor_type.shape.dim), value.name
    given = ["predict", data_root / "demo/val/image", "--model", "fixed.onnx"]
    one_line_error(command(*given), "takes images of 64x96 pixels", "data.size=[64,96]")
    assert command(*given, "data.size=[64,96]") == 0


def test_tensorflows_padding_is_exported_for_one_size(tmp_path, command, one_line_error):
    """For any size, the exporter's formulas would not end."""
    require_onnx()
    require("timm", "timm")
    model = openseg.create_model("timm:tf_efficientnet_lite0", "mlp", num_classes=19, head_channels=16, pretrained=None)
    torch.save(model.state_dict(), "lite.pth")
    given = ["--config", GIVEN[1], "--checkpoint", "lite.pth", "name=lite", "model.head=mlp", "model.head_channels=16"]
    given += ["model.backbone=timm:tf_efficientnet_lite0"]
    one_line_error(command("export", "lite.onnx", *given), "--size H W")
    assert command("export", "lite.onnx", *given, "--size", 65, 97) == 0


def test_half_has_halves(exported):
    onnx = pytest.importorskip("onnx")
    large = [each for each in onnx.load(exported / "half.onnx").graph.initializer if np.prod(each.dims) > 1000]
    kinds = [each.data_type for each in large]
    assert kinds and set(kinds) == {onnx.TensorProto.FLOAT16}
    assert (exported / "half.onnx").stat().st_size < 0.65 * (exported / "small.onnx").stat().st_size


@pytest.mark.parametrize(
    "options, words",
    [
        (["--int8"], "belong together"),
        (["--calibrate", "x"], "belong together"),
        (["--int8", "--calibrate", "x", "--gt", "x", "--half"], "without --half"),
        (["--int8", "--calibrate", "x", "--gt", "x", "--output", "labels"], "gives logits"),
        (["--no-resize", "--output", "labels"], "--no-resize is about logits"),
    ],
)
def test_options_that_exclude_each_other(options, words, command, tmp_path, one_line_error):
    require_onnx()
    one_line_error(command("export", "x.onnx", *GIVEN, *options), words)
    assert not (tmp_path / "x.onnx").exists()


def make_images(folder, config, count=4):
    """Images of noise and what a network says of them, with some errors."""
    rng = np.random.default_rng(0)
    for number in range(count):
        write_image(
            folder / f"image/{number}.png",
            np.kron(rng.integers(0, 255, (8, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8),
        )
        labels = np.kron(rng.integers(0, config.dataset_info.num_classes, (4, 6)), np.ones((16, 16)))
        write_label(folder / f"label/{number}.png", config.dataset_info.decode(labels.astype(np.uint8)))


def quantize(folder, max_loss):
    """Run as a program; prints what int8 costs."""
    from openseg.tools.export import write_exported
    from openseg.tools.quantize import labeled_images, quantized

    folder, config = Path(folder), load_config(GIVEN[1])
    torch.manual_seed(0)
    model = trained(Segmentor(Stem(), HEADS["ocr"](Stem.channels, Stem.strides, 19, head_channels=32, key_channels=16)))
    network = Exportable(prepare_for_inference(model), config, "logits", resize=False)
    make_images(folder, config)
    pairs = labeled_images(folder / "image", folder / "label")
    write_exported(folder / "x.onnx", network, {"openseg": {}})
    try:
        print(json.dumps(quantized(folder / "x.onnx", network, pairs, max_loss)))
    except OpensegError as error:
        print(json.dumps(str(error)))


@pytest.mark.slow
@pytest.mark.parametrize("max_loss", [100, -50])
def test_int8_is_measured_and_bounded(max_loss, tmp_path, run):
    """What is asked for beyond the float network cannot be had, whatever stays float."""
    require_onnx()
    require("nncf", "int8")
    code = f"from test_exported import quantize; quantize({str(tmp_path)!r}, {max_loss})"
    result = run("-c", code, env={"PYTHONPATH": f"{ROOT / 'lib'}:{ROOT / 'tests'}"})
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    if max_loss < 0:
        assert "int8 loses" in found and "--max-loss -50" in found
        assert not (tmp_path / "x.onnx").exists()
        return
    images, before, after, same, layers, all_layers = found
    assert images == 2 and 0 < layers <= all_layers and 0.5 < same < 1 and 0 <= after <= 100 and before != after


@pytest.mark.slow
def test_int8_of_a_trained_network(data_root, tmp_path, run):
    require_onnx()
    require("nncf", "int8")
    folders = ["--calibrate", data_root / "demo/train/image", "--gt", data_root / "demo/train/label"]
    words = ["export", tmp_path / "q.onnx", *GIVEN, "--no-resize", "--int8", *folders, "--max-loss", 5]
    result = run(ROOT / "main.py", *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "int8: 82 of 85 layers; mIoU of" in result.stdout
    assert (tmp_path / "q.onnx").stat().st_size < 0.5 * CHECKPOINT.stat().st_size * 2  # weights there are float16
    words = ["predict", data_root / "demo/val/image", "--model", tmp_path / "q.onnx", "--out", tmp_path / "out"]
    assert run(ROOT / "main.py", *words, "test.runtime=openvino", cwd=tmp_path).returncode == 0
    in_bf16 = run(ROOT / "main.py", *words[:-1], tmp_path / "bf16", "test.runtime=openvino", "test.precision=bf16")
    said = "in bf16 on this CPU; set test.precision=fp32" in in_bf16.stderr  # OpenVINO 2026.4
    assert in_bf16.returncode == 0 or said, in_bf16.stderr
    predictor = openseg.Predictor(GIVEN[1], CHECKPOINT, device="cpu")
    for path in (data_root / "demo/val/image").iterdir():
        assert (read_label(tmp_path / f"out/label/{path.stem}.png") == predictor(path).ids).mean() > 0.97


def test_int8_without_enough_memory_leaves_no_file(tmp_path, monkeypatch):
    """Where ONNX Runtime gives up; Linux would kill the process without the limit of memory."""

    def full(path, *_):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 25")

    monkeypatch.setattr("openseg.tools.quantize._quantized", full)
    (tmp_path / "x.onnx").write_bytes(b"float")
    from openseg.tools.quantize import quantized

    with pytest.raises(OpensegError, match=r"x.onnx: out of memory: .*data.size"):
        quantized(tmp_path / "x.onnx", None, [], 1)
    assert not (tmp_path / "x.onnx").exists()


def test_int8_of_one_size_says_which_image_is_not(tmp_path, command, one_line_error):
    require_onnx()
    require("nncf", "int8")
    stem_network(tmp_path)
    make_images(tmp_path, load_config(GIVEN[1]))
    given = ["--config", "stem.yaml", "--checkpoint", "stem.pth", "--size", 128, 160]
    words = ["export", "q.onnx", *given, "--int8", "--calibrate", "image", "--gt", "label"]
    one_line_error(command(*words), "is 64x96, not --size; resize with data.size=[128,160]")
    assert not (tmp_path / "q.onnx").exists()


def test_int8_needs_labels_of_every_image(data_root, tmp_path, command, one_line_error):
    make_images(tmp_path, load_config(GIVEN[1]), 3)
    (tmp_path / "label/1.png").unlink()
    words = ["export", "q.onnx", *GIVEN, "--int8", "--calibrate", tmp_path / "image", "--gt", tmp_path / "label"]
    one_line_error(command(*words), "1.png: no label map in")
    assert not (tmp_path / "q.onnx").exists()

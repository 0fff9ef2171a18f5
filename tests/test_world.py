"""What files and habits of the world broke once, by the kinds of faults they stood for."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, require_onnx
from PIL import Image, ImageFilter

import openseg
from openseg.errors import DataError
from openseg.io.images import read_label
from openseg.segfix import OffsetMap

REAL = os.environ.get("OPENSEG_REAL")
needs_real = pytest.mark.skipif(not REAL, reason="OPENSEG_REAL does not name a folder of other projects' files")
CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"


@pytest.fixture
def fruit(tmp_path):
    """Three pairs to train and two to validate, 96x128 with the ids 0 to 2, and their dataset file."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for kind in ("image", "label"):
            (tmp_path / split / kind).mkdir(parents=True)
        for number in range(count):
            label = np.repeat(np.repeat(rng.integers(0, 3, (6, 8), np.uint8), 16, 0), 16, 1)
            Image.fromarray(label).save(tmp_path / split / f"label/{split}{number}.png")
            image = np.stack([label * 80, rng.integers(0, 256, label.shape, np.uint8), label], axis=2)
            Image.fromarray(image).save(tmp_path / split / f"image/{split}{number}.png")
    (tmp_path / "fruit.yaml").write_text(
        "classes:\n  - {name: ground, color: [10, 20, 30]}\n  - {name: apple, color: [200, 0, 0]}\n"
        "  - {name: pear, color: [0, 200, 0]}\n"
    )
    return tmp_path


SMALL = [
    "loss.class_weights=false",
    "augment.crop_size=[64,64]",
    "train.max_iters=2",
    "train.batch_size=2",
    "data.workers=0",
]


@needs_real
@pytest.mark.parametrize("release", ["cityscapes", "camvid"])
def test_real_trees_are_prepared(release, command, tmp_path):
    from openseg.cli.prepare import prepare_release

    source = Path(REAL) / "datumaro" / f"{release}_dataset"
    source = source / "dataset" if release == "cityscapes" else source
    name = "cityscapes_instances" if release == "cityscapes" else release
    code = prepare_release(name, ["--input", str(source), "--out", str(tmp_path / "out")])
    assert code == 0 and list((tmp_path / "out").rglob("*.png"))


@needs_real
def test_real_suffixes_of_mmseg(command, tmp_path, capsys):
    source = Path(REAL) / "mmseg"
    images = sorted(source.rglob("*_img.jpg"))[:3]
    for path in images:
        label = next(source.rglob(path.name.replace("_img.jpg", "_gt.png")))
        for kind, file in (("image", path), ("label", label)):
            (tmp_path / f"train/{kind}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"train/{kind}" / file.name).symlink_to(file)
    names = ", ".join(f"c{i}" for i in range(7))
    text = f"classes: [{names}]\nsplits: {{train: {{image_suffix: _img, label_suffix: _gt}}}}\n"
    Path("mine.yaml").write_text(text)
    command("check", "--dataset", "mine.yaml", "--split", "train")
    assert f"train: {len(images)} pairs" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".tif", ".bmp", ".gif"])
def test_labels_of_every_format_are_refined(suffix, fruit, command):
    labels, offsets = Path("labels"), Path("offsets")
    for folder in (labels, offsets):
        folder.mkdir()
    for path in (fruit / "val/label").iterdir():
        Image.open(path).save(labels / f"{path.stem}{suffix}")
        zero = np.zeros((96, 128, 2), np.int8)
        openseg.segfix.write_offsets(offsets / f"{path.stem}.png", OffsetMap.of(zero))
    (labels / "odd.jp2").write_bytes(b"x")
    from openseg.cli.segfix import main

    options = ["--input", "labels", "--offset", "offsets", "--dataset", "fruit.yaml", "--split", "test"]
    assert main([*options, "--out", "refined", "--scale", "2.0"]) == 1
    for path in (fruit / "val/label").iterdir():
        np.testing.assert_array_equal(read_label(Path("refined") / path.name), read_label(path))


SEGFIX_CONFIG = ROOT / "configs/demo/segfix_hrnet_tiny.yaml"
_NETWORK = ["--config", CONFIG, "--checkpoint", "w.pth", "data.dataset=fruit.yaml", "loss.class_weights=false"]
_SEGFIX = ["--config", SEGFIX_CONFIG, "--checkpoint", "s.pth", "data.dataset=fruit.yaml"]
_TUNE = ["--offset", "offsets", "--dataset", "fruit.yaml", "--scales", "1", "--confidences", "0"]
_REFINE = ["--offset", "offsets", "--dataset", "fruit.yaml", "--split", "test", "--out", "results"]
FOLDER_COMMANDS = {
    "evaluate": ("val/label", ["evaluate", "--dataset", "fruit.yaml", "--pred", "val/label", "--gt", "copy"]),
    "truths": ("val/label", ["evaluate", "--dataset", "fruit.yaml", "--pred", "copy", "--gt", "val/label"]),
    "check": ("val/label", ["check", "--dataset", "fruit.yaml"]),
    "images": ("val/image", ["check", "--dataset", "fruit.yaml"]),
    "report": ("val/label", ["report", "val/label", "--dataset", "fruit.yaml", "--gt", "copy", "--out", "page"]),
    "targets": ("val/label", ["segfix-targets", "--dataset", "fruit.yaml", "--split", "val"]),
    "predict": ("val/image", ["predict", "val/image", *_NETWORK, "--out", "results"]),
    "val": ("val/image", ["val", *_NETWORK, "--out", "results"]),
    "offsets": ("val/image", ["offsets", "--images", "val/image", *_SEGFIX, "--out", "results"]),
    "refine": (
        "val/label",
        ["segfix", "refine", "--input", "val/label", *_REFINE],
    ),
    "offset files": (
        "offsets",
        ["segfix", "refine", "--input", "copy", *_REFINE],
    ),
    "tune": ("val/label", ["segfix", "tune", "--input", "val/label", "--gt", "copy", *_TUNE]),
}


@pytest.mark.parametrize("name", FOLDER_COMMANDS)
def test_what_is_left_out_is_named_and_counts(name, fruit, command, capsys):
    import shutil

    from openseg.config import load_config
    from openseg.models.checkpoint.io import write_weights
    from openseg.models.factory import build_model

    shutil.copytree(fruit / "val/label", fruit / "copy")
    (fruit / "offsets").mkdir()
    for path in (fruit / "val/label").iterdir():
        offsets = OffsetMap.of(np.zeros((96, 128, 2), np.int8))
        openseg.segfix.write_offsets(fruit / "offsets" / path.name, offsets)
    for target, config, more in (("w.pth", CONFIG, ["loss.class_weights=false"]), ("s.pth", SEGFIX_CONFIG, [])):
        settings = load_config(config, ["data.dataset=fruit.yaml", *more])
        write_weights(fruit / target, build_model(settings).eval(), settings)
    folder, arguments = FOLDER_COMMANDS[name]
    if name in ("predict", "val", "offsets"):
        arguments = [*arguments, f"data.root={fruit}", "data.workers=0"]
    assert command(*arguments) == 0
    capsys.readouterr()
    for made in ("page", "results"):
        shutil.rmtree(fruit / made, ignore_errors=True)
    (fruit / folder / "odd.webm").write_bytes(b"x")
    assert command(*arguments) == 1
    printed = capsys.readouterr()
    assert "odd.webm" in printed.out + printed.err


def test_training_without_validation(fruit, command, one_line_error):
    import shutil

    options = ["--config", CONFIG, "data.dataset=fruit.yaml", *SMALL]
    shutil.rmtree(fruit / "val")
    one_line_error(command("train", *options), "data.val_split=NAME", "data.val_split=null")
    assert command("train", *options, "data.val_split=null") == 0
    assert Path("checkpoints/fruit/hrnet_tiny_ocr_latest.pth").is_file()
    one_line_error(command("val", *options, "data.val_split=null"), "data.val_split=null")


def test_soft_edges_are_recognized(fruit, command, capsys):
    path = fruit / "train/label/train0.png"
    label = Image.open(path).convert("L").point(lambda value: value * 127)
    label.filter(ImageFilter.GaussianBlur(1)).save(path)
    text = "classes: [ground, apple, pear]\nids: {0: ground, 127: apple, 254: pear}\n"
    for other in [*(fruit / "train/label").iterdir(), *(fruit / "val/label").iterdir()]:
        if other != path:
            Image.open(other).convert("L").point(lambda value: value * 127).save(other)
    Path("soft.yaml").write_text(text)
    assert command("check", "--dataset", "soft.yaml") == 1
    assert "nearest neighbor" in capsys.readouterr().out
    Path("soft.yaml").write_text(text + "unknown_values: nearest\n")
    assert command("check", "--dataset", "soft.yaml") == 0


def test_predictions_in_the_classes_colors_are_read(fruit, command, one_line_error):
    colors = np.array([[10, 20, 30], [200, 0, 0], [0, 200, 0]], np.uint8)
    Path("colored").mkdir()
    for path in (fruit / "val/label").iterdir():
        Image.fromarray(colors[read_label(path)]).save(Path("colored") / path.name)
    arguments = ["evaluate", "--dataset", "fruit.yaml", "--pred", "colored", "--gt", "val/label"]
    assert command(*arguments, "--json", "s.json") == 0
    assert json.loads(Path("s.json").read_text())["colored"]["summary"]["mIoU"] == 1
    pixels = np.array(Image.open("colored/val0.png"))
    pixels[0, 0] = 1, 2, 3
    Image.fromarray(pixels).save("colored/val0.png")
    one_line_error(command(*arguments), "val0.png", "(1, 2, 3)")


def test_an_odd_color_of_a_palette_is_no_id(tmp_path, command, one_line_error):
    """Train IDs with a palette, of which one color is another than the dataset's."""
    colors = [[10, 20, 30], [200, 0, 0], [0, 200, 0]]
    names = ", ".join(f"{{name: c{i}, color: {color}}}" for i, color in enumerate(colors))
    Path("c.yaml").write_text(f"classes: [{names}]\nlabel_colors: true\n")
    labels = np.random.default_rng(0).integers(0, 3, (20, 30), np.uint8)
    for folder in ("truth", "pred"):
        Path(folder).mkdir()
    Image.fromarray(np.array(colors, np.uint8)[labels]).save("truth/a.png")
    image = Image.fromarray(labels)
    image.putpalette([*colors[0], *colors[1], 0, 130, 180])
    image.save("pred/a.png")
    arguments = ["evaluate", "--dataset", "c.yaml", "--pred", "pred", "--gt", "truth"]
    one_line_error(command(*arguments), "(0, 130, 180)", "--train-ids")
    assert command(*arguments, "--train-ids") == 0


def test_lists_from_windows(fruit, command):
    rows = [f"train\\image\\train{i}.png\ttrain\\label\\train{i}.png" for i in range(3)]
    Path("list.txt").write_text("\r\n".join(rows), encoding="utf-8-sig")
    text = Path("fruit.yaml").read_text() + "splits: {train: {list: list.txt}}\n"
    Path("windows.yaml").write_text(text)
    assert command("check", "--dataset", "windows.yaml", "--split", "train") == 0


@pytest.mark.parametrize("options", [["--opset", "17"], ["--size", "96", "160", "--batch", "1"]])
def test_onnx_of_one_size_or_version(options, command, tmp_path):
    require_onnx()
    import onnx

    from openseg.config import load_config
    from openseg.models.checkpoint.io import write_weights
    from openseg.models.factory import build_model

    config = load_config(CONFIG)
    write_weights(tmp_path / "w.pth", build_model(config).eval(), config)
    assert command("export", "n.onnx", "--config", CONFIG, "--checkpoint", "w.pth", *options) == 0
    model = onnx.load("n.onnx")
    sizes = [each.dim_value for each in model.graph.input[0].type.tensor_type.shape.dim]
    version = next(each.version for each in model.opset_import if not each.domain)
    assert version == 17 if "--opset" in options else sizes == [1, 3, 96, 160]


def test_default_offsets_are_taken_and_named(tmp_path, caplog):
    from openseg.tools.offset_source import find_offsets

    base = tmp_path / "cityscapes/val/offset_pred/semantic"
    for name in ("offset_hrnet48", "offset_mine"):
        (base / name).mkdir(parents=True)
    with pytest.raises(DataError, match="--offset"):
        find_offsets("val", "cityscapes", tmp_path)
    (base / "offset_hrnext").mkdir()
    caplog.set_level("INFO")
    assert find_offsets("val", "cityscapes", tmp_path) == base / "offset_hrnext"
    assert "offset_mine" in caplog.text


def test_outlines_along_ignored_areas_can_be_left_out():
    from openseg.metrics import BoundaryCounts

    truth = np.zeros((20, 20), np.uint8)
    truth[:, 10:] = 255
    predicted = np.zeros((20, 20), np.uint8)
    both = [BoundaryCounts(2, (1,), along) for along in (True, False)]
    for each in both:
        each.update(predicted, truth)
    assert both[0].mean_f[1] == 1 and np.isnan(both[1].mean_f[1])


def test_folders_of_a_release_are_taken_themselves(tmp_path):
    from openseg.cli.prepare import prepare_release

    pixels = Image.fromarray(np.zeros((8, 16), np.uint8))
    name = "aachen_000000_000019"
    for folder, ending in (("leftImg8bit", "_leftImg8bit"), ("gtFine", "_gtFine_labelIds")):
        for split in ("train", "val"):
            path = tmp_path / "cs" / folder / split / "aachen" / f"{name}{ending}.png"
            path.parent.mkdir(parents=True)
            (pixels.convert("RGB") if folder == "leftImg8bit" else pixels).save(path)
    inputs = [str(tmp_path / "cs" / folder) for folder in ("leftImg8bit", "gtFine")]
    assert prepare_release("cityscapes", ["--input", *inputs, "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").rglob("*.png"))) == 4


def test_coco_polygons_that_are_none(tmp_path):
    from openseg.tools.refine_coco import _decode

    good = [0, 0, 8, 0, 8, 8]
    assert _decode({"image_id": 1, "segmentation": [good]}, (12, 16)).any()
    for bad in (float("nan"), 3e7, float("inf"), "x", None):
        with pytest.raises(DataError, match="image 1"):
            _decode({"image_id": 1, "segmentation": [[0, 0, bad, 0, 8, 8]]}, (12, 16))


@needs_real
def test_ap_counts_images_without_results(tmp_path):
    """As pycocotools itself does with all annotated images."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from openseg.tools.refine_coco import _quiet, _score

    file = Path(REAL) / "panopticapi/panoptic_coco_detection_format.json"
    content = json.loads(file.read_text())
    few = sorted({each["image_id"] for each in content["annotations"]})[:2]
    results = [
        {
            "image_id": each["image_id"],
            "category_id": each["category_id"],
            "segmentation": each["segmentation"],
            "score": 1,
        }
        for each in content["annotations"]
        if each["image_id"] in few
    ]
    scores, reason = _score(file, {"before": results})
    assert not reason
    with _quiet():
        truth = COCO(str(file))
        evaluation = COCOeval(truth, truth.loadRes([dict(each) for each in results]), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert scores["before"]["AP"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    wrong = [{**each, "category_id": -each["category_id"]} for each in results]
    assert "is not in the annotations" in _score(file, {"before": wrong})[1]


ODD_VALUES = [
    None,
    0,
    -1,
    1e308,
    float("nan"),
    "x",
    [],
    {},
    [[]],
    [[None]],
    True,
    "../../x",
    "a\nb",
    [1, 2],
    {"size": 3},
]


def test_fuzzed_results_of_coco_are_one_error(fruit, capsys):
    from openseg.cli.segfix import main

    (fruit / "offsets").mkdir()
    openseg.segfix.write_offsets(fruit / "offsets/7.png", OffsetMap.of(np.zeros((12, 16, 2), np.int8)))
    good = {"image_id": 7, "category_id": 1, "score": 0.5, "segmentation": {"size": [12, 16], "counts": [20, 30, 142]}}
    os.chdir(fruit)
    cases = [[{**good, key: value}] for key in good for value in ODD_VALUES]
    for key in good["segmentation"]:
        cases += [[{**good, "segmentation": {**good["segmentation"], key: value}}] for value in ODD_VALUES]
    cases += [[{**good, "segmentation": [[value] * 6]}] for value in ODD_VALUES]
    cases += [*ODD_VALUES, [good, good], [None], [good, 3]]
    for case in cases:
        Path("r.json").write_text(json.dumps(case))
        code = main(["instances", "--input", "r.json", "--offset", "offsets", "--out", "o.json", "--overwrite"])
        error = capsys.readouterr().err
        assert code == 0 or (code in (1, 2) and error.count("\n") <= 2 and error.startswith("error: ")), (case, error)


def test_accents_taken_apart_are_the_same_name(fruit, command):
    import unicodedata

    for kind, form in (("image", "NFD"), ("label", "NFC")):
        path = next((fruit / "train" / kind).iterdir())
        path.rename(path.with_name(unicodedata.normalize(form, "pr\u00e9.png")))
        others = sorted((fruit / "train" / kind).iterdir())
        for number, other in enumerate(path for path in others if not path.name.startswith("pr")):
            other.rename(other.with_name(f"b{number}.png"))
    assert command("check", "--dataset", "fruit.yaml", "--split", "train") == 0


def test_all_colliding_images_are_named_at_once(fruit, command, one_line_error):
    for path in (fruit / "val/image").iterdir():
        Image.open(path).save(path.with_suffix(".jpg"))
    error = one_line_error(command("predict", "val/image", "--config", CONFIG, "--checkpoint", "nothing.pth"))
    assert "val0" in error and "val1" in error

"""``main.py check`` finds each kind of mistake, and training does not start on one."""

import json

import numpy as np
import pytest
from conftest import ROOT

from openseg.cli.main import main
from openseg.datasets.registry import get_dataset_info
from openseg.io.files import list_files
from openseg.io.images import read_label, write_image, write_label
from openseg_demo.scenes import write_scene

RNG = np.random.default_rng(0)


@pytest.fixture
def set_(tmp_path, monkeypatch):
    """A dataset in the ids of Cityscapes, four samples to train and two to validate."""
    monkeypatch.chdir(tmp_path)
    for index in range(6):
        write_scene((tmp_path / "set" / ("train" if index < 4 else "val"), index), (64, 96), seed=3)
    (tmp_path / "set.yaml").write_text("classes: cityscapes\nfolder: set\n")
    return tmp_path / "set"


def check(*arguments):
    code = main(["check", "--dataset", "set.yaml", "--json", "report.json", "--workers", "1", *arguments])
    with open("report.json") as file:
        return code, json.load(file)


def labels(folder):
    return sorted((folder / "train/label").iterdir())


def test_a_good_set_passes_and_is_described(set_, capsys):
    code, report = check()
    assert code == 0 and report["errors"] == 0
    train = report["splits"]["train"]
    truth = np.stack([read_label(path) for path in labels(set_)])
    road = train["classes"][0]
    assert road["name"] == "road" and road["share"] == pytest.approx((truth == 7).sum() / (truth != 0).sum(), abs=1e-3)
    assert road["images"] == (truth == 7).any(axis=(1, 2)).sum()
    shares = np.array([each["share"] for each in train["classes"]])
    weights = 1 / np.log(1.1 + shares)
    assert [each["suggested weight"] for each in train["classes"]] == pytest.approx(list(weights / weights.mean()))
    printed = capsys.readouterr().out
    assert "all 64 x 96" in printed and "set: 0 errors" in printed
    assert f"no pixel of {(shares == 0).sum()} classes" in printed


def broken(set_, mistake):
    """Make a mistake in the first training sample; returns words of its error."""
    label = labels(set_)[0]
    image = set_ / "train/image" / label.name
    if mistake == "value":
        values = read_label(label)
        values[:16] = 77
        write_label(label, values)
        return [label.name, "value 77 is not a label ID of set", "77: 25.00% of the pixels"]
    if mistake == "size":
        write_label(label, np.full((60, 96), 7, np.uint8))
        return [label.name, "size 60 x 96", "64 x 96"]
    if mistake == "truncated":
        image.write_bytes(image.read_bytes()[:-500])
        return [image.name, "truncated"]
    if mistake == "instances":
        write_label(label, np.full((64, 96), 26001, np.uint16))
        return [label.name, "26001", "instance map"]
    if mistake == "jpeg":
        label.rename(label.with_suffix(".jpg"))
        write_image(label.with_suffix(".jpg"), np.zeros((64, 96, 3), np.uint8))
        return [label.stem, "compression changes values"]
    if mistake == "no label":
        label.rename(label.with_name(f"{label.stem[:-1]}.png"))
        return [image.name, "has no label", f"did you mean {label.stem[:-1]}?"]
    raise ValueError(mistake)


@pytest.mark.parametrize("mistake", ["value", "size", "truncated", "instances", "jpeg", "no label"])
def test_a_mistake_is_found_and_stops_a_training(mistake, set_, one_line_error, capsys):
    if mistake == "no label":  # names that are not of Cityscapes, whose numbers alone count
        for path in list_files(set_):
            path.rename(path.with_name(path.name.replace("demo_", "demo")))
    words = broken(set_, mistake)
    code, report = check()
    assert code == 1 and report["errors"] == 1
    (error,) = report["splits"]["train"]["errors"]
    assert all(word in error for word in words), error
    assert "error: " in capsys.readouterr().out
    small = ["data.dataset=set.yaml", "augment.crop_size=[64,64]", "train.max_iters=1", "data.workers=0"]
    message = one_line_error(main(["train", "--config", str(ROOT / "configs/demo/hrnet_tiny_ocr.yaml"), *small]))
    assert words[0] in message
    if mistake != "no label":
        assert "1 of 4 samples looked at are wrong; main.py check lists all" in message


def test_warnings(set_, capsys):
    train, val = sorted((set_ / "train/image").iterdir()), sorted((set_ / "val/image").iterdir())
    val[0].write_bytes(train[1].read_bytes())  # the same image in both splits
    (set_ / "train/label/stray.png").write_bytes(labels(set_)[0].read_bytes())
    for label in (set_ / "val/label").iterdir():
        values = read_label(label)
        values[:48] = 0
        write_label(label, values)
    code, report = check()
    assert code == 0
    assert report["warnings"] == [f"1 images of train are in val too, such as {train[1].stem.rsplit('_', 1)[0]}"]
    assert any("stray.png: has no image" in text for text in report["splits"]["train"]["warnings"])
    assert any("% of all pixels are ignored" in text for text in report["splits"]["val"]["warnings"])
    assert "set: 0 errors" in capsys.readouterr().out


@pytest.mark.parametrize("mistake", ["all ignored", "train IDs", "0 and 255", "minus 1"])
def test_values_that_are_known_and_wrong_all_the_same(mistake, set_, one_line_error, capsys):
    info = get_dataset_info("cityscapes")
    for split in ("train", "val"):
        for label in (set_ / split / "label").iterdir():
            values = read_label(label)
            if mistake == "all ignored":
                values[:] = 0
            elif mistake == "train IDs":
                values = info.encode(values)
            elif mistake == "0 and 255":
                values = np.where(values == 7, 255, 0).astype(np.uint8)
            else:
                values = np.where(values == 7, 255, info.encode(values))
            write_label(label, values)
    if mistake == "0 and 255":
        (set_.parent / "set.yaml").write_text("classes: [other, road]\nfolder: set\n")
    if mistake == "minus 1":
        (set_.parent / "set.yaml").write_text("classes: pascal_context\nfolder: set\n")
    words = {
        "minus 1": "do the labels hold set's ids minus 1?",
        "all ignored": "all pixels are ignored",
        "train IDs": "ids: train",
        "0 and 255": "ids: {0: other, 255: road}",
    }
    code, report = check()
    kind = "warnings" if mistake == "minus 1" else "errors"  # a class may be rare
    assert code == (kind == "errors") and any(words[mistake] in text for text in report["splits"]["train"][kind])
    small = ["data.dataset=set.yaml", "loss.class_weights=false", "train.max_iters=1", "data.workers=0"]
    config = str(ROOT / "configs/demo/hrnet_tiny_ocr.yaml")
    capsys.readouterr()
    code = main(["train", "--config", config, "augment.crop_size=[64,64]", *small])
    if kind == "errors":
        one_line_error(code, words[mistake], "set/train/label")
    else:
        assert code == 0 and words[mistake] in capsys.readouterr().out
    if mistake == "0 and 255":
        (set_.parent / "set.yaml").write_text("classes: [other, road]\nfolder: set\nids: {0: other, 255: road}\n")
        assert check()[0] == 0


def test_ground_truth_of_segfix_is_checked_too(data_root, tmp_path, capsys):
    config = ["--config", str(ROOT / "configs/demo/segfix_hrnet_tiny.yaml"), f"data.root={data_root}"]
    assert main(["check", *config]) == 0
    assert main(["check", *config, "segfix.offset_gt=none"]) == 1
    assert "no SegFix ground truth of 4 of 4 labels" in capsys.readouterr().out


def test_what_cannot_be_checked(set_, one_line_error, capsys):
    one_line_error(main(["check", "--dataset", "set.yaml", "data.root=x"]), "data.root=x")
    assert main(["check", "--dataset", "set.yaml", "--split", "vall"]) == 1
    assert "vall/image: no such folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    ["classes: [crack]", "classes: [crack]\nids: {255: crack}\nignored_ids: [0]"],
)
def test_a_single_class_cannot_be_learned(text, command, capsys, one_line_error, tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            label = np.zeros((64, 64), np.uint8)
            label[20:30] = 255
            write_image(tmp_path / split / f"image/{name}.png", np.zeros((64, 64, 3), np.uint8))
            write_label(tmp_path / split / f"label/{name}.png", label)
    (tmp_path / "mine.yaml").write_text(text)
    assert command("check", "--dataset", "mine.yaml") == 1
    assert "a single class cannot be distinguished" in capsys.readouterr().out
    config = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
    code = command("train", "--config", config, "data.dataset=mine.yaml", "loss.class_weights=false")
    one_line_error(code, "single class", "classes: [background, crack], ids: {0: background, 255: crack}")

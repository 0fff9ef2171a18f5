"""Datasets of one's own: the documented walk works as written, and a YAML file can describe any usual layout."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from openseg.cli.main import main
from openseg.cli.prepare import segfix_targets
from openseg.config import Config
from openseg.datasets.loaders import TrainSet
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.samples import list_split
from openseg.datasets.splits import list_images, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.images import read_image, write_image, write_label
from openseg.labels import IGNORE_INDEX

RNG = np.random.default_rng(0)


@pytest.mark.slow
def test_the_documented_walk(tmp_path):
    """Every YAML file and every command of docs/your-data.md, in order, in an empty folder."""
    text = (ROOT / "docs/your-data.md").read_text()
    printed, ran = "", 0
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for language, block in re.findall(r"```(yaml|bash)\n(.*?)```", text, flags=re.DOTALL):
        if language == "yaml":
            name = re.match(r"# (\S+\.yaml)\n", block)
            if name:
                (tmp_path / name[1]).write_text(block)
            continue
        commands = re.sub(r"python (\S+\.py)", rf"{sys.executable} {ROOT}/\1", block)
        result = subprocess.run(
            ["bash", "-euc", commands],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            env={"OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin", "DATA_ROOT": str(tmp_path / "data")},
        )
        assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"
        printed, ran = printed + result.stdout, ran + 1
    assert ran == 8
    for words in ("value 19 is not a label ID of streets", "streets: 0 errors", "mIoU", "change", "figure: "):
        assert words in printed
    assert len(list((tmp_path / "data/seg_result/streets/ocr_val").glob("label_w_segfix_figures/*.png"))) == 1


def make(folder, names, image="image", label="label", suffix="", kind="png"):
    """Images and labels of 0, 1, 2 in a folder."""
    for name in names:
        write_image(folder / image / f"{name}.{kind}", RNG.integers(0, 256, (32, 40, 3), np.uint8))
        if label is not None:
            write_label(folder / label / f"{name}{suffix}.png", RNG.integers(0, 3, (32, 40), np.uint8))


def described(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Config(name="x", data={"dataset": str(path)})


SPLITS = """
classes: [a, b, c]
folder: files
splits:
  train: {image: photos, label: masks}
  val: {image: mixed, label: mixed, label_suffix: _mask}
  few: {image: photos, label: masks, list: few.txt}
  paths: {list: paths.txt}
  test: {list: test.txt}
"""


def test_layouts(tmp_path):
    files = tmp_path / "files"
    make(files, ["one", "two", "three four"], "photos", "masks", kind="jpg")
    make(files, ["five", "six"], "mixed", "mixed", "_mask")
    (files / "few.txt").write_text("three four\n\none.jpg\n")
    (files / "paths.txt").write_text(
        "photos/three four.jpg\tmasks/three four.png\r\nmixed/six.png\tmixed/six_mask.png\n"
    )
    (files / "test.txt").write_text("photos/two.jpg\nphotos/three four.jpg\n")
    config = described(tmp_path / "mine.yaml", SPLITS)
    keys = {split: [pair.key for pair in list_split(config, split)] for split in ("train", "val", "few", "paths")}
    assert keys["train"] == ["one", "three four", "two"] and keys["val"] == ["five", "six"]
    assert keys["few"] == ["three four", "one"] and keys["paths"] == ["three four", "six"]
    assert list_split(config, "val")[0].label.name == "five_mask.png"
    assert len(list_split(config, "train+val")) == 5
    paths = split_paths(config.dataset_info, config.data_dir, "test")
    assert [path.name for path in list_images(paths)] == ["two.jpg", "three four.jpg"]
    with pytest.raises(DataError, match=r"no split 'vall'; did you mean val"):
        list_split(config, "vall")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("few", "one\nseven", r"few\.txt, line 2: no image 'seven'"),
        ("paths", "photos/one.jpg\tmasks/gone.png", r"line 1: .*gone\.png is not a file"),
        ("paths", "photos/one.jpg", r"line 1: write the image's path, a tab, and the label's"),
        ("few", "one\none.jpg", r"line 2: 'one\.jpg' is in line 1 already"),
        ("paths", "photos/one.jpg\tmasks/one.png\nmixed/two.png\tother/one.png", r"have the same name"),
        ("paths", "", r"paths\.txt: an empty list"),
        ("paths", None, r"paths\.txt: cannot read"),
    ],
)
def test_lists_that_cannot_be(name, text, message, tmp_path):
    make(tmp_path / "files", ["one"], "photos", "masks", kind="jpg")
    make(tmp_path / "files", ["two"], "mixed", None)
    make(tmp_path / "files", ["one"], "elsewhere", "other")
    config = described(tmp_path / "mine.yaml", SPLITS)
    if text is not None:
        (tmp_path / f"files/{name}.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        list_split(config, name)


def test_labels_with_a_suffix_are_explained(tmp_path):
    make(tmp_path / "train", ["one", "two"], suffix="_mask")
    config = described(tmp_path / "mine.yaml", "classes: [a, b, c]")
    with pytest.raises(DataError, match=r"2 of 2 .*label_suffix: _mask"):
        list_split(config, "train")


def test_ids_colors_and_classes_of_another_data_set(tmp_path):
    table = described(tmp_path / "a.yaml", "classes: [x, y]\nids: {5: x, 6: y, 9: x, 3: ignore, 300: y}").dataset_info
    values = np.array([[5, 6, 9, 3, 255, 300]], np.uint16)
    assert table.encode(values).tolist() == [[0, 1, 0, IGNORE_INDEX, IGNORE_INDEX, 1]]
    assert table.decode(np.array([[0, 1, IGNORE_INDEX]], np.uint8)).tolist() == [[5, 6, 255]]
    streets = described(tmp_path / "b.yaml", "classes: cityscapes").dataset_info
    assert streets.encode(np.array([[7, 33, 0]], np.uint8)).tolist() == [[0, 18, IGNORE_INDEX]]
    assert streets.colors == get_dataset_info("cityscapes").colors and streets.name == "b"
    trained = described(tmp_path / "c.yaml", "classes: cityscapes\nids: train").dataset_info
    assert trained.encode(np.array([[0, 18, 255]], np.uint8)).tolist() == [[0, 18, IGNORE_INDEX]]
    pairs = described(tmp_path / "d.yaml", "classes: [left, right, x]\nflip_pairs: [[left, right]]").dataset_info
    assert pairs.flipped_classes[:4].tolist() == [1, 0, 2, 3]
    binary = described(tmp_path / "f.yaml", "classes: [bg, fg]\nids: {0: bg, 255: fg}").dataset_info
    assert binary.encode(np.array([[0, 255]], np.uint8)).tolist() == [[0, 1]]
    assert binary.encode(binary.decode(np.array([[0, 1, IGNORE_INDEX]], np.uint8))).tolist() == [[0, 1, IGNORE_INDEX]]
    default = described(tmp_path / "e.yaml", "classes: [a, b]").dataset_info
    assert default.colors == ((128, 0, 0), (0, 128, 0))


def test_color_coded_labels(tmp_path, one_line_error):
    text = "classes: [{name: a, color: [255, 0, 0]}, {name: b, color: [0, 9, 255]}]\n"
    text += "label_colors: true\nignored_colors: [[0, 0, 0]]\n"
    for split in ("train", "val"):
        make(tmp_path / split, ["one"], label=None)
        colors = np.array([[255, 0, 0], [0, 9, 255], [0, 0, 0]], np.uint8)[RNG.integers(0, 3, (32, 40))]
        write_image(tmp_path / split / "label/one.png", colors)
    config = described(tmp_path / "mine.yaml", text)
    label = config.dataset_info.read_truth(tmp_path / "val/label/one.png")
    np.testing.assert_array_equal(config.dataset_info.colorize(label), colors)
    item = TrainSet(config, list_split(config, "train"))[0]
    assert set(item["label"].unique().tolist()) <= {0, 1, IGNORE_INDEX}
    # predictions are ids; scored against colors they are right
    write_label(tmp_path / "pred/one.png", config.dataset_info.decode(label))
    arguments = ["--dataset", str(tmp_path / "mine.yaml"), "--gt", str(tmp_path / "val/label")]
    assert main(["evaluate", *arguments, "--pred", str(tmp_path / "pred"), "--json", str(tmp_path / "s.json")]) == 0
    assert '"mIoU": 1.0' in (tmp_path / "s.json").read_text()
    palette = Image.fromarray(config.dataset_info.decode(label))
    palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])  # shows ids in other colors
    palette.save(tmp_path / "pred/one.png")
    assert main(["evaluate", *arguments, "--pred", str(tmp_path / "pred"), "--json", str(tmp_path / "s.json")]) == 0
    assert '"mIoU": 1.0' in (tmp_path / "s.json").read_text()
    wrong = colors.copy()
    wrong[:8] = 0  # ignored: missed
    write_image(tmp_path / "pred/one.png", wrong)
    assert main(["evaluate", *arguments, "--pred", str(tmp_path / "pred"), "--json", str(tmp_path / "s.json")]) == 0
    assert '"mIoU": 0.7' in (tmp_path / "s.json").read_text()
    wrong[0] = 7
    write_image(tmp_path / "pred/one.png", wrong)
    one_line_error(main(["evaluate", *arguments, "--pred", str(tmp_path / "pred")]), "one.png", "(7, 7, 7)")
    colors[0, 0] = (1, 2, 3)
    write_image(tmp_path / "val/label/one.png", colors)
    one_line_error(main(["evaluate", *arguments, "--pred", str(tmp_path / "pred")]), "(1, 2, 3)", "ignored_colors")
    assert main(["check", "--dataset", str(tmp_path / "mine.yaml")]) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("classes: []", ["classes"]),
        ("clases: [a]", ["unknown key 'clases'", "did you mean classes"]),
        ("classes: [a, a]", ["class 'a' is there 2 times"]),
        ("classes: citiscapes", ["citiscapes", "cityscapes"]),
        ("classes: [a, b]\nids: {0: a}", ["class b has none"]),
        ("classes: [a, b]\nids: {0: a, 1: c}", ["no class 'c'"]),
        ("classes: [a, b]\nignored_ids: [1]", ["1 is the id of a class"]),
        ("classes: [a, b]\nvoid_id: 1", ["void_id: 1 is the id of a class"]),
        ("classes: [a, b]\nvoid_id: 7", ["one of ignored_ids"]),
        ("classes: [{name: a, id: 256}]", ["classes.0", "255"]),
        ("classes: [{name: a, colour: [1, 2, 3]}]", ["unknown key", "color"]),
        ("classes: [{name: a, weight: 1}, b]", ["every class a weight"]),
        ("classes: [a]\nlabel_colors: true", ["every class needs its color"]),
        ("classes: [a]\nflip_pairs: [[a, z]]", ["flip_pairs", "'z'"]),
        ("classes: [a]\nname: a/b", ["name"]),
        ("classes: [a, b]\nids: {0: a, 1: b, 0: b}", ["key 0 is there twice", "line 2"]),
        ("classes: [a, b, c]\nflip_pairs: [[a, b], [b, c]]", ["flip_pairs: class 'b' is there 2 times"]),
        ("classes: ade20k\nlabel_colors: true", ["label_colors: color"]),
        ("classes: [{name: a, id: 3}]\nids: {4: a}", ["an id each already"]),
        ("classes: [a]\nids: {" + ", ".join(f"{i}: a" for i in range(256)) + "}", ["leave one"]),
        ("classes: [a, b]\nids: {0: a, 1: b, 9: b}\nvoid_id: 9", ["void_id: 9 is the id of a class"]),
        ("- a", ["mapping"]),
        ("classes: [a", ["not valid YAML"]),
    ],
)
def test_files_that_cannot_be(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        get_dataset_info(str(path))
    message = str(error.value)
    assert "mine.yaml" in message and "\n" not in message
    for word in words:
        assert word in message


def test_a_file_that_is_not_there(command, one_line_error):
    one_line_error(command("check", "--dataset", "gone.yaml"), "gone.yaml", "docs/your-data.md")
    one_line_error(command("check", "--dataset", "cityscape"), "did you mean cityscapes")


def test_labels_in_a_folder_below_the_images(tmp_path):
    make(tmp_path, ["one", "two"], "photos", "photos/masks", "_mask")
    text = "classes: [a, b, c]\nsplits: {train: {image: photos, label: photos/masks, label_suffix: _mask}}"
    assert len(list_split(described(tmp_path / "mine.yaml", text), "train")) == 2
    make(tmp_path, ["one"], "x", "x/masks", kind="jpg")
    text = "classes: [a, b, c]\nsplits: {train: {image: x, label: x/masks}}"
    assert len(list_split(described(tmp_path / "other.yaml", text), "train")) == 1


def test_images_and_labels_of_one_name_in_one_folder(tmp_path):
    make(tmp_path, ["one", "two"], "x", "x", kind="jpg")
    config = described(tmp_path / "mine.yaml", "classes: [a, b, c]\nsplits: {train: {image: x, label: x}}")
    assert [(pair.image.suffix, pair.label.suffix) for pair in list_split(config, "train")] == [(".jpg", ".png")] * 2


def test_images_with_the_suffix_of_labels_stay_where_folders_differ(tmp_path):
    make(tmp_path / "train", ["dog_mask"], suffix="_mask")
    config = described(tmp_path / "mine.yaml", "classes: [a, b, c]\nsplits: {train: {label_suffix: _mask}}")
    assert [pair.key for pair in list_split(config, "train")] == ["dog_mask"]


def test_merged_ids_are_one_region_of_instance_ground_truth(tmp_path):
    """From files and made while reading: 5 and 9 are both x, so no boundary lies between them."""
    instances = np.full((32, 40), 5, np.uint16)
    instances[:, 10:20], instances[:, 20:] = 9, 6
    make(tmp_path / "train", ["one"])
    write_label(tmp_path / "train/label/one.png", instances.astype(np.uint8))
    write_label(tmp_path / "train/instance/one.png", instances)
    (tmp_path / "a.yaml").write_text("classes: [x, y]\nids: {5: x, 6: y, 9: x}")
    assert (
        segfix_targets(
            instances=True, argv=["--dataset", str(tmp_path / "a.yaml"), "--datadir", str(tmp_path), "--split", "train"]
        )
        == 0
    )
    for targets in ({"targets": "instance"}, {"offset_gt": "offset_gt/dt_offset_inst_w_stuff"}):
        data = {"dataset": str(tmp_path / "a.yaml")}
        settings = {
            "task": "segfix",
            "loss": {"type": "segfix"},
            "segfix": targets,
            "augment": {"crop_size": (32, 40), "scale_range": None},
        }
        config = Config(name="x", data=data, **settings)
        mask = TrainSet(config, list_split(config, "train"))[0]["mask"].numpy()
        assert (mask == mask[:1]).all() and mask[0].sum() == 10  # 5 on each side of the one boundary


def test_a_network_goes_on_with_the_classes_that_it_learned(tmp_path, monkeypatch, one_line_error):
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        make(tmp_path / split, ["one", "two"])
    path = tmp_path / "mine.yaml"
    path.write_text("classes: [a, b, c]")
    config = ["--config", str(ROOT / "configs/demo/hrnet_tiny_ocr.yaml"), "data.dataset=mine.yaml", "data.workers=0"]
    config += ["augment.crop_size=[64,64]", "train.max_iters=2", "train.val_interval=2", "loss.class_weights=false"]
    assert main(["train", *config]) == 0
    for place in (path, tmp_path / "elsewhere/mine.yaml"):  # the same file by its whole path, and moved with its data
        if not place.exists():
            shutil.copytree(tmp_path, place.parent, ignore=shutil.ignore_patterns("checkpoints", "runs", "elsewhere"))
        assert main(["resume", *config, f"data.dataset={place}"]) == 0
    path.write_text("classes: [c, b, a]")
    one_line_error(main(["val", *config]), "in another order", "class 0 was a, now it is c")
    for command in (["convert", "checkpoints/mine/hrnet_tiny_ocr_latest.pth", "x.pth"], ["resume", *config]):
        one_line_error(main(command), "in another order")
    path.write_text("classes: [a, b, c]\nids: {2: a, 1: b, 0: c}")
    one_line_error(main(["resume", *config]), "the value 0 meant something else")
    path.write_text("classes: [a, b, other]\nignored_ids: [7]")  # another name, and one more value that is known
    assert main(["val", *config]) == 0
    assert main(["resume", *config]) == 0
    one_line_error(main(["train", *config, "name=x", "loss.class_weights=true"]), "mine has none", "main.py check")


def test_evaluate_takes_the_truth_of_the_data_set(tmp_path, monkeypatch, capsys, one_line_error):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "mixed", ["one", "two"], ".", ".", "_mask")
    text = "classes: [a, b, c]\nsplits: {val: {image: mixed, label: mixed, label_suffix: _mask}}"
    config = described(tmp_path / "mine.yaml", text)
    for pair in list_split(config, "val"):
        write_label(tmp_path / f"pred/{pair.key}.png", config.dataset_info.read_truth(pair.label))
    assert main(["evaluate", "--dataset", "mine.yaml", "--pred", "pred"]) == 0
    assert "100.00" in capsys.readouterr().out
    (tmp_path / "pred/two.png").unlink()
    one_line_error(
        main(["evaluate", "--dataset", "mine.yaml", "--pred", "pred"]), "1 predictions", "two_mask.png", "pred"
    )


def test_colored_predictions_are_refined_as_colors(tmp_path):
    from openseg.cli.segfix import main as refine
    from openseg.segfix import write_offsets

    (tmp_path / "mine.yaml").write_text(
        "classes: [{name: a, color: [255, 0, 0]}, {name: b, color: [0, 9, 255]}]\nlabel_colors: true\n"
    )
    colors = np.array([[[255, 0, 0], [255, 0, 0], [0, 9, 255]]], np.uint8)
    write_image(tmp_path / "pred/one.png", colors)
    offsets = np.zeros((1, 3, 2), np.int8)
    offsets[0, 1] = (0, 1)
    write_offsets(tmp_path / "offsets/one.png", offsets)
    arguments = ["--input", str(tmp_path / "pred"), "--offset", str(tmp_path / "offsets"), "--scale", "1"]
    arguments += ["--dataset", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out"), "--split", "test"]
    assert refine(arguments) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out/one.png"), colors[:, [0, 2, 2]])


def test_results_go_to_folders_of_its_name(tmp_path, monkeypatch):
    """Also where the images are gray and of several sizes, and the classes are few."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        make(tmp_path / "set" / split, ["one"])
        gray = Image.fromarray(RNG.integers(0, 256, (50, 44), np.uint8))
        gray.save(tmp_path / "set" / split / "image/two.jpg")
        write_label(tmp_path / "set" / split / "label/two.png", RNG.integers(0, 3, (50, 44), np.uint8))
    (tmp_path / "set/mine.yaml").write_text("classes: [a, b, c]")
    small = ["data.dataset=set/mine.yaml", "augment.crop_size=[64,64]", "train.max_iters=1", "train.batch_size=2"]
    small += ["data.workers=0", "train.val_interval=1", "train.warmup_iters=0"]
    config = ["--config", str(ROOT / "configs/demo/hrnet_tiny_ocr.yaml")]
    assert main(["train", *config, *small, "loss.class_weights=false"]) == 0
    assert main(["val", *config, *small]) == 0
    assert torch.load("checkpoints/mine/hrnet_tiny_ocr_latest.pth", weights_only=True)["iteration"] == 1
    assert len(list((tmp_path / "data/seg_result/mine/hrnet_tiny_ocr_val/label").iterdir())) == 2

"""Scores of anybody's label files: what is wrong with them is named, and the rest can be scored."""

import json

import numpy as np
import pytest

from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.io.images import write_image, write_label
from openseg.labels import IGNORE_INDEX

RNG = np.random.default_rng(0)
SIZE = (40, 60)


def write_set(folder, info, count=8):
    """Truths, and predictions that are mostly right, in the dataset's ids; returns both as train IDs."""
    truths = RNG.integers(0, info.num_classes, (count, 5, 6)).repeat(8, axis=1).repeat(10, axis=2).astype(np.uint8)
    guesses = RNG.integers(0, info.num_classes, truths.shape).astype(np.uint8)
    predictions = np.where(RNG.random(truths.shape) < 0.9, truths, guesses)
    truths[:, :4] = IGNORE_INDEX
    for number, (truth, prediction) in enumerate(zip(truths, predictions, strict=True)):
        for kind, labels in (("gt", truth), ("pred", prediction)):
            path = folder / kind / f"{number}.png"
            if info.label_colors:
                write_image(path, info.colorize(labels))
            else:
                write_label(path, info.decode(labels))
    return truths, predictions


@pytest.mark.parametrize("dataset", DATASET_NAMES)
def test_every_data_set_is_scored_in_its_own_ids(dataset, tmp_path, command):
    info = get_dataset_info(dataset)
    truths, predictions = write_set(tmp_path, info, 3)
    assert command("evaluate", "--dataset", dataset, "--pred", "pred", "--gt", "gt", "--json", "s.json") == 0
    scores = json.loads((tmp_path / "s.json").read_text())["pred"]
    valid = truths < info.num_classes
    ious = []
    for label in range(info.num_classes):
        a, b = (truths == label) & valid, (predictions == label) & valid
        if (a | b).any():
            ious.append(np.count_nonzero(a & b) / np.count_nonzero(a | b))
    assert scores["summary"]["mIoU"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert scores["summary"]["pixel accuracy"] == pytest.approx(np.mean((truths == predictions)[valid]), abs=1e-12)
    assert len(scores["absent"]) == info.num_classes - len(ious)


def test_what_is_wrong_is_named_and_the_rest_scored(tmp_path, command, one_line_error, capsys):
    info = get_dataset_info("cityscapes")
    truths, predictions = write_set(tmp_path, info)
    arguments = ["evaluate", "--dataset", "cityscapes", "--pred", "pred", "--gt", "gt", "--json", "s.json"]
    assert command(*arguments, "--workers", "2") == 0
    whole = (tmp_path / "s.json").read_bytes()
    assert command(*arguments, "--workers", "1") == 0
    assert (tmp_path / "s.json").read_bytes() == whole

    (tmp_path / "pred/0.png").unlink()  # missing
    write_label(tmp_path / "pred/more.png", predictions[0])  # left over
    code = command(*arguments)
    one_line_error(code, "2 predictions", "0.png has no prediction", "more.png has no ground truth", "--allow-missing")
    write_label(tmp_path / "pred/1.png", info.decode(predictions[1])[:-1])  # of another size
    write_label(tmp_path / "pred/2.png", np.full(SIZE, 99, np.uint8))  # no id at all
    write_label(tmp_path / "pred/3.png", predictions[3])  # train IDs
    (tmp_path / "pred/4.png").write_bytes(b"")
    write_image(tmp_path / "pred/5.png", np.zeros((*SIZE, 3), np.uint8))
    (tmp_path / "pred/0.png").symlink_to(tmp_path / "gt/0.png")
    (tmp_path / "pred/more.png").unlink()
    words = [
        "5 predictions",
        "1.png: size 39 x 60",
        "2.png: value 99",
        "3.png: 0 % of the labeled",
        "4.png: an empty",
    ]
    one_line_error(command(*arguments), *words, "5.png")
    (tmp_path / "pred/0.png").unlink()
    capsys.readouterr()
    assert command(*arguments, "--allow-missing") == 0
    scores = json.loads((tmp_path / "s.json").read_text())["pred"]
    assert len(scores["left_out"]) == 6 and "left out of pred: 6" in capsys.readouterr().out
    valid = truths[6:] < 19
    right = np.mean((truths[6:] == predictions[6:])[valid])
    assert scores["summary"]["pixel accuracy"] == pytest.approx(right, abs=1e-12)
    write_label(tmp_path / "gt/6.png", np.full(SIZE, 77, np.uint8))
    one_line_error(command(*arguments, "--allow-missing"), "gt/6.png", "value 77")  # a truth is never left out
    for number in (6, 7):
        write_label(tmp_path / "pred" / f"{number}.png", np.full(SIZE, 99, np.uint8))
    write_label(tmp_path / "gt/6.png", info.decode(truths[6]))
    code = command(*arguments, "--allow-missing")
    one_line_error(code, "8 predictions", "4.png: an empty", "and 3 more")  # there is nothing left to score


def test_a_whole_folder_of_problems_names_five(tmp_path, command, one_line_error):
    info = get_dataset_info("cityscapes")
    write_set(tmp_path, info, 9)
    for path in (tmp_path / "pred").iterdir():
        path.write_bytes(b"")
    error = one_line_error(
        command("evaluate", "--dataset", "cityscapes", "--pred", "pred", "--gt", "gt"), "9 predictions", "and 4 more"
    )
    assert error.count("an empty file") == 5


def test_no_class_is_a_miss_and_not_an_error(tmp_path, command):
    info = get_dataset_info("camvid")
    truths, _ = write_set(tmp_path, info, 2)
    for number in range(2):
        write_label(tmp_path / "pred" / f"{number}.png", np.full(SIZE, 11, np.uint8))
    assert command("evaluate", "--dataset", "camvid", "--pred", "pred", "--gt", "gt", "--json", "s.json") == 0
    scores = json.loads((tmp_path / "s.json").read_text())["pred"]
    assert scores["summary"]["mIoU"] == 0
    assert sum(row[-1] for row in scores["confusion"]) == np.count_nonzero(truths < 11)


@pytest.mark.parametrize("dataset", ["cityscapes", "ade20k", "pascal_context"])
def test_training_ids_are_told_and_read(dataset, tmp_path, command, one_line_error):
    info = get_dataset_info(dataset)
    _, predictions = write_set(tmp_path, info)
    arguments = ["evaluate", "--dataset", dataset, "--gt", "gt", "--json", "s.json", "--pred"]
    assert command(*arguments, "pred") == 0
    expected = json.loads((tmp_path / "s.json").read_text())["pred"]
    for number, prediction in enumerate(predictions):
        write_label(tmp_path / "train" / f"{number}.png", prediction)
    if info.ids == tuple(range(info.num_classes)):
        assert command(*arguments, "train") == 0
    else:
        one_line_error(command(*arguments, "train"), "train IDs (--train-ids)")
        one_line_error(command(*arguments, "pred", "--train-ids"), "8 predictions", "--allow-missing")
    assert command(*arguments, "train", "--train-ids") == 0
    assert json.loads((tmp_path / "s.json").read_text())["train"] == expected


def test_tables_of_two_results(tmp_path, command, capsys):
    write_set(tmp_path, get_dataset_info("camvid"))
    arguments = ["evaluate", "--dataset", "camvid", "--gt", "gt", "--pred", "pred", "gt", "--per-image"]
    assert command(*arguments, "--markdown", "s.md", "--csv", "s.csv", "--distances", "2,1") == 0
    out, text = capsys.readouterr().out, (tmp_path / "s.md").read_text()
    for row in ("mIoU", "boundary F 1 px", "boundary F 2 px", "boundary F 2 px, mean of images", "boundary IoU"):
        assert f"\n{row}  " in out and f"\n| {row} | " in text
    assert "| mIoU | " in text and " | 100.00 | +" in text
    rows = (tmp_path / "s.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * 11 and rows[1].startswith("pred,") and rows[-1].startswith("gt,")


def test_instances_of_a_data_set_without_things(tmp_path, command, one_line_error):
    write_set(tmp_path, get_dataset_info("camvid"), 1)
    (tmp_path / "pred/0_pred.txt").write_text("0.png 1 0.5\n")
    arguments = ["evaluate", "--dataset", "camvid", "--gt", "gt", "--pred", "pred", "--instances"]
    one_line_error(command(*arguments), "camvid", "thing_ids")


def write_instances(tmp_path, lines):
    """A dataset of one image with a car, a group of cars and ignored pixels, and a list of masks."""
    (tmp_path / "things.yaml").write_text("classes: [road, {name: car, id: 26}]\nthing_ids: [26]\n")
    truth = np.zeros((40, 80), np.uint16)
    truth[:20, :20], truth[:20, 40:60], truth[30:, :] = 26001, 26, 255
    write_label(tmp_path / "gt/a.png", truth)
    for name, area in (("car", np.s_[:20, :20]), ("group", np.s_[:15, 42:58]), ("void", np.s_[30:, :40])):
        mask = np.zeros((40, 80), np.uint8)
        mask[area] = 255
        write_label(tmp_path / "pred/masks" / f"{name}.png", mask)
    write_label(tmp_path / "pred/masks/small.png", np.ones((3, 3), np.uint8))
    (tmp_path / "pred/a_pred.txt").write_text(lines)
    return "evaluate", "--dataset", "things.yaml", "--gt", "gt", "--pred", "pred", "--instances", "--json", "s.json"


def test_instances_on_void_and_groups_count_for_nothing(tmp_path, command):
    lines = "masks/car.png 26 0.3\nmasks/group.png 26 0.9\nmasks/void.png 26 0.8\n\n"
    assert command(*write_instances(tmp_path, lines)) == 0
    assert json.loads((tmp_path / "s.json").read_text())["pred"]["summary"]["AP"] == 1


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("masks/car.png 26", ("a_pred.txt, line 2", "confidence")),
        ("masks/car.png inf 0.5", ("a_pred.txt, line 2", "confidence")),
        ("masks/car.png 26 nan", ("a_pred.txt, line 2", "number")),
        ("masks/none.png 26 0.5", ("none.png", "no such file")),
        ("masks/small.png 26 0.5", ("small.png", "3 x 3", "40 x 80")),
        ("masks/car.png 77 0.5", ("a_pred.txt", "77 is not a valid label ID")),
    ],
)
def test_instance_lists_name_what_is_wrong(line, words, tmp_path, command, one_line_error):
    arguments = write_instances(tmp_path, f"masks/void.png 26 0.5\n{line}\n")
    one_line_error(command(*arguments), *words)


def test_instance_lists_of_other_ids_and_truths_without_objects(tmp_path, command, one_line_error):
    arguments = write_instances(tmp_path, "masks/car.png 0 0.5\n")
    one_line_error(command(*arguments), "a_pred.txt", "no mask is of a countable class (26 car)")
    arguments = write_instances(tmp_path, "masks/car.png 26 0.5\n")
    write_label(tmp_path / "gt/a.png", np.full((40, 80), 26, np.uint8))
    one_line_error(command(*arguments), "gt/a.png", "contains an object")

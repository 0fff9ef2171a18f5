"""The command that writes the page: what it takes, leaves out and leaves alone."""

import shutil

import numpy as np
import pytest
from conftest import data_of

from openseg.io.images import read_label, write_label


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["nowhere", "--dataset", "demo"], ["nowhere: no such folder"]),
        (["{result}"], ["--dataset"]),
        (["{result}", "--dataset", "demo", "--data-root", "nothing"], ["nothing/demo/val/label: no such folder"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--names", "x", "x"], ["--names", "2"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--images", "empty"], ["empty"]),
        (["{result}", "--dataset", "demo", "--no-gt", "--out", "foreign"], ["foreign", "did not write"]),
        (
            ["{result}/label", "--dataset", "demo", "--no-gt", "--compare", "other"],
            ["4 predictions", "a.png has no prediction in other", "other/x.png has no ground truth"],
        ),
        (["{result}", "--dataset", "demo", "--limit", "0"], ["--limit 0"]),
    ],
)
def test_what_cannot_be_reported_is_one_line(arguments, words, folders, tmp_path, command, one_line_error):
    for name in ("empty", "foreign/thumbs", "other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "foreign/thumbs/mine.jpg").write_bytes(b"mine")
    write_label(tmp_path / "other/x.png", np.zeros((4, 4), np.uint8))
    one_line_error(command("report", *(each.format(result=folders / "result") for each in arguments)), *words)
    assert (tmp_path / "foreign/thumbs/mine.jpg").read_bytes() == b"mine"


def test_what_segfix_wrote_inside_a_folder_of_labels_is_no_label_of_it(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "result/label_w_segfix", tmp_path / "mine/label_w_segfix")
    (tmp_path / "mine/label_w_segfix/made_by.json").write_text("{}")
    truth = ["--dataset", "demo", "--gt", folders / "data/demo/val/label", "--workers", "1"]
    assert command("evaluate", "--pred", "mine", *truth, "--distances", "none") == 0
    assert command("report", "mine", *truth, "--images", folders / "data/demo/val/image") == 0
    assert data_of(tmp_path / "mine_report/index.html")["names"] == ["before", "after"]


def test_the_most_changed_are_shown_without_truth(folders, tmp_path, command):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "result/label", tmp_path / "theirs")
    shutil.copy(folders / "result/label_w_segfix/b.png", tmp_path / "theirs/b.png")
    arguments = ["mine", "--compare", "theirs", "--dataset", "demo", "--no-gt", "--limit", "1"]
    assert command("report", *arguments) == 0
    assert [sample["name"] for sample in data_of(tmp_path / "mine_report/index.html")["samples"]] == ["b"]


def test_a_report_leaves_other_files_and_folders_alone(folders, tmp_path, command, one_line_error):
    shutil.copytree(folders / "result/label", tmp_path / "results/label")
    record = tmp_path / "results/made_by.json"
    record.write_text('{"what": "predictions"}')
    arguments = ["report", "results", "--dataset", "demo", "--data-root", folders / "data", "--workers", "1"]
    one_line_error(command(*arguments, "--out", "results"), "did not write")
    assert record.read_text() == '{"what": "predictions"}'
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("mine")
    one_line_error(command(*arguments, "--out", "site"), "site/index.html")
    assert command(*arguments) == 0
    (tmp_path / "results/report/notes.html").write_text("mine")
    assert command(*arguments) == 0 and (tmp_path / "results/report/notes.html").read_text() == "mine"


def test_sharpened_labels_that_are_older_are_not_compared(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result", tmp_path / "result", ignore=shutil.ignore_patterns("report"))
    write_label(tmp_path / "result/label/a.png", read_label(folders / "result/label/a.png"))  # predicted again
    assert command("report", "result", "--dataset", "demo", "--data-root", folders / "data") == 0
    assert "is skipped: older" in capsys.readouterr().out
    assert data_of(tmp_path / "result/report/index.html")["names"] == ["prediction"]


def test_a_label_of_another_size_is_left_out_if_asked(folders, tmp_path, command, capsys):
    for name in ("mine", "theirs"):
        shutil.copytree(folders / "result/label", tmp_path / name)
    write_label(tmp_path / "theirs/a.png", np.full((4, 4), 7, np.uint8))
    arguments = ["mine", "--compare", "theirs", "--dataset", "demo", "--data-root", folders / "data", "--workers", "1"]
    assert command("report", *arguments, "--allow-missing") == 0
    assert "left out: 1" in capsys.readouterr().out
    assert data_of(tmp_path / "mine_report/index.html")["total"] == 2


def test_a_broken_photo_costs_no_scores(folders, tmp_path, command, capsys):
    shutil.copytree(folders / "result/label", tmp_path / "mine")
    shutil.copytree(folders / "data/demo/val/image", tmp_path / "images")
    (tmp_path / "images/a.png").write_bytes(b"broken")
    arguments = ["--dataset", "demo", "--data-root", folders / "data", "--images", "images", "--workers", "1"]
    assert command("report", "mine", *arguments) == 2
    out = capsys.readouterr()
    assert "mIoU" in out.out and "a.png" in out.err

"""Nothing is removed or replaced that the program did not write; nothing old passes for new."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from openseg.cli.main import main
from openseg.cli.segfix import main as segfix
from openseg.errors import DataError
from openseg.io.images import read_label, write_image, write_label
from openseg.io.results import RECORD, ResultFolder
from openseg.segfix import write_offsets

CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"


@pytest.fixture
def labels(tmp_path):
    """Two label maps whose right half is another class, and offsets that move everything one to the right."""
    for name in ("a", "b"):
        label = np.zeros((32, 48), np.uint8)
        label[:, 24:] = 7
        write_label(tmp_path / f"labels/{name}.png", label)
        offsets = np.zeros((32, 48, 2), np.int8)
        offsets[..., 1] = 1
        write_offsets(tmp_path / f"offsets/{name}.png", offsets)
    return tmp_path


def refine(folder, *options):
    arguments = ["--input", folder / "labels", "--offset", folder / "offsets", "--out", folder / "out"]
    return segfix([str(each) for each in (*arguments, "--split", "test", "--workers", 0, *options)])


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_own_files_beside_refined_labels_stay(labels):
    assert refine(labels, "--scale", 1) == 0
    figure = labels / "out/figures/paper/fig1.png"
    write_label(figure, np.ones((4, 4), np.uint8))
    before = figure.read_bytes()
    assert refine(labels, "--scale", 2) == 0 and refine(labels, "--scale", 2, "--overwrite") == 0
    assert figure.read_bytes() == before
    assert read_label(labels / "out/a.png")[0, 22] == 7  # two pixels to the left


@pytest.mark.parametrize("options", [["--scale", 1], ["--scale", 2], ["--overwrite"]])
def test_a_corrected_result_is_neither_skipped_nor_lost(labels, options, one_line_error):
    assert refine(labels, "--scale", 1) == 0
    path = labels / "out/b.png"
    write_label(path, np.full((32, 48), 3, np.uint8))
    before = contents(labels / "out")
    one_line_error(refine(labels, *options), path, "changed since")
    assert contents(labels / "out") == before


@pytest.mark.parametrize("record", ["[]", "{", "", "null"])
def test_an_unreadable_record_protects(labels, record, one_line_error):
    assert refine(labels, "--scale", 1) == 0
    (labels / "out" / RECORD).write_text(record)
    before = contents(labels / "out")
    one_line_error(refine(labels, "--scale", 2, "--overwrite"), labels / "out", "did not write")
    assert contents(labels / "out") == before


def test_an_input_replaced_by_an_older_one_is_refined_again(labels):
    assert refine(labels, "--scale", 1) == 0
    source = labels / "labels/a.png"
    write_label(source, np.full((32, 48), 5, np.uint8))
    os.utime(source, (1_000_000_000, 1_000_000_000))
    untouched = (labels / "out/b.png").stat().st_mtime_ns
    assert refine(labels, "--scale", 1) == 0
    assert set(read_label(labels / "out/a.png").flat) == {5}
    assert (labels / "out/b.png").stat().st_mtime_ns == untouched


def test_one_command_at_a_time(labels, one_line_error):
    with ResultFolder(labels / "out", {"what": "refined labels"}, (".png",), (".",)):
        one_line_error(refine(labels, "--scale", 1), labels / "out", "another command is writing there")
    assert refine(labels, "--scale", 1) == 0


def test_after_a_crash_files_are_known(tmp_path):
    """A line is there before its file, and may be cut off."""
    made_by = {"what": "things"}
    path = tmp_path / "out/x.png"
    with ResultFolder(tmp_path / "out", made_by, (".png",)) as folder, folder.journal.writing():
        folder.start()
        write_label(path, np.zeros((4, 4), np.uint8))
    with (tmp_path / "out/.written.jsonl").open("a") as file:
        file.write('["x.png", [1, 2], []]\n["x.png", [')  # the next version, which never came
    with ResultFolder(tmp_path / "out", made_by, (".png",)) as folder:
        assert folder.is_done(path)
    path.write_bytes(b"")  # as a loss of power leaves it
    with ResultFolder(tmp_path / "out", made_by, (".png",)) as folder:
        assert not folder.is_done(path)
    write_label(path, np.ones((4, 4), np.uint8))
    with ResultFolder(tmp_path / "out", made_by, (".png",)) as folder, pytest.raises(DataError, match=r"x\.png"):
        folder.is_done(path)


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """Checkpoints of two hardly trained networks."""
    folder = tmp_path_factory.mktemp("trained")
    for seed in (1, 2):
        options = [f"data.root={data_root}", "data.workers=0", "augment.crop_size=[64,64]", "train.max_iters=1"]
        options += ["train.batch_size=2", f"train.seed={seed}", "train.val_interval=9", f"name=n{seed}"]
        places = ["--checkpoints", str(folder), "--runs", str(folder / "runs")]
        assert main(["train", "--config", str(CONFIG), *options, *places]) == 0
    return folder / "demo"


def test_own_files_beside_predictions_and_reports_stay(command, trained, data_root, one_line_error, tmp_path):
    options = ["--config", CONFIG, f"data.root={data_root}", "data.workers=0", "--out", "out"]
    val = ["val", *options, "--also", "vis,report"]
    assert command(*val, "--checkpoint", trained / "n1_latest.pth") == 0
    own = [Path("out/label/corrected_by_hand.png"), Path("out/vis/figure.png"), Path("out/report/samples/mine.js")]
    for path in own:
        path.write_bytes(b"mine")
    assert command(*val, "--checkpoint", trained / "n2_latest.pth") == 0
    assert command(*val, "--checkpoint", trained / "n2_latest.pth", "--overwrite") == 0
    assert [path.read_bytes() for path in own] == [b"mine"] * 3
    for path in (Path("out/report/index.html"), Path("out/scores.json")):
        before = path.read_bytes()
        path.write_text("mine")
        code = command(*val, "--checkpoint", trained / "n1_latest.pth", "--overwrite")
        if path.name == "scores.json":
            one_line_error(code, path, "changed since")
        else:  # the scores stand without a page
            assert code == 0
        assert path.read_text() == "mine"
        path.write_bytes(before)
        path.unlink()
    assert command(*val, "--checkpoint", trained / "n2_latest.pth") == 0
    changed = next(path for path in sorted(Path("out/label").iterdir()) if path not in own)
    shutil.copy(data_root / "demo/val/label" / changed.name, changed)
    before = contents(Path("out"))
    one_line_error(command(*val, "--checkpoint", trained / "n1_latest.pth"), changed, "changed since")
    assert contents(Path("out")) == before


def test_a_page_of_somebody_else_stays(command, data_root, one_line_error):
    truth = data_root / "demo/val/label"
    arguments = ["report", truth, "--dataset", "demo", "--gt", truth, "--out", "page", "--workers", 0]
    assert command(*arguments) == 0
    page = Path("page/index.html")
    page.write_text("mine")
    one_line_error(command(*arguments), page, "changed since")
    assert page.read_text() == "mine"
    shutil.rmtree("page")
    write_image(Path("page/thumbs/0.jpg"), np.zeros((4, 4, 3), np.uint8))
    one_line_error(command(*arguments), "page", "did not write")
    assert json.dumps(sorted(each.name for each in Path("page/thumbs").iterdir())) == '["0.jpg"]'


@pytest.mark.parametrize(
    ("option", "name", "content"),
    [("--json", "weights.pth", b"\x80\x02"), ("--json", "list.json", b"[1]"), ("--csv", "mine.yaml", b"a: 1")],
)
def test_files_that_are_no_results_are_not_overwritten(option, name, content, command, data_root, capsys):
    truth = data_root / "demo/val/label"
    Path(name).write_bytes(content)
    arguments = ["evaluate", "--dataset", "demo", "--pred", truth, "--gt", truth, "--distances", "none"]
    with pytest.raises(SystemExit, match="2"):
        command(*arguments, option, name)
    assert name in capsys.readouterr().err and Path(name).read_bytes() == content
    for _ in range(2):  # but its own are
        assert command(*arguments, "--json", "new.json", "--csv", "new.csv", "--markdown", "new.md") == 0

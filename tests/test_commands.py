"""The commands as a user meets them: the whole path on tiny data, and what each says when something is wrong."""

import json
import resource
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from openseg.cli.prepare import segfix_targets
from openseg.cli.segfix import main as segfix
from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label, write_image, write_label
from openseg.segfix import write_offsets
from openseg_demo.generator import demo

SEMANTIC = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
SEGFIX = ROOT / "configs/demo/segfix_hrnet_tiny.yaml"


@pytest.fixture(scope="module")
def trained(data_root, tmp_path_factory):
    """A folder of checkpoints of both networks, hardly trained."""
    from openseg.cli.main import main

    folder = tmp_path_factory.mktemp("trained")
    options = [f"data.root={data_root}", "data.workers=0", "augment.crop_size=[64,64]", "train.max_iters=2"]
    options += ["train.batch_size=2", "--checkpoints", str(folder), "--runs", str(folder / "runs")]
    for config in (SEMANTIC, SEGFIX):
        assert main(["train", "--config", str(config), *options]) == 0
    return folder


def plain_miou(folder, data_root):
    """By the definition, over classes that are there or were predicted."""
    info, truths = get_dataset_info("demo"), data_root / "demo/val/label"
    pairs = [(read_label(path), read_label(truths / path.name)) for path in sorted(folder.iterdir())]
    predicted, true = (
        np.concatenate([info.encode(each).ravel() for each in maps]) for maps in zip(*pairs, strict=True)
    )
    predicted, true = predicted[true != 255], true[true != 255]
    unions = {k: ((predicted == k) | (true == k)).sum() for k in range(info.num_classes)}
    return np.mean([((predicted == k) & (true == k)).sum() / union for k, union in unions.items() if union])


def test_from_trained_networks_to_refined_labels(command, trained, data_root, capsys, tmp_path):
    options = ["--checkpoints", trained, f"data.root={data_root}", "data.workers=0"]
    assert command("val", "--config", SEMANTIC, *options, "--out", "result") == 0
    scores = json.loads((tmp_path / "result/scores.json").read_text())["hrnet_tiny_ocr"]
    assert scores["summary"]["mIoU"] == pytest.approx(plain_miou(tmp_path / "result/label", data_root), abs=1e-12)
    assert "hrnet_tiny_ocr" in (tmp_path / "result/report/index.html").read_text()
    labels = sorted((tmp_path / "result/label").iterdir())
    assert len(labels) == 2 and set(np.unique(read_label(labels[0]))) <= set(range(34))

    assert command("offsets", "--config", SEGFIX, *options) == 0
    folder = tmp_path / "offset_pred/val/semantic/demo/offset_hrnet_tiny"
    assert len(list(folder.glob("*.png"))) == 2
    capsys.readouterr()
    arguments = ["--input", "result/label", "--dataset", "demo", "--data-root", str(data_root), "--figures", "1"]
    assert segfix(arguments) == 0
    out = capsys.readouterr().out
    assert f"offsets: {folder.relative_to(tmp_path)}" in out and "boundary F 1 px" in out and "change" in out
    assert sorted(p.name for p in (tmp_path / "result/label_w_segfix").glob("*.png")) == [p.name for p in labels]
    before = json.loads((tmp_path / "result/label_w_segfix_scores.json").read_text())["before"]
    assert before["summary"]["mIoU"] == pytest.approx(scores["summary"]["mIoU"], abs=1e-12)
    assert len(list((tmp_path / "result/label_w_segfix_figures").iterdir())) == 1
    assert "report: " in out and len(list((tmp_path / "result/label_w_segfix_report/samples").iterdir())) == 2

    assert command("evaluate", "--dataset", "demo", "--pred", "result/label", "--gt", data_root / "demo/val/label") == 0
    assert command("test", "--config", SEMANTIC, *options, "--split", "val", "--out", "again") == 0
    for label in labels:
        np.testing.assert_array_equal(read_label(label), read_label(tmp_path / "again/label" / label.name))


def test_a_folder_of_images_and_mat_offsets(command, trained, data_root, tmp_path):
    options = ["--checkpoints", trained, "--format", "mat", "--out", "offsets"]
    images = data_root / "demo/val/image"
    assert command("offsets", "--config", SEGFIX, *options, "--images", images, "test.window=[64,64]") == 0
    assert len(list((tmp_path / "offsets").glob("*.mat"))) == 2


def test_offsets_are_kept_only_if_the_same_checkpoint_made_them(
    command, trained, data_root, tmp_path, capsys, one_line_error
):
    options = ["--out", "offsets", "--images", data_root / "demo/val/image"]
    assert command("offsets", "--config", SEGFIX, "--checkpoints", trained, *options) == 0
    capsys.readouterr()
    assert command("offsets", "--config", SEGFIX, "--checkpoints", trained, *options) == 0
    assert "2 of 2 already exist" in capsys.readouterr().out
    best = trained / "demo/segfix_hrnet_tiny_best.pth"
    other = torch.load(best)
    other["weights"]["mask_head.2.weight"] += 1
    torch.save(other, "other.pth")
    assert command("offsets", "--config", SEGFIX, "--checkpoint", "other.pth", *options) == 0
    assert "already" not in capsys.readouterr().out
    (tmp_path / "offsets/made_by.json").unlink()
    code = command("offsets", "--config", SEGFIX, "--checkpoints", trained, *options)
    one_line_error(code, "did not write", "another folder")


def write_pair(folder, labels, offsets, name="a"):
    write_label(folder / "labels" / f"{name}.png", labels)
    write_offsets(folder / "offsets" / f"{name}.png", offsets)


def run_segfix(tmp_path, *options):
    return segfix(
        ["--input", str(tmp_path / "labels"), "--offset", str(tmp_path / "offsets"), "--split", "test", *options]
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_zero_offsets_change_nothing_in_any_id_space(dtype, tmp_path):
    labels = np.arange(200, dtype=dtype).reshape(10, 20) * (1 if dtype == np.uint8 else 300)
    write_pair(tmp_path, labels, np.zeros((10, 20, 2), np.int8))
    assert run_segfix(tmp_path) == 0
    refined = read_label(tmp_path / "labels/label_w_segfix/a.png")
    np.testing.assert_array_equal(refined, labels)
    assert refined.dtype == dtype
    # What a run wrote is never taken for input, wherever the next one writes.
    assert run_segfix(tmp_path) == 0
    assert run_segfix(tmp_path, "--out", str(tmp_path / "other")) == 0
    assert [path.name for path in (tmp_path / "other").rglob("*.png")] == ["a.png"]


def test_a_palette_stays_and_only_evaluated_ids_are_kept_on_request(tmp_path):
    image = Image.fromarray(np.array([[7, 5, 77]], np.uint8))
    image.putpalette([value for i in range(256) for value in (i, 255 - i, 0)])
    (tmp_path / "labels").mkdir()
    image.save(tmp_path / "labels/a.png")
    write_offsets(tmp_path / "offsets/a.png", np.zeros((1, 3, 2), np.int8))
    assert run_segfix(tmp_path) == 0
    out = Image.open(tmp_path / "labels/label_w_segfix/a.png")
    assert out.mode == "P" and out.getpalette() == image.getpalette()
    assert run_segfix(tmp_path, "--eval-ids-only", "--out", str(tmp_path / "ids")) == 0
    assert read_label(tmp_path / "ids/a.png").tolist() == [[7, 255, 255]]


def test_segfix_names_what_is_wrong(tmp_path, one_line_error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    one_line_error(segfix(["--input", "nowhere"]), "nowhere", "no such folder")
    write_pair(tmp_path, np.zeros((4, 4), np.uint8), np.zeros((4, 5, 2), np.int8))
    one_line_error(run_segfix(tmp_path), "a.png", "differs")
    write_label(tmp_path / "labels/b.png", np.zeros((4, 4), np.uint8))
    one_line_error(run_segfix(tmp_path), "b.png", "no offset")
    one_line_error(segfix(["--input", "labels", "--data-root", "."]), "no offsets in", "segfix_pred_val")
    for backbone in ("hrnet18", "hrnet48"):
        (tmp_path / f"offset_pred/val/semantic/cityscapes/offset_{backbone}").mkdir(parents=True)
    one_line_error(segfix(["--input", "labels", "--data-root", "."]), "several", "--offset")
    one_line_error(segfix(["--input", "labels", "--offset", "labels", "--split", "test"]), "folder of labels")


def test_segfix_never_writes_over_its_input(tmp_path, one_line_error):
    write_pair(tmp_path, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.int8))
    for out in ("labels", "."):
        one_line_error(run_segfix(tmp_path, "--out", str(tmp_path / out)), "would overwrite")


def test_labels_without_truth_are_sharpened_and_not_scored(tmp_path, data_root, capsys):
    write_pair(tmp_path, np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.int8))
    options = ["--dataset", "demo", "--data-root", str(data_root), "--split", "val"]
    assert run_segfix(tmp_path, *options) == 0
    assert "not scored" in capsys.readouterr().out


def copy_of(data_root, tmp_path):
    shutil.copytree(data_root, tmp_path / "data")
    return tmp_path / "data/demo/train"


@pytest.mark.parametrize("mistake", ["size", "value", "truncated", "unpaired", "empty", "missing"])
def test_training_names_broken_data(mistake, command, data_root, overrides, tmp_path, one_line_error):
    split = copy_of(data_root, tmp_path)
    label = sorted((split / "label").iterdir())[0]
    image = split / "image" / label.name
    words = [label.name]
    if mistake == "size":
        write_image(image, np.zeros((8, 8, 3), np.uint8))
    elif mistake == "value":
        write_label(label, np.full((128, 256), 77, np.uint8))
        words.append("77")
    elif mistake == "truncated":
        image.write_bytes(image.read_bytes()[:1000])
    elif mistake == "unpaired":
        label.unlink()
        words.append("no label")
    else:
        shutil.rmtree(split / "image")
        words = ["image", "no such folder"]
        if mistake == "empty":
            (split / "image").mkdir()
            words = ["image", "no file"]
    code = command("train", "--config", SEMANTIC, *overrides, f"data.root={tmp_path / 'data'}")
    one_line_error(code, *words)
    assert not (tmp_path / "checkpoints").exists()


def test_a_broken_file_met_by_a_worker_is_one_line_too(
    command, data_root, overrides, tmp_path, one_line_error, monkeypatch
):
    split = copy_of(data_root, tmp_path)
    for label in (split / "label").iterdir():
        label.write_bytes(label.read_bytes()[:200])
    monkeypatch.setattr("openseg.training.trainer.quick_check", lambda *_: None)  # let the workers meet it
    code = command("train", "--config", SEMANTIC, *overrides, "data.workers=2", f"data.root={tmp_path / 'data'}")
    one_line_error(code, "label", "truncated")


def test_segfix_training_without_ground_truth_says_how_to_make_it(
    command, data_root, overrides, tmp_path, one_line_error
):
    shutil.rmtree(copy_of(data_root, tmp_path) / "offset_gt")
    code = command("train", "--config", SEGFIX, *overrides, f"data.root={tmp_path / 'data'}")
    one_line_error(code, "main.py segfix-targets", "--split train")


def test_validation_without_a_checkpoint_or_with_another_one(command, trained, data_root, tmp_path, one_line_error):
    root = f"data.root={data_root}"
    one_line_error(command("val", "--config", SEMANTIC, root), "hrnet_tiny_ocr_latest.pth", "train first")
    wrong = trained / "demo/segfix_hrnet_tiny_latest.pth"
    one_line_error(command("val", "--config", SEMANTIC, root, "--checkpoint", wrong), wrong, "does not fit")
    one_line_error(command("val", "--config", SEGFIX, "--checkpoints", trained, root), "task segfix", "offsets")
    one_line_error(command("val", "--config", SEMANTIC, root, "--checkpoint", wrong, "--device", "cuda:9"), "cuda:9")


def test_a_full_disk_keeps_the_old_checkpoint(command, overrides, tmp_path, one_line_error):
    assert command("train", "--config", SEMANTIC, *overrides) == 0
    latest = tmp_path / "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    before = latest.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, limits[1]))
    try:
        code = command("resume", "--config", SEMANTIC, *overrides, "train.max_iters=6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line_error(code, "cannot write", ".pth", "space")
    assert latest.read_bytes() == before
    assert [path.name for path in latest.parent.iterdir() if path.name.startswith(".")] == []


def test_evaluate_names_missing_predictions_and_foreign_truth(command, data_root, tmp_path, one_line_error):
    truth = data_root / "demo/val/label"
    write_label(tmp_path / "pred/other.png", np.zeros((4, 4), np.uint8))
    code = command("evaluate", "--dataset", "demo", "--pred", "pred", "--gt", truth)
    one_line_error(code, "3 predictions", "no prediction", "other.png has no ground truth", "--allow-missing")
    one_line_error(
        command("evaluate", "--dataset", "camvid", "--pred", truth, "--gt", truth), "not a label ID of camvid"
    )
    one_line_error(command("evaluate", "--dataset", "camvid", "--pred", "nowhere", "--gt", truth), "nowhere")


def test_segfix_targets_names_foreign_labels(data_root, one_line_error):
    arguments = ["--datadir", str(data_root / "demo"), "--dataset", "camvid", "--outname", "other"]
    one_line_error(segfix_targets(arguments), "not a label ID of camvid")
    assert list((data_root / "demo/train/other").glob("*.mat")) == []


def test_scenes_are_kept_and_never_mixed(tmp_path, one_line_error):
    arguments = ["--out", str(tmp_path), "--train", "2", "--val", "1", "--size", "64", "128"]
    for _ in range(2):
        assert demo(arguments) == 0
    images = [path.stem for path in tmp_path.rglob("image/*.png")]
    assert len(images) == len(set(images)) == 3
    one_line_error(demo([*arguments, "--seed", "2"]), "other settings", "another --out")


def test_two_images_of_one_name_are_refused(command, trained, tmp_path, one_line_error):
    for folder in ("a", "b"):
        write_image(tmp_path / "images" / folder / "1.png", np.zeros((64, 64, 3), np.uint8))
    code = command("offsets", "--config", SEGFIX, "--checkpoints", trained, "--images", "images")
    one_line_error(code, "same name", "1.png")

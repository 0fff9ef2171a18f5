"""segfix.py on files: whole folders, damaged ones, masks of objects, COCO's results, a network in place of offsets."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from pycocotools import mask as coco_mask

from openseg.cli.main import main
from openseg.cli.segfix import main as segfix
from openseg.datasets.registry import get_dataset_info
from openseg.io.files import file_hash
from openseg.io.images import read_image, read_label, write_image, write_label
from openseg.segfix import OffsetMap, directions_to_offsets, make_targets, read_offset_map, refine, write_offsets

RNG = np.random.default_rng(0)
SEGFIX = ROOT / "configs/demo/segfix_hrnet_tiny.yaml"


def squares(shift=0, size=(40, 60)):
    labels = np.zeros(size, np.uint8)
    labels[5 + shift : 25 + shift, 10 + shift : 30 + shift] = 1
    labels[15 + shift : 35 + shift, 35 + shift : 55 + shift] = 2
    return labels


def true_offsets(truth, confidence=None):
    targets = make_targets(truth)
    mask, direction = targets.mask_and_direction(truth, max_distance=3)
    return OffsetMap.of(directions_to_offsets(direction) * (mask == 1)[..., None], confidence)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Twelve labels that are a pixel beside the truth, the truth, its offsets, and a dataset file."""
    monkeypatch.chdir(tmp_path)
    for number in range(12):
        truth = np.roll(squares(), number, axis=1)
        write_label(tmp_path / f"labels/{number}.png", np.roll(truth, 1, axis=1))
        write_label(tmp_path / f"truth/{number}.png", truth)
        write_offsets(tmp_path / f"offsets/{number}.png", true_offsets(truth))
    (tmp_path / "three.yaml").write_text("classes: [ground, {name: box, id: 1}, {name: crate, id: 2}]\n")
    return tmp_path


def options(**more):
    values = {"input": "labels", "offset": "offsets", "split": "test", "scale": 1, "workers": 2, **more}
    return [part for key, value in values.items() for part in (f"--{key}", str(value))]


def test_damaged_files_are_left_out_and_named_at_the_end(folders, capsys, one_line_error):
    (folders / "labels/3.png").write_bytes((folders / "labels/3.png").read_bytes()[:60])
    (folders / "offsets/5.png").write_bytes(b"")
    (folders / "offsets/7.png").unlink()
    assert segfix(options()) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 3 left out, all named in ")
    everything = (folders / "labels/label_w_segfix_left_out.txt").read_text().splitlines()
    assert len(everything) == 3
    for name in ("labels/3.png", "offsets/5.png", "7.png has no offset"):
        assert name in error and any(name in line for line in everything)
    assert len(list((folders / "labels/label_w_segfix").glob("*.png"))) == 9
    one_line_error(segfix([*options(out="again"), "--fail-fast"]), "7.png has no offset")
    write_offsets(folders / "offsets/7.png", true_offsets(squares()))
    one_line_error(segfix([*options(out="again"), "--fail-fast", "--workers", "1"]), "labels/3.png")
    for number in (3, 5, 7):  # fixed
        shutil.copy(folders / "labels/1.png", folders / f"labels/{number}.png")
        write_offsets(folders / f"offsets/{number}.png", true_offsets(squares()))
    assert segfix(options()) == 0
    assert "9 of 12 already exist" in capsys.readouterr().out
    assert not (folders / "labels/label_w_segfix_left_out.txt").exists()


def test_a_killed_run_goes_on_where_it_stopped(folders):
    for number in range(12, 1500):
        for kind in ("labels", "offsets"):
            os.link(folders / f"{kind}/{number % 12}.png", folders / f"{kind}/{number}.png")
    command = [sys.executable, str(ROOT / "segfix.py"), *options()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out = folders / "labels/label_w_segfix"
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and len(list(out.glob("[!.]*.png"))) < 100:
        time.sleep(0.01)
    process.kill()
    process.wait()
    with pytest.raises(ProcessLookupError):  # the workers do not outlive it
        while time.monotonic() < until:
            os.killpg(process.pid, 0)
            time.sleep(0.05)
    there = {path.name: path.stat().st_mtime_ns for path in out.glob("[!.]*.png")}
    assert 100 <= len(there) < 1500
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    assert "already exist" in finished.stdout
    assert len(list(out.glob("*.png"))) == 1500
    kept = [name for name, written in there.items() if (out / name).stat().st_mtime_ns == written]
    assert len(kept) == len(there)
    for number in (0, 700, 1499):
        labels, offsets = (
            read_label(folders / f"labels/{number}.png"),
            read_offset_map(folders / f"offsets/{number}.png"),
        )
        np.testing.assert_array_equal(read_label(out / f"{number}.png"), refine(labels, offsets))
    # Other settings, newer labels and newer offsets are never mixed with what is there.
    for change in ("label", "offset", "scale"):
        before = (out / "1.png").stat().st_mtime_ns
        if change != "scale":
            os.utime(folders / f"{change}s/1.png", (time.time() + 5, time.time() + 5))
        subprocess.run(
            [*command, "--scale", "2" if change == "scale" else "1"], env=environment, check=True, timeout=300
        )
        assert (out / "1.png").stat().st_mtime_ns != before
        labels, offsets = read_label(folders / "labels/1.png"), read_offset_map(folders / "offsets/1.png")
        np.testing.assert_array_equal(read_label(out / "1.png"), refine(labels, offsets, 2 if change == "scale" else 1))


def test_offsets_of_the_documented_archive_are_found(folders, capsys, one_line_error):
    root = folders / "data/cityscapes"
    for split in ("val/offset_pred", "test_offset"):
        shutil.copytree(folders / "offsets", root / f"zip/{split}/semantic/offset_hrnext")
    shutil.make_archive(str(root / "offset_semantic"), "zip", root / "zip")
    shutil.rmtree(root / "zip")
    arguments = ["--input", "labels", "--data-root", "data", "--scale", "1", "--workers", "2"]
    assert segfix([*arguments, "--split", "test"]) == 0
    assert "offset_semantic.zip/test_offset/semantic/offset_hrnext" in capsys.readouterr().out
    assert segfix([*arguments, "--split", "val", "--out", "val"]) == 0
    assert segfix(options(out="plain")) == 0
    for number in range(12):
        for folder in ("val", "labels/label_w_segfix"):
            expected = read_label(folders / f"plain/{number}.png")
            np.testing.assert_array_equal(read_label(folders / f"{folder}/{number}.png"), expected)


def test_tuning_finds_the_settings_that_help(folders, capsys, one_line_error):
    """Offsets whose sure half is right and whose unsure half leads astray."""
    for number in range(12):
        truth = np.roll(squares(), number, axis=1)
        right = true_offsets(truth).offsets
        sure = np.zeros(truth.shape, np.uint8)
        sure[::2] = 255
        wrong = np.where(sure[..., None] > 0, right, -right)
        write_offsets(folders / f"offsets/{number}.png", OffsetMap.of(wrong, np.maximum(sure, 90)))
    arguments = ["--input", "labels", "--gt", "truth", "--offset", "offsets", "--dataset", "three.yaml"]
    assert segfix(["tune", *arguments, "--workers", "2", "--keep-thin", "0", "--json", "table.json"]) == 0
    out = capsys.readouterr().out
    table = json.loads((folders / "table.json").read_text())
    assert len(table["settings"]) == 18 and "12 of 12 images" in out
    chosen = out.splitlines()[-1]
    assert chosen.startswith("best: --scale 1 --min-confidence 0.4 --keep-thin 0")
    best = next(
        row for row in table["settings"] if (row["scale"], row["min_confidence"], row["keep_thin"]) == (1, 0.4, 0)
    )
    assert best["mIoU"] > 1 and best["its IoU"] > 0
    one_line_error(segfix(["tune", *arguments[:5], "labels", "--dataset", "three.yaml"]), "0.png", "folder of labels")


def test_a_network_in_place_of_offset_files(data_root, overrides, tmp_path, monkeypatch, capsys, one_line_error):
    monkeypatch.chdir(tmp_path)
    train = ["--config", str(SEGFIX), "--checkpoints", "ck", "--runs", "runs", *overrides, "train.max_iters=2"]
    assert main(["train", *train]) == 0
    checkpoint, val = "ck/demo/segfix_hrnet_tiny_latest.pth", data_root / "demo/val"
    shutil.copytree(val / "label", "labels")
    assert main(["offsets", "--config", str(SEGFIX), "--checkpoint", checkpoint, "--out", "offsets",
                 "--images", str(val / "image")]) == 0  # fmt: skip
    assert segfix(options(out="by_files")) == 0
    network = ["--input", "labels", "--images", str(val / "image"), "--checkpoint", checkpoint, "--scale", "1"]
    assert segfix([*network, "--split", "test", "--workers", "0"]) == 0
    for path in sorted((tmp_path / "by_files").glob("*.png")):
        expected = read_label(path)
        np.testing.assert_array_equal(read_label(tmp_path / "labels/label_w_segfix" / path.name), expected)
    assert segfix([*network, "--split", "test"]) == 0
    assert "2 of 2 already exist" in capsys.readouterr().out
    one_line_error(segfix([*network, "--offset", "offsets"]), "exclude")
    one_line_error(segfix([*network[:2], *network[4:6]]), "--checkpoint needs --images")
    write_label(tmp_path / "labels/more.png", squares())
    assert segfix([*network, "--split", "test"]) == 1
    assert "more.png has no image" in capsys.readouterr().err


@pytest.fixture
def instances(tmp_path, monkeypatch):
    """Overlapping, empty and border masks of a small image named as those of Cityscapes; its truth and offsets."""
    monkeypatch.chdir(tmp_path)
    truth = np.zeros((40, 80), np.uint16)
    truth[:20, :20], truth[10:40, 40:70] = 26001, 24001
    offsets = true_offsets((truth / 1000).astype(np.uint8))
    masks = {"car": truth == 26001, "person": np.roll(truth == 24001, 1, axis=1), "none": truth > 30000}
    masks["both"] = masks["car"] | masks["person"]
    name = "frankfurt_000000_000294"
    for key, mask in masks.items():
        write_label(tmp_path / f"pred/masks/{key}.png", mask.astype(np.uint8) * (1 if key == "car" else 255))
    lines = "masks/car.png 26 0.9\nmasks/person.png 24 0.8\nmasks/none.png 24 0.1\nmasks/both.png 26 0.2\n"
    (tmp_path / f"pred/{name}_leftImg8bit_pred.txt").write_text(lines)
    write_offsets(tmp_path / f"offsets/{name}_leftImg8bit.mat", offsets)
    split = tmp_path / "data/cityscapes/val"
    write_label(split / f"instance/{name}_leftImg8bit.png", truth)
    write_label(split / f"label/{name}_leftImg8bit.png", np.zeros((40, 80), np.uint8))
    write_image(split / f"image/{name}_leftImg8bit.png", np.zeros((40, 80, 3), np.uint8))
    return masks, offsets


def test_masks_of_objects_are_sharpened_and_scored(instances, tmp_path, run, capsys, one_line_error, monkeypatch):
    masks, offsets = instances
    program = ROOT / "scripts/cityscapes/segfix_instance.py"
    arguments = ["--input", "pred", "--offset", "offsets", "--data-root", "data"]
    result = run(program, *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "AP" in result.stdout and "change" in result.stdout
    for key, mask in masks.items():
        refined = read_label(tmp_path / f"pred_w_segfix/masks/{key}.png")
        assert set(np.unique(refined)) <= {0, 255}
        np.testing.assert_array_equal(refined > 0, refine(mask, offsets, 1))
    text = "frankfurt_000000_000294_leftImg8bit_pred.txt"
    assert (tmp_path / "pred_w_segfix" / text).read_text() == (tmp_path / "pred" / text).read_text()
    scores = json.loads((tmp_path / "pred_w_segfix_scores.json").read_text())
    assert scores["after"]["summary"]["AP"] > scores["before"]["summary"]["AP"]
    assert segfix(["instances", *arguments, "--workers", "1"]) == 0
    assert "1 of 1 already exist" in capsys.readouterr().out
    (tmp_path / "pred_w_segfix/masks/car.png").unlink()  # a mask that is gone, or a newer one, is made again
    write_label(tmp_path / "pred/masks/both.png", masks["car"].astype(np.uint8))
    os.utime(tmp_path / "pred/masks/both.png", (time.time() + 5, time.time() + 5))
    assert segfix(["instances", *arguments, "--workers", "1"]) == 0
    for name in ("car", "both"):
        refined = read_label(tmp_path / f"pred_w_segfix/masks/{name}.png") > 0
        np.testing.assert_array_equal(refined, refine(masks["car"], offsets, 1))
    command = ["--input", "pred", "--eval_only", "--dataset_dir", "data/cityscapes", "--workers", "1"]
    assert segfix(["instances", *command]) == 0
    assert "change" in capsys.readouterr().out

    outside = tmp_path / "outside.png"
    write_label(outside, masks["car"].astype(np.uint8))
    (tmp_path / "pred" / text).write_text("../outside.png 26 0.5\n")
    before = file_hash(outside)
    one_line_error(segfix(["instances", *arguments, "--workers", "1"]), text, "../outside.png leads out of")
    assert file_hash(outside) == before
    one_line_error(segfix(["instances", *arguments, "--out", "pred/in"]), "leads out of")
    one_line_error(segfix(["instances", "--input", "data", "--offset", "offsets"]), "data", ".txt")


def coco_file(tmp_path, masks, annotations):
    code = coco_mask.encode(np.asfortranarray(masks["person"].astype(np.uint8)))
    flat, runs, value = masks["car"].ravel(order="F"), [], False
    for pixel in flat:  # plain RLE starts with zeros
        if pixel != value or not runs:
            runs += [0] * (pixel != value and not runs)
            runs.append(0)
            value = pixel
        runs[-1] += 1
    polygon = [[40.0, 10.0, 70.0, 10.0, 70.0, 40.0, 40.0, 40.0]]
    short = runs[: -1 if len(runs) % 2 else None]  # without the last zeros, as some write it
    segmentations = [
        {"size": [40, 80], "counts": code["counts"].decode()},
        {"size": [40, 80], "counts": runs},
        {"size": [40, 80], "counts": short},
        polygon,
        [],
    ]
    results = [
        {"image_id": 7, "category_id": 1, "segmentation": each, "score": 0.5, "bbox": [0, 0, 1, 1]}
        for each in segmentations
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    truth = coco_mask.encode(np.asfortranarray((np.roll(masks["person"], -1, axis=1)).astype(np.uint8)))
    truth = {"size": truth["size"], "counts": truth["counts"].decode()}
    objects = [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": truth, "area": 900, "iscrowd": 0,
                "bbox": [40, 10, 30, 30]}]  # fmt: skip
    image = {"id": 7, "file_name": "frankfurt_000000_000294_leftImg8bit.png", "height": 40, "width": 80}
    content = {"images": [image], "annotations": objects, "categories": [{"id": 1, "name": "person"}]}
    (tmp_path / annotations).write_text(json.dumps(content))


def test_results_of_coco_in_every_form(instances, tmp_path, capsys, one_line_error):
    masks, offsets = instances
    coco_file(tmp_path, masks, "truth.json")
    arguments = ["instances", "--input", "results.json", "--offset", "offsets", "--annotations", "truth.json"]
    assert segfix([*arguments, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "5 of 5 masks" in out and "before" in out and "after" in out
    refined = json.loads((tmp_path / "results_w_segfix.json").read_text())
    polygon = np.zeros((40, 80), bool)
    polygon[10:40, 40:70] = True
    everything = (masks["person"], masks["car"], masks["car"], polygon, masks["none"])
    for result, mask in zip(refined, everything, strict=True):
        expected = refine(mask, offsets, 1)
        np.testing.assert_array_equal(coco_mask.decode(result["segmentation"]) > 0, expected)
        rows, columns = np.nonzero(expected) if expected.any() else ([0], [0])
        assert not expected.any() or result["bbox"] == [min(columns), min(rows), np.ptp(columns) + 1, np.ptp(rows) + 1]
        assert result["score"] == 0.5 and result["category_id"] == 1
    one_line_error(segfix(arguments), "results_w_segfix.json", "--overwrite")
    one_line_error(segfix([*arguments[:5], "--overwrite"]), "image 7", "no offset", "--annotations")
    for segmentation, words in (
        (5, "no segmentation"),
        ({"size": [40, 80]}, "neither RLE nor polygons"),
        ({"size": [40, 80], "counts": [1, 4000]}, "do not fit 40 x 80"),
        ({"size": [4, 8], "counts": [32]}, "4 x 8, the image is 40 x 80"),
    ):
        (tmp_path / "results.json").write_text(json.dumps([{"image_id": "7", "segmentation": segmentation}]))
        one_line_error(segfix([*arguments, "--overwrite", "--workers", "1"]), "image 7", words)
    (tmp_path / "results.json").write_text('{"a": 1}')
    one_line_error(segfix([*arguments, "--overwrite"]), "results.json", "not a list")


def test_files_of_one_name_in_two_folders_are_never_mixed(folders, one_line_error):
    for number, folder in enumerate(("first", "second")):
        for kind in ("labels", "offsets"):
            (folders / f"deep/{kind}/{folder}").mkdir(parents=True)
            shutil.copy(folders / f"{kind}/{4 * number}.png", folders / f"deep/{kind}/{folder}/a.png")
    assert segfix(options(input="deep/labels", offset="deep/offsets")) == 0
    for number, folder in enumerate(("first", "second")):
        labels, offsets = (
            read_label(folders / f"labels/{4 * number}.png"),
            read_offset_map(folders / f"offsets/{4 * number}.png"),
        )
        refined = read_label(folders / f"deep/labels/label_w_segfix/{folder}/a.png")
        np.testing.assert_array_equal(refined, refine(labels, offsets))
    shutil.copy(folders / "offsets/0.png", folders / "deep/a.png")
    shutil.rmtree(folders / "deep/offsets")
    shutil.rmtree(folders / "deep/labels/label_w_segfix")
    (folders / "deep/offsets").mkdir()
    (folders / "deep/a.png").rename(folders / "deep/offsets/a.png")
    one_line_error(segfix(options(input="deep/labels", offset="deep/offsets")), "2 of 2 have no offset")


def test_colors_and_training_ids(folders, capsys, one_line_error):
    split = folders / "data/three/val"
    (folders / "three.yaml").write_text(
        f"folder: {folders}/data/three\nclasses: [ground, box, crate]\nids: {{7: ground, 8: box, 9: crate}}\n"
    )
    info = get_dataset_info("three.yaml")
    for number in range(12):
        write_label(split / f"label/{number}.png", info.decode(read_label(folders / f"truth/{number}.png")))
        write_image(split / f"image/{number}.png", np.zeros((40, 60, 3), np.uint8))
    arguments = options(split="val", dataset="three.yaml")
    assert segfix(arguments) == 0
    assert "not scored" in capsys.readouterr().out and not (folders / "labels/label_w_segfix_scores.json").exists()
    assert segfix([*arguments, "--train-ids"]) == 0
    scores = json.loads((folders / "labels/label_w_segfix_scores.json").read_text())
    assert scores["after"]["summary"]["mIoU"] > scores["before"]["summary"]["mIoU"]
    tune = ["tune", "--input", "labels", "--gt", str(split / "label"), "--offset", "offsets", "--dataset", "three.yaml"]
    one_line_error(segfix(tune), "labels/0.png", "not a label ID of three")
    assert segfix([*tune, "--train-ids", "--workers", "2"]) == 0
    colors = np.array([(0, 0, 0), (250, 0, 3), (1, 200, 255)], np.uint8)
    for number in range(12):
        write_image(folders / f"colors/{number}.png", colors[read_label(folders / f"labels/{number}.png")])
    assert segfix(options(input="colors")) == 0
    for number in range(12):
        expected = colors[read_label(folders / f"labels/label_w_segfix/{number}.png")]
        np.testing.assert_array_equal(read_image(folders / f"colors/label_w_segfix/{number}.png"), expected)
    one_line_error(segfix([*options(input="colors", out="ids"), "--eval-ids-only"]), "colors/", "--eval-ids-only")


def test_the_documented_python_calls_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/segfix.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "docs/segfix.md", "exec"), {})  # they assert what they say
    assert (tmp_path / "street.png").is_file()

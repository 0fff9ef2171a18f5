"""Prediction of many images: continued, shared, within memory; images, folders and videos of anybody."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, varied
from PIL import Image

import openseg
from openseg.config import load_config
from openseg.inference import predict_scores
from openseg.io.images import read_image, read_label, write_image
from openseg.models.checkpoint.io import write_checkpoint
from openseg.models.factory import build_model
from openseg_demo.scenes import write_scene

CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
IMAGES = 10


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A data root with ten validation scenes of 64x128."""
    folder = tmp_path_factory.mktemp("ten")
    for index in range(IMAGES):
        write_scene((folder / "demo/val", index), (64, 128), seed=11)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Random weights of the demo's network."""
    config = load_config(CONFIG)
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    write_checkpoint(path, {"weights": varied(build_model(config)).state_dict(), "config": config.dump()})
    return path


@pytest.fixture
def options(root, checkpoint):
    return ["--config", CONFIG, "--checkpoint", checkpoint, "--device", "cpu", f"data.root={root}", "data.workers=0"]


def tree(folder):
    """Every file below a folder with its content; but for the journals, which hold times."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".written.jsonl"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def start(*arguments, prefix=("-u",), **options):
    return subprocess.Popen(
        [sys.executable, *prefix, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.mark.slow
def test_a_killed_test_goes_on_to_the_same_folder(options, tmp_path):
    arguments = ["main.py", "test", *options, "--split", "val", "--mode", "ms", "--also", "vis,probabilities"]
    assert start(*arguments, "--out", tmp_path / "whole").wait(300) == 0
    whole = tree(tmp_path / "whole")
    assert len(whole) == 3 * IMAGES + 1
    label = tmp_path / "parts/label"
    for stop in (0, 1, 4, 7):
        process = start(*arguments, "--out", tmp_path / "parts")
        while process.poll() is None and len(list(label.glob("[!.]*.png"))) <= stop:
            time.sleep(0.005)
        assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(label.glob("[!.]*.png"))) < IMAGES
    for unfinished in (label / ".left.0a1b2c3d.part.png", tmp_path / "parts/.made_by.0a1b2c3d.part.json"):
        unfinished.write_bytes(b"half a file")
    process = start(*arguments, "--out", tmp_path / "parts")
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0 and "already exist" in out, error
    assert tree(tmp_path / "parts") == whole


@pytest.mark.slow
def test_three_processes_write_what_one_does(options, tmp_path):
    one = start("main.py", "val", *options, "--out", tmp_path / "one")
    assert one.wait(300) == 0, one.stderr.read()
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "3", "--standalone")
    three = start("main.py", "val", *options, "--out", tmp_path / "three", prefix=torchrun)
    out, error = three.communicate(timeout=300)
    assert three.returncode == 0, error
    assert out.count("mIoU") == 1
    files = tree(tmp_path / "one")
    assert sum(name.startswith("label/") for name in files) == IMAGES and "scores.json" in files
    assert tree(tmp_path / "three") == files


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(options, root, tmp_path):
    broken = tmp_path / "images"
    for index in range(4):
        write_image(broken / f"{index}.png", np.zeros((40, 40, 3), np.uint8))
    (broken / "2.png").write_bytes(b"no image")
    torchrun = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone")
    arguments = ["--split", "val", "--out", tmp_path / "out", f"data.root={tmp_path}"]
    (tmp_path / "demo/val").mkdir(parents=True)
    broken.rename(tmp_path / "demo/val/image")
    process = start("main.py", "test", *options, *arguments, prefix=torchrun)
    _, error = process.communicate(timeout=300)
    assert process.returncode != 0 and "2.png: not an image" in error


def test_results_of_another_network_never_mix(options, checkpoint, command, tmp_path, capsys, one_line_error):
    arguments = ["test", *options, "--split", "val", "--out", "out", "--also", "none"]
    assert command(*arguments) == 0
    first = tree(tmp_path / "out")
    capsys.readouterr()
    assert command(*arguments) == 0
    assert f"{IMAGES} of {IMAGES} already exist" in capsys.readouterr().out
    label = next((tmp_path / "out/label").iterdir())
    time = label.stat().st_mtime_ns
    assert command(*arguments, "--overwrite") == 0
    assert label.stat().st_mtime_ns != time
    assert tree(tmp_path / "out") == first
    other = torch.load(checkpoint)
    for name, value in other["weights"].items():
        if name.endswith(".bias") and value.shape == (19,):
            value += torch.arange(19.0) * 9
    write_checkpoint(tmp_path / "other.pth", other)
    assert command(*arguments, "--checkpoint", "other.pth") == 0
    assert "already" not in capsys.readouterr().out
    changed = tree(tmp_path / "out")
    assert changed.keys() == first.keys() and changed["made_by.json"] != first["made_by.json"]
    assert any(changed[name] != first[name] for name in first if name.startswith("label/"))
    (tmp_path / "out/made_by.json").unlink()
    one_line_error(command(*arguments), "did not write", "another folder")


def test_nothing_of_others_is_touched(options, checkpoint, command, root, tmp_path, one_line_error):
    write_image(tmp_path / "mine/label/x.png", np.zeros((4, 4, 3), np.uint8))
    before = tree(tmp_path / "mine")
    for command_ in (["test", *options, "--split", "val"], ["predict", root / "demo/val/image", *options]):
        for more in ([], ["--overwrite"]):
            one_line_error(command(*command_, "--out", "mine", *more), "did not write")
    assert tree(tmp_path / "mine") == before
    source = tmp_path / "photos"
    write_image(source / "a.png", np.zeros((40, 40, 3), np.uint8))
    one_line_error(command("predict", source, *options, "--out", source), "folder of the images")
    assert command("predict", source, *options, "--out", source / "results") == 0
    first = tree(source)
    assert command("predict", source, *options, "--out", source / "results") == 0
    assert tree(source) == first  # its own results are no images
    segfix = ["--config", ROOT / "configs/demo/segfix_hrnet_tiny.yaml", "--checkpoint", segfix_weights(tmp_path)]
    write_image(tmp_path / "other/b.png", np.zeros((40, 40, 3), np.uint8))
    for out in (source, source / "results/label"):
        one_line_error(command("offsets", *segfix, "--images", tmp_path / "other", "--out", out), "did not write")
    assert tree(source) == first
    one_line_error(command("predict", source, source / "a.png", *options), "one INPUT")


def segfix_weights(folder):
    config = load_config(ROOT / "configs/demo/segfix_hrnet_tiny.yaml")
    state = {"weights": varied(build_model(config)).state_dict(), "config": config.dump()}
    write_checkpoint(folder / "segfix.pth", state)
    return folder / "segfix.pth"


def test_an_overwrite_that_was_cut_off_keeps_nothing_old(options, checkpoint, command, tmp_path, monkeypatch):
    arguments = ["test", *options, "--split", "val", "--out", "out"]
    assert command(*arguments) == 0
    other = torch.load(checkpoint)
    for name, value in other["weights"].items():
        if name.endswith(".bias") and value.shape == (19,):
            value += torch.arange(19.0) * 9
    write_checkpoint(tmp_path / "other.pth", other)
    arguments += ["--checkpoint", "other.pth"]
    assert command(*arguments[:-4], "--out", "fresh", *arguments[-2:]) == 0

    def cut_off(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("openseg.inference.predictor.predict_scores", cut_off)
        assert command(*arguments, "--overwrite") == 130
    assert command(*arguments) == 0
    assert tree(tmp_path / "out") == tree(tmp_path / "fresh")


def test_scores_of_an_earlier_network_do_not_stay(options, command, tmp_path, monkeypatch):
    arguments = ["val", *options, "--out", "out", "--also", "none"]
    assert command(*arguments) == 0 and Path("out/scores.json").is_file()
    monkeypatch.setattr("openseg.inference.predictor.predict_scores", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command(*arguments, "test.ss.scales=[0.5]")
    assert not {"scores.json", "scores.md", "confusion.csv"} & set(tree(tmp_path / "out"))


def test_two_splits_with_equal_names_are_refused(options, command, root, tmp_path, one_line_error):
    code = command("val", *options, "data.val_split=val+val", "--out", "out")
    one_line_error(code, "2 images have this name", "one split after the other")


def test_a_full_disk_is_an_error_and_no_crash(options, command, tmp_path, one_line_error):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        code = command("test", *options, "--split", "val", "--out", "out", "--also", "logits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    one_line_error(code, "cannot write", ".npy", "space")
    assert not [name for name in tree(tmp_path / "out") if ".part" in name]


def test_one_more_kind_or_a_newer_image_is_predicted_again(options, command, root, tmp_path, capsys):
    arguments = ["test", *options, "--split", "val", "--out", "out"]
    assert command(*arguments, "--also", "none") == 0
    assert command(*arguments, "--also", "logits") == 0
    arrays = sorted((tmp_path / "out/logits").iterdir())
    assert len(arrays) == IMAGES
    logits, label = np.load(arrays[0]), read_label(tmp_path / "out/label" / f"{arrays[0].stem}.png")
    assert logits.shape == (19, 64, 128) and logits.dtype == np.float16
    info = load_config(CONFIG).dataset_info
    assert np.mean(info.decode(logits.argmax(axis=0)) == label) > 0.99
    later = time.time() + 100
    os.utime(root / "demo/val/image" / f"{arrays[0].stem}.png", (later, later))
    capsys.readouterr()
    assert command(*arguments, "--also", "logits") == 0
    assert f"{IMAGES - 1} of {IMAGES} already exist" in capsys.readouterr().out


def test_probabilities_sum_to_one(options, command, tmp_path, one_line_error):
    arguments = ["test", *options, "--split", "val", "--out", "out", "--also", "probabilities"]
    for settings in ([], ["test.average=probabilities"], ["test.average=probabilities", "data.short_side=40"]):
        assert command(*arguments, *settings) == 0
        array = np.load(next((tmp_path / "out/probabilities").iterdir())).astype(np.float32)
        np.testing.assert_allclose(array.sum(axis=0), 1, atol=5e-3)
        assert array.shape == (19, 64, 128) and array.min() >= 0
    code = command(*arguments, "--also", "logits", "test.average=probabilities")
    one_line_error(code, "test.average", "no logits")


def test_predict_a_folder_an_image_and_a_broken_one(options, root, command, tmp_path, capsys, one_line_error):
    source = tmp_path / "photos"
    names = sorted((root / "demo/val/image").iterdir())[:2]
    write_image(source / "a.jpg", read_image(names[0]))
    write_image(source / "deeper/b.png", read_image(names[1])[:50, :70])
    assert command("predict", source, *options) == 0
    out = tmp_path / "predictions/hrnet_tiny_ocr/photos"
    assert {name for name in tree(out) if name != "made_by.json"} == {
        f"{kind}/{name}{suffix}"
        for kind, suffix in (("label", ".png"), ("vis", ".png"), ("overlay", ".jpg"))
        for name in ("a", "deeper/b")
    }
    assert read_label(out / "label/deeper/b.png").shape == (50, 70)
    predictor = openseg.Predictor(CONFIG, next(o for o in options if str(o).endswith(".pth")), device="cpu")
    result = predictor(source / "a.jpg")
    np.testing.assert_array_equal(result.ids, read_label(out / "label/a.png"))
    np.testing.assert_array_equal(predictor(Image.open(source / "a.jpg")).labels, result.labels)
    np.testing.assert_array_equal(result.colors, read_image(out / "vis/a.png"))
    assert np.abs(result.overlay.astype(int) - read_image(out / "overlay/a.jpg")).mean() < 6

    (source / "c.png").write_bytes(names[0].read_bytes()[:500])
    assert command("predict", source, *options) == 1  # the others are predicted all the same
    captured = capsys.readouterr()
    assert "2 of 3 already exist" in captured.out and "left out" in captured.err and "c.png" in captured.err
    assert command("predict", source / "a.jpg", *options, "--out", "one", "--also", "none") == 0
    assert list(tree(tmp_path / "one")) == ["label/a.png", "made_by.json"]
    code = command("predict", source / "deeper", *options, "--out", "one")
    one_line_error(code, "results of other inputs", "another folder")
    assert command("predict", source / "deeper", *options, "--out", "one", "--overwrite") == 0


def test_predict_names_what_it_cannot_read(options, command, tmp_path, one_line_error):
    one_line_error(command("predict", "nowhere", *options), "nowhere", "no such")
    (tmp_path / "text.txt").write_text("a")
    one_line_error(command("predict", "text.txt", *options), "text.txt", "neither")
    (tmp_path / "film.mp4").write_bytes(b"no film")
    one_line_error(command("predict", "film.mp4", *options), "film.mp4", "not a video")
    one_line_error(command("predict", "text.txt", *options, "--checkpoint", "no.pth"), "text.txt")
    write_image(tmp_path / "a.png", np.zeros((40, 40, 3), np.uint8))
    one_line_error(command("predict", "a.png", *options, "--checkpoint", "no.pth"), "no.pth")
    write_image(tmp_path / "two/a.png", np.zeros((40, 40, 3), np.uint8))
    write_image(tmp_path / "two/a.jpg", np.zeros((40, 40, 3), np.uint8))
    one_line_error(command("predict", "two", *options), "same name")


def test_predict_a_video(options, root, command, tmp_path, one_line_error):
    frames = [read_image(path) for path in sorted((root / "demo/val/image").iterdir())[:4]]
    writer = cv2.VideoWriter("film.avi", cv2.VideoWriter.fourcc(*"MJPG"), 5, (128, 64))
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    assert command("predict", "film.avi", *options) == 0
    out = tmp_path / "predictions/hrnet_tiny_ocr/film"
    labels = sorted((out / "label").iterdir())
    assert [path.name for path in labels] == [f"{n:06}.png" for n in range(4)]
    for kind in ("vis", "overlay"):
        video = cv2.VideoCapture(str(out / f"{kind}.mp4"))
        assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 4 and video.get(cv2.CAP_PROP_FPS) == 5
    before = tree(out)
    labels[2].unlink()
    (out / "vis.mp4").unlink()
    assert command("predict", "film.avi", *options) == 0
    assert {name: data for name, data in tree(out).items() if name.startswith("label")} == {
        name: data for name, data in before.items() if name.startswith("label")
    }
    assert (out / "vis.mp4").is_file()
    shorter = Path("film.avi").read_bytes()
    Path("film.avi").write_bytes(shorter[: len(shorter) // 2])
    one_line_error(command("predict", "film.avi", *options), "other inputs", "--overwrite")


def test_where_memory_runs_out_predict_goes_on_in_windows(checkpoint, caplog):
    predictor = openseg.Predictor(CONFIG, checkpoint, mode="ms", device="cpu", overrides=["test.ms.scales=[0.5,1.0]"])
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
    whole = predictor(image).labels
    forward, sizes = predictor.model.forward, []

    def little_memory(x, *arguments, **options):
        sizes.append(x.shape[-2:].numel())
        if sizes[-1] > 150 * 200:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(x, *arguments, **options)

    predictor.model.forward = little_memory
    parts = predictor(image).labels
    assert "windows of 128x192" in caplog.text
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())[None]
    settings = predictor.config, "ms", image.shape[:2]
    with torch.inference_mode():
        rows = predict_scores(lambda *a, **o: forward(*a, **o), planes, *settings, limit=(128, 192))
        np.testing.assert_array_equal(parts, rows.read(0, 300).argmax(dim=1)[0].numpy())
    assert 0.5 < np.mean(parts == whole) < 1
    sizes.clear()
    predictor(image)
    assert max(sizes) <= 150 * 200  # what did not fit is not tried again
    predictor.model.forward = lambda *_, **__: little_memory(torch.zeros(1, 3, 999, 999))
    with pytest.raises(openseg.errors.OpensegError, match="even in windows of 128x128"):
        predictor(image)


def test_val_stops_where_memory_runs_out(options, command, one_line_error, monkeypatch):
    def full(*_):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("openseg.inference.predictor.predict_scores", full)
    one_line_error(command("val", *options, "--out", "out"), "out of memory", "test.window=")


def test_predictor_takes_and_refuses(checkpoint):
    predictor = openseg.Predictor(CONFIG, checkpoint, device="cpu")
    assert predictor(np.zeros((33, 47, 3), np.uint8)).labels.shape == (33, 47)
    for wrong in (np.zeros((33, 47), np.uint8), np.zeros((3, 33, 47), np.float32)):
        with pytest.raises(openseg.errors.DataError, match="RGB"):
            predictor(wrong)
    with pytest.raises(openseg.errors.ConfigError, match="segfix"):
        openseg.Predictor(ROOT / "configs/demo/segfix_hrnet_tiny.yaml", checkpoint)


@pytest.mark.slow
def test_a_compiled_network_says_the_same(options, command, tmp_path):
    for value in ("false", "true"):
        arguments = ["test", *options, "--split", "val", "--also", "none", f"test.compile={value}"]
        assert command(*arguments, "--out", value) == 0
    one, other = (
        [read_label(path) for path in sorted((tmp_path / name / "label").iterdir())] for name in ("false", "true")
    )
    assert len(one) == IMAGES and np.mean(np.array(one) == np.array(other)) > 0.999


def test_val_writes_tables_too(options, command, tmp_path):
    assert command("val", *options, "--out", "out", "test.window=[64,64]") == 0
    scores = json.loads(Path("out/scores.json").read_text())["hrnet_tiny_ocr"]
    assert set(scores["summary"]) >= {"mIoU", "frequency-weighted IoU", "boundary F 12 px", "boundary IoU"}
    assert "| mIoU |" in Path("out/scores.md").read_text()
    rows = Path("out/confusion.csv").read_text().splitlines()
    assert len(rows) == 20 and rows[0].startswith("predictions,truth,road,") and rows[0].endswith(",no class")
    counts = [[int(cell) for cell in row.split(",")[2:]] for row in rows[1:]]
    assert counts == scores["confusion"]

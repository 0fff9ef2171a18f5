"""Refiners: candidates, votes, training on labels with errors, and segfix.py with the refiner that comes along."""

import json
import shutil

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

import openseg
from openseg.cli.segfix import main as segfix
from openseg.config import load_config
from openseg.datasets.augmentations import Sample
from openseg.datasets.degradation import degrade, degraded, jpeg, noise
from openseg.datasets.registry import get_dataset_info
from openseg.inference import refiner as inference
from openseg.io.images import read_image, read_label, write_image, write_label
from openseg.losses.refiner import RefinerLoss
from openseg.metrics import LabelScores
from openseg.models.factory import build_model
from openseg.models.refiner import candidate_labels
from openseg.segfix.directions import candidate_steps
from openseg.segfix.votes import undecided, vote
from openseg_demo.scenes import render_scene
from openseg_demo.shapes import IDS, render_shapes, write_shapes

CONFIG = ROOT / "configs/refiner/unet_small.yaml"
SEEDS = st.integers(0, 2**32 - 1)
INFO = get_dataset_info("demo")


def random_labels(seed, size, kinds=3):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, kinds, (size[0] // 4 + 1, size[1] // 4 + 1), dtype=np.uint8)
    return np.kron(coarse, np.ones((4, 4), np.uint8))[: size[0], : size[1]]


def as_sample(labels, image=None):
    image = np.zeros((*labels.shape, 3), np.uint8) if image is None else image
    return Sample(image, {"label": labels}, (0, 0, *labels.shape))


def coarse_of(labels, seed=0, **options):
    return degraded(labels, np.random.default_rng(seed), **options)


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(1, 3), st.integers(9, 14), st.integers(9, 14))
def test_candidates_are_the_neighbors_at_all_distances(seed, first, height, width):
    labels, radii = random_labels(seed, (height, width)), (first, first + 2)
    found = candidate_labels(torch.from_numpy(labels[None]), radii)[0].numpy()
    for number, (down, right) in enumerate(candidate_steps(radii)):
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        assert np.array_equal(found[number], labels[np.ix_(rows, columns)])


def brute_vote(labels, probabilities, steps, factor, margin):
    """The rule in words: sums of probabilities by label over the parts of a pixel."""
    height, width = labels.shape
    refined = labels.copy()
    for y in range(height):
        for x in range(width):
            sums = {labels[y, x]: 0.0}
            for part in range(factor**2):
                for (down, right), p in zip(steps, probabilities[y * width + x, part], strict=True):
                    row = np.clip(y * factor + part // factor + down, 0, height * factor - 1) // factor
                    column = np.clip(x * factor + part % factor + right, 0, width * factor - 1) // factor
                    sums[labels[row, column]] = sums.get(labels[row, column], 0.0) + float(p)
            best = max(sums, key=lambda label: sums[label])
            if sums[best] > sums[labels[y, x]] + margin * factor**2:
                refined[y, x] = best
    return refined


@settings(max_examples=15, deadline=None)
@given(SEEDS, st.sampled_from([1, 2, 3]), st.sampled_from([0.0, 0.3]), st.sampled_from([np.uint8, np.uint16, np.int64]))
def test_a_pixel_takes_the_label_with_the_largest_sum(seed, factor, margin, dtype):
    labels, radii = random_labels(seed, (9, 11)).astype(dtype), (1, 3)
    steps = candidate_steps(radii)
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (99, factor**2, len(steps))).astype(np.float32))
    probabilities = logits.softmax(dim=2).numpy()
    pixels = np.argwhere(np.ones((9, 11), bool))
    refined = labels.copy()
    vote(labels, pixels, probabilities, steps, factor, margin, refined)
    assert np.array_equal(refined, brute_vote(labels, probabilities, steps, factor, margin))
    near = undecided(labels.astype(np.uint16), -(-max(radii) // factor))
    assert np.array_equal(refined[~near], labels[~near])


def test_the_loss_counts_pixels_that_can_go_right_and_wrong():
    truth = torch.tensor([[[0, 0, 1, 1, 255]]], dtype=torch.uint8)
    coarse = torch.tensor([[[0, 0, 0, 1, 1]]], dtype=torch.uint8)
    logits = torch.zeros(1, 9, 1, 5, requires_grad=True)
    found = RefinerLoss((1,))(logits, {"label": truth, "coarse": coarse})
    # Candidates of each pixel: itself, left, 3 above of the same columns, right, 3 below.
    right = [[6 / 9], [6 / 9], [3 / 9], [6 / 9]]  # of the pixels 0 (all are right), 1, 2 and 3
    counted = [-np.log(share[0]) for share in (right[2], right[3])]
    assert candidate_labels(coarse, (1,))[0, :, 0, 1].unique().tolist() == [0]  # decided, so not counted
    assert float(found["loss"].detach()) == pytest.approx(np.mean(counted), rel=1e-5)
    found["loss"].backward()
    assert logits.grad[..., [0, 1, 4]].abs().max() == 0 and logits.grad[..., 2].abs().max() > 0
    nothing = RefinerLoss((1,))(logits, {"label": truth, "coarse": torch.zeros_like(coarse)})
    assert float(nothing["loss"].detach()) == 0


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_degraded_labels_differ_only_near_boundaries_and_in_no_new_class(seed):
    truth = INFO.encode(render_scene(seed % 50, (64, 96), 3).label)
    coarse = coarse_of(truth, seed)
    assert np.array_equal(coarse, coarse_of(truth, seed))
    assert set(np.unique(coarse)) <= set(np.unique(truth)) - {255}
    assert (coarse != truth).mean() < 0.5
    unchanged = degrade(as_sample(truth), np.random.default_rng(seed), probability=0.0).maps["coarse"]
    assert np.array_equal(unchanged, truth)
    alone = np.full((20, 30), 255, np.uint8)
    assert np.array_equal(coarse_of(alone, seed), alone)


def test_noise_and_jpeg_change_the_image_inside_its_window_alone():
    image = render_scene(0, (64, 96), 3).image
    for transform, options in ((noise, {"sigma": (9, 9)}), (jpeg, {"quality": (20, 20)})):
        sample = Sample(image.copy(), {}, (8, 16, 40, 50))
        changed = transform(sample, np.random.default_rng(0), probability=1.0, **options).image
        outside = np.ones(image.shape[:2], bool)
        outside[8:48, 16:66] = False
        assert np.array_equal(changed[outside], image[outside]) and changed.dtype == np.uint8
        difference = np.abs(changed.astype(int) - image)[~outside]
        assert 1 < difference.mean() < 20
        with pytest.raises(openseg.ConfigError, match="remove it"):
            transform(
                Sample(np.zeros((64, 96, 4), np.float32), {}, (0, 0, 64, 96)),
                np.random.default_rng(0),
                **options,
                probability=1.0,
            )


def test_random_shapes_are_images_with_labels(tmp_path):
    image, label = render_shapes(0, (48, 64), seed=2)
    again = render_shapes(0, (48, 64), seed=2)
    assert np.array_equal(image, again[0]) and np.array_equal(label, again[1])
    assert image.shape == (48, 64, 3) and set(np.unique(label)) <= set(IDS.tolist()) and len(np.unique(label)) > 2
    write_shapes((tmp_path, 0), (48, 64), 2)
    (written,) = (tmp_path / "label").iterdir()
    assert np.array_equal(read_label(written), label)


@pytest.fixture(scope="module")
def shipped():
    return openseg.RefinerPredictor(device="cpu")


def gains(predictor, count=3, size=(128, 192)):
    before, after = LabelScores(INFO, (1, 3)), LabelScores(INFO, (1, 3))
    changed = 0.0
    for number in range(count):
        scene = render_scene(number, size, seed=77)
        truth = INFO.encode(scene.label)
        coarse = coarse_of(truth, number)
        before.update(coarse, truth)
        after.update(predictor(scene.image, coarse), truth)
        changed += (predictor(scene.image, truth) != truth).mean() / count
    old, new = before.compute(), after.compute()
    return {name: 100 * (new[name] - old[name]) for name in ("mIoU", "boundary F 1 px")}, changed


def test_the_shipped_refiner_restores_streets_that_it_has_not_seen(shipped):
    found, changed = gains(shipped)
    assert found["mIoU"] > 2 and found["boundary F 1 px"] > 5, found
    assert changed < 0.01  # of true labels


def test_frames_of_a_still_scene_agree_more_than_before(shipped):
    """Flicker: two images of one scene with different noise, and labels with different errors."""
    before = after = 0.0
    for number in range(3):
        scene = render_scene(number, (128, 192), seed=78)
        truth = INFO.encode(scene.label)
        frames = [coarse_of(truth, 2 * number + frame) for frame in range(2)]
        images = [
            noise(as_sample(truth, scene.image.copy()), np.random.default_rng(frame), (4, 4), 1.0).image
            for frame in range(2)
        ]
        refined = [shipped(image, labels) for image, labels in zip(images, frames, strict=True)]
        before += (frames[0] != frames[1]).mean() / 3
        after += (refined[0] != refined[1]).mean() / 3
    assert after < 0.9 * before, (before, after)


def test_labels_of_any_values_are_refined_alike(shipped):
    scene = render_scene(1, (96, 128), seed=77)
    coarse = coarse_of(INFO.encode(scene.label), 1)
    refined = shipped(scene.image, coarse)
    values = np.random.default_rng(0).permutation(2**24)[:256].astype(np.int32)
    assert np.array_equal(shipped(scene.image, values[coarse]), values[refined])
    wide = np.arange(256, dtype=np.uint16) * 200 + 7
    assert np.array_equal(shipped(scene.image, wide[coarse]), wide[refined])
    flat = np.full((96, 128), 3, np.uint8)
    assert np.array_equal(shipped(scene.image, flat), flat)
    with pytest.raises(openseg.DataError, match="differ in size"):
        shipped(scene.image, coarse[:50])


def test_tiles_give_what_the_whole_image_gives(shipped, monkeypatch):
    scene = render_scene(2, (150, 220), seed=77)
    coarse = coarse_of(INFO.encode(scene.label), 2)
    whole = shipped(scene.image, coarse)
    monkeypatch.setattr(inference, "_TILE", 128)
    assert (shipped(scene.image, coarse) != whole).mean() < 1e-3  # what is seen ends at the halo


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four scenes with labels of 8 bits, 16 bits, a palette and colors."""
    monkeypatch.chdir(tmp_path)
    for number in range(4):
        scene = render_scene(number, (80, 112), seed=5)
        truth = INFO.encode(scene.label)
        coarse = coarse_of(truth, number, stride=(6, 6))
        write_image(tmp_path / f"images/{number}.png", scene.image)
        write_label(tmp_path / f"data/demo/val/label/{number}.png", scene.label)
        labels = INFO.decode(coarse)
        if number == 1:
            write_label(tmp_path / "labels/1.png", labels.astype(np.uint16) * 300)
        elif number == 2:
            write_label(tmp_path / "labels/2.png", labels, bytes(range(256)) * 3)
        elif number == 3:
            write_image(tmp_path / "labels/3.png", INFO.colorize(coarse))
        else:
            write_label(tmp_path / "labels/0.png", labels)
    return tmp_path


def test_labels_and_images_are_enough(folder, capsys, one_line_error, shipped):
    arguments = ["--input", "labels", "--images", "images", "--split", "test"]
    assert segfix(arguments) == 0
    out = folder / "labels/label_w_segfix"
    image = read_image(folder / "images/0.png")
    assert np.array_equal(read_label(out / "0.png"), shipped(image, read_label(folder / "labels/0.png")))
    assert read_label(out / "1.png").dtype == np.uint16 and set(np.unique(read_label(out / "1.png")) % 300) == {0}
    assert cv2.imread(str(out / "3.png"), cv2.IMREAD_UNCHANGED).shape[2] == 3
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    capsys.readouterr()
    assert segfix(arguments) == 0 and "4 of 4 already exist" in capsys.readouterr().out
    assert times == {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    (folder / "images/0.png").write_bytes((folder / "images/0.png").read_bytes()[:99])
    (folder / "images/1.png").unlink()
    write_label(folder / "labels/2.png", np.zeros((9, 9), np.uint8))
    assert segfix([*arguments, "--out", "other"]) == 1
    left_out = (folder / "other_left_out.txt").read_text()
    capsys.readouterr()
    assert all(word in left_out for word in ("images/0.png", "1.png has no image", "labels/2.png"))
    for words, said in (
        (["--scale", "2"], "SegFix offsets"),
        (["--offset", "x"], "exclude"),
        (["--checkpoint", "x.pth"], "x.pth"),
    ):
        one_line_error(segfix([*arguments, "--out", "no", *words]), said)
    one_line_error(segfix(["--input", "labels", "--checkpoint", "x.pth"]), "--images")


def test_scores_before_and_after(folder, capsys):
    for number in (1, 2, 3):
        (folder / f"labels/{number}.png").unlink()
    arguments = ["--input", "labels", "--images", "images", "--dataset", "demo", "--data-root", "data", "--no-report"]
    assert segfix([*arguments, "--keep-thin", "3"]) == 0
    assert "before" in capsys.readouterr().out
    scores = json.loads((folder / "labels/label_w_segfix_scores.json").read_text())
    before, after = (scores[name]["summary"]["boundary F 1 px"] for name in ("before", "after"))
    assert after > before


def test_masks_of_objects(tmp_path, monkeypatch, shipped):
    monkeypatch.chdir(tmp_path)
    scene = render_scene(3, (96, 144), seed=5)
    truth = cv2.resize((scene.label == 7).astype(np.uint8), None, fx=1, fy=1)
    wrong = (coarse_of(truth, 4) > 0).astype(np.uint8)
    write_image(tmp_path / "images/street.png", scene.image)
    write_label(tmp_path / "pred/mask.png", wrong * np.uint8(255))
    (tmp_path / "pred/street_pred.txt").write_text("mask.png 26 0.9\n")
    assert segfix(["instances", "--input", "pred", "--images", "images", "--split", "test"]) == 0
    refined = read_label(tmp_path / "pred_w_segfix/mask.png") > 0
    assert (refined != truth).mean() < (wrong != truth).mean()
    code = coco_mask.encode(np.asfortranarray(wrong))
    result = {"image_id": "street", "category_id": 1, "score": 0.9}
    result["segmentation"] = {"size": code["size"], "counts": code["counts"].decode()}
    (tmp_path / "results.json").write_text(json.dumps([result]))
    assert segfix(["instances", "--input", "results.json", "--images", "images", "--split", "test"]) == 0
    (found,) = json.loads((tmp_path / "results_w_segfix.json").read_text())
    assert np.array_equal(coco_mask.decode(found["segmentation"]) > 0, refined)


SHORT = [
    "augment.crop_size=[64,64]",
    "train.max_iters=3",
    "train.batch_size=2",
    "train.val_interval=3",
    "data.workers=0",
]


def test_training_on_a_models_predictions(data_root, tmp_path, command, one_line_error):
    for split in ("train", "val"):
        shutil.copytree(data_root / "demo" / split / "label", tmp_path / "pred" / split / "label")
    options = [*SHORT, f"data.root={data_root}", "data.train_split=train", "augment.transforms=[]"]
    start = ["train", "--config", CONFIG, "--checkpoints", tmp_path, *options]
    one_line_error(command(*start), "data.predictions", "degrade")
    one_line_error(command(*start, f"data.predictions={tmp_path}/pred"), "{split}")
    one_line_error(command(*start, f"data.predictions={tmp_path}/no/{{split}}"), "no/train", "no such folder")
    predictions = f"data.predictions={tmp_path}/pred/{{split}}/label"
    assert command(*start, predictions) == 0
    checkpoint = tmp_path / "demo/refiner_unet_small_latest.pth"
    scores = torch.load(checkpoint, weights_only=True)["scores"]
    assert scores["F before"] == 1  # the predictions are the truth
    (tmp_path / "pred/val/label").rename(tmp_path / "pred/val/other")
    one_line_error(command(*start, predictions, "name=again"), "val")
    one_line_error(command("val", "--config", CONFIG, "--checkpoint", checkpoint, *options), "segfix refine")
    one_line_error(command("export", "r.onnx", "--config", CONFIG, "--checkpoint", checkpoint), "cannot be exported")


def test_flips_and_rotations_reach_the_labels_to_refine(data_root):
    from openseg.datasets.loaders import TrainSet
    from openseg.datasets.samples import list_split

    options = [*SHORT, f"data.root={data_root}", "data.train_split=train", "augment.scale_range=null"]
    same = ["augment.transforms=[{type: rotation, probability: 1}, {type: degrade, probability: 0}]"]
    config = load_config(CONFIG, [*options, *same])
    dataset = TrainSet(config, list_split(config, "train"))
    for draw in range(8):
        item = dataset.load(draw)
        assert torch.equal(item["label"], item["coarse"])


@pytest.mark.slow
def test_a_refiner_adapts_to_labels_without_ground_truth(folder, capsys, one_line_error):
    arguments = ["auto", "--input", "labels", "--images", "images", "--split", "test", "--minutes", "0.1"]
    one_line_error(segfix([*arguments, "--minutes", "0"]), "minutes")
    for number in (1, 3):  # kinds do not mix
        (folder / f"labels/{number}.png").unlink()
    shutil.copy(folder / "images/2.png", folder / "images/4.png")
    (folder / "labels/4.png").write_bytes((folder / "labels/2.png").read_bytes()[:50])
    assert segfix(arguments) == 1  # a truncated file is named, not learned from
    assert "labels/4.png" in capsys.readouterr().err
    (folder / "labels/4.png").unlink()
    assert segfix([*arguments, "--out", "results"]) == 0
    out = capsys.readouterr().out
    assert "chosen on 1 images" in out and (folder / "results_auto/refiner.safetensors").is_file()
    assert {path.name for path in (folder / "results").glob("*.png")} == {"0.png", "2.png"}
    assert segfix([*arguments, "--out", "results"]) == 0
    out = capsys.readouterr().out
    assert "2 of 2 already exist" in out and "chosen" not in out
    one_line_error(segfix([*arguments, "--minutes", "0.2"]), "other labels, images or minutes")
    truth = ["--gt", "data/demo/val/label", "--dataset", "demo"]
    assert segfix([*arguments, *truth, "--out", "by_truth"]) == 0
    assert "chosen on 2 images" in capsys.readouterr().out


def test_a_refiner_of_another_backbone():
    config = load_config(CONFIG, ["model.backbone=hrnet_tiny", "refiner.radii=[1,3]"])
    model = build_model(config).eval()
    images, labels = torch.randn(2, 3, 70, 90), torch.randint(0, 3, (2, 70, 90), dtype=torch.uint8)
    assert model(images, labels).shape == (2, 17, 70, 90)
    with pytest.raises(openseg.ConfigError, match="refines no labels"):
        openseg.RefinerPredictor(load_config(ROOT / "configs/demo/hrnet_tiny_ocr.yaml"), "x.pth")

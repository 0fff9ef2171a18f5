"""SegFix against the original's steps, written out, side by side in one run (medians, alternating, one thread).

    OMP_NUM_THREADS=1 python benchmarks/segfix.py [--size 1024 2048] [--rounds 7]

Labels and instances are a rendered street; the offsets are its ground truth within 5 pixels of a boundary. "original"
refines as its program does: encode to train IDs one class at a time, read the .mat, sample with grid_sample (corners
aligned, as the torch of its time did), decode one class at a time, save with Pillow. Its ground truth computes a
distance transform and two 5x5 convolutions of the whole image for each class or instance (of instances in float32), and
reads again what it saved. Refined labels and depths must be equal, or the run fails; angles are compared in float64.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat, savemat
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from side_by_side import median_seconds

from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label, write_label
from openseg.labels import IGNORE_INDEX
from openseg.segfix import (
    OffsetMap,
    directions_to_offsets,
    make_instance_targets,
    make_targets,
    read_targets,
    refine,
    write_offsets,
    write_targets,
)
from openseg.segfix.distances import boundary_distances, inside_gradients
from openseg.segfix.targets import MAX_DEPTH
from openseg.tools.refining import RefineSettings, refine_file
from openseg_demo.scenes import render_scene

CITYSCAPES = get_dataset_info("cityscapes")
SCALE = 2
K = CITYSCAPES.num_classes


def original_refine(label: Path, offset: Path, out: Path) -> None:
    ids = np.array(Image.open(label).convert("P"))
    train_ids = np.full(ids.shape, IGNORE_INDEX, np.uint8)
    for k, file_id in enumerate(CITYSCAPES.ids):
        train_ids[ids == file_id] = k
    moves = torch.from_numpy(loadmat(offset)["mat"].astype(np.float32))
    height, width = ids.shape
    rows, columns = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    y = (rows + SCALE * moves[..., 0]) / (height - 1) * 2 - 1
    x = (columns + SCALE * moves[..., 1]) / (width - 1) * 2 - 1
    values = torch.from_numpy(train_ids)[None, None].float()
    sampled = F.grid_sample(
        values, torch.stack([x, y], dim=-1)[None], mode="bilinear", padding_mode="border", align_corners=True
    )
    refined = sampled[0, 0].round().numpy().astype(np.uint8)
    result = np.full(refined.shape, IGNORE_INDEX, np.uint8)
    for k, file_id in enumerate(CITYSCAPES.ids):
        result[refined == k] = file_id
    Image.fromarray(result).save(out)


def original_targets(regions: np.ndarray, values: list[int], min_pixels: int, dtype: torch.dtype, out: Path) -> None:
    steps = torch.arange(-2, 3, dtype=dtype)
    dy, dx = torch.meshgrid(steps, steps, indexing="ij")
    squared = dy**2 + dx**2
    squared[2, 2] = 1
    kernel = torch.stack([dy / squared, dx / squared])[:, None]
    depth = np.zeros(regions.shape, np.float32)
    code = np.full(regions.shape, 90, np.uint8)
    for value in values:
        mask = regions == value
        if mask.sum() < min_pixels:
            continue
        distance = distance_transform_edt(mask)
        gradient = F.conv2d(torch.from_numpy(distance)[None, None].to(dtype), kernel, padding=2)[0].numpy()
        angle = np.degrees(np.arctan2(gradient[0], gradient[1]))
        depth[mask] = distance[mask]
        code[mask] = ((angle + 180) / 2).astype(np.uint8)[mask]
    depth = np.clip(depth, 0, 250).astype(np.uint8)
    savemat(out, {"depth": depth, "dir_deg": code, "deg_reduce": 2}, do_compression=True)
    loadmat(out)


def original_instances(path: Path, dtype: torch.dtype, out: Path) -> None:
    ids = np.array(Image.open(path)).astype(np.int32)
    regions = np.where((ids < 256) & ~np.isin(ids, CITYSCAPES.ids), IGNORE_INDEX, ids)
    original_targets(regions, np.unique(regions).tolist(), 0, dtype, out)


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time ``ways``; ratios are to the first one."""
    for way in ways.values():
        way()
    medians = median_seconds(ways, rounds)
    print(f"\n{title}")
    base = medians[next(iter(medians))]
    for name, seconds in medians.items():
        print(f"  {name:34}{seconds * 1e3:10.2f} ms{base / seconds:10.2f} x", flush=True)


def refinement(folder: Path, labels: np.ndarray, offsets: OffsetMap, rounds: int) -> None:
    write_label(folder / "ours.png", labels)
    Image.fromarray(labels).save(folder / "label.png")
    rng = np.random.default_rng(0)
    confidence = np.where(offsets.codes, rng.integers(80, 256, labels.shape), 0).astype(np.uint8)
    files = {"png": folder / "offset.png", "mat int8": folder / "int8.mat"}
    for path in files.values():
        write_offsets(path, OffsetMap.of(offsets.offsets, confidence))
    for bits in (32, 64):
        files[f"mat int{bits}"] = folder / f"int{bits}.mat"
        savemat(files[f"mat int{bits}"], {"mat": offsets.offsets.astype(f"i{bits // 8}")}, do_compression=True)
    print("offset files: " + ", ".join(f"{name} {path.stat().st_size / 1024:.0f} KiB" for name, path in files.items()))
    how = RefineSettings("cityscapes", SCALE, eval_ids_only=True)
    reference, target = folder / "original.png", folder / "refined.png"
    ours = {f"ours, {name}": (folder / "label.png", path, target) for name, path in files.items()}
    ours["ours, png, label by ours"] = (folder / "ours.png", files["png"], target)
    original_refine(folder / "label.png", files["mat int32"], reference)
    for name, job in ours.items():
        refine_file(job, how)
        np.testing.assert_array_equal(read_label(target), read_label(reference), err_msg=name)
    ways = {name: partial(refine_file, job, how) for name, job in ours.items()}
    for bits in (32, 64):
        name = f"mat int{bits}"
        original = {f"original, {name}": partial(original_refine, folder / "label.png", files[name], reference)}
        compare("refinement, files to file", original | ways, rounds)
    ways = {
        "copy of the labels": labels.copy,
        "refine(labels, OffsetMap)": lambda: refine(labels, offsets, SCALE),
        "refine(labels, int8[H, W, 2])": lambda pairs=offsets.offsets: refine(labels, pairs, SCALE),
    }
    compare("refinement, arrays", ways, 4 * rounds)


def ground_truth(title: str, path: Path, ours: Callable, original: Callable, folder: Path, rounds: int) -> None:
    """``ours``: label file, output; ``original``: type of its numbers, output."""
    reference = folder / "original_gt.mat"
    dtype = torch.float32 if "instances" in title else torch.float64
    ways = {
        "original": lambda: original(dtype, reference),
        "ours, png": lambda: ours(path, folder / "gt.png"),
        "ours, mat": lambda: ours(path, folder / "gt.mat"),
    }
    for way in [*ways.values(), lambda: original(torch.float64, reference)]:
        way()
    mine, theirs = read_targets(folder / "gt.mat"), read_targets(reference)
    np.testing.assert_array_equal(mine.depth, theirs.depth)
    # Where the gradient is nothing but rounding, as in the middle of a symmetric shape, there is no direction.
    regions = CITYSCAPES.read_truth(path) if dtype == torch.float64 else read_label(path)
    gradients = inside_gradients(regions, boundary_distances(regions, MAX_DEPTH), repeat_border=False)
    some = np.maximum(*np.abs(gradients)) > 1e-9
    bins = np.abs(mine.angle_code.astype(int) - theirs.angle_code)
    bins = np.minimum(bins, 180 - bins)
    print(
        f"\n{title}: depth equal, angle codes of {np.mean(bins == 1):.3%} of the pixels one bin apart, of "
        f"{np.count_nonzero((bins > 1) & some)} pixels more, of {np.count_nonzero((bins > 1) & ~some)} there is none"
    )
    compare(f"{title}, file to file", ways, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    scene = render_scene(0, tuple(arguments.size), 1)
    labels, instances = scene.label, scene.instance
    train_ids = CITYSCAPES.encode(labels)
    targets = make_targets(train_ids)
    mask, direction = targets.mask_and_direction(train_ids, max_distance=5)
    offsets = OffsetMap.of(directions_to_offsets(direction) * (mask == 1)[..., None])
    print(
        f"{labels.shape[0]}x{labels.shape[1]}, {np.unique(train_ids).size} classes, {np.unique(instances).size} "
        f"instances; {np.count_nonzero(offsets.codes) / labels.size:.1%} of the pixels move"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        refinement(folder, labels, offsets, arguments.rounds)
        write_label(folder / "labels.png", labels)
        write_label(folder / "instances.png", instances)
        few = max(arguments.rounds // 2, 1)
        ground_truth(
            "ground truth, semantic",
            folder / "labels.png",
            lambda path, out: write_targets(out, make_targets(CITYSCAPES.read_truth(path))),
            lambda dtype, out: original_targets(
                CITYSCAPES.encode(np.array(Image.open(folder / "labels.png"))), list(range(K)), 100, dtype, out
            ),
            folder,
            few,
        )
        ground_truth(
            "ground truth, instances",
            folder / "instances.png",
            lambda path, out: write_targets(out, make_instance_targets(read_label(path), CITYSCAPES.ids)),
            lambda dtype, out: original_instances(folder / "instances.png", dtype, out),
            folder,
            few,
        )


if __name__ == "__main__":
    main()

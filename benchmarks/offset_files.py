"""Size and speed of SegFix's file formats, offsets and ground truth, side by side in one run (medians, alternating).

    python benchmarks/offset_files.py [--size 1024 2048] [--repeat 9]

Both are made of random discs; the offsets point inwards along their outlines, about as many pixels as SegFix moves in a
street scene.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat, savemat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from openseg.segfix import (
    Targets,
    directions_to_offsets,
    make_targets,
    read_offsets,
    read_targets,
    write_offsets,
    write_targets,
)


def example(height: int, width: int) -> tuple[np.ndarray, np.ndarray, Targets]:
    rng = np.random.default_rng(0)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(60):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(labels, center, int(rng.integers(10, height // 5)), int(rng.integers(19)), -1)
    targets = make_targets(labels)
    mask, direction = targets.mask_and_direction(labels, max_distance=5)
    return labels, directions_to_offsets(direction) * (mask == 1)[..., None], targets


def compare(formats: dict, repeat: int, base: str, is_right: Callable[[object], bool]) -> None:
    """``formats``: path, write and read of each; ratios are to ``base``."""
    times = {key: ([], []) for key in formats}
    for _ in range(repeat):
        for key, (path, *actions) in formats.items():
            for seconds, action in zip(times[key], actions, strict=True):
                start = time.perf_counter()
                result = action(path)
                seconds.append(time.perf_counter() - start)
            assert is_right(result)
    medians = {key: [statistics.median(seconds) for seconds in pair] for key, pair in times.items()}
    print(f"{'':22}{'KiB':>8}{'write ms':>10}{'read ms':>9}{'write x':>9}{'read x':>8}")
    for key, (write, read) in medians.items():
        print(
            f"{key:22}{formats[key][0].stat().st_size / 1024:8.0f}{write * 1e3:10.1f}{read * 1e3:9.1f}"
            f"{medians[base][0] / write:9.1f}{medians[base][1] / read:8.1f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()
    labels, offsets, targets = example(*arguments.size)
    print(f"offsets: {offsets.any(axis=2).mean():.1%} of {arguments.size[0]}x{arguments.size[1]} pixels move")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = (lambda path: write_offsets(path, offsets), read_offsets)
        original = (
            lambda path: savemat(path, {"mat": offsets.astype(np.int32)}, do_compression=True),
            lambda path: loadmat(path)["mat"].astype(np.int8),
        )
        formats = {"png": (folder / "a.png", *own), "mat int8": (folder / "a.mat", *own)}
        compare(
            formats | {"mat int32 (original)": (folder / "o.mat", *original)},
            arguments.repeat,
            "mat int32 (original)",
            lambda read: np.array_equal(read, offsets),
        )
        print("ground truth:")
        own = (
            lambda path: write_targets(path, targets),
            read_targets,
        )
        compare(
            {"png": (folder / "t.png", *own), "mat (original)": (folder / "t.mat", *own)},
            arguments.repeat,
            "mat (original)",
            lambda read: all(
                np.array_equal(a, b)
                for a, b in zip(read.mask_and_direction(labels, 5), targets.mask_and_direction(labels, 5), strict=True)
            ),
        )


if __name__ == "__main__":
    main()

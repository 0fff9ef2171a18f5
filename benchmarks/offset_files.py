"""Size and speed of the offset formats, side by side in one run (medians of alternating repetitions).

    python benchmarks/offset_files.py [--size 1024 2048] [--repeat 9]

The offsets point inwards along the outlines of random discs, about as many pixels as SegFix moves in a street scene.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from scipy.io import loadmat, savemat

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from openseg.segfix import directions_to_offsets, make_targets, read_offsets, write_offsets


def example(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = np.zeros((height, width), np.uint8)
    for _ in range(60):
        center = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(labels, center, int(rng.integers(10, height // 5)), int(rng.integers(19)), -1)
    targets = make_targets(labels)
    mask, direction = targets.mask_and_direction(labels, max_distance=5)
    return directions_to_offsets(direction) * (mask == 1)[..., None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048), metavar=("H", "W"))
    parser.add_argument("--repeat", type=int, default=9)
    arguments = parser.parse_args()
    offsets = example(*arguments.size)
    print(f"{offsets.any(axis=2).mean():.1%} of {arguments.size[0]}x{arguments.size[1]} pixels move")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        original = folder / "original.mat"
        formats = {
            "png": (lambda: write_offsets(folder / "a.png", offsets), lambda: read_offsets(folder / "a.png")),
            "mat int8": (lambda: write_offsets(folder / "a.mat", offsets), lambda: read_offsets(folder / "a.mat")),
            "mat int32 (original)": (
                lambda: savemat(original, {"mat": offsets.astype(np.int32)}, do_compression=True),
                lambda: loadmat(original)["mat"].astype(np.int8),
            ),
        }
        times = {key: ([], []) for key in formats}
        for _ in range(arguments.repeat):
            for key, actions in formats.items():
                for seconds, action in zip(times[key], actions, strict=True):
                    start = time.perf_counter()
                    result = action()
                    seconds.append(time.perf_counter() - start)
                assert np.array_equal(result, offsets)
        files = {"png": folder / "a.png", "mat int8": folder / "a.mat", "mat int32 (original)": original}
        base = [statistics.median(seconds) for seconds in times["mat int32 (original)"]]
        print(f"{'format':22}{'KiB':>8}{'write ms':>10}{'read ms':>9}{'write x':>9}{'read x':>8}")
        for key, path in files.items():
            write, read = (statistics.median(seconds) for seconds in times[key])
            print(
                f"{key:22}{path.stat().st_size / 1024:8.0f}{write * 1e3:10.1f}{read * 1e3:9.1f}"
                f"{base[0] / write:9.1f}{base[1] / read:8.1f}"
            )


if __name__ == "__main__":
    main()

"""Scores against other ways to compute them, side by side in one run (medians, alternating, one thread).

    python benchmarks/metrics.py [--size 1024 2048] [--images 6] [--rounds 9]

Truths are rendered streets; predictions are the same moved by a smooth random flow, so that boundaries are off by a few
pixels. "original" counts as the original's RunningScore does, on 64-bit labels; "unique" as the Python path of
cityscapesScripts, with np.unique; "cityscapesScripts" is the installed program on the same files (its Cython part is
not in the package from PyPI). "per class" computes a distance transform of each class's boundary, in OpenCV's exact
mode or SciPy's, and for Boundary IoU erodes each class's mask. All ways must give the same numbers, or the run fails.
"""

import argparse
import importlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import distance_transform_edt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from side_by_side import median_seconds

from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label, write_label
from openseg.metrics import DISTANCES, BoundaryCounts, BoundaryIoU, ConfusionMatrix
from openseg.metrics.boundary import boundary_width
from openseg.tools.scoring import ScoredPair, score_files
from openseg_demo.scenes import write_scene

CATALOG = get_dataset_info("cityscapes")
K = CATALOG.num_classes


def moved(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = labels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    coarse = [rng.standard_normal((height // 32, width // 32)).astype(np.float32) * 4 for _ in range(2)]
    dy, dx = (cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in coarse)
    return cv2.remap(labels, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time ``ways``, which must agree with the first one; ratios are to it."""
    first = next(iter(ways))
    results = {name: way() for name, way in ways.items()}
    arrays = {name: result for name, result in results.items() if isinstance(result, np.ndarray)}
    for name, result in arrays.items():
        np.testing.assert_allclose(result, next(iter(arrays.values())), rtol=0, atol=1e-9, err_msg=name)
    medians = median_seconds(ways, rounds)
    print(f"\n{title}")
    for name, seconds in medians.items():
        print(f"  {name:24}{1e3 * seconds:10.2f} ms{seconds / medians[first]:9.2f} x")


def counted(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    matrix = ConfusionMatrix(K)
    matrix.update(prediction, truth)
    return matrix.counts[:, :K]


def counted_original(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    valid = (truth >= 0) & (truth < K)
    return np.bincount(K * truth[valid].astype(int) + prediction[valid], minlength=K**2).reshape(K, K)


def counted_unique(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    base = int(max(truth.max(), prediction.max())) + 1
    counts = np.zeros((256, 256), np.int64)
    for value, count in zip(*np.unique(truth.astype(np.int32) * base + prediction, return_counts=True), strict=True):
        counts[value // base, value % base] += count
    return counts[:K, :K]


def boundary_f(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = BoundaryCounts(K, DISTANCES)
    counts.update(prediction, truth)
    return counts.counts


def boundary_f_per_class(
    prediction: np.ndarray, truth: np.ndarray, distance: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    counts = np.zeros((len(DISTANCES), K, 4), np.int64)
    valid, square = truth < K, np.ones((3, 3), np.uint8)
    for label in np.union1d(truth[valid], prediction[valid]):
        outlines = []
        for mask in ((prediction == label) & valid, truth == label):
            mask = mask.astype(np.uint8)
            outlines.append(mask - cv2.erode(mask, square))
        for column, (points, others) in ((0, outlines), (2, outlines[::-1])):
            total = np.count_nonzero(points)
            found = distance(others)[points > 0] if others.any() else np.full(total, np.inf)
            for row, limit in enumerate(DISTANCES):
                counts[row, label, column : column + 2] = np.count_nonzero(found <= limit + 1e-4), total
    return counts


def boundary_iou(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = BoundaryIoU(K, CATALOG.boundary_ratio)
    counts.update(prediction, truth)
    return counts.counts


def boundary_iou_per_class(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    counts = np.zeros((K, 3), np.int64)
    valid, square = truth < K, np.ones((3, 3), np.uint8)
    width = boundary_width(truth.shape, CATALOG.boundary_ratio)
    for label in np.union1d(truth[valid], prediction[valid]):
        regions = []
        for mask in ((prediction == label) & valid, truth == label):
            padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(0,))
            regions.append(mask & (cv2.erode(padded, square, iterations=width)[1:-1, 1:-1] == 0))
        counts[label] = [np.count_nonzero(each) for each in (regions[0] & regions[1], *regions)]
    return counts


def exact_opencv(outline: np.ndarray) -> np.ndarray:
    return cv2.distanceTransform(1 - outline, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)


def exact_scipy(outline: np.ndarray) -> np.ndarray:
    return distance_transform_edt(outline == 0)


def official_iou(pairs: list[ScoredPair]) -> np.ndarray:
    program = importlib.import_module("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    program.args.quiet, program.args.JSONOutput, program.args.evalInstLevelScore = True, False, False
    found = program.evaluateImgLists([str(p.prediction) for p in pairs], [str(p.truth) for p in pairs], program.args)
    return np.array([found["classScores"][name] for name in CATALOG.classes])


def decode(pairs: list[ScoredPair]) -> None:
    for pair in pairs:
        read_label(pair.prediction)
        read_label(pair.truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        pairs = []
        for index in range(arguments.images):
            write_scene((Path(folder), index), tuple(arguments.size), seed=3)
        for truth in sorted((Path(folder) / "label").iterdir()):
            prediction = Path(folder) / "prediction" / truth.name
            write_label(prediction, moved(read_label(truth), rng))
            pairs.append(ScoredPair(prediction, truth))
        truth = CATALOG.read_truth(pairs[0].truth)
        prediction = CATALOG.encode_prediction(read_label(pairs[0].prediction))
        wide = prediction.astype(np.int64), truth.astype(np.int64)
        print(
            f"{arguments.size[0]}x{arguments.size[1]}, {len(np.unique(truth)) - 1} classes, pixels that differ: "
            f"{100 * np.mean(prediction != truth):.1f} %"
        )
        pair = prediction, truth
        compare(
            "counting one pair",
            {
                "ours": lambda: counted(*pair),
                "unique": lambda: counted_unique(*pair),
                "original": lambda: counted_original(*wide),
            },
            arguments.rounds,
        )
        compare(
            "boundary F of one pair",
            {
                "ours": lambda: boundary_f(*pair),
                "per class, OpenCV": lambda: boundary_f_per_class(*pair, exact_opencv),
                "per class, SciPy": lambda: boundary_f_per_class(*pair, exact_scipy),
            },
            max(arguments.rounds // 3, 1),
        )
        compare(
            "Boundary IoU of one pair",
            {"ours": lambda: boundary_iou(*pair), "per class": lambda: boundary_iou_per_class(*pair)},
            arguments.rounds,
        )
        compare(
            f"files to class IoU, {len(pairs)} pairs",
            {
                "decoding alone": lambda: decode(pairs),
                "ours": lambda: score_files(pairs, "cityscapes", ()).confusion.class_iou,
                "cityscapesScripts": lambda: official_iou(pairs),
                "ours with boundaries": lambda: score_files(pairs, "cityscapes").confusion.class_iou,
            },
            arguments.rounds,
        )


if __name__ == "__main__":
    main()

"""Refiners of label maps side by side: gains in quality, and seconds an image, as a Markdown table.

    OMP_NUM_THREADS=2 python benchmarks/refiners.py --labels DIR --images DIR --gt DIR --dataset camvid
        [--offsets DIR] [--checkpoint NAME=FILE ...] [--every N]

The labels of a model are refined by: a majority filter; a guided filter of the one-hot labels (He, Sun, Tang: "Guided
Image Filtering", TPAMI 2013); DenseCRF (Kraehenbuehl, Koltun, NeurIPS 2011) if pydensecrf2 is installed, with the
settings of DeepLab; SegFix offsets of ``--offsets``; the refiner that comes with openseg, at both image sizes; and the
refiners of ``--checkpoint``. Changes are in points. Seconds are wall time of the refinement alone, without files.
"""

import argparse
import time
from pathlib import Path

import cv2
import numpy as np

from openseg.datasets.registry import get_dataset_info
from openseg.inference.refiner import SHIPPED_REFINER, RefinerPredictor
from openseg.io.images import read_image
from openseg.io.matching import index_files, sample_key
from openseg.metrics import LabelScores
from openseg.models.checkpoint.io import read_checkpoint
from openseg.segfix import read_offset_map, refine
from openseg.segfix.offset_files import list_offsets
from openseg.tools.convert import recognize

DISTANCES = (1, 3)
CRF = {"smooth": (3, 3), "bilateral": (67, 3, 4), "steps": 10, "sure": 0.7}


def one_hot(labels):
    values = np.unique(labels)
    return values, (labels == values[:, None, None]).astype(np.float32)


def majority(labels, image, side=5):
    values, planes = one_hot(labels)
    return values[np.argmax([cv2.boxFilter(plane, -1, (side, side)) for plane in planes], axis=0)]


def guided(labels, image, radius=4, epsilon=1e-3):
    values, planes = one_hot(labels)
    size = (2 * radius + 1, 2 * radius + 1)
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    mean = cv2.boxFilter(guide, -1, size)
    variance = cv2.boxFilter(guide * guide, -1, size) - mean * mean
    filtered = []
    for plane in planes:
        average = cv2.boxFilter(plane, -1, size)
        slope = (cv2.boxFilter(guide * plane, -1, size) - mean * average) / (variance + epsilon)
        offset = average - slope * mean
        filtered.append(cv2.boxFilter(slope, -1, size) * guide + cv2.boxFilter(offset, -1, size))
    return values[np.argmax(filtered, axis=0)]


def dense_crf(labels, image):
    from pydensecrf import densecrf
    from pydensecrf.utils import unary_from_labels

    values, numbers = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        return labels
    height, width = labels.shape
    crf = densecrf.DenseCRF2D(width, height, len(values))
    crf.setUnaryEnergy(unary_from_labels(numbers.reshape(-1), len(values), gt_prob=CRF["sure"], zero_unsure=False))
    crf.addPairwiseGaussian(sxy=CRF["smooth"][0], compat=CRF["smooth"][1])
    reach, color, compat = CRF["bilateral"]
    crf.addPairwiseBilateral(sxy=reach, srgb=color, rgbim=np.array(image), compat=compat)
    return values[np.argmax(crf.inference(CRF["steps"]), axis=0)].reshape(height, width)


def network(checkpoint, dataset, upsampling=None):
    config = recognize(read_checkpoint(checkpoint), dataset=dataset)
    if upsampling:
        config = config.model_copy(update={"refiner": config.refiner.model_copy(update={"upsampling": upsampling})})
    predictor = RefinerPredictor(config, checkpoint, "cpu")
    return lambda labels, image: predictor(image, labels)


def ways_of(options):
    ways = {"majority filter, 5x5": majority, "guided filter, radius 4": guided}
    try:
        import pydensecrf  # noqa: F401

        ways["DenseCRF"] = dense_crf
    except ImportError:
        print("pydensecrf2 is not installed: no DenseCRF")
    if options.offsets:
        files = {sample_key(name): place for name, place in list_offsets(options.offsets).items()}

        def segfix(labels, image, key):
            return refine(labels, read_offset_map(files[key]), 1, None, 0.3, 5)

        ways["SegFix, scale 1, confidence 0.3, keep-thin 5"] = segfix
    ways |= {f"shipped refiner, size x {size}": network(SHIPPED_REFINER, options.dataset, size) for size in (1, 2)}
    for each in options.checkpoint:
        name, _, file = each.partition("=")
        ways[name] = network(file, options.dataset)
    return ways


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("labels", "images", "gt"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--dataset", default="cityscapes")
    parser.add_argument("--offsets", type=Path)
    parser.add_argument("--checkpoint", nargs="+", default=[])
    parser.add_argument("--every", type=int, default=1, help="use every n-th image")
    options = parser.parse_args()
    info, ways = get_dataset_info(options.dataset), ways_of(options)
    images, truths = (index_files(sorted(folder.iterdir())) for folder in (options.images, options.gt))
    before, seconds = LabelScores(info, DISTANCES), dict.fromkeys(ways, 0.0)
    after = {name: LabelScores(info, DISTANCES) for name in ways}
    files = sorted(options.labels.glob("*.png"))[:: options.every]
    for path in files:
        key = sample_key(path)
        labels, image, truth = info.read_prediction(path), read_image(images[key]), info.read_truth(truths[key])
        before.update(labels, truth)
        for name, way in ways.items():
            start = time.perf_counter()
            refined = way(labels, image, key) if name.startswith("SegFix") else way(labels, image)
            seconds[name] += time.perf_counter() - start
            after[name].update(refined.astype(np.uint8), truth)
    base = before.compute()
    names = ("mIoU", *(f"boundary F {distance} px" for distance in DISTANCES))
    print(f"| {len(files)} images | {' | '.join(names)} | class that loses most | seconds an image |")
    print("|---|---|---|---|---|---|")
    print(f"| as they are | {' | '.join(f'{100 * base[name]:.2f}' for name in names)} | | |")
    for name, scores in after.items():
        found = scores.compute()
        classes = {each: scores.by_class[each] - value for each, value in before.by_class.items()}
        worst = min((each for each in classes if classes[each] == classes[each]), key=lambda each: classes[each])
        cells = [f"{100 * (found[each] - base[each]):+.2f}" for each in names]
        print(
            f"| {name} | {' | '.join(cells)} | {worst} {100 * classes[worst]:+.2f} | {seconds[name] / len(files):.2f} |"
        )


if __name__ == "__main__":
    main()

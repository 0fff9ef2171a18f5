"""AP of instance masks of rendered streets before and after refinement by the refiner that comes with openseg.

    python benchmarks/refined_masks.py --data DATA_ROOT --out DIR

DATA_ROOT holds rendered scenes (lib/datasets/preprocess/demo/demo_generator.py). Masks are those of the ground truth of
``val`` with errors added (the transform ``degrade``), each with the confidence 1; classes are those of Cityscapes.
"""

import argparse
from pathlib import Path

import numpy as np

import openseg
from openseg.datasets.degradation import degraded
from openseg.datasets.registry import get_dataset_info
from openseg.io.images import read_label, write_label
from openseg.io.matching import sample_key

SMALLEST = 100  # pixels of a mask


def write_masks(path, out, things, number):
    """Masks of one image, in the format of the Cityscapes benchmark."""
    truth, lines = read_label(path), []
    for value in np.unique(truth):
        mask = (truth == value).astype(np.uint8)
        if value < 1000 or value // 1000 not in things or mask.sum() < SMALLEST:
            continue
        coarse = degraded(mask, np.random.default_rng([number, int(value)]))
        write_label(out / f"{sample_key(path)}_{value}.png", coarse * np.uint8(255))
        lines.append(f"{sample_key(path)}_{value}.png {value // 1000} 1.0\n")
    (out / f"{sample_key(path)}_pred.txt").write_text("".join(lines))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    masks, split = options.out / "masks", options.data / "demo/val"
    masks.mkdir(parents=True)
    for number, path in enumerate(sorted((split / "instance").iterdir())):
        write_masks(path, masks, get_dataset_info("demo").thing_ids, number)
    result = openseg.refine_instances(masks, images=split / "image", dataset="demo", data_root=options.data)
    for name, scores in result.scores.items():
        print(name, {key: round(100 * value, 2) for key, value in scores.compute().items()})


if __name__ == "__main__":
    main()

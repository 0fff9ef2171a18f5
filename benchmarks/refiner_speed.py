"""Seconds of the refiner that comes with openseg on a rendered street, in fp32 and bf16, on a CPU or a GPU.

    OMP_NUM_THREADS=2 python benchmarks/refiner_speed.py [--size 1024 2048] [--rounds 3] [--device cpu]

The labels are the ground truth with errors added (the transform ``degrade``). The shares of pixels
that are near a boundary, and that differ between the two precisions, are printed too.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from side_by_side import median_seconds

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from openseg.config import load_config
from openseg.datasets.degradation import degraded
from openseg.datasets.registry import get_dataset_info
from openseg.inference.refiner import SHIPPED_REFINER, RefinerPredictor
from openseg.segfix.votes import undecided
from openseg_demo.scenes import render_scene


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=2, default=(1024, 2048))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    scene = render_scene(0, tuple(options.size), 1)
    truth = get_dataset_info("demo").encode(scene.label)
    coarse = degraded(truth, np.random.default_rng(0))
    ways, results = {}, {}
    for precision in ("fp32", "bf16"):
        config = load_config(SHIPPED_REFINER.with_suffix(".yaml"), [f"test.precision={precision}"])
        predictor = RefinerPredictor(config, SHIPPED_REFINER, options.device)

        def way(predictor=predictor):
            refined = predictor(scene.image, coarse)
            if options.device != "cpu":
                torch.cuda.synchronize()
            return refined

        ways[precision], results[precision] = way, way()
    for name, seconds in median_seconds(ways, options.rounds).items():
        print(f"{name}: {seconds:.3f} s, {(results[name] != coarse).mean():.2%} of the pixels changed")
    print(f"{(results['fp32'] != results['bf16']).mean():.4%} of the pixels differ between fp32 and bf16")
    print(f"{undecided(coarse, 7).mean():.1%} of the pixels are near a boundary")


if __name__ == "__main__":
    main()

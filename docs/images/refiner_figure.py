"""Draws docs/images/refiner.png: a part of a rendered street, and its labels before and after the shipped refiner."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from segfix_figure import GAP, ROOT, with_errors

sys.path.insert(0, str(ROOT / "lib"))

from openseg.datasets.degradation import degraded
from openseg.datasets.registry import get_dataset_info
from openseg.inference.refiner import RefinerPredictor
from openseg_demo.scenes import render_scene

WINDOW = (slice(70, 180), slice(150, 310))
ZOOM = 3


def main() -> None:
    scene = render_scene(0, (256, 512), seed=1)  # the refiner has learned from those of seed 11
    truth = get_dataset_info("cityscapes").encode(scene.label)
    before = degraded(truth, np.random.default_rng(2), stride=(6, 6))
    refiner = RefinerPredictor(device="cpu")
    after = refiner(scene.image, before)
    panels = [scene.image, *(with_errors(labels, truth) for labels in (before, after))]
    height, width = (ZOOM * (each.stop - each.start) for each in WINDOW)
    figure = Image.new("RGB", (len(panels) * (width + GAP) - GAP, height), (255, 255, 255))
    for number, panel in enumerate(panels):
        part = Image.fromarray(np.ascontiguousarray(panel[WINDOW])).resize((width, height), Image.Resampling.NEAREST)
        figure.paste(part, (number * (width + GAP), 0))
    figure.save(Path(__file__).with_name("refiner.png"), optimize=True)


if __name__ == "__main__":
    main()

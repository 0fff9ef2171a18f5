"""Training samples a second on one core: 1024x2048 images -> 512x1024 crops, ours against the original's pipeline.

    python benchmarks/data_loading.py [--rounds 5] [--images 8]

Everything runs in one process, the ways taking turns with the same draws: the original's steps written out literally
(tests/original_recipe.py), ours from PNG, from JPEG (quality 95), and from the cache of decoded samples. Ours ends with
uint8, which the training device normalizes; "normalized" adds that on this core. Times are medians over all samples.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]
import original_recipe as original

from openseg.config import Config
from openseg.datasets.loaders import TrainSet
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import Pair
from openseg.datasets.transforms import normalize
from openseg_demo.scenes import write_scene

STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 255.0)
CROP = (512, 1024)


def scenes(folder, count):
    """Rendered streets as PNG and JPEG, softened as a camera does, which makes PNGs of about the size of Cityscapes'
    (11 GB for 5000 images).
    """
    pairs = {"png": [], "jpg": []}
    for index in range(count):
        write_scene((folder, index), (1024, 2048), seed=1)
    for image in sorted((folder / "image").iterdir()):
        cv2.imwrite(str(image), cv2.GaussianBlur(cv2.imread(str(image)), (0, 0), 0.7))
        Image.open(image).save(image, compress_level=6)
        label = folder / "label" / image.name
        jpeg = folder / "jpeg" / f"{image.stem}.jpg"
        jpeg.parent.mkdir(exist_ok=True)
        Image.open(image).save(jpeg, quality=95)
        pairs["png"].append(Pair(image.stem, image, label))
        pairs["jpg"].append(Pair(image.stem, jpeg, label))
    return pairs


def literal(pair, rng, ids):
    image, raw = original.read(pair.image, pair.label)
    labels = original.encode(raw, ids)
    draws = original.draw(rng, image.shape[:2], CROP, (0.5, 2.0), (0.9, 1.1), 0.5, False, 10, None)
    tensor, padded = original.training_sample(image, labels, CROP, draws, False, None, (), STATISTICS)
    return tensor, torch.from_numpy(padded.astype(np.int64))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=8)
    arguments = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder), arguments.rounds, arguments.images)


def run(folder, rounds, count):
    pairs = scenes(folder, count)
    sizes = {kind: statistics.mean(pair.image.stat().st_size for pair in found) / 1e6 for kind, found in pairs.items()}
    print(f"{count} images; PNG {sizes['png']:.2f} MB, JPEG {sizes['jpg']:.2f} MB on average")
    config = Config(name="bench", data={"dataset": "demo", "root": folder})
    cached = Config(name="bench", data={"dataset": "demo", "root": folder, "cache_gb": 10})
    sets = {
        "ours from PNG": TrainSet(config, pairs["png"]),
        "ours from JPEG": TrainSet(config, pairs["jpg"]),
        "ours from the cache": TrainSet(cached, pairs["png"]),
    }
    ids = get_dataset_info("demo").ids
    position = {pair.key: n for n, pair in enumerate(pairs["png"])}
    seconds = {name: [] for name in ("original from PNG", "original from JPEG", *sets, "cache, normalized")}

    def timed(name, work):
        start = time.perf_counter()
        result = work()
        seconds[name].append(time.perf_counter() - start)
        return result

    for index in range(count):  # fill the cache, and the page cache
        sets["ours from the cache"][index]
    for number in range(rounds):
        for draw in range(number * count, (number + 1) * count):
            rng = [config.train.seed, draw]
            pair = sets["ours from PNG"].pair_of(draw)
            jpeg = pairs["jpg"][position[pair.key]]
            timed("original from PNG", lambda pair=pair, rng=rng: literal(pair, np.random.default_rng(rng), ids))
            timed("original from JPEG", lambda pair=jpeg, rng=rng: literal(pair, np.random.default_rng(rng), ids))
            for name, dataset in sets.items():
                item = timed(name, lambda dataset=dataset, draw=draw: dataset[draw])
            start = time.perf_counter()
            normalize(item["image"][None], config.normalization, item["window"][None])
            seconds["cache, normalized"].append(seconds["ours from the cache"][-1] + time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"{'':22}{'ms':>8}{'samples/s':>11}{'ratio to the original from PNG':>34}")
    for name, median in medians.items():
        ratio = medians["original from PNG"] / median
        print(f"{name:22}{1000 * median:8.1f}{1 / median:11.1f}{ratio:34.2f}")


if __name__ == "__main__":
    main()

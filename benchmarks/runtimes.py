"""What each runtime and precision does to the labels and scores of a trained network, and how fast it is, on a CPU.

    OMP_NUM_THREADS=2 python benchmarks/runtimes.py --config configs/camvid/hrnet18_ocr.yaml --checkpoint FILE
        [--int8 FILE.onnx] [--images 40] [--val] [key=value ...]

Every way predicts the validation split, or some images from all over it; the ways take turns image by image, and the
times are medians of whole predictions, from the decoded image to its labels. ``--int8`` is a file that ``export
--int8`` wrote. ``--val`` measures instead how long the command ``val`` takes for each image, from files to scores, as a
multiple of the network's own time (runs of 20 and of all images, whose difference leaves out starting).
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lib"))

from openseg.config import load_config
from openseg.datasets.samples import list_split
from openseg.datasets.transforms import fit_image, normalize
from openseg.inference.predictor import Predictor
from openseg.io.images import read_image
from openseg.metrics import ConfusionMatrix

WAYS = {
    "torch fp32": [],
    "torch bf16": ["test.precision=bf16"],
    "openvino fp32": ["test.runtime=openvino"],
    "openvino bf16": ["test.runtime=openvino", "test.precision=bf16"],
    "onnxruntime fp32": ["test.runtime=onnxruntime"],
}


def make(arguments):
    """The predictor of each way."""
    made = {}
    for name, settings in WAYS.items():
        config = load_config(arguments.config, [*arguments.overrides, *settings])
        made[name] = Predictor(config, arguments.checkpoint, device="cpu")
    if arguments.int8:
        config = load_config(arguments.int8, ["test.runtime=openvino"])
        made["openvino int8"] = Predictor(config, arguments.int8, device="cpu")
    return made


def compare(arguments):
    made = make(arguments)
    config = next(iter(made.values())).config
    info = config.dataset_info
    pairs = list_split(config, config.data.validation_split)
    pairs = pairs[:: max(len(pairs) // (arguments.images or len(pairs)), 1)]
    times, scores = {name: [] for name in made}, {name: ConfusionMatrix(info.num_classes) for name in made}
    same = dict.fromkeys(made, 0)
    total = 0
    for number, pair in enumerate(pairs):
        image, truth, labels = read_image(pair.image), info.read_truth(pair.label), {}
        for name, predictor in made.items():
            if not number:
                predictor(image)  # the first one compiles
            start = time.perf_counter()
            labels[name] = predictor(image).labels
            times[name].append(time.perf_counter() - start)
            scores[name].update(labels[name], truth)
            same[name] += int((labels[name] == labels["torch fp32"]).sum())
        total += truth.size
    reference = statistics.median(times["torch fp32"])
    print(f"{config.name}, {len(pairs)} images, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| way | ms | ratio | mIoU | change | same class % |\n|---|---|---|---|---|---|")
    for name, confusion in scores.items():
        median, miou = statistics.median(times[name]), 100 * confusion.mean_iou
        change = miou - 100 * scores["torch fp32"].mean_iou
        row = f"| {name} | {1000 * median:.1f} | {reference / median:.2f} | {miou:.2f} | {change:+.2f} |"
        print(f"{row} {100 * same[name] / total:.3f} |")


def network_seconds(arguments):
    """The median time of the network alone, on the split's images."""
    config = load_config(arguments.config, arguments.overrides)
    predictor = Predictor(config, arguments.checkpoint, device="cpu")
    times = []
    for pair in list_split(config, config.data.validation_split)[:30]:
        planes = fit_image(read_image(pair.image), config.data).transpose(2, 0, 1)
        images = normalize(torch.from_numpy(np.ascontiguousarray(planes))[None], config.normalization)
        start = time.perf_counter()
        with torch.inference_mode():
            predictor.model(images, aux=False)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def whole_val(arguments):
    config = load_config(arguments.config, arguments.overrides)
    pairs = list_split(config, config.data.validation_split)
    with tempfile.TemporaryDirectory() as folder:
        seconds, few = {}, 20
        for count in (few, len(pairs)):
            root = Path(folder) / str(count)
            for pair in pairs[:count]:
                for kind, path in (("image", pair.image), ("label", pair.label)):
                    link = root / config.dataset_info.folder / "val" / kind / path.name
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.resolve())
            words = ["--config", arguments.config, "--checkpoint", arguments.checkpoint, "--also", "none"]
            words += [*arguments.overrides, f"data.root={root}", "--device", "cpu"]
            start = time.perf_counter()
            subprocess.run([sys.executable, "main.py", "val", *words], cwd=ROOT, check=True, capture_output=True)
            seconds[count] = time.perf_counter() - start
    each = (seconds[len(pairs)] - seconds[few]) / (len(pairs) - few)
    network = network_seconds(arguments)
    figures = {"val ms": 1000 * each, "network ms": 1000 * network, "ratio": each / network}
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--int8", help="exported file in int8")
    parser.add_argument("--images", type=int, help="how many; all without it")
    parser.add_argument("--val", action="store_true", help="the command val against its network")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    (whole_val if arguments.val else compare)(arguments)


if __name__ == "__main__":
    main()

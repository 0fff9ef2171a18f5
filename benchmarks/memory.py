"""Peak memory of prediction and evaluation, each way in a process of its own.

    OMP_NUM_THREADS=2 python benchmarks/memory.py [--size 512 1024] [--images 2000]

The first table predicts one image with the demo's small network: in one pass at the largest scale of mode ms (2.0), in
mode ms (7 scales, mirrored and not), and in mode ms as the original sums it, all logits at full size. Figures are peaks
above what the process holds once the network is loaded. The second table runs ``main.py val`` on one image and on many:
peaks of the process that predicts, and of the largest process that scores.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "lib"))
CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
WAYS = ("one pass at the largest scale", "ms", "ms, summed at full size")


def peak() -> float:
    """Largest resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def predict_one(way: str, size: tuple[int, int]) -> None:
    import torch

    from openseg.config import MultiScale, SingleScale, load_config
    from openseg.datasets.transforms import normalize
    from openseg.inference import predict_labels
    from openseg.inference.prepare import prepare_for_inference
    from openseg.models.factory import build_model
    from openseg.models.layers import resize_logits

    torch.manual_seed(0)
    config = load_config(CONFIG)
    if way == WAYS[0]:
        largest = MultiScale().scales[-1]
        test = config.test.model_copy(update={"ms": SingleScale(scales=(largest,))})
        config = config.model_copy(update={"test": test})
    model = prepare_for_inference(build_model(config))
    image = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 64, 64), aux=False)
        before = peak()
        if way != WAYS[2]:
            predict_labels(model, image, config, "ms", size)
        else:
            inputs, total = normalize(image, config.normalization), 0
            for scale in MultiScale().scales:
                scaled = resize_logits(inputs, (int(size[0] * scale), int(size[1] * scale)))
                for flip in (False, True):
                    logits = model(scaled.flip(3) if flip else scaled, aux=False).logits
                    logits = resize_logits(resize_logits(logits, scaled.shape[-2:]), size)
                    total = total + (logits.flip(3) if flip else logits)
            total.argmax(dim=1)
    print(peak() - before)


def val(data: Path) -> None:
    import torch

    from openseg.cli.main import main
    from openseg.config import load_config
    from openseg.models.checkpoint.io import write_checkpoint
    from openseg.models.factory import build_model

    torch.manual_seed(0)
    config = load_config(CONFIG)
    checkpoint = data / "random.pth"
    write_checkpoint(checkpoint, {"weights": build_model(config).state_dict(), "config": config.dump()})
    arguments = ["--config", str(CONFIG), "--checkpoint", str(checkpoint), "--device", "cpu", f"data.root={data}"]
    assert main(["val", *arguments, "--out", str(data / "out"), "--also", "none"]) == 0
    print(peak(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def measured(*arguments: object) -> list[float]:
    """The numbers in the last line that a process of this program prints."""
    command = [sys.executable, __file__, "--only", *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "2", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [float(word) for word in done.stdout.splitlines()[-1].split() if word[0].isdigit()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024))
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--only", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only:
        what, *rest = arguments.only
        val(Path(rest[0])) if what == "val" else predict_one(what, tuple(map(int, rest)))
        return
    peaks = {way: measured(way, *arguments.size)[0] for way in WAYS}
    print(f"one image of {arguments.size[0]}x{arguments.size[1]}")
    for way, value in peaks.items():
        print(f"  {way:32}{value:8.0f} MiB{value / peaks[WAYS[0]]:8.2f} x")
    print("val of 64x128 images              predicting       scoring")
    from openseg_demo.scenes import write_scene

    for count in (1, arguments.images):
        with tempfile.TemporaryDirectory() as folder:
            split = Path(folder) / "demo/val"
            write_scene((split, 0), (64, 128), seed=1)
            for kind in ("image", "label"):
                first = next((split / kind).iterdir())
                for number in range(1, count):
                    os.link(first, first.with_name(f"copy_{number:06}.png"))
            print(f"  {count:6} images                {'  '.join(f'{v:8.0f} MiB' for v in measured('val', folder))}")


if __name__ == "__main__":
    main()

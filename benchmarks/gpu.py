"""Everything that a new GPU should be asked, in one command: the GPU tests, and tables of speed, memory and agreement.

    python benchmarks/gpu.py --json gpu.json [--parts tests inference segfix ...] [--minutes 8] [--dry]

Needs only what openseg itself needs, and pytest; what is missing is listed. Times are medians of ways that take turns.
The weights are those of the goldens (tests/recipe.py) or random, except in "agreement" and "refiner", which take the
trained networks that come with openseg. Each part has a limit of seconds, and the last one what is left of the minutes.
A part that fails or comes to its limit is reported with what it found until then, the others still run, and the exit
code is 1. ``--dry`` runs everything at a tiny size on a CPU, to see that this program works; its figures mean nothing.
"""

import argparse
import copy
import importlib.util
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]
MODULES = {"opencv-python-headless": "cv2", "pillow": "PIL", "PyYAML": "yaml"}
NEEDED = [re.split("[<>=]", line)[0] for line in (ROOT / "requirements.txt").read_text().split()] + ["pytest"]
MISSING = [name for name in NEEDED if importlib.util.find_spec(MODULES.get(name, name)) is None]
if MISSING:
    sys.exit(f"error: missing here: pip install {' '.join(MISSING)}")

import forward
import numpy as np
import torch
import training
from side_by_side import median_seconds

from openseg.config import load_config
from openseg.datasets.degradation import degraded
from openseg.datasets.registry import get_dataset_info
from openseg.distributed import set_precision
from openseg.inference.boundary import predict_boundary
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.refiner import SHIPPED_REFINER, RefinerPredictor
from openseg.io.images import read_label
from openseg.models.factory import build_model
from openseg.segfix.refine import refine
from openseg_demo.scenes import render_scene, write_scene

DEMO = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
WAYS = ("plain", "fp32", "bf16")
TINY = ["model.backbone=hrnet_tiny", "augment.crop_size=[64,128]"]


class Run:
    """What all parts share: where they run, and how large."""

    def __init__(self, dry: bool, rounds: int, folder: Path) -> None:
        self.dry, self.rounds, self.folder = dry, 1 if dry else rounds, folder
        self.device = torch.device("cpu" if dry else "cuda")

    def synchronized(self, function, *arguments):
        """``function(*arguments)``, to be timed: without waiting a GPU would only have been told."""
        result = function(*arguments)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return result

    def command(self, *arguments):
        """``main.py`` or another program of the project, in a process of its own; returns what it printed."""
        paths = [str(ROOT / "lib"), os.environ.get("PYTHONPATH")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        done = subprocess.run(
            [sys.executable, *map(str, arguments)], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))}: exit {done.returncode}\n{done.stderr[-3000:]}")
        return done.stdout + done.stderr


def gpu_tests(run):
    """Every test that is marked gpu, the goldens without TF32 among them."""
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", *(["--collect-only"] if run.dry else [])]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "tests/test_gpu.py", "tests/test_goldens_networks.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:])
        raise RuntimeError(f"pytest ended with {done.returncode}")
    return [{"result": done.stdout.strip().splitlines()[-1]}]


def train_large(run):
    """Updates of HRNet-W48 + OCR, 8 crops of 512x1024, random batches."""
    return _trained(run, compiled=False)


def train_compiled(run):
    """The same with a compiled network, which takes minutes to compile."""
    return [] if run.dry else _trained(run, compiled="alone")


def _trained(run, compiled):
    config = ROOT / "configs/cityscapes/hrnet48_ocr.yaml"
    overrides = [*TINY, "train.batch_size=2"] if run.dry else []
    return training.compare(config, overrides, run.device, run.rounds, compiled, seconds=40)


def predict_large(run):
    """From a normalized image of 1024x2048 on the device to its labels there, batch 1."""
    size = (64, 128) if run.dry else (1024, 2048)
    for network in ["hrnet18_ocr"] if run.dry else forward.NETWORKS:
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).to(run.device)
        made = {name: model.to(run.device) for name, model in forward.variants(network, WAYS).items()}
        made["tf32"] = made["fp32"]

        def predict(name, made=made, images=images):
            set_precision(run.device, "tf32" if name == "tf32" else "fp32")
            return run.synchronized(forward.predict, name, made[name], images)

        labels, memory = {}, {}
        for name in made:
            training.peak(run.device)
            for _ in range(2):  # the first one chooses algorithms
                labels[name] = predict(name)
            memory[name] = training.peak(run.device)
        medians = median_seconds({name: partial(predict, name) for name in made}, run.rounds)
        for name, seconds in medians.items():
            yield {
                "network": network,
                "way": name,
                "ms": 1000 * seconds,
                "images/s": 1 / seconds,
                "ratio": medians["plain"] / seconds,
                "peak GiB": memory[name],
                "same class %": (labels[name] == labels["plain"]).float().mean().item() * 100,
            }
        del made, predict


def offsets_and_refinement(run):
    """SegFix on an image of 1024x2048: offsets on the device, refined labels on the CPU, and there and back."""
    size = (64, 128) if run.dry else (1024, 2048)
    config = load_config(
        ROOT / "configs/cityscapes/segfix_hrnext20.yaml", ["test.window=null", "test.window_stride=null"]
    )
    torch.manual_seed(0)
    network = build_model(config)
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.integers(0, 256, (1, 3, *size), np.uint8)).to(run.device)
    labels = np.repeat(np.repeat(rng.integers(0, 19, (size[0] // 32, size[1] // 32), np.uint8), 32, 0), 32, 1)
    for precision in ("fp32", "tf32", "bf16"):
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        set_precision(run.device, precision)
        model = prepare_for_inference(copy.deepcopy(network).to(run.device), dtype)

        def offsets(model=model, precision=precision):
            set_precision(run.device, precision)
            with torch.inference_mode():
                return predict_boundary(model, image, config).offset_map(config)

        made = offsets()
        on_device = labels_on_device = torch.from_numpy(labels).to(run.device)
        medians = median_seconds(
            {
                "offsets": offsets,
                "refine on the CPU": partial(refine, labels, made),
                "refine on the device": partial(run.synchronized, refine, labels_on_device, made),
                "both": lambda: refine(labels, offsets()),
            },
            run.rounds,
        )
        assert np.array_equal(np.asarray(refine(on_device, made).cpu()), refine(labels, made))
        yield from ({"precision": precision, "part": part, "ms": 1000 * each} for part, each in medians.items())


def learned_refiner(run):
    """The refiner that comes with openseg, on a rendered street of 1024x2048 whose labels have errors."""
    scene = render_scene(0, (96, 128) if run.dry else (1024, 2048), 1)
    coarse = degraded(get_dataset_info("demo").encode(scene.label), np.random.default_rng(0))
    ways, refined = {}, {}
    for precision in ("fp32", "bf16"):
        config = load_config(SHIPPED_REFINER.with_suffix(".yaml"), [f"test.precision={precision}"])
        predictor = RefinerPredictor(config, SHIPPED_REFINER, run.device)
        ways[precision] = partial(run.synchronized, predictor, scene.image, coarse)
        refined[precision] = ways[precision]()
    for precision, seconds in median_seconds(ways, run.rounds).items():
        same = (refined[precision] == refined["fp32"]).mean() * 100
        yield {"precision": precision, "ms": 1000 * seconds, "same class %": same}


def feeding(run):
    """Training from files of 1024x2048: how long updates wait for data."""
    root = run.folder / "feeding"
    train = root / "demo" / "train"
    for index in range(2):
        write_scene((train, index), (128, 256) if run.dry else (1024, 2048), seed=1)
    for path in [path for path in train.rglob("*") if path.is_file()]:  # rendering is slow, reading is what is measured
        for copied in range(0 if run.dry else 16):
            shutil.copy(path, path.with_name(f"copy{copied}_{path.name}"))
    write_scene((root / "demo" / "val", 0), (128, 256), seed=2)
    for workers in (2,) if run.dry else (4, 8):
        settings = ["data.dataset=demo", f"data.root={root}", f"data.workers={workers}", "train.val_interval=100000"]
        settings += ["train.precision=bf16", "train.channels_last=true", "train.log_interval=10", "data.cache_gb=0"]
        settings += [*TINY, "train.max_iters=10", "train.batch_size=2"] if run.dry else ["train.max_iters=50"]
        out = ["--checkpoints", run.folder / f"c{workers}", "--runs", run.folder / f"r{workers}"]
        config = ROOT / "configs/cityscapes/hrnet48_ocr.yaml"
        run.command("main.py", "train", "--config", config, *settings, *out, "--device", run.device)
        (file,) = (run.folder / f"r{workers}").rglob("metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        last = [line for line in lines if "images/s" in line][-1]
        yield {"workers": workers, "images/s": last["images/s"], "data wait": last["data wait"]}


def agreement(run):
    """Validation of the trained network that comes with openseg, on rendered streets, in each precision."""
    root, size = run.folder / "agreement", ["--size", 96, 128] if run.dry else []
    scenes = ["--train", 1, "--val", 2 if run.dry else 16]
    run.command("lib/datasets/preprocess/demo/demo_generator.py", "--out", root, "--seed", 1, *scenes, *size)
    labels = {}
    for precision in ("fp32", "bf16") if run.dry else ("fp32", "tf32", "bf16"):
        results = root / f"results_{precision}"
        given = ["--config", DEMO, "--checkpoint", DEMO.with_suffix(".safetensors"), "--also", "none"]
        settings = [f"data.root={root}", f"test.precision={precision}"]
        run.command("main.py", "val", *given, *settings, "--out", results, "--device", run.device)
        scores = json.loads(next(results.rglob("scores.json")).read_text())
        labels[precision] = np.stack([read_label(file) for file in sorted(results.rglob("label/*.png"))])
        same = np.mean(labels[precision] == labels["fp32"]) * 100
        yield {
            "precision": precision,
            "mIoU": next(iter(scores.values()))["summary"]["mIoU"],
            "same class %": same,
        }


PARTS = {
    "tests": (gpu_tests, 90),
    "inference": (predict_large, 90),
    "segfix": (offsets_and_refinement, 30),
    "refiner": (learned_refiner, 20),
    "agreement": (agreement, 50),
    "feeding": (feeding, 60),
    "training": (train_large, 110),
    "compiled": (train_compiled, 250),
}
"""Each with its limit in seconds; together they are cut to --minutes."""


class TimeIsUp(Exception):
    """A part came to its limit."""


def rows_of(part, run, seconds):
    """The rows of a part until it ends, fails or comes to its limit; and what stopped it, or None."""

    def stop(*_):
        raise TimeIsUp(f"stopped after {seconds:.0f} s")

    rows = []
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.1))
    try:
        for row in part(run):
            rows.append(row)
    except Exception:
        return rows, traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return rows, None


def print_table(rows):
    if not rows:
        return
    columns = list(rows[0])
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for row in rows:
        values = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values()]
        print("| " + " | ".join(values) + " |", flush=True)


def machine(device):
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "cores": os.cpu_count(), "python": platform.python_version(), "torch": torch.__version__}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="takes all figures")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8, help="for all parts together")
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        sys.exit("error: there is no GPU; --dry tries this program on a CPU")
    failed, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(arguments.dry, arguments.rounds, Path(folder))
        figures = {"machine": machine(run.device)}
        print(figures["machine"])
        for name in arguments.parts:
            part, limit = PARTS[name]
            start = time.perf_counter()
            left = 60 * arguments.minutes - (start - began)
            print(f"\n## {name}: {part.__doc__}\n", flush=True)
            rows, error = rows_of(part, run, min(limit, left))
            print_table(rows)
            figures[name] = rows
            if error:
                figures[name] = [*rows, {"error": error}]
                print(error)
                failed.append(name)
            print(f"\n{time.perf_counter() - start:.0f} s", flush=True)
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            if run.device.type == "cuda":
                torch.cuda.empty_cache()
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()

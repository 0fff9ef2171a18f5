"""Everything that a new GPU should be asked, in one command: the GPU tests, and tables of speed, memory and agreement.

    python benchmarks/gpu.py --json gpu.json [--parts tests training inference segfix feeding agreement] [--dry]

Needs only what openseg itself needs, and pytest. Under 8 minutes on an H100. Times are medians of ways that take turns;
the weights are those of the goldens (tests/recipe.py) or random, except in "agreement", which trains the demo's
network first. A part that fails is reported and the others still run; the exit code is then 1. ``--dry`` runs
everything at a tiny size on a CPU, to see that this program works; its figures mean nothing.
"""

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

import forward
import training
from side_by_side import median_seconds

from openseg.config import load_config
from openseg.distributed import set_precision
from openseg.inference.boundary import predict_boundary
from openseg.inference.prepare import prepare_for_inference
from openseg.io.images import read_label
from openseg.models.factory import build_model
from openseg.segfix.refine import refine
from openseg_demo.scenes import write_scene

DEMO = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"
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
    config = ROOT / "configs/cityscapes/hrnet48_ocr.yaml"
    return training.compare(config, TINY if run.dry else [], run.device, run.rounds)


def predict_large(run):
    """From a normalized image of 1024x2048 on the device to its labels there, batch 1."""
    size, rows = ((64, 128) if run.dry else (1024, 2048)), []
    for network in ["hrnet48_ocr"] if run.dry else forward.NETWORKS:
        images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).to(run.device)
        made = {name: model.to(run.device) for name, model in forward.variants(network).items()}
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
            rows.append(
                {
                    "network": network,
                    "way": name,
                    "ms": 1000 * seconds,
                    "images/s": 1 / seconds,
                    "ratio": medians["plain"] / seconds,
                    "peak GiB": memory[name],
                    "same class %": (labels[name] == labels["plain"]).float().mean().item() * 100,
                }
            )
        del made, predict
    return rows


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
    rows = []
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
        rows += [{"precision": precision, "part": part, "ms": 1000 * each} for part, each in medians.items()]
        assert np.array_equal(np.asarray(refine(on_device, made).cpu()), refine(labels, made))
    return rows


def feeding(run):
    """Training from files of 1024x2048: how long updates wait for data."""
    root = run.folder / "feeding"
    for index in range(2 if run.dry else 24):
        write_scene((root / "demo" / "train", index), (128, 256) if run.dry else (1024, 2048), seed=1)
    for index in range(1):
        write_scene((root / "demo" / "val", index), (128, 256), seed=2)
    rows = []
    for workers in (2,) if run.dry else (4, 8):
        settings = ["data.dataset=demo", f"data.root={root}", f"data.workers={workers}", "train.val_interval=100000"]
        settings += ["train.precision=bf16", "train.channels_last=true", "train.log_interval=10", "data.cache_gb=0"]
        settings += [*TINY, "train.max_iters=20", "train.batch_size=2"] if run.dry else ["train.max_iters=60"]
        out = ["--checkpoints", run.folder / f"c{workers}", "--runs", run.folder / f"r{workers}"]
        config = ROOT / "configs/cityscapes/hrnet48_ocr.yaml"
        run.command("main.py", "train", "--config", config, *settings, *out, "--device", run.device)
        (file,) = (run.folder / f"r{workers}").rglob("metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        last = [line for line in lines if "images/s" in line][-1]
        rows.append({"workers": workers, "images/s": last["images/s"], "data wait": last["data wait"]})
    return rows


def agreement(run):
    """The demo's network trained here in bf16, and its validation in each precision."""
    root, size = run.folder / "agreement", ["--size", 128, 256] if run.dry else []
    scenes = ["--train", 4, "--val", 2] if run.dry else []
    run.command("lib/datasets/preprocess/demo/demo_generator.py", "--out", root, "--seed", 1, *scenes, *size)
    settings = [f"data.root={root}", "train.precision=bf16", "train.seed=1"]
    settings += ["train.max_iters=4", "train.batch_size=2", "augment.crop_size=[64,64]"] if run.dry else []
    out = ["--checkpoints", root / "checkpoints", "--device", run.device]
    start = time.perf_counter()
    run.command("main.py", "train", "--config", DEMO, *settings, *out, "--runs", root / "runs")
    seconds = time.perf_counter() - start
    rows, labels = [], {}
    precisions = ("fp32", "bf16") if run.dry else ("fp32", "tf32", "bf16")
    for precision in precisions:
        results = root / f"results_{precision}"
        run.command(
            "main.py", "val", "--config", DEMO, *settings, f"test.precision={precision}", "--out", results, *out
        )
        scores = json.loads(next(results.rglob("scores.json")).read_text())
        files = sorted(results.rglob("label/*.png"))
        labels[precision] = np.stack([read_label(file) for file in files])
        same = np.mean(labels[precision] == labels["fp32"]) * 100
        summary = next(iter(scores.values()))["summary"]
        rows.append({"precision": precision, "mIoU": summary["mIoU"], "same class %": same, "training s": seconds})
    return rows


PARTS = {
    "tests": gpu_tests,
    "training": train_large,
    "inference": predict_large,
    "segfix": offsets_and_refinement,
    "feeding": feeding,
    "agreement": agreement,
}


def print_table(rows):
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
    parser.add_argument("--dry", action="store_true", help="tiny, on a CPU")
    arguments = parser.parse_args()
    if not arguments.dry and not torch.cuda.is_available():
        sys.exit("error: there is no GPU; --dry tries this program on a CPU")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        run = Run(arguments.dry, arguments.rounds, Path(folder))
        figures = {"machine": machine(run.device)}
        print(figures["machine"])
        for name in arguments.parts:
            start = time.perf_counter()
            print(f"\n## {name}: {PARTS[name].__doc__}\n", flush=True)
            try:
                figures[name] = PARTS[name](run)
                print_table(figures[name])
            except Exception:
                figures[name] = [{"error": traceback.format_exc()}]
                print(figures[name][0]["error"])
                failed.append(name)
            print(f"\n{time.perf_counter() - start:.0f} s", flush=True)
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
            if run.device.type == "cuda":
                torch.cuda.empty_cache()
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()

"""An update of training as openseg makes it against the plain loop, side by side in one run (medians, alternating).

    OMP_NUM_THREADS=2 python benchmarks/training.py [--config configs/...] [--rounds 5] [key=value ...]

"plain" is how the original trained: a contiguous float32 network (on a GPU without TF32), the loss term by term, the
optimizer parameter by parameter. The other ways are settings of ``train``. Batches are random; all ways begin with the
same weights, and the run fails if the first losses of "plain" and "fp32" differ by more than rounding.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from side_by_side import median_seconds

from openseg.config import load_config
from openseg.datasets.transforms import normalize
from openseg.distributed import Group, pick_device, set_precision
from openseg.labels import IGNORE_INDEX
from openseg.models.factory import build_model
from openseg.tools.benchmark import random_batches
from openseg.training.state import build_training
from openseg.training.step import Step

ROOT = Path(__file__).resolve().parents[1]
WAYS = {
    "fp32": ["train.precision=fp32"],
    "fp32, channels last": ["train.precision=fp32", "train.channels_last=true"],
    "bf16": ["train.precision=bf16"],
    "bf16, channels last": ["train.precision=bf16", "train.channels_last=true"],
}
ON_GPU = {
    "tf32, channels last": ["train.precision=tf32", "train.channels_last=true"],
    "fp16, channels last": ["train.precision=fp16", "train.channels_last=true"],
}
COMPILED = {"bf16, channels last, compiled": [*WAYS["bf16, channels last"], "train.compile=true"]}


class Plain:
    def __init__(self, config, device):
        torch.manual_seed(config.train.seed)
        self.model = build_model(config).to(device).train()
        train = config.train
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=train.lr,
            momentum=train.momentum,
            weight_decay=train.weight_decay,
            foreach=False,
        )
        self.config, self.device = config, device

    def __call__(self, batch):
        set_precision(self.device, "fp32")
        config = self.config
        torch.manual_seed(0)
        images = normalize(batch["image"].to(self.device), config.normalization)
        labels = batch["label"].to(self.device).long()
        weights = config.dataset_info.class_weights if config.loss[0].class_weights else None
        weights = None if weights is None else torch.tensor(weights, device=self.device)
        output = self.model(images)
        losses = []
        for logits in (output.logits, output.aux_logits):
            logits = F.interpolate(logits, size=labels.shape[-2:], mode="bilinear", align_corners=True)
            losses.append(F.cross_entropy(logits, labels, weights, ignore_index=IGNORE_INDEX))
        loss = losses[0] + config.loss[0].aux_weight * losses[1]
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Ours:
    def __init__(self, config, device):
        self.device = device
        self.step = Step(build_training(config, device, Path()), Group())

    def __call__(self, batch):
        set_precision(self.device, self.step.training.config.train.precision)
        batch = {key: value if key == "window" else value.to(self.device) for key, value in batch.items()}
        loss = self.step(batch)["loss"]
        return loss.item()


def peak(device):
    """GiB of the GPU that were taken at most since the last call; None on a CPU."""
    if device.type != "cuda":
        return None
    memory = torch.cuda.max_memory_allocated(device) / 2**30
    torch.cuda.reset_peak_memory_stats(device)
    return memory


def compare(config, overrides, device, rounds, compiled=False, seconds=None):
    """The figures of each way, as one dict a way.

    Args:
        compiled: also a compiled network; "alone": beside few others.
        seconds: no round begins after them.

    Raises:
        RuntimeError: the first losses of "plain" and "fp32" differ by more than rounding.
    """
    chosen = WAYS | (ON_GPU if device.type == "cuda" else {}) | (COMPILED if compiled else {})
    if compiled == "alone":
        chosen = {name: chosen[name] for name in ("fp32", "bf16, channels last", *COMPILED)}
    overrides = [*overrides, "model.dropout=0", "loss.type=ce"]
    base = load_config(config, overrides)
    batch = next(random_batches(base))
    ways = {"plain": Plain(base, device)}
    ways |= {name: Ours(load_config(config, [*overrides, *settings]), device) for name, settings in chosen.items()}
    losses, memory = {}, {}
    for name, way in ways.items():
        peak(device)
        losses[name] = way(batch)
        memory[name] = peak(device)
        way(batch)
    if abs(losses["fp32"] / losses["plain"] - 1) > 1e-5:
        raise RuntimeError(f"the plain loop's loss is {losses['plain']}, ours {losses['fp32']}")
    medians = median_seconds({name: partial(way, batch) for name, way in ways.items()}, rounds, seconds)
    size = base.train.batch_size
    return [
        {
            "way": name,
            "ms": 1000 * seconds,
            "images/s": size / seconds,
            "ratio": medians["plain"] / seconds,
            "first loss": losses[name],
            "peak GiB": memory[name],
        }
        for name, seconds in medians.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=ROOT / "configs/camvid/hrnet18_ocr.yaml")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="also torch.compile, which takes minutes")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    rows = compare(arguments.config, arguments.overrides, device, arguments.rounds, arguments.compile)
    config = load_config(arguments.config, arguments.overrides)
    crop, size = "x".join(map(str, config.augment.crop_size)), config.train.batch_size
    print(f"{config.name}, {size} crops {crop}, {torch.__version__}, {device}, {torch.get_num_threads()} threads")
    print(f"{'way':30}{'ms':>10}{'images/s':>10}{'ratio':>8}{'first loss':>12}{'peak GiB':>10}")
    for row in rows:
        memory = "" if row["peak GiB"] is None else f"{row['peak GiB']:10.2f}"
        figures = f"{row['ms']:10.1f}{row['images/s']:10.2f}{row['ratio']:8.2f}{row['first loss']:12.5f}"
        print(f"{row['way']:30}{figures}{memory}")


if __name__ == "__main__":
    main()

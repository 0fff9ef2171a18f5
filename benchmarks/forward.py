"""From a normalized image to labels, networks of the model zoo: ours against a plain transcription, on a CPU.

    OMP_NUM_THREADS=2 python benchmarks/forward.py [--size 512 1024] [--rounds 5] [--networks hrnet48_ocr ...]

"plain" is the same network as the original ran it: batch norms as they are, contiguous float32, explicit softmax
attention, main and auxiliary logits resized to the image before the argmax. "fp32" and "bf16" are what ``val`` does
with ``test.precision``. All take turns in one process; figures are medians. The weights are those of the golden
outputs (tests/recipe.py) and the image is noise, so the agreement of classes says little about trained networks. Peak
memory is that of a process of its own that runs one variant once, weights and libraries (0.5 GiB) included.
"""

import argparse
import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

from recipe import golden_state
from side_by_side import median_seconds

from openseg.config import load_config
from openseg.inference import argmax, from_tensor, resized
from openseg.inference.prepare import prepare_for_inference
from openseg.models.checkpoint.io import Checkpoint, load_weights
from openseg.models.checkpoint.layouts import convert_state
from openseg.models.checkpoint.load import fit_config
from openseg.models.factory import build_model
from openseg.models.layers import resize_logits

NETWORKS = {
    "hrnet48_ocr": "hrnet_w48_ocr_19__inplace_abn",
    "resnet101_base_oc": "base_ocnet_r101d8_19__inplace_abn",
    "resnet101_isa": "isanet_r101d8_19__inplace_abn",
    "resnet101_ocr": "spatial_ocrnet_r101d8_19__inplace_abn",
    "resnet101_asp_ocr": "spatial_asp_ocrnet_r101d8_19__inplace_abn",
}
VARIANTS = ("plain", "fp32", "bf16")


def explicit_attention(query, key, value):
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1) @ value


def build(network):
    """The network with the weights of the goldens, which give sensible activations and predict many classes."""
    state = {key.removeprefix("module."): value for key, value in golden_state(NETWORKS[network]).items()}
    checkpoint = Checkpoint(Path(network), convert_state(state))
    config = fit_config(load_config(ROOT / f"configs/cityscapes/{network}.yaml"), checkpoint)
    model = build_model(config).eval()
    load_weights(model, checkpoint)
    return model


def variants(network, wanted=VARIANTS):
    model = build(network)
    made = {}
    for name in wanted:
        own = copy.deepcopy(model) if len(wanted) > 1 else model
        if name != "plain":
            own = prepare_for_inference(own, torch.bfloat16 if name == "bf16" else torch.float32)
        made[name] = own
    return made


def predict(name, model, images):
    size = tuple(images.shape[-2:])
    if name != "plain":
        with torch.inference_mode():
            return argmax(resized(from_tensor(model(images, aux=False).logits.float()), size))
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = explicit_attention
    try:
        with torch.no_grad():
            output = model(images)
            resize_logits(output.aux_logits, size)
            return resize_logits(output.logits, size).argmax(dim=1).to(torch.uint8)
    finally:
        F.scaled_dot_product_attention = fused


def peak_memory(network, variant, size):
    """GiB of a process that runs one variant once, counted from when the network is ready (Linux)."""
    arguments = [sys.executable, __file__, "--memory-of", network, variant, "--size", *map(str, size)]
    return float(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)


def print_peak_memory(network, variant, size):
    ((name, model),) = variants(network, [variant]).items()
    images = torch.randn(1, 3, *size)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building it
    predict(name, model, images)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)


def measure(network, size, rounds):
    made = variants(network)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    labels = {name: predict(name, model, images) for name, model in made.items()}
    medians = median_seconds({name: partial(predict, name, model, images) for name, model in made.items()}, rounds)
    for name, seconds in medians.items():
        agreement = (labels[name] == labels["plain"]).float().mean().item() * 100
        memory, ratio = peak_memory(network, name, size), medians["plain"] / seconds
        print(
            f"| {network} | {name} | {seconds:.2f} | {ratio:.2f} | {memory:.2f} | {agreement:.3f} |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--memory-of", nargs=2, metavar=("NETWORK", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_peak_memory(*arguments.memory_of, arguments.size)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, image {arguments.size}")
    print("| network | variant | s | ratio | peak GiB | same class % |\n|---|---|---|---|---|---|")
    for network in arguments.networks:
        measure(network, arguments.size, arguments.rounds)


if __name__ == "__main__":
    main()

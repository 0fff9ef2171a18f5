"""Backbones of timm with a head: size, operations and speed on a CPU, as a Markdown table for MODEL_ZOO.md.

    OMP_NUM_THREADS=2 python benchmarks/backbones.py [--head mlp] [--rounds 3] [--models convnext_tiny ...]

Networks have random weights, which need no download and take as long. They are prepared as ``val`` prepares them (norms
folded, channels last, float32) and take turns on a single image of 512x1024; the median counts. Tag and license are
those that timm gives for the weights that ``model.pretrained: auto`` loads.
"""

import argparse

import timm
import torch
from side_by_side import median_seconds

import openseg
from openseg.inference.prepare import prepare_for_inference
from openseg.tools.summary import count_flops

MODELS = [
    "tf_efficientnet_lite0",
    "tf_efficientnet_lite2",
    "mobilenetv4_conv_small",
    "repvit_m1_1",
    "resnet50",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b1",
    "caformer_s18",
    "vit_small_patch16_224",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
]
SIZE, LARGE = (512, 1024), (1024, 2048)


def network(name, head):
    return openseg.create_model(f"timm:{name}", head, num_classes=19, head_channels=256)


def row(name, head, seconds):
    with torch.device("meta"):
        model = network(name, head).eval()
        flops = [count_flops(model, torch.empty(1, 3, *size)) / 1e9 for size in (SIZE, LARGE)]
    facts = timm.models.get_pretrained_cfg(name)
    parameters = sum(each.numel() for each in model.parameters()) / 1e6
    cells = f"`timm:{name}`", f"{parameters:.1f}", *(f"{each:.0f}" for each in flops), f"{1 / seconds:.2f}"
    return "| " + " | ".join((*cells, facts.tag, facts.license)) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--head", default="mlp")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", default=MODELS)
    options = parser.parse_args()
    images = torch.randn(1, 3, *SIZE)
    print("| backbone | parameters, M | GFLOPs 512x1024 | GFLOPs 1024x2048 | images/s | weights | license |")
    print("|---|---|---|---|---|---|---|")
    ways = {}
    for name in options.models:
        model = prepare_for_inference(network(name, options.head))
        ways[name] = lambda model=model: model(images)
    with torch.inference_mode():
        for way in ways.values():
            way()
        seconds = median_seconds(ways, options.rounds)
    for name in options.models:
        print(row(name, options.head, seconds[name]), flush=True)


if __name__ == "__main__":
    main()

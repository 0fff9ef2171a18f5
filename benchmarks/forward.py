"""From a normalized image to labels, networks of the model zoo: ours against a plain transcription, on a CPU.

    OMP_NUM_THREADS=2 python benchmarks/forward.py [--size 512 1024] [--rounds 5] [--networks hrnet48_ocr ...]

"plain" is the same network as the original ran it: batch norms as they are, contiguous float32, explicit softmax
attention, main and auxiliary logits resized to the image before the argmax. "fp32" and "bf16" are what ``val``
does with ``test.precision``, the others with ``test.runtime``; "openvino_int8" is what ``export --int8`` writes, with
ranges of this image (needs nncf); "compiled" (with --variants) is torch.compile with frozen weights. All take turns in
one process; figures are medians. The weights are those of the golden outputs (tests/recipe.py), of networks that are
not the original's random ones, and the image is noise, so the agreement of classes says little about trained networks
(benchmarks/runtimes.py). SegFix is measured to offset codes. Peak memory is that of a process of its own that runs one
variant once, weights and libraries (0.5 GiB) included.
"""

import argparse
import copy
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch._inductor import config as inductor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "lib"), str(ROOT / "tests")]

from recipe import golden_state
from side_by_side import median_seconds

from openseg.config import load_config
from openseg.inference import argmax, from_tensor, resized
from openseg.inference.boundary import offset_codes
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.program import exported_program, written_onnx
from openseg.inference.runtimes import LogitsOnly, RuntimeNetwork, in_runtime, openvino_infer
from openseg.models.checkpoint.io import Checkpoint, load_weights
from openseg.models.checkpoint.layouts import convert_state
from openseg.models.checkpoint.load import fit_config
from openseg.models.factory import build_model
from openseg.models.layers import resize_logits

NETWORKS = {
    "hrnet48_ocr": "hrnet_w48_ocr_19__inplace_abn",
    "hrnet18_ocr": None,
    "resnet101_base_oc": "base_ocnet_r101d8_19__inplace_abn",
    "resnet101_isa": "isanet_r101d8_19__inplace_abn",
    "resnet101_ocr": "spatial_ocrnet_r101d8_19__inplace_abn",
    "resnet101_asp_ocr": "spatial_asp_ocrnet_r101d8_19__inplace_abn",
    "effnet_lite0_ocr": None,
    "segfix_hrnext20": None,
}
OWN = {
    "hrnet18_ocr": ("camvid/hrnet18_ocr", []),
    "effnet_lite0_ocr": ("camvid/effnet_lite0_balanced", []),
    "segfix_hrnext20": ("cityscapes/segfix_hrnext20", ["test.window=null", "test.window_stride=null"]),
}
"""Configs of the networks without golden outputs."""
VARIANTS = ("plain", "fp32", "bf16", "openvino", "openvino_bf16", "openvino_int8", "onnxruntime")
COMPILED = ("compiled", "compiled_bf16")


def explicit_attention(query, key, value):
    return torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1) @ value


def own_config(network):
    path, overrides = OWN[network]
    return load_config(ROOT / f"configs/{path}.yaml", overrides)


def build(network):
    """The network with the weights of the goldens, which give sensible activations and predict many classes."""
    if NETWORKS[network] is None:  # not one of the original's
        torch.manual_seed(0)
        model = build_model(own_config(network)).eval()
        for layer in model.modules():  # signals stay as large as they are
            if isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return model
    state = {key.removeprefix("module."): value for key, value in golden_state(NETWORKS[network]).items()}
    checkpoint = Checkpoint(Path(network), convert_state(state))
    config = fit_config(load_config(ROOT / f"configs/cityscapes/{network}.yaml"), checkpoint)
    model = build_model(config).eval()
    load_weights(model, checkpoint)
    return model


def variants(network, wanted=VARIANTS, size=(512, 1024)):
    model = build(network)
    made, segfix = {}, network.startswith("segfix")
    for name in wanted:
        own = copy.deepcopy(model) if len(wanted) > 1 else model
        if name != "plain":
            bf16 = name in ("bf16", "compiled_bf16")
            own = prepare_for_inference(own, torch.bfloat16 if bf16 else torch.float32)
        runtime, _, precision = name.partition("_")
        if runtime == "compiled":
            inductor.freezing = True  # weights are constants
            own = torch.compile(own)
        elif precision == "int8":
            own = in_int8(own, size, segfix)
        elif runtime in ("openvino", "onnxruntime"):
            own = in_runtime(own, runtime, torch.device("cpu"), precision or "fp32", segfix=segfix)
        made[name] = own
    return made


def in_int8(model, size, segfix):
    """The network as OpenVINO runs it after NNCF's quantization; ranges are those of noise."""
    import nncf
    import onnx

    torch.manual_seed(0)
    images = [torch.randn(1, 3, *size).numpy() for _ in range(2)]
    program = exported_program(LogitsOnly(model, segfix), torch.from_numpy(images[0]))
    outputs = ["mask", "direction"] if segfix else ["logits"]
    float_model = onnx.load_from_string(written_onnx(program, outputs, {}).model_proto.SerializeToString())
    data = nncf.Dataset(images, lambda image: {"images": image})
    quantized = nncf.quantize(float_model, data, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))
    return RuntimeNetwork(openvino_infer(quantized.SerializeToString(), "fp32"), segfix)


def predict_offsets(name, model, images):
    """Offset codes; "plain" resizes both outputs and decides pixel by pixel."""
    size = tuple(images.shape[-2:])
    config = own_config("segfix_hrnext20")
    with torch.inference_mode():
        found = model(images)
        if name == "plain":
            mask = resize_logits(found.mask_logits, size).softmax(dim=1)[:, 1]
            return offset_codes(mask, resize_logits(found.direction_logits, size), config)
        mask = resize_logits(found.mask_logits.float().softmax(dim=1)[:, 1:], size)[:, 0]
        return offset_codes(mask, resize_logits(found.direction_logits.float(), size), config)


def predict(name, model, images):
    size = tuple(images.shape[-2:])
    if hasattr(model, "direction_head") or getattr(model, "_segfix", False):
        return predict_offsets(name, model, images)
    if name != "plain":
        with torch.inference_mode():
            return argmax(resized(from_tensor(model(images, aux=False).logits.float()), size))
    fused = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = explicit_attention
    try:
        with torch.no_grad():
            output = model(images)
            if output.aux_logits is not None:
                resize_logits(output.aux_logits, size)
            return resize_logits(output.logits, size).argmax(dim=1).to(torch.uint8)
    finally:
        F.scaled_dot_product_attention = fused


def peak_memory(network, variant, size):
    """GiB of a process that runs one variant once, counted from when the network is ready (Linux)."""
    arguments = [sys.executable, __file__, "--memory-of", network, variant, "--size", *map(str, size)]
    printed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    return float(printed.splitlines()[-1])


def print_peak_memory(network, variant, size):
    ((name, model),) = variants(network, [variant], size).items()
    images = torch.randn(1, 3, *size)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of building it
    predict(name, model, images)
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 2**20)


def measure(network, size, rounds, wanted, with_memory):
    made = variants(network, ["plain", *(each for each in wanted if each != "plain")], size)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    labels = {name: predict(name, model, images) for name, model in made.items()}
    medians = median_seconds({name: partial(predict, name, model, images) for name, model in made.items()}, rounds)
    for name, seconds in medians.items():
        agreement = (labels[name] == labels["plain"]).float().mean().item() * 100
        memory = f"{peak_memory(network, name, size):.2f}" if with_memory else ""
        row = f"| {network} | {name} | {seconds:.2f} | {medians['plain'] / seconds:.2f} | {memory} | {agreement:.3f} |"
        print(row, flush=True)


def original_labels(logits, size, table):
    """Labels as the original makes them: full-size logits, NumPy's argmax over channels last, and a look-up of ids."""
    large = F.interpolate(logits, size, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()
    return table[np.argmax(large, axis=-1).astype(np.uint8)]


def our_labels(logits, size, info):
    return info.decode(argmax(resized(from_tensor(logits), size))[0].numpy())


def measure_last_step(rounds):
    """From logits of stride 4 to label IDs of 1024x2048."""
    info = load_config(ROOT / "configs/cityscapes/hrnet48_ocr.yaml").dataset_info
    noise = torch.randn(1, 19, 16, 32, generator=torch.Generator().manual_seed(1))
    # Regions of the size of objects; noise in every pixel has a boundary everywhere.
    logits = F.interpolate(noise, (256, 512), mode="bicubic", align_corners=True)
    table = info.decode(np.arange(256, dtype=np.uint8).clip(max=18))
    ways = {
        "original's": partial(original_labels, logits, (1024, 2048), table),
        "ours": partial(our_labels, logits, (1024, 2048), info),
    }
    same = (ways["ours"]() == ways["original's"]()).mean() * 100
    medians = median_seconds(ways, rounds)
    theirs, ours = medians.values()
    print(f"last step: original's {theirs:.3f} s, ours {ours:.3f} s, ratio {theirs / ours:.1f}; same {same:.4f} %")


def measure_peak(rounds):
    """What the convolution library reaches at most: GFLOP/s of convolutions and products of friendly sizes."""
    cases = {
        "3x3 convolution, 256 channels, 128x256": (torch.nn.Conv2d(256, 256, 3, padding=1), (1, 256, 128, 256)),
        "3x3 convolution, 48 channels, 128x256": (torch.nn.Conv2d(48, 48, 3, padding=1), (1, 48, 128, 256)),
        "1x1 convolution, 1024 channels, 64x128": (torch.nn.Conv2d(1024, 1024, 1), (1, 1024, 64, 128)),
    }
    print("| operation | fp32 GFLOP/s | bf16 GFLOP/s |\n|---|---|---|")
    for name, (layer, shape) in cases.items():
        row = []
        flops = 2 * layer.weight.numel() * shape[2] * shape[3]
        for dtype in (torch.float32, torch.bfloat16):
            own = copy.deepcopy(layer).to(dtype=dtype, memory_format=torch.channels_last)
            images = torch.randn(shape).to(dtype=dtype, memory_format=torch.channels_last)
            with torch.inference_mode():
                own(images)
                row.append(flops / median_seconds({"it": partial(own, images)}, 3 * rounds)["it"] / 1e9)
        print(f"| {name} | {row[0]:.0f} | {row[1]:.0f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=2, default=(512, 1024), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="also peak memory, which takes as long again")
    parser.add_argument("--peak", action="store_true", help="GFLOP/s of convolutions alone, the limit of all networks")
    parser.add_argument("--last-step", action="store_true", help="from logits to label IDs alone")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS + COMPILED, default=list(VARIANTS))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--memory-of", nargs=2, metavar=("NETWORK", "VARIANT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        print_peak_memory(*arguments.memory_of, arguments.size)
        return
    if arguments.peak:
        with torch.inference_mode():
            measure_peak(arguments.rounds)
        return
    if arguments.last_step:
        measure_last_step(arguments.rounds)
        return
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, image {arguments.size}")
    print("| network | variant | s | ratio | peak GiB | same class % |\n|---|---|---|---|---|---|")
    for network in arguments.networks:
        measure(network, arguments.size, arguments.rounds, arguments.variants, arguments.memory)


if __name__ == "__main__":
    main()

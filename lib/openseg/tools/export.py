"""Networks for other programs: ONNX and ``torch.export``, from an image as it is to logits, labels or offsets."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from openseg.config import Config
from openseg.errors import ConfigError, OpensegError
from openseg.inference.boundary import offset_codes
from openseg.io.files import atomic_write
from openseg.models.layers import resize_logits

__all__ = ["FORMATS", "OUTPUTS", "Agreement", "Exportable", "compare", "write_exported"]

OUTPUTS = {"semantic": ("logits", "labels"), "segfix": ("offsets",)}
"""What a network of each task can give: ``logits: float[B, K, H, W]``, ``labels: uint8[B, H, W]`` (training ids), and
``offsets: uint8[B, H, W]`` (codes of ``OffsetMap``)."""
FORMATS = (".onnx", ".pt2")
_TRIED = ((1, 96, 130), (2, 161, 200))  # batch, height, width


class Exportable(nn.Module):
    """``forward(images: float[B, 3, H, W])``: RGB from 0 to 255, in one pass at the images' size; see ``OUTPUTS``."""

    def __init__(self, model: nn.Module, config: Config, output: str) -> None:
        """
        Raises:
            ConfigError: the task has no such output, or predicts in more than one pass.
        """
        super().__init__()
        if output not in OUTPUTS[config.task]:
            known = " or ".join(OUTPUTS[config.task])
            raise ConfigError(f"a network of task {config.task} gives {known}, not {output}")
        normalization = config.normalization
        self.model = model
        self.config = config
        self.output = output
        self.order = [2, 1, 0] if normalization.order == "bgr" else [0, 1, 2]
        self.scale = normalization.scale
        for name, values in (("mean", normalization.mean), ("std", normalization.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        inputs = (images[:, self.order] / self.scale - self.mean) / self.std
        if self.output == "offsets":
            found = self.model(inputs)
            boundary = resize_logits(found.mask_logits.softmax(dim=1)[:, 1:], size)[:, 0]
            return offset_codes(boundary, resize_logits(found.direction_logits, size), self.config)
        logits = resize_logits(self.model(inputs, aux=False).logits, size)
        return logits.argmax(dim=1).to(torch.uint8) if self.output == "labels" else logits


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention in products and a softmax, since the exporter takes four dimensions only."""
    products = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return products.softmax(dim=-1) @ value


def _program(network: Exportable) -> ExportedProgram:
    """The network for any batch and size."""
    example = torch.zeros(2, 3, 128, 160)
    sizes = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(network.eval(), (example,), dynamic_shapes={"images": sizes})
    return program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attend})


def write_exported(path: Path, network: Exportable, notes: dict[str, Any]) -> ExportedProgram:
    """Write ``network`` (float32, on the CPU) as ``.onnx`` or ``.pt2``; returns it as ``torch.export`` sees it.

    Args:
        notes: plain values that are kept in the file.

    Raises:
        OpensegError: a package is missing, or another suffix.
    """
    if path.suffix not in FORMATS:
        raise OpensegError(f"{path}: write to a file ending in {' or '.join(FORMATS)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise OpensegError(f"{path}: ONNX needs {' and '.join(missing)}; pip install 'openseg[export]'")
    for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what happens inside the exporters; the result is compared
        return _write(path, network, notes)


def _write(path: Path, network: Exportable, notes: dict[str, Any]) -> ExportedProgram:
    program = _program(network)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}
    with atomic_write(path) as temporary:
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={"openseg.json": json.dumps(notes)})
        else:
            shapes = {"images": {0: "batch", 2: "height", 3: "width"}}
            made = torch.onnx.export(
                program, input_names=["images"], output_names=[network.output], dynamic_shapes=shapes, verbose=False
            )
            made.model.metadata_props.update(texts)
            made.save(temporary, external_data=False)
    return program


class Agreement(NamedTuple):
    """Of one batch: its shape, the largest difference of numbers, and the share of pixels of the same class."""

    shape: tuple[int, ...]
    difference: float
    same: float


def compare(path: Path, network: Exportable) -> Iterator[Agreement]:
    """What the file gives for random images of two sizes and batches, beside what the network gives."""
    run = _runner(path)
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in _TRIED:
        images = torch.rand(batch, 3, height, width, generator=generator) * 255
        with torch.inference_mode():
            expected = network(images).numpy()
        found = run(images.numpy())
        classes = [each.argmax(axis=1) if network.output == "logits" else each for each in (expected, found)]
        difference = np.abs(expected.astype(np.float64) - found).max()
        yield Agreement(expected.shape, float(difference), float((classes[0] == classes[1]).mean()))


def _runner(path: Path) -> Any:
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()

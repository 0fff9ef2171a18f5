"""Networks for other programs: ONNX and ``torch.export``, from an image as it is to logits, labels or offsets."""

from __future__ import annotations

import importlib.util
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from openseg.config import Config
from openseg.errors import ConfigError, OpensegError
from openseg.inference.boundary import offset_codes
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.program import exported_program, written_onnx
from openseg.io.files import atomic_write, file_hash
from openseg.models.checkpoint.io import KeyReport
from openseg.models.checkpoint.load import load_network
from openseg.models.layers import resize_logits
from openseg.tools.common import as_config, checkpoint_of
from openseg.tools.paths import PathLike

__all__ = ["FORMATS", "Comparison", "Exportable", "Exported", "compare", "export", "write_exported"]

FORMATS = (".onnx", ".pt2")
_SAME = 0.999  # share of pixels; random weights have near ties
_TRIED = ((1, 96, 130), (2, 161, 200))  # batch, height, width


class Exportable(nn.Module):
    """``forward(images: float[B, C, H, W])``: RGB from 0 to 255, or bands as in files, in one pass at their size.

    It gives ``logits: float[B, K, H, W]``, ``labels: uint8[B, H, W]`` (train IDs), or ``offsets: uint8[B, H, W]``
    (codes of ``OffsetMap``).
    """

    def __init__(self, model: nn.Module, config: Config, output: str) -> None:
        """
        Raises:
            ConfigError: the task has no such output, or predicts in more than one pass.
        """
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        if output not in config.outputs:
            known = " or ".join(config.outputs)
            raise ConfigError(f"a network of task {config.task} gives {known}, not {output}")
        normalization, bands = config.normalization, config.dataset_info.bands
        self.model = model
        self.config = config
        self.output = output
        self.channels = config.dataset_info.channels
        self.order = [*range(self.channels)] if bands or normalization.order == "rgb" else [2, 1, 0]
        self.scale = 1.0 if bands else normalization.scale
        for name in ("mean", "std"):
            given = [getattr(band, name) for band in bands] or getattr(normalization, name)
            values = torch.tensor(given, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def example(self, batch: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Random images ``float[B, C, H, W]`` with values that occur."""
        noise = torch.rand(batch, self.channels, *size, generator=generator)
        if self.config.dataset_info.bands:
            return (4 * noise - 2) * self.std + self.mean
        return 255 * noise

    def forward(self, images: Tensor) -> Tensor:
        size = images.shape[-2:]
        inputs = (images[:, self.order] / self.scale - self.mean) / self.std
        if self.output == "offsets":
            found = self.model(inputs)
            boundary = resize_logits(found.mask_logits.softmax(dim=1)[:, 1:], size)[:, 0]
            return offset_codes(boundary, resize_logits(found.direction_logits, size), self.config)
        logits = resize_logits(self.model(inputs, aux=False).logits, size)
        return logits.argmax(dim=1).to(torch.uint8) if self.output == "labels" else logits


class Shape(NamedTuple):
    """What a written network takes: a batch and a size, or any of them where None."""

    batch: int | None = None
    size: tuple[int, int] | None = None

    @property
    def dynamic(self) -> dict[int, str]:
        """Names of the axes that may be of any length."""
        return {**({} if self.batch else {0: "batch"}), **({} if self.size else {2: "height", 3: "width"})}

    def tried(self) -> list[tuple[int, int, int]]:
        """Batches and sizes to compare at."""
        return list(
            dict.fromkeys((self.batch or batch, *(self.size or (height, width))) for batch, height, width in _TRIED)
        )


_ANY = Shape()


def _program(network: Exportable, shape: Shape) -> ExportedProgram:
    """The network for the batches and sizes of ``shape``."""
    example = torch.zeros(shape.batch or 2, network.channels, *(shape.size or (128, 160)))
    return exported_program(network, example, shape.dynamic)


def write_exported(
    path: Path, network: Exportable, notes: dict[str, Any], shape: Shape = _ANY, opset: int | None = None
) -> ExportedProgram:
    """Write ``network`` (float32, on the CPU) as ``.onnx`` or ``.pt2``; returns it as ``torch.export`` sees it.

    Args:
        notes: plain values that are kept in the file.
        shape: what it takes.
        opset: of ONNX; None is that of PyTorch's exporter.

    Raises:
        OpensegError: a package is missing, or another suffix.
    """
    if path.suffix not in FORMATS:
        raise OpensegError(f"{path}: write to a file ending in {' or '.join(FORMATS)}")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise OpensegError(f"{path}: ONNX needs {' and '.join(missing)}; pip install 'openseg[export]'")
    if path.suffix == ".onnx" and torch.__version__ < "2.7":
        raise OpensegError(f"{path}: ONNX needs PyTorch 2.7 or newer, this is {torch.__version__}; or write .pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what happens inside the exporters; the result is compared
        return _write(path, network, notes, shape, opset)


def _write(path: Path, network: Exportable, notes: dict[str, Any], shape: Shape, opset: int | None) -> ExportedProgram:
    program = _program(network, shape)
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in notes.items()}
    with atomic_write(path) as temporary:
        if path.suffix == ".pt2":
            content = io.BytesIO()  # on a full disk, its writer ends the process
            torch.export.save(program, content, extra_files={"openseg.json": json.dumps(notes)})
            temporary.write_bytes(content.getbuffer())
        else:
            made = written_onnx(program, [network.output], shape.dynamic, opset)
            made.model.metadata_props.update(texts)
            made.save(temporary, external_data=False)
            _require_opset(path, temporary, opset)
    return program


def _require_opset(path: Path, written: Path, opset: int | None) -> None:
    """Raises OpensegError where the exporter could not write the version that was asked for, which it only warns of."""
    if opset is None:
        return
    import onnx

    found = next(each.version for each in onnx.load(written).opset_import if each.domain in ("", "ai.onnx"))
    if found != opset:
        raise OpensegError(f"{path}: this network cannot be written with opset {opset}; the nearest is {found}")


class Comparison(NamedTuple):
    """Of one batch: its shape, the largest difference of numbers, and the share of pixels of the same class."""

    shape: tuple[int, ...]
    difference: float
    same: float


def compare(path: Path, network: Exportable, shape: Shape = _ANY) -> Iterator[Comparison]:
    """What the file gives for random images of the sizes that it takes, beside what the network gives."""
    run = _runner(path)
    generator = torch.Generator().manual_seed(0)
    for batch, height, width in shape.tried():
        images = network.example(batch, (height, width), generator)
        with torch.inference_mode():
            expected = network(images).numpy()
        found = run(images.numpy())
        classes = [each.argmax(axis=1) if network.output == "logits" else each for each in (expected, found)]
        difference = np.abs(expected.astype(np.float64) - found).max()
        yield Comparison(expected.shape, float(difference), float((classes[0] == classes[1]).mean()))


def _runner(path: Path) -> Any:
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"images": images})[0]
    module = torch.export.load(path).module()
    return lambda images: module(torch.from_numpy(images)).detach().numpy()


@dataclass(frozen=True)
class Exported:
    """A written network: the file, its output, what was loaded, how far it agrees with PyTorch, what it leaves out."""

    path: Path
    output: str
    checkpoint: Path
    report: KeyReport
    comparisons: list[Comparison]
    left_out: list[str]


def export(
    out: PathLike,
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    output: str | None = None,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a trained network as ONNX or ``torch.export``, and compare it with PyTorch.

    Args:
        out: file to create, ``.onnx`` or ``.pt2``.
        config: config, or path of its YAML file.
        overrides: config values to override, as ``key.sub=value``.
        checkpoint: None is ``<name>_latest.pth`` below ``checkpoints``.
        checkpoints: root folder of checkpoints.
        output: logits or labels (semantic), offsets (SegFix); None is logits or offsets.
        size: fixed image height and width; None is any.
        batch: fixed batch size; None is any number.
        opset: ONNX opset version, 13 to 23; None is that of PyTorch's exporter.

    Returns:
        The file, its output, and how far it agrees with PyTorch.

    Raises:
        ConfigError, CheckpointError: the config or the checkpoint cannot be used.
        OpensegError: the file exists, a package is missing, or the written file gives other numbers.
    """
    path = Path(out)
    if path.exists():
        raise OpensegError(f"{out}: already exists; move it away, or write to another file")
    if (batch is not None and not 0 < batch <= 4096) or (size is not None and not all(32 <= n <= 32768 for n in size)):
        raise OpensegError("--batch is from 1 to 4096, --size from 32 to 32768")
    if opset is not None and (not 13 <= opset <= 23 or path.suffix != ".onnx"):
        raise OpensegError("--opset is of ONNX, from 13 to 23")
    shape = Shape(batch, None if size is None else (size[0], size[1]))
    settings = as_config(config, overrides)
    if not settings.outputs:
        raise ConfigError(f"{settings.name}: a network of task {settings.task} cannot be exported; it needs labels too")
    file = checkpoint_of(settings, checkpoint, checkpoints)
    output = output or settings.outputs[0]
    model, report = load_network(settings, file)
    network = Exportable(prepare_for_inference(model), settings, output).eval()
    info = settings.dataset_info
    notes = {"classes": list(info.classes), "ids": list(info.ids), "colors": [list(each) for each in info.colors]}
    notes |= {"void_id": info.void_id, "config": settings.name, "dataset": info.name}
    write_exported(path, network, {**notes, "checkpoint": file_hash(file)}, shape, opset)
    found = [*compare(path, network, shape)]
    if any(each.same < _SAME for each in found):
        path.unlink()
        worst = 100 * min(each.same for each in found)
        raise OpensegError(f"{out}: gave other classes than PyTorch ({worst:.2f} % the same)")
    return Exported(path, output, file, report, found, _other_passes(settings))


def _other_passes(config: Config) -> list[str]:
    """What ``validate`` does and the file does not."""
    how, data = config.test.ss, config.data
    steps = {
        f"scales {list(how.scales)}": how.scales != (1.0,),
        "mirror images": how.flip,
        f"padding to multiples of {how.pad_to}": how.pad_to > 1,
        f"windows of {config.test.window}": config.test.window is not None,
        f"images with a shorter side of {data.short_side}": data.short_side is not None,
        f"images of {data.size}": data.size is not None,
    }
    return [name for name, used in steps.items() if used]

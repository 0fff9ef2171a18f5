"""Networks for other programs: ONNX and ``torch.export``, from an image as it is to logits, labels or offsets."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from pydantic import TypeAdapter
from torch.export import ExportedProgram

from openseg.config import Config
from openseg.datasets.info import DatasetInfo
from openseg.errors import ConfigError, OpensegError
from openseg.inference.exportable import Exportable
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.program import exported_program, needs_fixed_size, written_onnx
from openseg.io.files import atomic_write, file_hash
from openseg.models.checkpoint.io import KeyReport
from openseg.models.checkpoint.load import load_network
from openseg.tools.common import as_config, checkpoint_of
from openseg.tools.paths import PathLike
from openseg.tools.quantize import Quantized, labeled_images, quantized, require_quantizer

__all__ = ["FORMATS", "Comparison", "Exported", "compare", "export", "write_exported"]

FORMATS = (".onnx", ".pt2")
_SAME, _SAME_HALF = 0.999, 0.99  # share of pixels; random weights have near ties
_TRIED = ((1, 96, 130), (2, 161, 200))  # batch, height, width


class Shape(NamedTuple):
    """What a written network takes: a batch and a size, or any of them where None."""

    batch: int | None = None
    size: tuple[int, int] | None = None

    def axes(self, channels_last: bool) -> dict[int, str]:
        """Names of the axes that may be of any length."""
        first = 1 if channels_last else 2
        sides = {} if self.size else {first: "height", first + 1: "width"}
        return {**({} if self.batch else {0: "batch"}), **sides}

    def tried(self) -> list[tuple[int, int, int]]:
        """Batches and sizes to compare at."""
        return list(
            dict.fromkeys((self.batch or batch, *(self.size or (height, width))) for batch, height, width in _TRIED)
        )


_ANY = Shape()


def _program(network: Exportable, shape: Shape) -> ExportedProgram:
    """The network for the batches and sizes of ``shape``."""
    example = torch.zeros(shape.batch or 2, network.channels, *(shape.size or (128, 160)))
    return exported_program(network, network.as_input(example), shape.axes(network.uint8))


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
            made = written_onnx(program, [network.output], shape.axes(network.uint8), opset)
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
    """A written network: the file, its input and output, what was loaded, how far it agrees with PyTorch, what it
    leaves out, and with int8 what that costs."""

    path: Path
    input: str
    output: str
    checkpoint: Path
    report: KeyReport
    comparisons: list[Comparison]
    left_out: list[str]
    quantized: Quantized | None = None


def export(
    out: PathLike,
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    output: str | None = None,
    resize: bool = True,
    uint8: bool = False,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    opset: int | None = None,
    half: bool = False,
    int8: bool = False,
    calibrate: PathLike | None = None,
    ground_truth: PathLike | None = None,
    max_loss: float = 0.5,
) -> Exported:
    """Write a trained network as ONNX or ``torch.export``, and compare it with PyTorch.

    Args:
        out: file to create, ``.onnx`` or ``.pt2``.
        config: config, or path of its YAML file.
        overrides: config values to override, as ``key.sub=value``.
        checkpoint: None is ``<name>_latest.pth`` below ``checkpoints``.
        checkpoints: root folder of checkpoints.
        output: logits or labels (semantic), offsets (SegFix); None is logits or offsets.
        resize: resize logits to the image; without it they have the network's stride, which is faster.
        uint8: take images as uint8[batch, height, width, 3], as they are decoded.
        size: fixed image height and width; None is any.
        batch: fixed batch size; None is any number.
        opset: ONNX opset version, 13 to 23; None is that of PyTorch's exporter.
        half: weights and computation in float16.
        int8: quantize to int8, with ranges measured on images of ``calibrate``.
        calibrate: folder of images for ``int8``: every other one (at most 100) measures ranges, the rest (200) verify.
        ground_truth: label maps of these images, for ``int8``.
        max_loss: mIoU (percent) that int8 may lose; layers that lose more stay float, and no file is left beyond it.

    Returns:
        The file, its output, and how far it agrees with PyTorch.

    Raises:
        ConfigError, CheckpointError: the config or the checkpoint cannot be used.
        DataError: images or label maps for ``int8`` cannot be read, or do not belong together.
        OpensegError: the file exists, a package is missing, the written file gives other numbers, or loses more.
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
    output = output or settings.outputs[0]
    _require_int8_inputs(int8, path, settings, shape, half, output, calibrate, ground_truth, max_loss)
    pairs = labeled_images(calibrate, ground_truth) if calibrate is not None and ground_truth is not None else []
    file = checkpoint_of(settings, checkpoint, checkpoints)
    model, report = load_network(settings, file)
    halved = prepare_for_inference(copy.deepcopy(model), torch.float16) if half else None
    network = Exportable(prepare_for_inference(model), settings, output, resize, uint8).eval()
    if needs_fixed_size(model) and shape.size is None:
        raise ConfigError(f"{settings.model.backbone}: pads by the size of images; export it with --size H W")
    notes = {**_notes(network, shape), "checkpoint": file_hash(file)}
    written = network if halved is None else Exportable(halved, settings, output, resize, uint8).eval()
    write_exported(path, written, notes, shape, opset)
    try:
        found = [*compare(path, network, shape)]
    except BaseException:  # nobody compared this file
        path.unlink(missing_ok=True)
        raise
    if any(not each.same >= (_SAME_HALF if half else _SAME) for each in found):
        path.unlink()
        worst = 100 * min(each.same for each in found)
        raise OpensegError(f"{out}: gave other classes than PyTorch ({worst:.2f} % the same)")
    loss = quantized(path, network, pairs, max_loss, shape.size) if int8 else None
    taken = "uint8[batch, height, width, 3]" if uint8 else f"float32[batch, {network.channels}, height, width]"
    return Exported(path, taken, output, file, report, found, _other_passes(settings), loss)


def _require_int8_inputs(
    int8: bool,
    path: Path,
    config: Config,
    shape: Shape,
    half: bool,
    output: str,
    calibrate: PathLike | None,
    ground_truth: PathLike | None,
    max_loss: float,
) -> None:
    if int8 != (calibrate is not None) or int8 != (ground_truth is not None):
        raise ConfigError("--int8, --calibrate and --gt belong together: what int8 costs is measured on labeled images")
    if int8 and (path.suffix != ".onnx" or half or output != "logits" or config.dataset_info.bands):
        raise ConfigError("--int8 writes .onnx that gives logits of RGB images, without --half")
    if int8:
        require_quantizer()
    if not 0 <= max_loss <= 100:
        raise ConfigError(f"--max-loss {max_loss:g}: is from 0 to 100")
    if int8 and shape.batch not in (None, 1):
        raise ConfigError("--int8 measures images one by one; leave out --batch, or --batch 1")


def _notes(network: Exportable, shape: Shape) -> dict[str, Any]:
    """What the file says about itself; ``openseg`` is for ``predict --model``."""
    config, info = network.config, network.config.dataset_info
    notes = {"classes": list(info.classes), "ids": list(info.ids), "colors": [list(each) for each in info.colors]}
    settings = config.model_dump(mode="json", include={"name", "task", "normalization", "test"})
    settings["test"] |= {"runtime": "onnxruntime", "compile": False, "precision": "fp32"}
    settings["data"] = config.data.model_dump(mode="json", include={"dataset", "short_side", "size"})
    settings["model"] = {"backbone": "exported"}
    facts = {"output": network.output, "uint8": network.uint8, "batch": shape.batch, "size": shape.size}
    portable = replace(info, folder="", splits={})
    facts |= {"settings": settings, "dataset": TypeAdapter(DatasetInfo).dump_python(portable, mode="json")}
    return {**notes, "void_id": info.void_id, "config": config.name, "dataset": info.name, "openseg": facts}


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

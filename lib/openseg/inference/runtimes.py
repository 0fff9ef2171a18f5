"""Networks on the CPU in OpenVINO or ONNX Runtime, in the place of a PyTorch module.

Everything before and after the network stays the same code, so that labels and scores compare.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from openseg.config import Config
from openseg.datasets.registry import remember_dataset
from openseg.errors import CheckpointError, ConfigError, is_out_of_memory
from openseg.inference.exportable import Scaling
from openseg.inference.program import exported_program, needs_fixed_size, written_onnx
from openseg.io.exported import read_facts
from openseg.models.segfix import SegFixOutput
from openseg.models.segmentor import SegmentorOutput

__all__ = ["ExportedNetwork", "LogitsOnly", "RuntimeNetwork", "in_runtime", "openvino_infer", "require_runtime"]

Infer = Callable[[np.ndarray], Sequence[np.ndarray]]
_EXAMPLE = 2, 128, 160  # batch, height, width: none is 1, which exporters take as fixed
_AXES = {0: "batch", 2: "height", 3: "width"}
_SHAPES = 8


class LogitsOnly(nn.Module):
    """A network whose outputs are tensors alone."""

    def __init__(self, model: nn.Module, segfix: bool) -> None:
        super().__init__()
        self.model, self.segfix = model, segfix

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if self.segfix:
            return tuple(self.model(images))
        return self.model(images, aux=False).logits


class RuntimeNetwork(nn.Module):
    """Called like the network that it was made from; takes and gives tensors on the CPU."""

    def __init__(self, infer: Infer, segfix: bool) -> None:
        super().__init__()
        self._infer, self._segfix = infer, segfix

    def forward(self, images: Tensor, aux: bool = False) -> SegmentorOutput | SegFixOutput:
        outputs = [torch.from_numpy(each) for each in self._infer(images.float().contiguous().numpy())]
        return SegFixOutput(*outputs) if self._segfix else SegmentorOutput(outputs[0], None)


class ExportedNetwork(nn.Module):
    """An exported file, called like the network that it was made from; takes and gives tensors on the CPU.

    It normalizes images itself, so they are first put back to what they were. One that gives labels gives logits of 0
    and 1 here.
    """

    def __init__(self, path: Path, config: Config, device: torch.device) -> None:
        """
        Raises:
            ConfigError: the runtime is not installed or does not do what is asked for, or the network is of SegFix.
            CheckpointError: the file is damaged, or another program wrote it.
        """
        super().__init__()
        runtime, precision = config.test.runtime, config.test.precision
        if runtime == "torch":
            raise ConfigError(f"{path}: runs in test.runtime=onnxruntime or openvino, not in torch")
        _require_possible(runtime, device, precision)
        self._path, self._facts = path, read_facts(path)
        remember_dataset(config.data.dataset, self._facts["dataset"])  # this may be another process
        stated = self._facts["dataset"]
        if (stated["classes"], stated["ids"]) != (list(config.dataset_info.classes), list(config.dataset_info.ids)):
            raise CheckpointError(f"{path}: has other classes or IDs than {config.data.dataset}, which is here too")
        if self._facts["output"] == "offsets":
            raise ConfigError(f"{path}: is of SegFix and gives offsets, no labels of images")
        self._scaling = Scaling(config)
        try:
            content = path.read_bytes()
            made = openvino_infer(content, precision) if runtime == "openvino" else _onnxruntime(content)
        except Exception as error:  # each runtime has its own
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: {runtime} cannot run it ({reason})") from None
        self._infer: Infer = made

    @property
    def gives_labels(self) -> bool:
        """Whether it decides on classes itself, so that there are no logits to sum or to write."""
        return bool(self._facts["output"] == "labels")

    @property
    def batch(self) -> int | None:
        """The only number of images that it takes; None: any."""
        return None if self._facts["batch"] is None else int(self._facts["batch"])

    def __str__(self) -> str:
        return f"exported network, gives {self._facts['output']}"

    def forward(self, images: Tensor, aux: bool = False) -> SegmentorOutput:
        self._require_size(images.shape)
        pixels = self._scaling.undone(images.float())
        if self._facts["uint8"]:
            pixels = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        found = torch.from_numpy(self._infer(pixels.contiguous().numpy())[0])
        if self.gives_labels:
            found = (found[:, None] == torch.arange(len(self._facts["classes"]))[:, None, None]).float()
        return SegmentorOutput(found, None)

    def _require_size(self, shape: torch.Size) -> None:
        batch, size = self._facts["batch"], self._facts["size"]
        if size is not None and tuple(size) != tuple(shape[-2:]):
            raise ConfigError(
                f"{self._path}: takes images of {size[0]}x{size[1]} pixels, this one has {shape[-2]}x{shape[-1]}; set "
                f"data.size=[{size[0]},{size[1]}] to resize them, or export it without --size"
            )
        if batch is not None and batch != shape[0]:
            raise ConfigError(f"{self._path}: takes batches of {batch} images; export it without --batch to predict")


def in_runtime(
    model: nn.Module,
    runtime: Literal["openvino", "onnxruntime"],
    device: torch.device,
    precision: str,
    channels: int = 3,
    segfix: bool = False,
) -> RuntimeNetwork:
    """``model``, prepared for inference in float32 on the CPU, in another runtime with as many threads as PyTorch has.

    Args:
        precision: fp32, or with OpenVINO bf16.
        segfix: it is a SegFix network instead of a semantic one.

    Raises:
        ConfigError: the runtime is not installed, or does not do what is asked for.
    """
    _require_possible(runtime, device, precision)
    network, outputs = LogitsOnly(model, segfix), ["mask", "direction"] if segfix else ["logits"]
    axes = {} if needs_fixed_size(model) else _AXES

    @functools.lru_cache(maxsize=_SHAPES)
    def made_for(shape: tuple[int, ...]) -> Infer:
        program = exported_program(network, torch.zeros(shape), axes)
        if runtime == "openvino":
            return _openvino(require_runtime(runtime).convert_model(program), precision)
        return _onnxruntime(written_onnx(program, outputs, axes).model_proto.SerializeToString())

    if axes:
        return RuntimeNetwork(made_for((_EXAMPLE[0], channels, *_EXAMPLE[1:])), segfix)
    return RuntimeNetwork(lambda images: made_for(images.shape)(images), segfix)


def _require_possible(runtime: str, device: torch.device, precision: str) -> None:
    if device.type != "cpu":
        raise ConfigError(f"test.runtime={runtime} runs on the CPU; add --device cpu")
    if precision == "bf16" and runtime == "onnxruntime":
        raise ConfigError("test.precision=bf16 needs test.runtime=torch or openvino")
    require_runtime(runtime)


def require_runtime(runtime: str) -> Any:
    """Return the package of a runtime; raises ConfigError, with the remedy, where it is missing."""
    try:
        if runtime == "openvino":
            sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report its use
            import openvino

            return openvino
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        extra = "openvino" if runtime == "openvino" else "export"
        raise ConfigError(f"test.runtime={runtime} needs {error.name}; pip install 'openseg[{extra}]'") from None
    return onnxruntime


def openvino_infer(content: bytes, precision: str) -> Infer:
    """What runs an ONNX file in OpenVINO."""
    return _openvino(require_runtime("openvino").Core().read_model(content), precision)


def _openvino(model: Any, precision: str) -> Infer:
    """Compiled anew for each size of images, of which a few are kept: fixed sizes are faster."""
    openvino = require_runtime("openvino")
    options = {
        # Without it, OpenVINO takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }

    @functools.lru_cache(maxsize=_SHAPES)
    def compiled(shape: tuple[int, ...]) -> Any:
        own = model.clone()
        own.reshape(list(shape))
        try:
            return openvino.Core().compile_model(own, "CPU", options)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            fix = "set test.precision=fp32" if precision == "bf16" else "set test.runtime=torch or onnxruntime"
            raise ConfigError(f"OpenVINO cannot compile this network in {precision} on this CPU; {fix}") from None

    def infer(images: np.ndarray) -> Sequence[np.ndarray]:
        found = compiled(images.shape)(images)
        return [np.array(found[number]) for number in range(len(found))]

    return infer


def _onnxruntime(content: bytes) -> Infer:
    onnxruntime = require_runtime("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def infer(images: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return list(session.run(None, {"images": images}))
        except Exception as error:  # a class of its own for each kind of failure
            raise RuntimeError(f"ONNX Runtime: {error}") from None

    return infer

"""Networks on the CPU in OpenVINO or ONNX Runtime, in the place of a PyTorch module.

Everything before and after the network stays the same code, so that labels and scores compare.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from openseg.errors import ConfigError
from openseg.inference.program import exported_program, written_onnx
from openseg.models.segfix import SegFixOutput
from openseg.models.segmentor import SegmentorOutput

__all__ = ["RuntimeNetwork", "in_runtime"]

Infer = Callable[[np.ndarray], Sequence[np.ndarray]]
_EXAMPLE = 2, 128, 160  # batch, height, width: none is 1, which exporters take as fixed
_SHAPES = 4


class _Logits(nn.Module):
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
    if device.type != "cpu":
        raise ConfigError(f"test.runtime={runtime} runs on the CPU; add --device cpu")
    if precision == "bf16" and runtime == "onnxruntime":
        raise ConfigError("test.precision=bf16 needs test.runtime=torch or openvino")
    _require(runtime)
    example = torch.zeros(_EXAMPLE[0], channels, *_EXAMPLE[1:])
    axes = {0: "batch", 2: "height", 3: "width"}
    program = exported_program(_Logits(model, segfix), example, axes)
    if runtime == "openvino":
        return RuntimeNetwork(_openvino(program, precision), segfix)
    return RuntimeNetwork(_onnxruntime(program, ["mask", "direction"] if segfix else ["logits"], axes), segfix)


def _require(runtime: str) -> Any:
    try:
        if runtime == "openvino":
            import openvino

            return openvino
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        extra = "openvino" if runtime == "openvino" else "export"
        raise ConfigError(f"test.runtime={runtime} needs {error.name}; pip install 'openseg[{extra}]'") from None
    return onnxruntime


def _openvino(program: Any, precision: str) -> Infer:
    """Compiled anew for each size of images, of which a few are kept: fixed sizes are faster."""
    openvino = _require("openvino")
    model = openvino.convert_model(program)
    options = {
        # Without it, OpenVINO takes bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
    }

    @functools.lru_cache(maxsize=_SHAPES)
    def compiled(shape: tuple[int, ...]) -> Any:
        own = model.clone()
        own.reshape(list(shape))
        return openvino.Core().compile_model(own, "CPU", options)

    def infer(images: np.ndarray) -> Sequence[np.ndarray]:
        found = compiled(images.shape)(images)
        return [np.array(found[number]) for number in range(len(found))]

    return infer


def _onnxruntime(program: Any, outputs: list[str], axes: dict[int, str]) -> Infer:
    onnxruntime = _require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    content = written_onnx(program, outputs, axes).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})

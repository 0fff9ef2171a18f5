"""Networks as ``torch.export`` sees them, which other runtimes read."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

__all__ = ["exported_program", "needs_fixed_size", "written_onnx"]


def needs_fixed_size(network: nn.Module) -> bool:
    """Whether it can be exported for one size of images alone.

    TensorFlow's padding depends on the size at every stride, and the exporter's formulas of it grow without bound.
    """
    return any(type(module).__name__.endswith(("Conv2dSame", "Pool2dSame")) for module in network.modules())


def exported_program(network: nn.Module, example: Tensor, dynamic: dict[int, str] | None = None) -> ExportedProgram:
    """``network(images)`` in eval mode as a program, with attention written out, since exporters take four dimensions.

    Args:
        example: images of a shape that the network takes.
        dynamic: names of the axes that may be of any length; None: all of the example's stay.
    """
    for name in ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sizes = dict.fromkeys(dynamic or {}, Dim.DYNAMIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what happens inside the exporter; results are compared
        program = torch.export.export(network.eval(), (example,), dynamic_shapes={"images": sizes or None})
        return program.run_decompositions({torch.ops.aten.scaled_dot_product_attention.default: _attend})


def written_onnx(
    program: ExportedProgram, outputs: list[str], dynamic: dict[int, str], opset: int | None = None
) -> Any:
    """``program`` as PyTorch's ``ONNXProgram``; ``opset`` None is that of its exporter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.onnx.export(
            program,
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes={"images": dynamic} if dynamic else None,
            opset_version=opset,
            verbose=False,
        )


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
    """Attention in products and a softmax."""
    products = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    return products.softmax(dim=-1) @ value

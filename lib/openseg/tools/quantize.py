"""Exported networks in int8: NNCF's post-training quantization, bounded by what it costs in mIoU."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from openseg.datasets.splits import list_images
from openseg.datasets.transforms import fit_image
from openseg.errors import ConfigError, DataError, OpensegError, is_out_of_memory
from openseg.inference import argmax, cubic, from_tensor, resized
from openseg.inference.exportable import Exportable
from openseg.inference.memory import limit_memory
from openseg.inference.runtimes import openvino_infer, require_runtime
from openseg.io.files import atomic_write, list_files
from openseg.io.matching import match_files
from openseg.metrics import ConfusionMatrix
from openseg.tools.agreement import agreement
from openseg.tools.paths import PathLike

__all__ = ["Quantized", "labeled_images", "quantized", "require_quantizer"]

Pairs = Sequence[tuple[Path, Path]]

_MEASURED, _VERIFIED = 100, 200


class Quantized(NamedTuple):
    """What int8 costs: mIoU (percent) on ``images`` before and after, and the share of pixels of the same class.

    ``layers`` of ``all_layers`` convolutions and products are in int8.
    """

    images: int
    before: float
    after: float
    same: float
    layers: int
    all_layers: int


class _Images:
    """Labeled images: what the exported network takes, and the train IDs that it should find."""

    def __init__(self, network: Exportable, pairs: Pairs, size: tuple[int, int] | None = None) -> None:
        self.config = network.config
        self.size = size
        self._network, self._pairs = network, pairs

    @property
    def name(self) -> Path:
        """The folder of the label maps."""
        return self._pairs[0][1].parent

    def __len__(self) -> int:
        return len(self._pairs)

    def input(self, number: int) -> np.ndarray:
        """The image as the network takes it, with a batch axis."""
        image = self.config.dataset_info.read_image(self._pairs[number][0])
        fitted = fit_image(image, self.config.data)
        if self.size is not None and self.size != fitted.shape[:2]:
            shape, wanted = "x".join(map(str, fitted.shape[:2])), ",".join(map(str, self.size))
            raise DataError(f"{self._pairs[number][0]}: is {shape}, not --size; resize with data.size=[{wanted}]")
        planes = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))[None].float()
        return self._network.as_input(planes).contiguous().numpy()

    def truth(self, number: int) -> np.ndarray:
        """Train IDs of a label map."""
        return self.config.dataset_info.read_truth(self._pairs[number][1])

    def labels(self, infer: Callable[[np.ndarray], Any], number: int, size: tuple[int, ...]) -> np.ndarray:
        """Train IDs of ``infer``, at the size of the label map."""
        given = self.input(number)
        side = given.shape[1:3] if self._network.uint8 else given.shape[2:4]
        logits = torch.from_numpy(infer(given)[0])
        rows = cubic(resized(from_tensor(logits), (side[0], side[1])), (size[0], size[1]))
        return argmax(rows)[0].numpy()


def require_quantizer() -> None:
    """Raises ConfigError where a package is missing, before anything is done."""
    for name in ("nncf", "onnx", "openvino"):
        if importlib.util.find_spec(name) is None:
            raise ConfigError(f"--int8 needs {name}; pip install 'openseg[int8]'")


def labeled_images(images: PathLike, labels: PathLike) -> list[tuple[Path, Path]]:
    """Images of a folder with their label maps in another.

    Raises:
        DataError: fewer than two, or one without label map.
    """
    images, labels = Path(images), Path(labels)
    found = [path.relative_to(images).as_posix() for path in list_images(images)]
    maps = [path.relative_to(labels).as_posix() for path in list_files(labels)]
    matches, alone = match_files(found, maps)
    if alone:
        raise DataError(f"{images / alone[0]}: no label map in {labels} ({len(alone)} such images)")
    if len(found) < 2:
        raise DataError(f"{images}: {len(found)} images; --int8 needs two at least, better a hundred")
    return [(images / name, labels / matches[name]) for name in found]


def quantized(
    path: Path, network: Exportable, pairs: Pairs, max_loss: float, size: tuple[int, int] | None = None
) -> Quantized:
    """Rewrite ``path`` in int8; layers whose quantization costs the most stay float until ``max_loss`` holds.

    Every other one of ``pairs`` (image, label map) measures ranges, the rest verify. ``size`` is the only one that the
    network takes.

    Raises:
        ConfigError: a package is missing.
        DataError: an image or a label map cannot be read.
        OpensegError: it loses more than ``max_loss`` nevertheless, or memory runs out; there is no file then.
    """
    finished = False
    try:
        with limit_memory():
            result = _quantized(path, network, pairs, max_loss, size)
        finished = True
        return result
    except Exception as error:  # ONNX Runtime and NNCF have their own classes
        if not is_out_of_memory(error):
            raise
        raise OpensegError(
            f"{path}: out of memory: --int8 holds the outputs of all layers for an image; take smaller images, such as "
            "data.size=[512,1024], or a machine with more memory"
        ) from None
    finally:
        if not finished:  # what is there is the float network, which was not asked for
            path.unlink(missing_ok=True)


def _quantized(
    path: Path, network: Exportable, pairs: Pairs, max_loss: float, size: tuple[int, int] | None
) -> Quantized:
    _Images(network, pairs, size).input(0)  # what is wrong with it is said at once
    nncf, onnx = _packages()
    first, second = pairs[::2], pairs[1::2]
    measured = _Images(network, _spread(first, _MEASURED), size)
    verified = _Images(network, _spread(second, _VERIFIED), size)
    num_classes = network.config.dataset_info.num_classes

    def labels_of(model: Any) -> Callable[[int, np.ndarray], np.ndarray]:
        infer = openvino_infer(model.SerializeToString(), "fp32")
        return lambda number, truth: verified.labels(infer, number, truth.shape)

    def score(model: Any, numbers: Iterable[int]) -> tuple[float, list[float]]:
        labels, whole, each = labels_of(model), ConfusionMatrix(num_classes), []
        for number in numbers:
            truth, alone = verified.truth(number), ConfusionMatrix(num_classes)
            alone.update(labels(number, truth), truth)
            whole.merge(alone)
            each.append(_miou(alone))
        return _miou(whole), each

    original, numbers = onnx.load(path), range(len(verified))
    result = nncf.quantize_with_accuracy_control(
        original,
        nncf.Dataset(range(len(measured)), lambda number: {"images": measured.input(number)}),
        nncf.Dataset(numbers),
        score,
        max_drop=max_loss,
        drop_type=nncf.DropType.ABSOLUTE,
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(measured),
    )
    before_labels, after_labels = labels_of(original), labels_of(result)
    truths = ((number, verified.truth(number)) for number in numbers)
    maps = ((truth, before_labels(number, truth), after_labels(number, truth)) for number, truth in truths)
    before, after, same = agreement(maps, num_classes, verified.name)
    if before - after > max_loss:
        raise OpensegError(
            f"{path}: int8 loses {before - after:.2f} mIoU ({before:.2f} to {after:.2f}), more than --max-loss "
            f"{max_loss:g}; give more images, or export float"
        )
    del result.metadata_props[:]
    result.metadata_props.extend(original.metadata_props)
    with atomic_write(path) as temporary:
        onnx.save(result, temporary)
    return Quantized(len(verified), before, after, same, *_in_int8(result))


def _packages() -> tuple[Any, Any]:
    require_runtime("openvino")  # first, so that neither of them reports its use
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # of no CUDA, which is not needed
    import nncf
    import onnx

    nncf.set_log_level(logging.WARNING)
    return nncf, onnx


def _spread(pairs: Pairs, count: int) -> Pairs:
    """At most ``count`` of them, from everywhere."""
    return pairs[:: -(-len(pairs) // count)]


def _miou(confusion: ConfusionMatrix) -> float:
    return 100 * confusion.mean_iou if confusion.counts.any() else 0.0  # an image may have no labeled pixel


def _in_int8(model: Any) -> tuple[int, int]:
    """How many layers with weights have quantized ones, and how many there are."""
    quantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return sum(node.input[1] in quantized for node in layers), len(layers)

"""``openseg.verify``: what bfloat16 does to the labels and the score of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from openseg.config import Config
from openseg.datasets.samples import list_split
from openseg.datasets.transforms import fit_image
from openseg.errors import ConfigError, DataError
from openseg.inference.precision import Verified, write_verified
from openseg.inference.predictor import Predictor
from openseg.io.files import file_hash
from openseg.io.progress import progress as progress_bar
from openseg.io.progress import show_progress
from openseg.metrics import ConfusionMatrix
from openseg.tools.common import as_config, checkpoint_of
from openseg.tools.paths import PathLike

__all__ = ["VerifyResult", "verify"]


@dataclass(frozen=True)
class VerifyResult:
    """What bfloat16 changes, and the file that records it."""

    verified: Verified
    file: Path


def verify(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    mode: Literal["ss", "ms"] = "ss",
    max_loss: float = 0.1,
    device: str = "auto",
    progress: bool = True,
) -> VerifyResult:
    """Predict the validation split in fp32 and bf16, and record beside the checkpoint what changes.

    With the record, ``test.precision=auto`` takes bf16 on processors that have it, if the loss is within ``max_loss``.
    Other arguments and errors are those of ``validate``.

    Args:
        max_loss: mIoU (percent) that bf16 may lose.

    Returns:
        The scores, and the file.
    """
    settings = as_config(config, overrides)
    if settings.test.runtime == "onnxruntime":
        raise ConfigError("test.runtime=onnxruntime has no bf16; verify torch or openvino")
    file = checkpoint_of(settings, checkpoint, checkpoints, config)
    # fp32 last: on a GPU, the one that is loaded last decides on TF32, which bf16 does not use.
    made = {each: Predictor(_in(settings, each), file, mode=mode, device=device) for each in ("bf16", "fp32")}
    predictors = made["fp32"], made["bf16"]
    info = settings.dataset_info
    pairs = list_split(settings, settings.data.validation_split)
    scores = [ConfusionMatrix(info.num_classes) for _ in predictors]
    same = total = 0
    with show_progress(progress):
        for pair in progress_bar(pairs, len(pairs), "verify"):
            image, truth = info.read_image(pair.image), info.read_truth(pair.label)
            planes = torch.from_numpy(np.ascontiguousarray(fit_image(image, settings.data).transpose(2, 0, 1)))
            both = [predictor.predict(planes, truth.shape)[0] for predictor in predictors]
            for confusion, labels in zip(scores, both, strict=True):
                confusion.update(labels, truth)
            same, total = same + int((both[0] == both[1]).sum()), total + truth.size
    if not scores[0].counts.any():
        raise DataError(f"{pairs[0].label.parent}: no pixel of a class in these label maps, so nothing can be verified")
    fp32, bf16 = (100 * confusion.mean_iou for confusion in scores)
    facts = file_hash(file), settings.test.runtime, predictors[0].device.type, mode, info.name, len(pairs)
    verified = Verified(*facts, fp32, bf16, same / total, max_loss)
    return VerifyResult(verified, write_verified(file, verified))


def _in(config: Config, precision: str) -> Config:
    return config.model_copy(update={"test": config.test.model_copy(update={"precision": precision})})

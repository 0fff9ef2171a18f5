"""``openseg.verify``: what bfloat16 does to the labels and the score of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from openseg.config import Config
from openseg.datasets.samples import list_split
from openseg.datasets.transforms import fit_image
from openseg.errors import ConfigError
from openseg.inference.precision import Verified, in_precision, write_verified
from openseg.inference.predictor import Predictor
from openseg.io.files import file_hash
from openseg.io.progress import progress as progress_bar
from openseg.io.progress import show_progress
from openseg.tools.agreement import agreement
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
    made = {each: Predictor(in_precision(settings, each), file, mode=mode, device=device) for each in ("bf16", "fp32")}
    predictors = made["fp32"], made["bf16"]
    info = settings.dataset_info
    pairs = list_split(settings, settings.data.validation_split)

    def maps() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for pair in progress_bar(pairs, len(pairs), "verify"):
            image, truth = info.read_image(pair.image), info.read_truth(pair.label)
            planes = torch.from_numpy(np.ascontiguousarray(fit_image(image, settings.data).transpose(2, 0, 1)))
            first, second = (predictor.predict(planes, truth.shape)[0] for predictor in predictors)
            yield truth, first, second

    with show_progress(progress):
        found = agreement(maps(), info.num_classes, pairs[0].label.parent)
    facts = file_hash(file), settings.test.runtime, predictors[0].device.type, mode, info.name, len(pairs)
    verified = Verified(*facts, *found, max_loss)
    return VerifyResult(verified, write_verified(file, verified))

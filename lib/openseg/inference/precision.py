"""``test.precision=auto``: bfloat16 where the processor has it and its effect on this checkpoint was measured."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from openseg.config import Config
from openseg.distributed import has_bfloat16
from openseg.io.files import file_hash, write_json

__all__ = ["Verified", "in_precision", "read_verified", "with_precision", "write_verified"]

logger = logging.getLogger("openseg")


@dataclass(frozen=True)
class Verified:
    """What bfloat16 changes: mIoU (percent) in both precisions, and the share of pixels of the same class."""

    checkpoint: str
    runtime: str
    device: str
    mode: str
    dataset: str
    images: int
    fp32: float
    bf16: float
    same: float
    max_loss: float

    @property
    def accepted(self) -> bool:
        """Whether it loses no more mIoU than it may."""
        return self.fp32 - self.bf16 <= self.max_loss

    def __str__(self) -> str:
        score = f"mIoU of {self.images} images of {self.dataset} {self.fp32:.2f} in fp32, {self.bf16:.2f} in bf16"
        return f"{score}, {100 * self.same:.2f} % of the pixels the same"


def _record(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.bf16.json")


def write_verified(checkpoint: Path, verified: Verified) -> Path:
    """Record it beside the checkpoint; returns the file."""
    write_json(_record(checkpoint), asdict(verified))
    return _record(checkpoint)


def read_verified(checkpoint: Path) -> Verified | None:
    """What was recorded of this checkpoint as it is now; None if nothing was, or the record is damaged."""
    try:
        found = Verified(**json.loads(_record(checkpoint).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    numbers = (found.fp32, found.bf16, found.same, found.max_loss)
    whole = all(isinstance(number, (int, float)) for number in numbers)
    return found if whole and found.checkpoint == file_hash(checkpoint) else None


def with_precision(config: Config, checkpoint: Path, device: torch.device, mode: str = "ss") -> Config:
    """``config`` with fp32 or bf16 in the place of auto; what is chosen and why is logged."""
    test = config.test
    if test.precision != "auto":
        return config
    verified, now = read_verified(checkpoint), (test.runtime, device.type, mode)
    chosen = "fp32"
    if test.runtime == "onnxruntime" or not has_bfloat16(device):
        reason = f"no bfloat16 in {test.runtime} on this {device.type.upper()}"
    elif not config.predicts_labels:
        reason = f"verify is about labels, not about task {config.task}; set test.precision=bf16 for it"
    elif verified is None or (verified.runtime, verified.device, verified.mode) != now:
        reason = f"{checkpoint}: bf16 was not verified in {test.runtime} on this device, mode {mode}; run verify"
    elif not verified.accepted:
        reason = f"bf16 loses more than {verified.max_loss:g} mIoU: {verified}"
    else:
        chosen, reason = "bf16", str(verified)
    logger.info("test.precision=auto is %s: %s", chosen, reason)
    return in_precision(config, chosen)


def in_precision(config: Config, precision: str) -> Config:
    """``config`` with another ``test.precision``."""
    return config.model_copy(update={"test": config.test.model_copy(update={"precision": precision})})

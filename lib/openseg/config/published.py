"""What is known of a config's published files: facts for its launcher and for the model zoo, which change no result."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from openseg.schema import Section

__all__ = ["Published", "PublishedScore"]


class PublishedScore(Section):
    """One published figure."""

    mIoU: float = Field(description="mIoU in percent")  # noqa: N815
    mIoU_segfix: float | None = Field(None, description="mIoU after SegFix refinement, in percent")  # noqa: N815
    multi_scale: bool = Field(False, description="multi-scale inference")
    flip: bool = Field(False, description="with horizontal flipping")


class Published(Section):
    """Facts; the launcher reads them by text, so each key and its value stand on one line."""

    id: int = Field(1, description="number in the published file name, <name>_<id>_latest.pth")
    pretrained: Path | None = Field(None, description="ImageNet weights the launcher starts training from")
    segfix_scale: int | None = Field(None, description="--scale of the launcher's segfix mode; null: no such mode")
    segfix_options: str = Field("", description="further options of the segfix mode")
    offsets: str | None = Field(None, description="folder of SegFix offsets below offset_pred/<split>/")
    checkpoint: str | None = Field(None, description="file name of the published checkpoint, if it differs")
    log: str | None = Field(None, description="URL of the training log")
    weights: str | None = Field(None, description="URL of the checkpoint")
    scores: tuple[PublishedScore, ...] = Field((), description="published scores, as in MODEL_ZOO.md")

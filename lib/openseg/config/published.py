"""What is known of a config's published files: facts for its launcher and for the model zoo, which change no result."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from openseg.schema import Section

__all__ = ["Published", "PublishedScore"]


class PublishedScore(Section):
    """One published figure."""

    mIoU: float = Field(description="in percent")  # noqa: N815
    mIoU_segfix: float | None = Field(None, description="after refining, in percent")  # noqa: N815
    multi_scale: bool = Field(False, description="of several scales")
    flip: bool = Field(False, description="and mirrored")


class Published(Section):
    """Facts; the launcher reads them by text, so each key and its value stand on one line."""

    id: int = Field(1, description="of the published file's name, <name>_<id>_latest.pth")
    pretrained: Path | None = Field(None, description="ImageNet weights that the launcher trains from")
    segfix_scale: int | None = Field(None, description="--scale of the launcher's mode segfix; null: no such mode")
    segfix_options: str = Field("", description="more options of the mode segfix")
    offsets: str | None = Field(None, description="folder of a SegFix network's offsets below offset_pred/<split>/")
    checkpoint: str | None = Field(None, description="the published file's name, where it is another")
    log: str | None = Field(None, description="address of the log")
    weights: str | None = Field(None, description="address of the file")
    scores: tuple[PublishedScore, ...] = Field((), description="published figures, as in MODEL_ZOO.md")

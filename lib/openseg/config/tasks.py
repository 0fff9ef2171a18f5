"""Properties of the tasks (semantic segmentation, SegFix, refiner); no other code depends on a task's name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """What holds for all configs of a task.

    Attributes:
        predicts_labels: the network classifies the pixels of an image; otherwise it helps to refine labels.
        needs_targets: training needs SegFix ground truth beside labels.
        needs_coarse: training and prediction need labels to refine.
        outputs: what an exported network can give, the default first.
        command: predicts a split.
    """

    predicts_labels: bool
    needs_targets: bool
    needs_coarse: bool
    outputs: tuple[str, ...]
    command: str


TASKS = {
    "semantic": Task(True, False, False, outputs=("logits", "labels"), command="val"),
    "segfix": Task(False, True, False, outputs=("offsets",), command="offsets"),
    "refiner": Task(False, False, True, outputs=(), command="segfix refine"),
}

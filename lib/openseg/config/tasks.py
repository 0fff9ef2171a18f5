"""Properties of the tasks (semantic segmentation, SegFix); no other code depends on a task's name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TASKS", "Task"]


@dataclass(frozen=True)
class Task:
    """What holds for all configs of a task.

    Attributes:
        predicts_labels: the network classifies pixels; otherwise it predicts SegFix offsets.
        needs_targets: training needs SegFix ground truth beside labels.
        outputs: what an exported network can give, the default first.
        command: predicts a split.
    """

    predicts_labels: bool
    needs_targets: bool
    outputs: tuple[str, ...]
    command: str


TASKS = {
    "semantic": Task(predicts_labels=True, needs_targets=False, outputs=("logits", "labels"), command="val"),
    "segfix": Task(predicts_labels=False, needs_targets=True, outputs=("offsets",), command="offsets"),
}

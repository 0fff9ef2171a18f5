"""What every metric is."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

__all__ = ["Metric"]


class Metric(Protocol):
    """A score that is streamed over pairs of label maps, and merged over processes.

    It must be picklable. Counts that are integers give the same result with any number of processes.
    """

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one pair of maps of train IDs, ``uint8[H, W]``; 255 is ignored in the target and is no class."""

    def merge(self, other: Any) -> None:
        """Add what another one of the same kind counted."""

    # Two methods more let it be scored in several parts (docs/scale.md): ``counts_dict() -> dict`` of plain values for
    # JSON, and ``add_counts(dict)``, which adds them.

    def compute(self) -> dict[str, float]:
        """Scores by name, as shares of 1; NaN where there is nothing to score."""

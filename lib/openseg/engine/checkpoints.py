"""Checkpoint files: where they lie, how they are written and found.

``<root>/<dataset>/<name>_latest.pth`` and ``_best.pth``, written to a temporary file, fsynced and renamed. Look-up is
in ``<root>/<dataset>/`` first (``checkpoints`` by default), then in ``~/checkpoints/<dataset>/``.
"""

from __future__ import annotations

from pathlib import Path

from openseg.config import Experiment
from openseg.errors import CheckpointError

__all__ = ["best_path", "find_checkpoint", "latest_path"]


def latest_path(experiment: Experiment, root: Path) -> Path:
    return root / experiment.catalog.name / f"{experiment.name}_latest.pth"


def best_path(experiment: Experiment, root: Path) -> Path:
    return root / experiment.catalog.name / f"{experiment.name}_best.pth"


def find_checkpoint(experiment: Experiment, root: Path) -> Path:
    """The latest checkpoint of an experiment.

    Raises:
        CheckpointError: there is none; the message says what to put where.
    """
    folders = [folder / experiment.catalog.name for folder in (root, Path.home() / "checkpoints")]
    name = latest_path(experiment, root).name
    # The published SegFix file on HRNet-W48 carries its iterations in its name, and HRNeXt was renamed to HRNet2x.
    names = [name, name.replace("_segfix_loss_", "_segfix_loss_iter80000_")]
    for old, new in (("hrnext20", "hrnet2x20"), ("hrnet2x20", "hrnext20")):
        names += [each.replace(old, new) for each in names if old in each]
    names += [Path(each).with_suffix(".safetensors").name for each in names]
    for path in (folder / each for folder in folders for each in names):
        if path.is_file():
            return path
    raise CheckpointError(
        f"no checkpoint {name} in {folders[0]} or {folders[1]}; "
        "train first, or put a downloaded file there under that name"
    )

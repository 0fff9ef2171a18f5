"""Refinement of label maps with a network: offsets of a SegFix network, or a refiner."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from openseg.config import load_config
from openseg.distributed import Group
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.inference.offsets import SegFixPredictor
from openseg.inference.refiner import SHIPPED_REFINER, RefinerPredictor
from openseg.inference.runner import run_over_images
from openseg.io.files import file_hash, list_files
from openseg.io.images import read_image
from openseg.io.matching import match_files
from openseg.io.results import Journal
from openseg.models.checkpoint.io import read_checkpoint
from openseg.segfix import OffsetMap, thin_parts
from openseg.segfix.offset_files import OffsetFile
from openseg.shipped import shipped_file
from openseg.tools.convert import recognize
from openseg.tools.paths import PathLike, existing_dir
from openseg.tools.refining import Job, LabelFile, RefineSettings, remaining, require_matches

__all__ = ["NetworkMasks", "load_refiner", "network_file", "refine_by_network", "refined_by"]

logger = logging.getLogger("openseg")

_WRITTEN = (".png",)
_AROUND = 64  # pixels of the image that a refiner sees around a mask
Network = SegFixPredictor | RefinerPredictor


def network_file(checkpoint: PathLike | None) -> Path:
    """The checkpoint, or that of the refiner that comes with openseg."""
    return shipped_file(SHIPPED_REFINER if checkpoint is None else checkpoint)


def load_refiner(checkpoint: PathLike | None, config_file: PathLike | None, dataset: str, device: str) -> Network:
    """The network that refines; without a checkpoint the refiner that comes with openseg.

    Raises:
        ConfigError: the config cannot be read, or is of a network that refines nothing.
        CheckpointError: the checkpoint is damaged, or belongs to another network.
    """
    path = network_file(checkpoint)
    if config_file is not None:
        config = load_config(Path(config_file))
    else:  # which dataset it was trained on does not matter, and its file may be elsewhere
        config = recognize(read_checkpoint(path), dataset=dataset)
    network: Network = (RefinerPredictor if config.needs_coarse else SegFixPredictor)(config, path, device)
    logger.info("%s: %s", path, network.report)
    return network


def refine_by_network(job: Job, folder: Path, network: Network, checkpoint: PathLike | None) -> list[str]:
    """Refine labels of the images in ``folder``; returns what was left out.

    Raises:
        ConfigError: a setting that is not of this network.
        DataError: nothing can be refined.
    """
    of_segfix = job.how.scale is not None or job.how.min_confidence > 0 or job.how.steps > 1
    if isinstance(network, RefinerPredictor) and of_segfix:
        raise ConfigError(
            "--scale, --min-confidence and --steps are of SegFix offsets; a refiner has refiner.margin in its config"
        )
    folder = existing_dir(folder, "the images of the labels")
    images = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
    matches, missing = match_files(job.labels, [*images])
    problems = require_matches(missing, len(job.labels), f"image in {folder}", job.fail_fast)
    work: list[tuple[Path, OffsetFile, Path]] = [
        (job.source / name, images[image], job.target(name)) for name, image in matches.items()
    ]
    made_by = {"what": "refined labels", "labels": str(job.source.resolve()), "images": str(folder.resolve())}
    path = network_file(checkpoint)
    made_by |= {"checkpoint": file_hash(path), **network.settings, **job.how.settings}
    with remaining(work, job.out, made_by, job.overwrite, _WRITTEN) as (claimed, todo):
        claimed.start()
        jobs = {Path(str(image)): (label, target) for label, image, target in todo}
        if len(jobs) < len(todo):
            raise DataError(f"{folder}: an image belongs to two labels; give every label an image of its own name")
        broken: list[OpensegError] | None = None if job.fail_fast else []
        run = _Run(network, jobs, job, claimed.journal, problems)
        run_over_images(
            network.config, [*jobs], run.compute, run.write, "segfix", network.device, Group(), broken, job.workers
        )
    return problems + [str(error) for error in broken or ()]


class _Run:
    """What is done with each image: networks run one after another, files are written beside them."""

    def __init__(
        self, network: Network, jobs: dict[Path, tuple[Path, Path]], job: Job, journal: Journal, problems: list[str]
    ) -> None:
        self.network, self.jobs, self.job = network, jobs, job
        self.journal, self.problems = journal, problems

    def compute(self, item: dict[str, Any]) -> tuple[LabelFile, np.ndarray] | None:
        """The label file and the refined labels; None where it was left out."""
        label, _ = self.jobs[item["path"]]
        image = item["image"].permute(1, 2, 0).numpy()
        try:
            read = LabelFile.read(label, self.job.how, image.shape[:2], str(item["path"]))
            return read, refined_by(self.network, image, read.labels, self.job.how)
        except DataError as error:
            self._leave_out(error)
            return None

    def write(self, item: dict[str, Any], result: tuple[LabelFile, np.ndarray] | None) -> None:
        if result is None:
            return
        label, target = self.jobs[item["path"]]
        try:
            with self.journal.writing(label, item["path"]):
                result[0].write(target, result[1], self.job.how)
        except DataError as error:
            self._leave_out(error)

    def _leave_out(self, error: DataError) -> None:
        if self.job.fail_fast:
            raise error
        self.problems.append(str(error))


class NetworkMasks:
    """Refines masks of objects with a network, see ``MaskRefiner``."""

    def __init__(self, network: Network, how: RefineSettings, checkpoint: PathLike | None) -> None:
        self.network, self.how = network, how
        path = network_file(checkpoint)
        self.settings = {"checkpoint": file_hash(path), **network.settings, **how.settings}

    def read(self, place: OffsetFile) -> np.ndarray | OffsetMap:
        """The image ``uint8[H, W, 3]``, or its offsets.

        Raises:
            DataError: the image cannot be read.
        """
        image = read_image(Path(str(place)))
        return self.network(image) if isinstance(self.network, SegFixPredictor) else image

    def mask(self, mask: np.ndarray, read: np.ndarray | OffsetMap) -> np.ndarray:
        """The refined mask ``bool[H, W]`` of one object; a refiner sees what is near it."""
        if isinstance(read, OffsetMap):
            return self.how.mask(mask, read)
        refined = np.zeros_like(mask)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size:
            box = tuple(slice(max(each[0] - _AROUND, 0), each[-1] + _AROUND + 1) for each in (rows, columns))
            inside = mask[box].astype(np.uint8)
            refined[box] = refined_by(self.network, np.ascontiguousarray(read[box]), inside, self.how) > 0
        return refined


def refined_by(network: Network, image: np.ndarray, labels: np.ndarray, how: RefineSettings) -> np.ndarray:
    """Refined ``labels: [H, W]`` of an RGB image ``uint8[H, W, 3]``."""
    if isinstance(network, SegFixPredictor):
        return how(labels, network(image))
    refined = network(image, labels)
    return np.where(thin_parts(labels, how.keep_thin), labels, refined) if how.keep_thin else refined

"""The work on one input: bytes in, bytes and a record out. One picklable object serves every engine.

``prepare`` and ``finish`` run in threads beside ``compute``, which runs in one thread, one input after another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.errors import DataError
from openseg.io.blob import Blob
from openseg.io.files import file_hash
from openseg.metrics import LabelScores
from openseg.segfix.offset_files import read_offset_map
from openseg.tools.refining import LabelFile, RefineSettings
from openseg.tools.scoring import ScoredPair, score_pair

__all__ = ["Done", "Evaluate", "Refine", "Unit", "hash_of"]

Blobs = Sequence[Blob | None]


class Done(NamedTuple):
    """What one input gave: files by kind, facts for its record, and counts to add up."""

    outputs: dict[str, bytes] = {}  # noqa: RUF012
    facts: dict[str, Any] = {}  # noqa: RUF012
    scores: LabelScores | None = None


class Unit:
    """One kind of work.

    Attributes:
        roles: the parts of an input, the first of which names it.
        kinds: suffix of the results by kind; the first kind is the one whose hash is recorded.
        block: inputs that are recorded together, unless asked otherwise.
        files: files that workers need, sent to those on other machines.
        uses_network: it takes the cores of this machine, or a GPU, for itself.
    """

    roles: tuple[str, ...] = ()
    kinds: dict[str, str] = {}  # noqa: RUF012
    block = 128
    files: tuple[Path, ...] = ()
    uses_network = False

    @property
    def made_by(self) -> dict[str, Any]:
        """What determines the results, besides the inputs."""
        raise NotImplementedError

    def start(self) -> None:
        """Load what is needed; called once in every worker."""

    def placed(self, moved: Mapping[Path, Path]) -> None:
        """Take ``files`` from where they now are."""

    def prepare(self, blobs: Blobs) -> Any:
        """Decode the parts of one input. Raises DataError where they cannot be used."""
        raise NotImplementedError

    def compute(self, prepared: Any) -> Any:
        """The work itself."""
        raise NotImplementedError

    def finish(self, computed: Any) -> Done:
        """Encode the results."""
        raise NotImplementedError


def dataset_files(dataset: str) -> tuple[Path, ...]:
    """The file of a dataset, unless it is a built-in one."""
    return () if dataset in DATASET_NAMES else (Path(dataset),)


def hash_of(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


@dataclass
class Refine(Unit):
    """Labels refined by offset files, or by a network that sees the images."""

    how: RefineSettings
    by_images: bool = False
    checkpoint: Path | None = None
    config: Path | None = None
    device: str = "auto"
    kinds: dict[str, str] = field(default_factory=lambda: {"": ".png"})

    def __post_init__(self) -> None:
        self.roles = ("label", "image" if self.by_images else "offset")
        self.uses_network = self.by_images
        self.block = 16 if self.by_images else 128
        if self.by_images:
            from openseg.tools.refine_network import network_file

            self.files = (network_file(self.checkpoint), *(() if self.config is None else (self.config,)))
        self.files += dataset_files(self.how.dataset)

    def placed(self, moved: Mapping[Path, Path]) -> None:
        """See ``Unit.placed``."""
        self.files = tuple(moved[path] for path in self.files)
        self.config = self.config if self.config is None else moved[self.config]
        if dataset_files(self.how.dataset):
            self.how = replace(self.how, dataset=str(moved[Path(self.how.dataset)]))

    @cached_property
    def network(self) -> Any:
        """The network that refines; without one, torch is not imported."""
        from openseg.tools.refine_network import load_refiner

        return load_refiner(self.files[0], self.config, self.how.dataset, self.device)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "network"}

    @property
    def made_by(self) -> dict[str, Any]:
        """What determines the results, besides labels and offsets or images."""
        made_by = {"what": "refined labels", "by": self.roles[1], **self.how.settings}
        if not self.by_images:
            return made_by
        return made_by | {"checkpoint": file_hash(self.files[0]), **self.network.settings}

    def start(self) -> None:
        """Load the network, if there is one."""
        if self.by_images:
            _ = self.network

    def prepare(self, blobs: Blobs) -> tuple[LabelFile, Any]:
        """Labels, and offsets or the image."""
        label, other = blobs
        assert label is not None and other is not None
        if self.by_images:
            guide: Any = self.network.config.dataset_info.read_image(other)
        else:
            guide = read_offset_map(other)
        return LabelFile.read(label, self.how, guide.shape[:2], str(other)), guide

    def compute(self, prepared: tuple[LabelFile, Any]) -> tuple[LabelFile, np.ndarray]:
        """Refined labels."""
        read, guide = prepared
        if self.by_images:
            from openseg.tools.refine_network import refined_by

            return read, refined_by(self.network, guide, read.labels, self.how)
        return read, self.how(read.labels, guide)

    def finish(self, computed: tuple[LabelFile, np.ndarray]) -> Done:
        """Encode them as what they were."""
        read, refined = computed
        content = read.encode(refined, self.how)
        changed = int(np.count_nonzero(refined != read.labels))
        return Done({"": content}, {"sha256": hash_of(content), "changed": changed})


@dataclass
class Evaluate(Unit):
    """Scores of predictions."""

    dataset: str
    distances: tuple[int, ...] = ()
    train_ids: bool = False
    metrics: tuple[str, ...] = ()
    roles: tuple[str, ...] = ("truth", "prediction")

    def __post_init__(self) -> None:
        self.empty().counts_dict()  # or it would only fail at the end
        self.files = dataset_files(self.dataset)

    def placed(self, moved: Mapping[Path, Path]) -> None:
        """See ``Unit.placed``."""
        self.files = tuple(moved[path] for path in self.files)
        self.dataset = str(self.files[0]) if self.files else self.dataset

    def empty(self) -> LabelScores:
        """Scores of nothing, to which others are added."""
        return LabelScores(get_dataset_info(self.dataset, fresh=False), self.distances, self.metrics)

    @property
    def made_by(self) -> dict[str, Any]:
        """What determines the scores, besides the label maps."""
        classes = get_dataset_info(self.dataset, fresh=False).fingerprint
        settings = {"distances": [*self.distances], "train_ids": self.train_ids, "metrics": [*self.metrics]}
        return {"what": "scores", "classes": classes, **settings}

    def prepare(self, blobs: Blobs) -> Blobs:
        """As they are: decoding is half of the work."""
        return blobs

    def compute(self, prepared: Blobs) -> tuple[LabelScores, str]:
        """Scores of one pair, and the prediction's hash."""
        truth, prediction, *instances = prepared
        assert truth is not None and prediction is not None
        pair = ScoredPair(prediction, truth, instances[0] if instances else None)
        found = score_pair(pair, self.dataset, self.distances, self.train_ids, self.metrics)
        if isinstance(found, str):
            raise DataError(found)
        return found, hash_of(prediction.content)

    def finish(self, computed: tuple[LabelScores, str]) -> Done:
        """The scores to add."""
        return Done({}, {"sha256": computed[1]}, computed[0])

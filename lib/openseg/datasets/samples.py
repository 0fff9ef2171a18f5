"""What a sample consists of: image, train IDs, SegFix targets and labels to refine, decoded or from the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from openseg.config import Config
from openseg.datasets.cache import DecodedCache
from openseg.datasets.info import DatasetInfo
from openseg.datasets.splits import Pair, SplitPaths, list_pairs, pair_files, require_partners, split_paths
from openseg.errors import DataError
from openseg.io.files import LABEL_SUFFIXES, list_files
from openseg.io.images import read_label, require_same_size
from openseg.io.matching import index_files
from openseg.segfix.target_files import TARGET_SUFFIXES, read_targets
from openseg.segfix.targets import Targets, make_instance_targets, make_targets

__all__ = ["Samples", "list_split"]


class Samples:
    """Reads the samples of a config; ``cached`` False reads the files whatever its cache holds."""

    def __init__(self, config: Config, cached: bool = True) -> None:
        self.dataset_info: DatasetInfo = config.dataset_info
        self.cache = DecodedCache.of(config) if cached else DecodedCache(Path(), 0)
        self.max_distance = config.segfix.max_distance
        self.rule = config.segfix.target_rule
        self.with_targets = config.needs_targets
        self.with_coarse = config.needs_coarse

    def image(self, path: Path) -> np.ndarray:
        """RGB ``uint8[H, W, 3]``, or normalized bands ``float32[H, W, C]``, read-only."""
        variant = f"image {self.dataset_info.bands}" if self.dataset_info.bands else "image"
        return self.cache.get(path, variant, lambda: self.dataset_info.read_image(path))

    def pair(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Image (see ``image``) and train IDs ``uint8[H, W]``, read-only.

        Raises:
            DataError: a file is damaged, the sizes differ, or the label holds an unknown id.
        """
        image, label = self.image(pair.image), self.label(pair)
        require_same_size(pair.label, label.shape, pair.image, image.shape)
        return image, label

    def label(self, pair: Pair) -> np.ndarray:
        """Train IDs ``uint8[H, W]``, read-only.

        Raises:
            DataError: the file is damaged, or holds an unknown id.
        """
        variant = f"label {self.dataset_info.fingerprint}"
        return self.cache.get(pair.label, variant, lambda: self.dataset_info.read_truth(pair.label))

    def prediction(self, pair: Pair, label: np.ndarray) -> np.ndarray:
        """The labels ``uint8[H, W]`` (train IDs) of a model that a refiner learns to refine, read-only.

        Raises:
            DataError: the file is damaged, or of another size than ``label``.
        """
        assert pair.prediction is not None
        path, variant = pair.prediction, f"prediction {self.dataset_info.fingerprint}"
        labels = self.cache.get(path, variant, lambda: self.dataset_info.read_prediction(path))
        require_same_size(path, labels.shape, pair.label, label.shape)
        return labels

    def targets(self, pair: Pair, label: np.ndarray) -> Targets:
        """SegFix ground truth of a pair: from its file, or made of its instance map or ``label``.

        Raises:
            DataError: a file is damaged, or of another size.
        """
        source = pair.targets or pair.instance or pair.label
        made = f"{self.dataset_info.fingerprint} {self.rule}"
        variant = f"targets {self.max_distance if pair.targets else made}"
        packed = self.cache.get(source, variant, lambda: self._make_targets(pair, label))
        require_same_size(source, packed.shape[1:], pair.label, label.shape)
        return Targets(packed[0], packed[1])

    def _make_targets(self, pair: Pair, label: np.ndarray) -> np.ndarray:
        if pair.targets is not None:
            targets = read_targets(pair.targets, self.max_distance)
        elif pair.instance is not None:
            instances = self.dataset_info.merge_instances(read_label(pair.instance))
            targets = make_instance_targets(instances, self.dataset_info.ids, self.rule)
        else:
            targets = make_targets(np.asarray(label), self.rule)
        return np.stack([targets.depth, targets.angle_code])

    def fill_cache(self, pair: Pair) -> None:
        """Read everything of a pair once, so that it is in the cache."""
        _, label = self.pair(pair)
        if self.with_targets:
            self.targets(pair, label)
        if pair.prediction is not None:
            self.prediction(pair, label)


def list_split(config: Config, split: str) -> list[Pair]:
    """List the samples of ``split`` for a config, or of several splits joined by ``+``, see ``list_pairs``.

    Raises:
        DataError: as ``list_pairs``, or missing SegFix ground truth (the message names the command to create it).
    """
    pairs: list[Pair] = []
    for name in split.split("+"):
        paths = split_paths(config.dataset_info, config.data_dir, name)
        found = list_pairs(paths)
        if config.needs_targets:
            found = _with_targets(config, name, paths, found)
        if config.data.predictions is not None:
            found = _with_predictions(config.data.predictions, name, found)
        pairs += found
    return pairs


def _with_predictions(template: Path, split: str, pairs: list[Pair]) -> list[Pair]:
    folder = Path(str(template).replace("{split}", split))
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder (data.predictions={template}); predict the labels of split '{split}'"
        )
    found = index_files(list_files(folder, LABEL_SUFFIXES))
    require_partners({pair.key: pair.image for pair in pairs}, found, "prediction", folder)
    return [replace(pair, prediction=found[pair.key]) for pair in pairs]


def _with_targets(config: Config, split: str, paths: SplitPaths, pairs: list[Pair]) -> list[Pair]:
    if config.segfix.targets == "label":
        return pairs
    if config.segfix.targets == "instance":
        matched = pair_files([pair.label for pair in pairs], list_files(paths.instance, LABEL_SUFFIXES), "instance map")
        instances = dict(matched.values())
        return [replace(pair, instance=instances[pair.label]) for pair in pairs]
    folder = paths.folder / config.segfix.offset_gt
    found = sorted(folder.iterdir()) if folder.is_dir() else []
    made = {path.stem: path for path in found if path.suffix in TARGET_SUFFIXES and not path.name.startswith(".")}
    missing = [pair.label.stem for pair in pairs if pair.label.stem not in made]
    if missing:
        kind = " --instances" if "_inst" in config.segfix.offset_gt else ""
        rule = " --rule clean" if "clean" in config.segfix.offset_gt else ""
        name = f" --outname {config.segfix.offset_gt}"
        raise DataError(
            f"{folder}: no SegFix ground truth of {len(missing)} of {len(pairs)} labels ({missing[0]}); make it with "
            f"python main.py segfix-targets --datadir {config.data_dir} --split {split} "
            f"--dataset {config.data.dataset}{kind}{rule}{name}, or while training with segfix.targets=label"
        )
    return [replace(pair, targets=made[pair.label.stem]) for pair in pairs]

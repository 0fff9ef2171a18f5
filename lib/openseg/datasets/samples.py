"""What a sample consists of: image, train IDs and SegFix targets, decoded or from the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from openseg.config import Config
from openseg.datasets.cache import DecodedCache
from openseg.datasets.info import DatasetInfo
from openseg.datasets.splits import Pair
from openseg.io.images import read_label, require_same_size
from openseg.segfix.target_files import read_targets
from openseg.segfix.targets import Targets, make_instance_targets, make_targets

__all__ = ["Samples"]


class Samples:
    """Reads the samples of a config; ``cached`` False reads the files whatever its cache holds."""

    def __init__(self, config: Config, cached: bool = True) -> None:
        self.dataset_info: DatasetInfo = config.dataset_info
        self.cache = DecodedCache.of(config) if cached else DecodedCache(Path(), 0)
        self.max_distance = config.segfix.max_distance
        self.rule = config.segfix.target_rule
        self.with_targets = config.needs_targets

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

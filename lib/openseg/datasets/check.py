"""Dataset checks: every file is read, nothing is changed, and all problems are collected."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openseg.config import Config
from openseg.datasets.info import DatasetInfo
from openseg.datasets.samples import Samples
from openseg.datasets.splits import Pair
from openseg.errors import DataError
from openseg.io.images import MORE_BANDS, TURNED, look_at_image, require_same_size
from openseg.labels import IGNORE_INDEX, UNKNOWN

__all__ = ["SampleReport", "SplitReport", "inspect", "quick_check", "same_images", "suggest_weights"]

logger = logging.getLogger("openseg")

_SHOWN_VALUES = 5
_MOSTLY = 0.5
_OFTEN = 0.2
_MANY = 3
_QUICK = 32


@dataclass
class SampleReport:
    """Findings in one sample.

    Attributes:
        errors: one line each; training would fail or learn from wrong labels.
        raw: ``int64[256]``, pixel count per label ID up to 255; None for color-coded labels.
        pixels: ``int64[K]``, pixel count per class.
        unknown: fraction of pixels per unknown value (an ID, or a color as text).
        digest: hash of the image file.
        notes: notes on the image, see ``look_at_image``.
        moments: of bands, ``float64[3, C]``: number of pixels, and sums of normalized values and of their squares.
    """

    key: str
    errors: list[str] = field(default_factory=list)
    raw: np.ndarray | None = None
    size: tuple[int, int] | None = None
    pixels: np.ndarray | None = None
    ignored: int = 0
    unknown: dict[str, float] = field(default_factory=dict)
    digest: int = 0
    notes: list[str] = field(default_factory=list)
    moments: np.ndarray | None = None


def inspect(pair: Pair, config: Config) -> SampleReport:
    """Read a sample and collect its problems; errors of its files are not raised."""
    report, info = SampleReport(pair.key), config.dataset_info
    image = label = None
    try:
        image = info.read_image(pair.image)
        report.size = image.shape[:2]
        if info.bands:
            values = image.reshape(-1, info.channels).astype(np.float64)
            report.moments = np.stack(
                [np.full(info.channels, len(values)), values.sum(axis=0), (values**2).sum(axis=0)]
            )
        else:
            report.notes = look_at_image(pair.image)
        report.digest = int.from_bytes(hashlib.sha256(pair.image.read_bytes()).digest()[:8], "little")
    except (DataError, OSError) as error:
        report.errors.append(str(error))
    try:
        label = _count(pair, info, report)
        if image is not None:
            require_same_size(pair.label, label.shape, pair.image, image.shape)
    except DataError as error:
        report.errors.append(str(error))
    if config.needs_targets and label is not None and (pair.targets or pair.instance):
        try:
            Samples(config, cached=False).targets(pair, np.where(label == UNKNOWN, np.uint8(IGNORE_INDEX), label))
        except DataError as error:
            report.errors.append(str(error))
    return report


def _count(pair: Pair, info: DatasetInfo, report: SampleReport) -> np.ndarray:
    """Count the label's pixels into ``report``; return its train IDs (``UNKNOWN`` where the value is unknown)."""
    raw = info.read_raw(pair.label)
    label = info.encode_known(raw)
    counts = np.bincount(label.ravel(), minlength=256)
    report.pixels, report.ignored = counts[: info.num_classes], int(counts[IGNORE_INDEX])
    if raw.ndim == 2:
        report.raw = np.bincount(raw[raw <= IGNORE_INDEX], minlength=256)
    if counts[UNKNOWN]:
        values = raw[label == UNKNOWN]
        found, numbers = np.unique(values, axis=0, return_counts=True)
        order = np.argsort(-numbers, kind="stable")[:_SHOWN_VALUES]
        report.unknown = {str(found[i].tolist()): float(numbers[i] / label.size) for i in order}
        shares = ", ".join(f"{value}: {share:.2%} of the pixels" for value, share in report.unknown.items())
        report.errors.append(f"{pair.label}: {info.explain_unknown(values)} ({shares})")
    return label


@dataclass
class SplitReport:
    """Findings in a split; ``add`` takes its samples one by one."""

    name: str
    dataset_info: DatasetInfo
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    samples: int = 0
    ignored: int = 0
    sizes: dict[tuple[int, int], int] = field(default_factory=dict)
    digests: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    more_bands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pixels = np.zeros(self.dataset_info.num_classes, np.int64)
        self.images = np.zeros(self.dataset_info.num_classes, np.int64)
        self.raw = np.zeros(256, np.int64)
        self.moments = np.zeros((3, self.dataset_info.channels))
        self.unknown: dict[str, tuple[int, float]] = {}

    def add(self, sample: SampleReport) -> None:
        self.samples += 1
        self.errors += sample.errors
        self.ignored += sample.ignored
        self.digests.append(sample.digest)
        self.keys.append(sample.key)
        if TURNED in sample.notes:
            self.turned.append(sample.key)
        if MORE_BANDS in sample.notes:
            self.more_bands.append(sample.key)
        if sample.size is not None:
            self.sizes[sample.size] = self.sizes.get(sample.size, 0) + 1
        if sample.pixels is not None:
            self.pixels += sample.pixels
            self.images += sample.pixels > 0
        if sample.raw is not None:
            self.raw += sample.raw
        if sample.moments is not None:
            self.moments += sample.moments
        for value, share in sample.unknown.items():
            count, largest = self.unknown.get(value, (0, 0.0))
            self.unknown[value] = count + 1, max(largest, share)

    def finish(self, needs_classes: bool = True) -> None:
        """Check all samples together, for mistakes that no single value shows.

        ``needs_classes``: the network classifies pixels, which requires at least two classes.
        """
        if self.more_bands:
            self.warnings.append(
                f"{self.name}: of {len(self.more_bands)} images {MORE_BANDS} (such as {self.more_bands[0]})"
            )
        if self.turned:
            self.warnings.append(
                f"{self.name}: {len(self.turned)} images are upright by their EXIF orientation alone, such as "
                f"{self.turned[0]}; were their labels drawn on the upright images?"
            )
        self._compare_bands()
        total = int(self.pixels.sum()) + self.ignored
        values = self.raw.nonzero()[0].tolist()
        if not total or self.unknown:
            return
        last = max(self.dataset_info.ids)
        meant = self.dataset_info.encode_known(np.arange(IGNORE_INDEX + 1)).tolist()
        if not self.pixels.any():
            self.errors.append(f"{self.name}: all pixels are ignored; the labels hold {_shown(values)}")
        elif needs_classes and np.count_nonzero(self.pixels) == 1 and not self._looks_like_training_ids(total):
            self.errors.append(self._explain_one_class(values))
        elif self._looks_like_training_ids(total):
            self.errors.append(
                f"{self.name}: the labels seem to hold train IDs 0 to {self.dataset_info.num_classes - 1} instead "
                f"of {self.dataset_info.name}'s ids; describe them in a YAML file with 'ids: train' (docs/your-data.md)"
            )
        elif self.absent and len(values) == 2 and values[1] == IGNORE_INDEX and meant[IGNORE_INDEX] == IGNORE_INDEX:
            present = self.dataset_info.classes[meant[values[0]]]
            self.warnings.append(
                f"{self.name}: the labels hold {_shown(values)}, and 255 is ignored; if it is a class, say so in the "
                f"dataset's file, such as ids: {{{values[0]}: {present}, 255: {self.absent[-1]}}}"
            )
        elif (
            self.raw[IGNORE_INDEX]
            and meant[0] == IGNORE_INDEX
            and meant[1] == 0
            and not self.raw[max(self.dataset_info.ids)]
        ):
            last = max(self.dataset_info.ids)
            self.warnings.append(
                f"{self.name}: there is 255 and no {last}; do the labels hold {self.dataset_info.name}'s ids minus 1?"
            )
        elif self.ignored > _MOSTLY * total:
            share = f"{self.ignored / total:.0%}"
            self.warnings.append(f"{self.name}: {share} of all pixels are ignored; are the labels in another id space?")

    @property
    def bands(self) -> list[dict[str, Any]]:
        """Name, mean and standard deviation of each band, as measured; empty for RGB images."""
        count, total, squares = self.moments
        if not self.dataset_info.bands or not count.all():
            return []
        means = total / count
        deviations = np.sqrt(np.maximum(squares / count - means**2, 0))
        return [
            {"name": band.name, "mean": float(f"{band.mean + band.std * m:.5g}"), "std": float(f"{band.std * d:.5g}")}
            for band, m, d in zip(self.dataset_info.bands, means, deviations, strict=True)
        ]

    def _compare_bands(self) -> None:
        """Warn of bands whose statistics in the dataset's file are not those of the images."""
        for said, found in zip(self.dataset_info.bands, self.bands, strict=False):
            factor = found["std"] / said.std
            if abs(found["mean"] - said.mean) > said.std / 2 or not 0.5 <= factor <= 2:
                self.warnings.append(
                    f"{self.name}: band {said.name} has mean {found['mean']} and standard deviation {found['std']}, "
                    f"the dataset's file says {said.mean:g} and {said.std:g}; write the measured ones there"
                )

    def _explain_one_class(self, values: list[int]) -> str:
        classes, present = self.dataset_info.classes, int(self.pixels.argmax())
        text = f"{self.name}: all labeled pixels are {classes[present]}, and a single class cannot be distinguished"
        first, second = (classes[present], self.absent[-1]) if self.absent else ("background", classes[present])
        ids = f", ids: {{{values[0]}: {first}, {values[1]}: {second}}}" if len(values) == 2 else ""
        fix = "" if self.absent else f", classes: [{first}, {second}]"
        return f"{text}; the labels hold {_shown(values)}; if all of it counts, say so in the dataset's file{fix}{ids}"

    @property
    def absent(self) -> list[str]:
        """Classes without any pixel."""
        return [name for name, count in zip(self.dataset_info.classes, self.pixels, strict=True) if count == 0]

    def _looks_like_training_ids(self, total: int) -> bool:
        """All values are in 0..K-1 although many label IDs are not, and many frequent values are ignored IDs."""
        number = self.dataset_info.num_classes
        beyond = [each for each in self.dataset_info.ids if each >= number]
        ignored = [each for each in self.dataset_info.ignored_ids if each < number and self.raw[each]]
        is_often = self.ignored - self.raw[IGNORE_INDEX] > _OFTEN * total
        return min(len(beyond), len(ignored)) >= _MANY and is_often and not self.raw[number:IGNORE_INDEX].any()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        labeled = max(int(self.pixels.sum()), 1)
        weights = suggest_weights(self.pixels)
        return {
            "samples": self.samples,
            "errors": self.errors,
            "warnings": self.warnings,
            "sizes": [{"height": h, "width": w, "images": n} for (h, w), n in sorted(self.sizes.items())],
            "ignored share": self.ignored / max(labeled + self.ignored, 1),
            "absent classes": self.absent,
            **({"bands": self.bands} if self.bands else {}),
            "unknown values": {
                value: {"labels": count, "largest share": share} for value, (count, share) in self.unknown.items()
            },
            "classes": [
                {
                    "name": name,
                    "share": float(self.pixels[i] / labeled),
                    "images": int(self.images[i]),
                    "suggested weight": float(weights[i]),
                }
                for i, name in enumerate(self.dataset_info.classes)
            ],
        }


def _shown(values: Sequence[int]) -> str:
    return f"the values {', '.join(map(str, values[:8]))}{', ...' if len(values) > 8 else ''}"


def suggest_weights(pixels: np.ndarray) -> np.ndarray:
    """Return cross-entropy weights for classes with these pixel counts.

    They are ``1 / ln(1.1 + frequency)`` (after ENet, arXiv 1606.02147), divided by their mean.
    """
    weights = 1 / np.log(1.1 + pixels / max(int(pixels.sum()), 1))
    return weights / weights.mean()


def same_images(reports: Iterable[SplitReport]) -> list[str]:
    """Return a warning for each pair of splits that share image files, which would inflate scores."""
    reports, warnings = list(reports), []
    for number, one in enumerate(reports):
        for other in reports[number + 1 :]:
            a, b = (np.array(report.digests, np.uint64) for report in (one, other))
            common, where, _ = np.intersect1d(a, b, return_indices=True)
            real = common != 0
            if real.any():
                example = one.keys[int(where[real][0])]
                warnings.append(f"{int(real.sum())} images of {one.name} are in {other.name} too, such as {example}")
    return warnings


def quick_check(config: Config, pairs: Sequence[Pair]) -> None:
    """Read a few samples spread over a split, so that a wrong dataset fails before training.

    Raises:
        DataError: the first problem, and how many of the samples have one; or a problem of the whole split. What only
        these samples suggest is logged.
    """
    places = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _QUICK)).astype(int))
    report = SplitReport(str(pairs[0].label.parent), config.dataset_info)
    wrong = 0
    for place in places:
        sample = inspect(pairs[place], config)
        wrong += bool(sample.errors)
        report.add(sample)
    if wrong:
        more = f" ({wrong} of {len(places)} samples looked at are wrong; main.py check lists all)"
        raise DataError(f"{report.errors[0]}{more}")
    report.finish(config.predicts_labels)
    if report.errors and len(places) == len(pairs):
        raise DataError(report.errors[0])
    for text in [*report.errors, *report.warnings]:  # the other samples may differ
        logger.warning("%s", text)

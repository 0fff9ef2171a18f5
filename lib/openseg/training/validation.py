"""Validation during training: semantic networks by labels, SegFix by mask and directions, refiners by their gain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from openseg.config import Config
from openseg.datasets.degradation import displaced
from openseg.datasets.loaders import ValSet, iterate_images
from openseg.datasets.splits import Pair
from openseg.distributed import Group
from openseg.inference import predict_boundary, predict_labels
from openseg.inference.refiner import refine_labels
from openseg.io.progress import progress
from openseg.metrics import LabelScores
from openseg.segfix import refine

__all__ = [
    "Validation",
    "evaluate_network",
    "evaluate_refiner",
    "evaluate_segfix",
    "evaluate_semantic",
]


_ALONE = Group()
_CELL = 16  # pixels in which the flow that displaces boundaries changes


class Validation(NamedTuple):
    """Validation scores; ``class_iou`` is empty for SegFix."""

    scores: dict[str, float]
    criterion: float
    class_iou: dict[str, float]


def _on(device: torch.device, image: torch.Tensor) -> torch.Tensor:
    return image[None].to(device, non_blocking=True)


def _items(config: Config, pairs: Sequence[Pair], device: torch.device, group: Group) -> Iterable:
    """One process's share of the pairs."""
    mine = group.share_of(range(len(pairs)))
    items = iterate_images(Subset(ValSet(config, pairs), mine), config.data.workers, device.type == "cuda")
    return progress(items, len(mine), "validate", hidden=not group.first)


def _sum(scores: list[LabelScores]) -> LabelScores:
    total = scores[0]
    for other in scores[1:]:
        total.merge(other)
    return total


@torch.inference_mode()
def evaluate_semantic(
    model: nn.Module, config: Config, pairs: Sequence[Pair], device: torch.device, group: Group = _ALONE
) -> LabelScores:
    """Predict every image in mode ``ss`` and score it at its original size; one image is in memory at a time.

    Each process predicts its share; all receive the total scores.
    """
    model.eval()
    scores = LabelScores(config.dataset_info, distances=(), metrics=config.metrics)
    for item in _items(config, pairs, device, group):
        size = item["label"].shape
        labels = predict_labels(model, _on(device, item["image"]), config, "ss", size)[0].cpu().numpy()
        scores.update(labels, item["label"])
    return _sum(group.collect(scores))


@torch.inference_mode()
def evaluate_segfix(
    model: nn.Module, config: Config, pairs: Sequence[Pair], device: torch.device, group: Group = _ALONE
) -> dict[str, float]:
    """Score a SegFix network on one fixed crop of each image.

    ``mask F`` is the F-score of the boundary mask, ``direction accuracy`` the fraction of true boundary pixels with the
    correct direction. ``F before`` and ``F after`` are boundary F-scores (mean over 1 and 3 pixels) of labels with
    displaced boundaries, and of the same labels refined with scale 1.
    """
    model.eval()
    counts = dict.fromkeys(("hit", "predicted", "true", "right"), 0)
    before, after = (LabelScores(config.dataset_info, distances=(1, 3)) for _ in range(2))
    for item in _items(config, pairs, device, group):
        boundaries = predict_boundary(model, _on(device, item["image"]), config)
        boundary = (boundaries.probability[0] > config.segfix.mask_threshold).cpu().numpy()
        directions = boundaries.logits[0].argmax(dim=0).cpu().numpy()
        labels = displaced(item["label"], np.random.default_rng(0), config.segfix.max_distance / 2, _CELL)
        before.update(labels, item["label"])
        after.update(refine(labels, boundaries.offset_map(config)), item["label"])
        true = item["mask"] == 1
        counts["hit"] += int(np.count_nonzero(boundary & true))
        counts["predicted"] += int(np.count_nonzero(boundary & (item["mask"] <= 1)))
        counts["true"] += int(np.count_nonzero(true))
        counts["right"] += int(np.count_nonzero(true & (directions == item["direction"])))
    found = group.collect((counts, before, after))
    counts = {name: sum(each[0][name] for each in found) for name in counts}
    before, after = (_sum([each[place] for each in found]) for place in (1, 2))
    return {
        "F before": _mean_boundary(before),
        "F after": _mean_boundary(after),
        "mask F": 2 * counts["hit"] / max(counts["predicted"] + counts["true"], 1),
        "direction accuracy": counts["right"] / max(counts["true"], 1),
    }


@torch.inference_mode()
def evaluate_refiner(
    model: nn.Module, config: Config, pairs: Sequence[Pair], device: torch.device, group: Group = _ALONE
) -> dict[str, float]:
    """Score labels before and after their refinement: mean IoU, and boundary F-score (mean over 1 and 3 pixels)."""
    model.eval()
    before, after = (LabelScores(config.dataset_info, distances=(1, 3)) for _ in range(2))
    for item in _items(config, pairs, device, group):
        image = item["image"].permute(1, 2, 0).numpy()
        before.update(item["coarse"], item["label"])
        after.update(refine_labels(model, config, image, item["coarse"], device), item["label"])
    found = group.collect((before, after))
    before, after = (_sum([each[place] for each in found]) for place in (0, 1))
    return {
        "F before": _mean_boundary(before),
        "F after": _mean_boundary(after),
        "mIoU before": before.compute()["mIoU"],
        "mIoU after": after.compute()["mIoU"],
    }


def _mean_boundary(scores: LabelScores) -> float:
    summary = scores.compute()
    return float(np.nan_to_num(summary["boundary F 1 px"] + summary["boundary F 3 px"])) / 2  # NaN: no boundary at all


def evaluate_network(
    model: nn.Module, config: Config, pairs: Sequence[Pair], device: torch.device, group: Group = _ALONE
) -> Validation:
    """Return the scores of a network by name, and the score that selects the best checkpoint."""
    if config.needs_coarse:
        scores = evaluate_refiner(model, config, pairs, device, group)
        return Validation(scores, (scores["F after"] + scores["mIoU after"]) / 2, {})
    if config.needs_targets:
        scores = evaluate_segfix(model, config, pairs, device, group)
        return Validation(scores, scores["F after"], {})
    found = evaluate_semantic(model, config, pairs, device, group)
    return Validation(found.compute(), found.compute()["mIoU"], found.by_class)

"""Validation while training: semantic networks by their labels, SegFix by its mask and directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from openseg.config import Experiment
from openseg.data.folder import Pair
from openseg.data.loaders import ValSet, iterate_images
from openseg.inference import predict_boundary, predict_labels
from openseg.metrics import LabelScores
from openseg.progress import progress

__all__ = [
    "evaluate_network",
    "evaluate_segfix",
    "evaluate_semantic",
]


def _on(device: torch.device, image: torch.Tensor) -> torch.Tensor:
    return image[None].to(device, non_blocking=True)


@torch.inference_mode()
def evaluate_semantic(
    model: nn.Module, experiment: Experiment, pairs: Sequence[Pair], device: torch.device
) -> LabelScores:
    """Predict every image in mode ``ss`` and score it at its own size; one image is in memory at a time."""
    model.eval()
    scores = LabelScores(experiment.catalog, distances=())
    items = iterate_images(ValSet(experiment, pairs), experiment.data.workers, device.type == "cuda")
    for item in progress(items, len(pairs), "validate"):
        size = item["label"].shape
        labels = predict_labels(model, _on(device, item["image"]), experiment, "ss", size)[0].cpu().numpy()
        scores.update(labels, item["label"])
    return scores


@torch.inference_mode()
def evaluate_segfix(
    model: nn.Module, experiment: Experiment, pairs: Sequence[Pair], device: torch.device
) -> dict[str, float]:
    """Score a SegFix network on whole images: F-score of the boundary mask, accuracy of the direction on it."""
    model.eval()
    counts = dict.fromkeys(("hit", "predicted", "true", "right"), 0)
    items = iterate_images(ValSet(experiment, pairs), experiment.data.workers, device.type == "cuda")
    for item in progress(items, len(pairs), "validate"):
        probability, logits = predict_boundary(model, _on(device, item["image"]), experiment.normalization, window=None)
        boundary = (probability[0] > experiment.loss.mask_threshold).cpu().numpy()
        directions = logits[0].argmax(dim=0).cpu().numpy()
        true = item["mask"] == 1
        counts["hit"] += int(np.count_nonzero(boundary & true))
        counts["predicted"] += int(np.count_nonzero(boundary & (item["mask"] <= 1)))
        counts["true"] += int(np.count_nonzero(true))
        counts["right"] += int(np.count_nonzero(true & (directions == item["direction"])))
    return {
        "mask F": 2 * counts["hit"] / max(counts["predicted"] + counts["true"], 1),
        "direction accuracy": counts["right"] / max(counts["true"], 1),
    }


def evaluate_network(
    model: nn.Module,
    experiment: Experiment,
    pairs: Sequence[Pair],
    device: torch.device,
) -> tuple[dict[str, float], float]:
    """Scores of a network by name, and the one by which the best checkpoint is chosen."""
    if experiment.task == "segfix":
        scores: dict[str, Any] = evaluate_segfix(model, experiment, pairs, device)
        return scores, scores["mask F"] * scores["direction accuracy"]
    summary = evaluate_semantic(model, experiment, pairs, device).summary()
    return summary, summary["mIoU"]

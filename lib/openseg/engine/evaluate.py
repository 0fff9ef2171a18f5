"""Validation of networks: semantic ones by their labels, SegFix by its mask and directions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from openseg.config import Experiment
from openseg.data.folder import Pair
from openseg.data.loaders import ImageSet, ValSet, iterate_images
from openseg.files import claim_folder
from openseg.images import write_image, write_label
from openseg.inference import predict_boundary, predict_labels
from openseg.metrics import LabelScores
from openseg.progress import progress
from openseg.segfix.directions import directions_to_offsets
from openseg.segfix.offsets import OFFSET_SUFFIXES, write_offsets

__all__ = [
    "evaluate_network",
    "evaluate_segfix",
    "evaluate_semantic",
    "predict_images",
    "predict_offsets",
]

logger = logging.getLogger("openseg")


def _on(device: torch.device, image: torch.Tensor) -> torch.Tensor:
    return image[None].to(device, non_blocking=True)


@torch.inference_mode()
def evaluate_semantic(
    model: nn.Module,
    experiment: Experiment,
    pairs: Sequence[Pair],
    device: torch.device,
    out_dir: Path | None = None,
    distances: Sequence[int] = (),
    mode: Literal["ss", "ms"] = "ss",
) -> LabelScores:
    """Predict every image whole and score it at its own size; one image is in memory at a time.

    Args:
        out_dir: where ``label/<image name>.png`` (the data set's ids) and ``vis/`` (colours) go; None writes nothing.
        distances: of the boundary F-score, in pixels; empty leaves it out.
        mode: single-scale or multi-scale, see ``experiment.test``.
    """
    model.eval()
    catalog = experiment.catalog
    scores = LabelScores(catalog.classes, distances)
    items = iterate_images(ValSet(experiment, pairs), experiment.data.workers, device.type == "cuda")
    for item in progress(items, len(pairs), "validate"):
        size = item["label"].shape
        labels = predict_labels(model, _on(device, item["image"]), experiment, mode, size)[0].cpu().numpy()
        scores.update(labels, item["label"])
        if out_dir is not None:
            _write_prediction(out_dir, item["pair"].image, labels, experiment)
    return scores


@torch.inference_mode()
def predict_images(
    model: nn.Module,
    experiment: Experiment,
    images: Sequence[Path],
    device: torch.device,
    out_dir: Path,
    mode: Literal["ss", "ms"] = "ss",
) -> None:
    """Write the labels of images that have no truth: ``label/`` and ``vis/`` below ``out_dir``."""
    model.eval()
    items = iterate_images(ImageSet(experiment, images), experiment.data.workers, device.type == "cuda")
    for item in progress(items, len(images), "predict"):
        labels = predict_labels(model, _on(device, item["image"]), experiment, mode, item["size"])[0].cpu().numpy()
        _write_prediction(out_dir, item["path"], labels, experiment)


def _write_prediction(out_dir: Path, image: Path, labels: np.ndarray, experiment: Experiment) -> None:
    catalog = experiment.catalog
    write_label(out_dir / "label" / f"{image.stem}.png", catalog.decode(labels))
    write_image(out_dir / "vis" / f"{image.stem}.png", catalog.colorize(labels))


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


@torch.inference_mode()
def predict_offsets(
    model: nn.Module,
    experiment: Experiment,
    images: Sequence[Path],
    device: torch.device,
    out_dir: Path,
    suffix: str,
    made_by: dict[str, Any],
) -> None:
    """Write the offsets of images: ``<out_dir>/<image stem><suffix>``.

    Files that an interrupted call left are kept if ``made_by``, such as the checkpoint's hash, is the same as then.

    Raises:
        DataError: the folder holds offsets that no such call wrote.
    """
    model.eval()
    test = experiment.test
    made_by = {
        **made_by,
        "images": str(images[0].parent.resolve()),
        "suffix": suffix,
        "threshold": experiment.loss.mask_threshold,
        "test": test.model_dump(mode="json"),
        "normalization": experiment.normalization.model_dump(mode="json"),
    }
    existing = claim_folder(out_dir, made_by, OFFSET_SUFFIXES)
    todo = [path for path in images if f"{path.stem}{suffix}" not in existing]
    if len(todo) < len(images):
        logger.info("%d of %d offset files are there already", len(images) - len(todo), len(images))
    items = iterate_images(ImageSet(experiment, todo), experiment.data.workers, device.type == "cuda")
    for item in progress(items, len(todo), "offsets"):
        image = _on(device, item["image"])
        probability, logits = predict_boundary(model, image, experiment.normalization, test.window, test.window_stride)
        sureness, directions = logits[0].softmax(dim=0).max(dim=0)
        moves = (probability[0] > experiment.loss.mask_threshold) & (sureness >= test.min_direction_probability)
        offsets = directions_to_offsets(directions.to(torch.uint8).cpu().numpy()) * moves.cpu().numpy()[..., None]
        write_offsets(out_dir / f"{item['path'].stem}{suffix}", offsets)


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

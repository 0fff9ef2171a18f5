"""Prediction of many images into a result folder; resumable, and shared by the processes of torchrun."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openseg.config import Config
from openseg.datasets.info import DatasetInfo
from openseg.distributed import Group
from openseg.errors import ConfigError, OpensegError
from openseg.inference import LazyLogits, bands
from openseg.inference.predictor import Predictor
from openseg.inference.runner import run_over_images
from openseg.io.files import atomic_write
from openseg.io.images import write_image, write_label
from openseg.io.results import Journal, OnConflict, ResultFolder

__all__ = ["KINDS", "Outputs", "model_settings", "predict_images", "result_settings", "test_settings"]

logger = logging.getLogger("openseg")

KINDS = {"label": ".png", "vis": ".png", "overlay": ".jpg", "logits": ".npy", "probabilities": ".npy"}
"""What can be written of an image, each in a folder of this name: label IDs, colors, colors over the image, and
``float16[K, H, W]`` arrays."""


SCORE_FILES = {"json": "scores.json", "markdown": "scores.md", "confusion": "confusion.csv"}


@dataclass(frozen=True)
class Outputs:
    """Output folder and ``kinds`` of outputs besides ``label``; ``on_conflict`` as in ``ResultFolder``."""

    folder: Path
    kinds: tuple[str, ...] = ("vis",)
    on_conflict: OnConflict = "replace"

    @property
    def scores(self) -> dict[str, Path]:
        """Score files that ``val`` writes, by kind."""
        return {kind: self.folder / name for kind, name in SCORE_FILES.items()}

    @property
    def report(self) -> Path:
        """Folder of the HTML report that ``val`` writes."""
        return self.folder / "report"

    def path(self, kind: str, name: str) -> Path:
        """The file of an image called ``name``."""
        return self.folder / kind / f"{name}{KINDS[kind]}"

    def claim(self, made_by: dict[str, Any]) -> ResultFolder:
        """Claim the folder, see ``ResultFolder``."""
        made_by = {"what": "predictions", **made_by}
        return ResultFolder(self.folder, made_by, tuple(KINDS.values()), tuple(KINDS), self.on_conflict)

    def is_done(self, claimed: ResultFolder, name: str, image: Path) -> bool:
        """Whether all files of an image exist and are up to date; the label is written last."""
        done = [claimed.is_done(self.path(kind, name), image, kind=kind) for kind in ("label", *self.kinds)]
        return all(done)  # after all were looked at, for files of others


@torch.inference_mode()
def predict_images(
    predictor: Predictor,
    images: Mapping[str, Path],
    outputs: Outputs,
    made_by: dict[str, Any],
    group: Group,
    broken: list[OpensegError] | None = None,
) -> None:
    """Predict and write labels and other ``outputs`` of images; existing results are skipped.

    Args:
        images: image files by result name.
        made_by: what determines the results besides the config, such as the checkpoint's hash.
        broken: takes the errors of images that cannot be read; None raises the first one.

    Raises:
        DataError: the folder holds files of other origin.
        ConfigError: logits requested from a config that averages probabilities.
    """
    config = predictor.config
    if "logits" in outputs.kinds and config.test.average == "probabilities":
        raise ConfigError("with test.average=probabilities there are no logits to write; write probabilities")
    for kind in {"logits", "probabilities"} & set(outputs.kinds):
        predictor.require_logits(f"{kind} to write are made of")
    made_by = {**made_by, **result_settings(predictor.config, predictor.mode)}
    with outputs.claim(made_by) if group.first else contextlib.nullcontext() as claimed:
        todo = group.broadcast(None if claimed is None else _remaining(outputs, claimed, images))
        _predict(predictor, {name: images[name] for name in todo}, outputs, group, broken)


def _predict(
    predictor: Predictor,
    images: Mapping[str, Path],
    outputs: Outputs,
    group: Group,
    broken: list[OpensegError] | None,
) -> None:
    config, journal = predictor.config, Journal(outputs.folder)
    names = {path: name for name, path in images.items()}

    def compute(item: dict[str, Any]) -> np.ndarray:
        labels, rows = predictor.predict(item["image"], tuple(item["size"]))  # older pinning makes it a list
        with journal.writing(item["path"]):
            for kind in {"logits", "probabilities"} & set(outputs.kinds):
                _write_rows(outputs.path(kind, names[item["path"]]), rows, kind, config)
        return labels

    def write(item: dict[str, Any], labels: np.ndarray) -> None:
        with journal.writing(item["path"]):
            _write_prediction(outputs, names[item["path"]], labels, item, config.dataset_info)

    run_over_images(config, [*images.values()], compute, write, "predict", predictor.device, group, broken)


def result_settings(config: Config, mode: str) -> dict[str, Any]:
    """Settings that determine the files of a semantic prediction, besides weights and images."""
    return {
        "mode": mode,
        "test": test_settings(config),
        "normalization": config.normalization.model_dump(mode="json"),
        "data": config.data.model_dump(mode="json", include={"short_side", "size"}),
        "model": model_settings(config),
        "classes": config.dataset_info.output_fingerprint,
    }


def test_settings(config: Config, exclude: Sequence[str] = ()) -> dict[str, Any]:
    """Settings of ``test`` that determine results; that of torch is left out, as in results of earlier versions."""
    left_out = {"compile", *exclude, *(("runtime",) if config.test.runtime == "torch" else ())}
    return config.test.model_dump(mode="json", exclude=left_out)


def model_settings(config: Config) -> dict[str, Any]:
    """Settings that determine a network, besides its weights."""
    return config.model.model_dump(mode="json", exclude={"pretrained", "freeze_backbone", "drop_path"})


def _remaining(outputs: Outputs, claimed: ResultFolder, images: Mapping[str, Path]) -> list[str]:
    """Names of the remaining images."""
    todo = [name for name, path in images.items() if not outputs.is_done(claimed, name, path)]
    claimed.start()
    claimed.tell_kept(len(images) - len(todo), len(images))
    wanted = {f"{name}{KINDS['label']}" for name in images}
    left = sorted(claimed.kept["label"] - wanted)
    if left:
        logger.warning("%s holds %d files of other images, such as %s", outputs.folder / "label", len(left), left[0])
    if todo and claimed.was_ours:  # scores of earlier results
        for path in outputs.scores.values():
            claimed.remove(path)
        page, journal = outputs.report / "index.html", Journal(outputs.report)
        if journal.entry(page, journal.read()):
            page.unlink()
    return todo


def _write_prediction(outputs: Outputs, name: str, labels: np.ndarray, item: dict[str, Any], info: DatasetInfo) -> None:
    if "vis" in outputs.kinds:
        write_image(outputs.path("vis", name), info.colorize(labels))
    if "overlay" in outputs.kinds:
        image = item["image"].numpy().transpose(1, 2, 0)
        image = image if image.shape[:2] == labels.shape else info.read_image(item["path"])
        write_image(outputs.path("overlay", name), info.overlay(info.as_rgb(image), labels))
    write_label(outputs.path("label", name), info.decode(labels))


def _write_rows(path: Path, rows: LazyLogits, kind: str, config: Config) -> None:
    """Write logits or probabilities as ``float16[K, H, W]``, a few rows at a time."""
    with atomic_write(path) as temporary:
        array = np.lib.format.open_memmap(temporary, "w+", np.float16, (rows.classes, *rows.size))
        if hasattr(os, "posix_fallocate"):  # on a full disk an error here, instead of a signal on writing a page
            with open(temporary, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, array.offset + array.nbytes)
        for top, band in bands(rows):
            if kind == "probabilities":
                # A cubic resize overshoots.
                band = band.softmax(dim=1) if config.test.average == "logits" else band.clamp(min=0)
                band = band / band.sum(dim=1, keepdim=True)
            array[:, top : top + band.shape[2]] = band[0].cpu().numpy()
        array.flush()

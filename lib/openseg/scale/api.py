"""``openseg.scale.predict | refine | evaluate | merge``: the commands over storage, shards and clusters."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.progress import show_progress
from openseg.io.sources import Source
from openseg.io.storage import place_of
from openseg.metrics import DISTANCES, CityscapesCounts, LabelScores
from openseg.plugins import load_plugins
from openseg.scale.merging import counts_of, merged
from openseg.scale.run import ScaleResult, Task, run
from openseg.scale.settings import Scale
from openseg.scale.units import Evaluate, Refine
from openseg.tools.paths import PathLike, worker_count
from openseg.tools.refining import RefineSettings, require_one_source

__all__ = ["evaluate", "merge", "predict", "refine"]


def predict(
    images: Any,
    config: Any,
    *,
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    overrides: Sequence[str] = (),
    mode: Literal["ss", "ms"] = "ss",
    also: Sequence[str] = (),
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    scale: Scale | None = None,
    progress: bool = True,
) -> Any:
    """Predict images in storage, in shards or of a Ray dataset; what is recorded as done is skipped.

    Args:
        images: folder, address such as ``s3://bucket/images``, ``*.tar`` of WebDataset or ``*.parquet`` (patterns are
            allowed); or a ``ray.data.Dataset`` with columns ``id`` and ``image`` (bytes), which gives a dataset with
            ``id``, ``label``, further results and ``error``.
        config: config, or path of its YAML file.
        checkpoint: as in ``openseg.predict``.
        checkpoints: as in ``openseg.predict``.
        overrides: as in ``openseg.predict``.
        mode: as in ``openseg.predict``.
        device: as in ``openseg.predict``.
        also: outputs besides label maps: vis, overlay; or none.
        out: folder or address of the results; not for a Ray dataset.
        overwrite: do what is recorded as done again.
        scale: engine, shard and format.
        progress: show a progress bar on a terminal.

    Returns:
        Addresses of results and manifest, and a summary; or a Ray dataset.

    Raises:
        ConfigError, CheckpointError, DataError: the arguments cannot be used.
        OpensegError: storage failed, or more than ``scale.max_errors`` inputs are broken.
    """
    from openseg.scale.predict_unit import Predict, require_kinds
    from openseg.tools.common import as_config, checkpoint_of

    how = scale or Scale()
    settings = as_config(config, overrides)
    unit = Predict(
        settings, checkpoint_of(settings, checkpoint, checkpoints, config), mode, require_kinds(also), device
    )
    if not isinstance(images, (str, os.PathLike)):
        from openseg.scale.ray_data import mapped

        return mapped(images, unit, how)
    place = place_of(_required(out, images))
    task = Task(unit, [_source(images, "image", how)], place, how, worker_count(how.num_workers), overwrite)
    with show_progress(progress):
        return run(task)


def refine(
    labels: Any,
    *,
    offsets: PathLike | None = None,
    images: PathLike | None = None,
    checkpoint: PathLike | None = None,
    config: PathLike | None = None,
    dataset: str = "cityscapes",
    scale_pixels: int | None = None,
    min_confidence: float = 0.0,
    keep_thin: int = 0,
    steps: int = 1,
    eval_ids_only: bool = False,
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    scale: Scale | None = None,
    progress: bool = True,
) -> Any:
    """Refine label maps in storage, in shards or of a Ray dataset; what is recorded as done is skipped.

    Args:
        labels: see ``images`` of ``predict``; a Ray dataset has columns ``id``, ``label``, and ``image`` or ``offset``.
        offsets: where the offset files are.
        images: where the images are, instead of ``offsets``. For a Ray dataset ``images=True`` refines by ``image``.
        checkpoint: as in ``openseg.refine``.
        config: as in ``openseg.refine``.
        dataset: as in ``openseg.refine``.
        min_confidence: as in ``openseg.refine``.
        keep_thin: as in ``openseg.refine``.
        steps: as in ``openseg.refine``.
        eval_ids_only: as in ``openseg.refine``.
        device: as in ``openseg.refine``.
        scale_pixels: ``scale`` of ``openseg.refine``.
        out: as in ``predict``.
        overwrite: as in ``predict``.
        scale: as in ``predict``.
        progress: as in ``predict``.
        workers: processes of this machine for refinement with offsets; None is one for each core.

    Returns:
        As ``predict``, and so are errors.
    """
    how = scale or Scale()
    require_one_source(offsets, images, checkpoint)
    rules = RefineSettings(dataset, scale_pixels, min_confidence, eval_ids_only, keep_thin, steps)
    by_images = images is not None
    unit = Refine(rules, by_images, None if checkpoint is None else Path(checkpoint), _path(config), device)
    if not isinstance(labels, (str, os.PathLike)):
        from openseg.scale.ray_data import mapped

        return mapped(labels, unit, how)
    if offsets is None and images is None:
        raise ConfigError("give --images or --offset: at this scale nothing is searched for")
    other = _source(images if by_images else offsets, unit.roles[1], how)
    sources = [_source(labels, "label", how), other]
    task = Task(unit, sources, place_of(_required(out, labels)), how, worker_count(workers), overwrite)
    with show_progress(progress):
        return run(task)


def evaluate(
    predictions: PathLike,
    *,
    dataset: str,
    ground_truth: PathLike | None = None,
    split: str = "val",
    data_root: PathLike = "data",
    train_ids: bool = False,
    allow_missing: bool = False,
    distances: Sequence[int] = DISTANCES,
    metrics: Sequence[str] = (),
    plugins: Sequence[str] = (),
    out: PathLike | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    scale: Scale | None = None,
    progress: bool = True,
) -> ScaleResult:
    """Score predictions in storage or in shards; the scores are those of ``openseg.evaluate``, to the last bit.

    Args:
        predictions: see ``images`` of ``predict``.
        ground_truth: see ``images`` of ``predict``.
        dataset: as in ``openseg.evaluate``.
        split: as in ``openseg.evaluate``.
        data_root: as in ``openseg.evaluate``.
        train_ids: as in ``openseg.evaluate``.
        allow_missing: as in ``openseg.evaluate``.
        distances: as in ``openseg.evaluate``.
        metrics: as in ``openseg.evaluate``; those of your own need ``counts_dict`` and ``add_counts``.
        plugins: as in ``openseg.evaluate``.
        out: folder or address of the records, with which an interrupted run continues; None keeps none.
        overwrite: as in ``predict``.
        scale: as in ``predict``.
        progress: as in ``predict``.
        workers: processes of this machine; None is one for each core.

    Returns:
        Scores, and a summary.

    Raises:
        ConfigError: an argument cannot be used.
        DataError: nothing can be scored, or without ``allow_missing`` an input is missing or broken.
        OpensegError: see ``predict``.
    """
    how = scale or Scale()
    load_plugins(plugins)
    info = get_dataset_info(dataset)
    instances: PathLike | None = ground_truth
    if ground_truth is None:
        paths = split_paths(info, Path(data_root) / info.folder, split)
        if paths.names_differ or paths.list_file is not None:
            raise ConfigError(f"{info.name}: the split has a list; name the folder of its labels with --gt")
        ground_truth, instances = paths.label, paths.instance if paths.instance.is_dir() else None
    if os.fspath(predictions) == os.fspath(ground_truth) and not {"prediction", "truth"} <= how.named.keys():
        raise ConfigError(
            "predictions and ground truth are at one place; name both: --columns prediction=...,truth=..."
        )
    unit = Evaluate(dataset, tuple(distances), train_ids, tuple(metrics))
    sources = [_source(ground_truth, "truth", how), _source(predictions, "prediction", how)]
    endings, optional = {0: "_labelIds"}, frozenset[int]()
    if CityscapesCounts.fits(info) and sources[0].kind == "files" and instances is not None:
        unit.roles, optional = (*unit.roles, "instances"), frozenset((2,))
        sources.append(_source(instances, "truth", how))
        if instances == ground_truth:
            endings[2] = "_instanceIds"
    with show_progress(progress), tempfile.TemporaryDirectory(prefix="openseg-") as records:
        if out is None and how.engine == "ray" and how.address:
            raise ConfigError("evaluate on a cluster needs --out, a folder or an address that all workers see")
        place = place_of(out or Path(records) / "records")
        shared = worker_count(workers)
        found = run(Task(unit, sources, place, how, shared, overwrite, unit.empty(), endings, optional))
    _require_complete(found, allow_missing)
    if how.shard is None or found.scores is None:
        return found
    return replace(found, part=counts_of(os.fspath(predictions), unit, found.summary, found.scores))


def merge(files: Sequence[PathLike]) -> tuple[dict[str, Any], LabelScores | None]:
    """Add up what shards gave: counts of ``evaluate``, or summaries of ``predict`` and ``refine``.

    Args:
        files: the JSON files of all shards; of ``evaluate`` those of ``--json``.

    Returns:
        The summary of all, and scores of ``evaluate``.

    Raises:
        DataError: a file is damaged, a shard is missing or there twice, or the shards are of different sources or
            settings.
    """
    return merged([Path(each) for each in files])


def _source(address: Any, role: str, how: Scale) -> Source:
    if not isinstance(address, (str, os.PathLike)):
        raise ConfigError(f"{role}: give a folder or an address")
    return Source(address, role, how.named.get(role))


def _required(out: PathLike | None, source: PathLike) -> PathLike:
    if out is None:
        raise ConfigError(f"{os.fspath(source)}: name a folder or an address for the results (--out)")
    return out


def _path(path: PathLike | None) -> Path | None:
    return None if path is None else Path(path)


def _require_complete(found: ScaleResult, allow_missing: bool) -> None:
    summary = found.summary
    wrong = summary["failed"] + summary["missing"] + sum(summary["unmatched"].values())
    if not summary["done"] and summary["in_shard"]:
        raise DataError(f"nothing could be scored: {'; '.join(found.left_out[:5])}")
    if wrong and not allow_missing:
        shown = "; ".join(found.left_out[:5]) or json.dumps(summary["unmatched"])
        raise DataError(
            f"{wrong} predictions are missing, unmatched or invalid: {shown}; fix that, or score the rest with "
            "--allow-missing"
        )

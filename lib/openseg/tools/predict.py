"""``openseg.validate | test | predict | predict_offsets``: what trained networks say of images, into folders."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from openseg.config import Config
from openseg.datasets.samples import list_split
from openseg.datasets.splits import Pair, list_images, split_paths
from openseg.distributed import Group, process_group
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.inference.folder import Outputs, predict_images
from openseg.inference.memory import limit_memory
from openseg.inference.offsets import SegFixPredictor, write_offset_files
from openseg.inference.predictor import Predictor
from openseg.inference.video import VIDEO_SUFFIXES, predict_video
from openseg.io.files import IMAGE_SUFFIXES, file_hash, list_files
from openseg.io.progress import show_progress
from openseg.io.results import RECORD, Journal, OnConflict
from openseg.metrics import LabelScores
from openseg.tools.common import as_config, checkpoint_of
from openseg.tools.evaluate import instance_maps
from openseg.tools.paths import PathLike, worker_count
from openseg.tools.report.html import Report
from openseg.tools.report.samples import Sample

__all__ = ["PredictionResult", "predict", "predict_offsets", "test", "validate"]

logger = logging.getLogger("openseg")

Mode = Literal["ss", "ms"]
REPORT = "report"
"""Kind of output: an HTML report about all images."""
_ARRAYS = ("logits", "probabilities")


@dataclass(frozen=True)
class PredictionResult:
    """Written predictions and their scores.

    Attributes:
        folder: holds a folder for each of ``kinds``, or the offset files.
        kinds: such as ``label`` and ``vis``; empty for offsets.
        images: number of images.
        left_out: images that could not be read, with the reason.
        scores: None without ground truth.
        files: score files, by kind.
        report: the HTML report.
    """

    folder: Path
    kinds: tuple[str, ...] = ()
    images: int = 0
    left_out: list[str] = field(default_factory=list)
    scores: LabelScores | None = None
    files: dict[str, Path] = field(default_factory=dict)
    report: Path | None = None

    @property
    def labels(self) -> Path:
        """The folder of label maps."""
        return self.folder / "label"


def validate(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    mode: Mode = "ss",
    also: Sequence[str] = ("vis", REPORT),
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> PredictionResult:
    """Predict the validation split and score it; existing results of the same settings are skipped.

    Args:
        config: config, path of its YAML file, or an exported network (``.onnx``).
        overrides: config values to override, as ``key.sub=value``.
        checkpoint: None is ``<name>_latest.pth`` below ``checkpoints``, or the exported network.
        checkpoints: root folder of checkpoints.
        mode: ss: single-scale; ms: multi-scale with flipping.
        also: outputs besides label maps: vis, report, logits, probabilities; or none.
        out: None is ``<data root>/seg_result/<dataset>/<name>_val``, or ``_val_ms``.
        overwrite: overwrite existing results.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        progress: show progress bars on a terminal.

    Returns:
        Folder, kinds of outputs, number of images, and scores.

    Raises:
        ConfigError, CheckpointError, DataError: the config, the checkpoint or the dataset cannot be used.

    For example:

        result = openseg.validate("configs/camvid/hrnet18_ocr.yaml")
        print(result.scores.compute()["mIoU"])
    """
    _require_known(also, ("vis", REPORT, *_ARRAYS))
    with process_group() as group, show_progress(progress):
        predictor, path = _predictor(config, overrides, checkpoint, checkpoints, mode, device, group)
        settings = predictor.config
        split = settings.data.validation_split
        pairs = list_split(settings, split)
        images = {pair.image.stem: pair.image for pair in pairs}
        if len(images) < len(pairs):
            (name, count), *_ = Counter(pair.image.stem for pair in pairs).most_common(1)
            raise DataError(f"{images[name]}: {count} images have this name; validate one split after the other")
        outputs = _outputs(settings, out, f"val{'' if mode == 'ss' else '_ms'}", also, overwrite)
        made_by = _identity(path) | _source(pairs[0].image.parent, split)
        predict_images(predictor, images, outputs, made_by, group)
        if not group.first:
            return PredictionResult(outputs.folder, ("label", *outputs.kinds), len(images))
        return _scored(settings, outputs, pairs, REPORT in also)


def test(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    split: str = "test",
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    mode: Mode = "ss",
    also: Sequence[str] = ("vis",),
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> PredictionResult:
    """Predict a split that needs no ground truth, for a test server; arguments and errors are those of ``validate``.

    Args:
        split: split to predict.
        also: outputs besides label maps: vis, logits, probabilities; or none.
        out: None is ``<data root>/seg_result/<dataset>/<name>_<split>_<mode>``.

    Returns:
        Folder, kinds of outputs, number of images, and images that were left out.
    """
    _require_known(also, ("vis", *_ARRAYS))
    with process_group() as group, show_progress(progress):
        predictor, path = _predictor(config, overrides, checkpoint, checkpoints, mode, device, group)
        settings = predictor.config
        paths = list_images(split_paths(settings.dataset_info, settings.data_dir, split))
        outputs = _outputs(settings, out, f"{split}_{mode}", also, overwrite)
        made_by = _identity(path) | _source(paths[0].parent, split)
        predict_images(predictor, {each.stem: each for each in paths}, outputs, made_by, group)
        return PredictionResult(outputs.folder, ("label", *outputs.kinds), len(paths))


def predict(
    images: PathLike,
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    mode: Mode = "ss",
    also: Sequence[str] = ("vis", "overlay"),
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> PredictionResult:
    """Predict an image, a folder of images or a video; arguments and errors are those of ``validate``.

    Images that cannot be read are left out and named in the result. When memory runs out, images are cut into windows.

    Args:
        images: image file, folder of images, or video.
        also: outputs besides label maps: vis, overlay, logits, probabilities; or none.
        out: None is ``predictions/<name>/<name of the input>``; results of other settings there are refused.

    Returns:
        Folder, kinds of outputs, number of images, and images that were left out.
    """
    _require_known(also, ("vis", "overlay", *_ARRAYS))
    source = Path(images)
    if not source.exists():
        raise DataError(f"{source}: no such image, folder or video")
    is_video = source.suffix.lower() in VIDEO_SUFFIXES and source.is_file()
    if not is_video and not source.is_dir() and source.suffix.lower() not in IMAGE_SUFFIXES:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise DataError(f"{source}: neither a folder nor a file that ends in one of {known}")
    broken: list[OpensegError] = []
    found = {} if is_video else _images(source)  # what is wrong with names is said before anything is loaded
    with process_group() as group, show_progress(progress):
        predictor, path = _predictor(config, overrides, checkpoint, checkpoints, mode, device, group, windows=True)
        name = source.resolve().name if source.is_dir() else source.stem
        folder = Path(out or Path("predictions") / predictor.config.name / (name or "root"))
        if folder.resolve() == source.resolve():
            raise DataError(f"--out {folder}: is the folder of the images; choose another one")
        outputs = _outputs(predictor.config, folder, "", also, overwrite, on_conflict="refuse")
        made_by = _identity(path) | _source(source)
        limit = limit_memory(group.world) if predictor.device.type == "cpu" else contextlib.nullcontext()
        with limit:
            if is_video:
                count = predict_video(predictor, source, outputs, made_by, group)
            else:
                count = len(found)
                predict_images(predictor, found, outputs, made_by, group, broken)
    return PredictionResult(folder, ("label", *outputs.kinds), count, [str(error) for error in broken])


def predict_offsets(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    split: str = "val",
    images: PathLike | None = None,
    checkpoint: PathLike | None = None,
    checkpoints: PathLike = "checkpoints",
    format: Literal["png", "mat", "mat-int32"] = "png",
    out: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> PredictionResult:
    """Predict the SegFix offsets of a split or a folder of images; arguments and errors are those of ``validate``.

    Args:
        split: split to predict.
        images: folder of images, instead of ``split``.
        format: png: compact; mat: the original's layout with int8; mat-int32: exactly the original's.
        out: None is ``offset_pred/<split>/semantic/<dataset>/offset_<backbone>``, or ``offset_pred/images/<folder>``.

    Returns:
        Folder, kinds of outputs, number of images, and images that were left out.
    """
    settings = as_config(config, overrides)
    path = checkpoint_of(settings, checkpoint, checkpoints)
    made_by = _identity(path)
    broken: list[OpensegError] = []
    with process_group() as group, show_progress(progress):
        predictor = SegFixPredictor(settings, path, device)
        _tell_loaded(path, predictor.report, group)
        info = settings.dataset_info
        found = list_images(images or split_paths(info, settings.data_dir, split))
        default = f"offset_pred/{split}/semantic/{info.name}/offset_{settings.model.backbone}"
        if images:
            default = f"offset_pred/images/{Path(images).resolve().name}"
        folder = Path(out or default)
        made_by |= _source(found[0].parent, "" if images else split)
        write_offset_files(predictor, found, folder, format, made_by, group, overwrite, broken)
    return PredictionResult(folder, (), len(found), [str(error) for error in broken])


def _require_known(also: Sequence[str], known: Sequence[str]) -> None:
    for kind in also:
        if kind not in known:
            raise ConfigError(f"'{kind}' cannot be written; use some of {', '.join(known)}, or none")


def _predictor(
    config: PathLike | Config,
    overrides: Sequence[str],
    checkpoint: PathLike | None,
    checkpoints: PathLike,
    mode: Mode,
    device: str,
    group: Group,
    windows: bool = False,
) -> tuple[Predictor, Path]:
    settings = as_config(config, overrides)
    path = checkpoint_of(settings, checkpoint, checkpoints, config)
    predictor = Predictor(settings, path, mode=mode, device=device, windows_when_full=windows)
    _tell_loaded(path, predictor.report, group)
    return predictor, path


def _tell_loaded(path: Path, report: object, group: Group) -> None:
    if group.first:
        logger.info("%s: %s", path, report)


def _identity(path: Path) -> dict[str, str]:
    """What is recorded of a checkpoint beside the results that it decides."""
    return {"checkpoint": file_hash(path)}


def _source(path: Path, split: str = "") -> dict[str, str]:
    return {"images": str(path.resolve()), "split": split}


def _outputs(
    config: Config,
    out: PathLike | None,
    what: str,
    also: Sequence[str],
    overwrite: bool,
    on_conflict: OnConflict = "replace",
) -> Outputs:
    default = config.data.root / "seg_result" / config.dataset_info.name / f"{config.name}_{what}"
    kinds = tuple(kind for kind in also if kind != REPORT)
    return Outputs(Path(out or default), kinds, "overwrite" if overwrite else on_conflict)


def _scored(config: Config, outputs: Outputs, pairs: list[Pair], wants_report: bool) -> PredictionResult:
    """Scores of the files that were written, and the report."""
    from openseg.tools.report.build import write_beside
    from openseg.tools.report.tables import write_score_files

    info, split = config.dataset_info, config.data.validation_split
    maps = {}
    if "+" not in split:
        paths = split_paths(info, config.data_dir, split)
        maps = instance_maps(info, paths, [pair.key for pair in pairs])
    samples = [Sample(pair.key, (outputs.path("label", pair.image.stem),), pair.label, pair.image) for pair in pairs]
    report = Report(samples, [config.name], config.data.dataset, workers=worker_count(None), metrics=config.metrics)
    scores = report.score(maps)
    files = outputs.scores
    journal = Journal(outputs.folder)
    written = journal.read()
    for path in files.values():
        if path.exists() and not journal.entry(path, written):
            raise DataError(f"{path}: not written by this command, or changed since; move it away and run again")
    with journal.writing():
        write_score_files(scores, files["json"], files["markdown"], files["confusion"])
    page = write_beside(report, outputs.report, config.name) if wants_report else None
    kinds = ("label", *outputs.kinds)
    return PredictionResult(outputs.folder, kinds, len(pairs), [], scores[config.name], files, page)


def _images(source: Path) -> dict[str, Path]:
    """The images of a folder, or one image, by the names of their results; results of predictions are left out."""
    if not source.is_dir():
        return {source.stem: source}
    results: dict[Path, bool] = {source: False, source.parent: False}

    def is_result(folder: Path) -> bool:
        if folder not in results:
            results[folder] = (folder / RECORD).exists() or is_result(folder.parent)
        return results[folder]

    files = list_files(source, skip=is_result)
    images = {path.relative_to(source).with_suffix("").as_posix(): path for path in files}
    if len(images) < len(files):
        twice = [path for path in files if images[path.relative_to(source).with_suffix("").as_posix()] != path]
        more = f" and {len(twice) - 5} more" if len(twice) > 5 else ""
        raise DataError(
            f"{', '.join(map(str, twice[:5]))}{more}: other images have the same names with another suffix; rename one "
            "of each"
        )
    return images

"""``openseg.refine_auto``: a refiner for the labels of a model, trained on these labels themselves, and refinement."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from openseg.config import Config, load_config
from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, DataError
from openseg.inference.refiner import SHIPPED_REFINER, RefinerPredictor
from openseg.io.files import LABEL_SUFFIXES, atomic_write, list_files, write_json
from openseg.io.images import color_mode, read_color_label, read_image, read_label
from openseg.io.matching import match_files
from openseg.io.progress import progress as progress_bar
from openseg.io.progress import show_progress
from openseg.io.results import RECORD
from openseg.metrics import LabelScores
from openseg.models.checkpoint.io import read_checkpoint, write_weights
from openseg.models.checkpoint.load import load_network
from openseg.segfix import thin_parts
from openseg.shipped import shipped_file
from openseg.tools.benchmark import benchmark
from openseg.tools.convert import recognize
from openseg.tools.paths import PathLike, existing_dir
from openseg.tools.refine import Refinement, default_out, list_labels, refine
from openseg.tools.refining import LabelFile, RefineSettings, require_matches
from openseg.tools.train import train

__all__ = ["refine_auto"]

logger = logging.getLogger("openseg")

CONFIG = SHIPPED_REFINER.with_suffix(".yaml")
_MOST_IMAGES, _MOST_HELD_OUT, _MOST_VALUES = 100, 24, 254
_HELD_OUT = 10  # one of so many images chooses the settings
_TRAINED = 0.8  # share of the time for training
_WIDTHS = (0, 5)
_DISTANCES = (1, 3)
_MOST_LOST = 0.005
Pair = tuple[Path, Path]


def refine_auto(
    labels: PathLike,
    *,
    images: PathLike,
    minutes: float = 20.0,
    ground_truth: PathLike | None = None,
    dataset: str = "cityscapes",
    split: Literal["val", "test"] = "val",
    data_root: PathLike = "data",
    out: PathLike | None = None,
    train_ids: bool = False,
    report: bool = True,
    figures: int = 0,
    overwrite: bool = False,
    fail_fast: bool = False,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> Refinement:
    """Adapt the refiner that comes with openseg to a folder of label maps, without ground truth, and refine them.

    It learns from labels that it refined itself, with errors added. A tenth of the images is held out to choose: the
    refiner as it comes or adapted, at which image size, with thin parts left alone or not. With ``ground_truth``, the
    largest gain in mean IoU and boundary F-score decides, of those that cost no class more than half a point; without,
    the largest contrast of the image across the boundaries of the labels. Everything is kept in ``<out>_auto``, and the
    same call continues there.

    Args:
        labels: folder of label maps: any ID space of at most 254 values, palette or RGB colors.
        images: folder of the images.
        minutes: time to spend on training and choosing.
        ground_truth: folder of ground truth of a few of the images, to choose the setting by.
        dataset: built-in dataset name, or YAML file of your own dataset; defines the IDs of ground truth.
        split: val: compute scores if every label has ground truth below ``data_root``; test: no scores.
        data_root: root folder of all datasets.
        out: None is ``label_w_segfix``, beside an input named label, else inside the input.
        train_ids: the labels hold train IDs (needed for scores).
        report: write an HTML report if scores are computed.
        figures: number of before-and-after figures to draw if scores are computed.
        overwrite: overwrite existing results.
        fail_fast: stop at the first invalid file instead of skipping it.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        See ``openseg.refine``; ``files["refiner"]`` is the checkpoint of the chosen refiner.

    Raises:
        ConfigError: no time, or too many label values.
        DataError: nothing can be refined, or a file cannot be read.
        Interrupted: a signal came; the same call continues.
    """
    if not minutes > 0:
        raise ConfigError(f"minutes {minutes:g}: use a positive number")
    source = existing_dir(labels, "label maps to refine")
    folder = existing_dir(images, "the images of the labels")
    target = Path(out).resolve() if out else default_out(source)
    pairs = _pairs(source, folder, fail_fast)
    work = target.with_name(f"{target.name}_auto")
    with show_progress(progress):
        record = {"labels": str(source.resolve()), "images": str(folder.resolve()), "minutes": minutes}
        record["ground truth"] = None if ground_truth is None else str(Path(ground_truth).resolve())
        _claim(work, record)
        refiner, keep_thin = _adapt(work, pairs, minutes, ground_truth, dataset, train_ids, device)
    result = refine(
        labels,
        images=images,
        checkpoint=refiner,
        keep_thin=keep_thin,
        dataset=dataset,
        split=split,
        data_root=data_root,
        out=target,
        train_ids=train_ids,
        report=report,
        figures=figures,
        overwrite=overwrite,
        fail_fast=fail_fast,
        device=device,
        workers=workers,
        progress=progress,
    )
    result.files["refiner"] = [refiner]
    return result


def _pairs(source: Path, folder: Path, fail_fast: bool) -> list[Pair]:
    """(label, image) of every label that has one."""
    names = list_labels(source)
    images = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
    matches, missing = match_files(names, [*images])
    require_matches(missing, len(names), f"image in {folder}", fail_fast)
    return [(source / name, images[image]) for name, image in matches.items()]


def _claim(work: Path, record: dict[str, Any]) -> None:
    """Make the folder ``work``, which is of one call.

    Raises:
        DataError: it is of another one.
    """
    begun = work / RECORD  # a folder with one holds results, which are no labels to refine
    if begun.exists() and json.loads(begun.read_text(encoding="utf-8")) != record:
        raise DataError(f"{work}: is of other labels, images or minutes; remove it, or choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    write_json(begun, record)


def _adapt(
    work: Path,
    pairs: list[Pair],
    minutes: float,
    ground_truth: PathLike | None,
    dataset: str,
    train_ids: bool,
    device: str,
) -> tuple[Path, int]:
    """Train and choose, unless that is done: the refiner's checkpoint, and ``keep_thin``."""
    refiner, chosen = work / "refiner.safetensors", work / "chosen.json"
    if chosen.exists():
        return refiner, int(json.loads(chosen.read_text(encoding="utf-8"))["keep_thin"])
    how = RefineSettings(dataset, None)
    held_out = pairs[:: max(_HELD_OUT, -(-len(pairs) // _MOST_HELD_OUT))]
    fit = [pair for pair in pairs if pair not in held_out] or pairs
    info = None if ground_truth is None else get_dataset_info(dataset)
    if info is None or ground_truth is None:
        samples = _held_out(_readable(held_out, how) or _readable(pairs[:_MOST_HELD_OUT], how), how)
    else:
        samples = _with_truth(pairs, ground_truth, info, train_ids)
    settings = _prepare(work, fit[:: -(-len(fit) // _MOST_IMAGES)], minutes, how, device)
    shipped = shipped_file(SHIPPED_REFINER)
    trained = train(settings, weights=shipped, resume="may", checkpoints=work, runs=None, device=device).checkpoint
    choice = _choose(settings, trained, samples, info, device)
    write_weights(refiner, load_network(choice.config, choice.checkpoint)[0], choice.config)
    write_json(chosen, {"keep_thin": choice.keep_thin, "what": choice.text})
    return refiner, choice.keep_thin


def _readable(pairs: Sequence[Pair], how: RefineSettings) -> list[Pair]:
    """The pairs whose files can be read; ``refine`` names the others."""
    found = []
    for label, path in pairs:
        try:
            LabelFile.read(label, how, read_image(path).shape[:2], str(path))
        except DataError as error:
            logger.warning("not learned from: %s", error)
        else:
            found.append((label.resolve(), path.resolve()))
    return found


def _prepare(work: Path, fit: list[Pair], minutes: float, how: RefineSettings, device: str) -> Config:
    """The config of the training in ``work``, with its dataset; of an earlier call as it was.

    Raises:
        DataError: no file can be read.
        ConfigError: too many label values.
    """
    if (work / "config.yaml").exists():
        return load_config(work / "config.yaml")
    fit = _readable(fit, how)
    if not fit:
        raise DataError(f"{work}: none of the label maps and images can be read")
    started = time.perf_counter()
    facts = _describe(fit)
    facts["splits"] = {"fit": {"list": "fit.txt"}}
    (work / "dataset.yaml").write_text(yaml.safe_dump(facts, sort_keys=False), encoding="utf-8")
    rows = _teach(work / "labels", fit, how, device)
    (work / "fit.txt").write_text("".join(f"{image}\t{label}\n" for label, image in rows), encoding="utf-8")
    overrides = [
        f"data={{dataset: {json.dumps(str(work / 'dataset.yaml'))}, train_split: fit, val_split: null, workers: 1}}",
        "name=refiner",
        "train.lr=0.001",
        "train.log_interval=50",
    ]
    config = load_config(CONFIG, overrides)
    speed = benchmark(config, iterations=4, warm_up=2, device=device)["training"]["images/s"]
    left = max(60 * minutes * _TRAINED - (time.perf_counter() - started), 0)
    iterations = max(round(left * speed / config.train.batch_size), 1)
    train_settings = config.train.model_copy(update={"max_iters": iterations, "warmup_iters": min(30, iterations // 4)})
    config = config.model_copy(update={"train": train_settings})
    with atomic_write(work / "config.yaml") as temporary:  # the last file
        temporary.write_text(yaml.safe_dump(config.dump(), sort_keys=False), encoding="utf-8")
    logger.info("%s: %d images, %d iterations in about %.3g minutes", work, len(fit), iterations, left / 60)
    return config


def _teach(folder: Path, fit: list[Pair], how: RefineSettings, device: str) -> list[Pair]:
    """The pairs with labels that the shipped refiner refined; their own boundaries are what is to be unlearned."""
    shipped = shipped_file(SHIPPED_REFINER)
    teacher = RefinerPredictor(recognize(read_checkpoint(shipped), dataset=how.dataset), shipped, device)
    pairs = []
    for number, (label, path) in enumerate(progress_bar(fit, len(fit), "teach")):
        image = read_image(path)
        read = LabelFile.read(label, how, image.shape[:2], str(path))
        target = folder / f"{number:06}.png"
        read.write(target, teacher(image, read.labels), how)
        pairs.append((target, path))
    return pairs


def _describe(pairs: Sequence[Pair]) -> dict[str, Any]:
    """A dataset file in which every value of the labels is a class."""
    colored = color_mode(pairs[0][0]) in ("RGB", "RGBA")
    values: set[Any] = set()
    for label, _ in progress_bar(pairs, len(pairs), "label values"):
        if colored:
            values |= {tuple(color) for color in np.unique(read_color_label(label).reshape(-1, 3), axis=0).tolist()}
        else:
            values |= {*np.unique(read_label(label)).tolist()}
        if len(values) > _MOST_VALUES:
            raise ConfigError(
                f"{label}: more than {_MOST_VALUES} values in the labels; refine them without training: segfix.py "
                "--input LABELS --images IMAGES"
            )
    if colored:
        return {"classes": [{"name": f"{each}", "color": [*each]} for each in sorted(values)], "label_colors": True}
    names = {int(each): f"value {each}" for each in sorted(values)}
    return {"classes": [*names.values()], "ids": names}


@dataclass(frozen=True)
class _Sample:
    """An image to choose by: labels to refine, and the ground truth if there is some, as train IDs."""

    image: np.ndarray
    labels: np.ndarray
    truth: np.ndarray | None = None


def _held_out(pairs: Sequence[Pair], how: RefineSettings) -> list[_Sample]:
    samples = []
    for label, path in pairs:
        image = read_image(path)
        samples.append(_Sample(image, LabelFile.read(label, how, image.shape[:2], str(path)).labels))
    return samples


def _with_truth(pairs: Sequence[Pair], folder: PathLike, info: DatasetInfo, train_ids: bool) -> list[_Sample]:
    place = existing_dir(folder, "true labels")
    truths = {path.relative_to(place).as_posix(): path for path in list_files(place, LABEL_SUFFIXES)}
    named = {label.name: (label, image) for label, image in pairs}
    found = match_files([*named], [*truths])[0]
    if not found:
        raise DataError(f"{folder}: no ground truth of any of the labels; files have the same names")
    samples = []
    for name in [*found][:: -(-len(found) // _MOST_HELD_OUT)]:
        label, image = named[name]
        labels = read_label(label) if train_ids else info.read_prediction(label)
        sample = _Sample(read_image(image), labels, info.read_truth(truths[found[name]]))
        if len({sample.image.shape[:2], labels.shape, sample.truth.shape}) > 1:  # type: ignore[union-attr]
            raise DataError(f"{label}, {image} and {truths[found[name]]} differ in size")
        samples.append(sample)
    return samples


@dataclass(frozen=True)
class _Choice:
    """A refiner, how to use it, what it changes, and how much the class that loses most loses."""

    config: Config
    checkpoint: Path
    keep_thin: int
    changes: dict[str, float]
    worst: float = 0.0

    @property
    def text(self) -> str:
        which = "adapted" if self.checkpoint.suffix == ".pth" else "shipped"
        changes = ", ".join(f"{name} {100 * change:+.2f} %" for name, change in self.changes.items())
        return f"{which} refiner, size x {self.config.refiner.upsampling}, keep-thin {self.keep_thin} ({changes})"


def _choose(
    settings: Config, trained: Path, samples: Sequence[_Sample], info: DatasetInfo | None, device: str
) -> _Choice:
    """The choice with the largest gains, where there is ground truth among those that harm no class."""
    choices = []
    for checkpoint in (trained, shipped_file(SHIPPED_REFINER)):
        config = recognize(read_checkpoint(checkpoint), dataset=settings.data.dataset)
        predictor = RefinerPredictor(config, checkpoint, device)
        for factor in sorted({1, config.refiner.upsampling_of(samples[0].labels.shape)}):
            refiner = config.refiner.model_copy(update={"upsampling": factor})
            predictor.config = config.model_copy(update={"refiner": refiner})
            refined = [predictor(each.image, each.labels) for each in progress_bar(samples, len(samples), "choose")]
            for width in _WIDTHS:
                kept = [
                    np.where(thin_parts(sample.labels, width), sample.labels, labels)
                    for sample, labels in zip(samples, refined, strict=True)
                ]
                found = _by_image(samples, kept) if info is None else _by_truth(samples, kept, info)
                choices.append(_Choice(predictor.config, checkpoint, width, *found))
    harmless = [each for each in choices if each.worst >= -_MOST_LOST]
    best = max(harmless or choices, key=lambda each: sum(each.changes.values()))
    logger.info("chosen on %d images: %s", len(samples), best.text)
    return best


def _by_truth(
    samples: Sequence[_Sample], refined: Sequence[np.ndarray], info: DatasetInfo
) -> tuple[dict[str, float], float]:
    """The changes of mean IoU and boundary F-scores, and the smallest one of a class IoU."""
    before, after = LabelScores(info, _DISTANCES), LabelScores(info, _DISTANCES)
    for sample, labels in zip(samples, refined, strict=True):
        assert sample.truth is not None
        before.update(sample.labels, sample.truth)
        after.update(labels, sample.truth)
    base, scores = before.compute(), after.compute()
    names = ("mIoU", *(f"boundary F {distance} px" for distance in _DISTANCES))
    classes = np.array([after.by_class[name] - value for name, value in before.by_class.items()])
    return {name: scores[name] - base[name] for name in names}, float(np.nanmin(classes, initial=0.0))


def _by_image(samples: Sequence[_Sample], refined: Sequence[np.ndarray]) -> tuple[dict[str, float]]:
    """The relative change of the image's contrast across boundaries: the better they lie, the larger it is.

    On CamVid, choices had the same order by this as by boundary F-score, but for two neighbors (docs/results.md).
    """
    before, after = (
        np.sum([contrast_of(labels, sample.image) for sample, labels in zip(samples, maps, strict=True)], axis=0)
        for maps in ([each.labels for each in samples], refined)
    )
    first, last = (float(total / max(count, 1)) for total, count in (before, after))
    return ({"contrast across boundaries": last / max(first, 1e-9) - 1},)


def contrast_of(labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Sum of color distances between neighbors of different labels, and the number of such pairs, ``float64[2]``.

    Args:
        labels: ``[H, W]``.
        image: RGB ``uint8[H, W, 3]``.
    """
    colors, found = image.astype(np.float32), np.zeros(2)
    for axis in (0, 1):
        differ = np.diff(labels.astype(np.int64), axis=axis) != 0
        found += np.linalg.norm(np.diff(colors, axis=axis), axis=2)[differ].sum(), np.count_nonzero(differ)
    return found

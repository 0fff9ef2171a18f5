"""``openseg.refine``: boundary refinement of label maps of any model with a refiner or SegFix offsets."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_images, match_labels, split_paths
from openseg.errors import DataError
from openseg.io.files import LABEL_SUFFIXES
from openseg.io.matching import index_files, match_files, sample_key
from openseg.io.parallel import map_parallel
from openseg.io.progress import show_progress
from openseg.io.results import list_given
from openseg.metrics import METRICS, LabelScores
from openseg.plugins import load_plugins
from openseg.segfix.offset_files import list_offsets
from openseg.tools.offset_source import find_offsets, require_split
from openseg.tools.paths import PathLike, existing_dir, worker_count
from openseg.tools.refining import (
    Job,
    RefineSettings,
    refine_file,
    remaining,
    require_matches,
    require_one_source,
    write_left_out,
)

if TYPE_CHECKING:
    pass

__all__ = ["Refinement", "default_out", "list_labels", "refine"]

logger = logging.getLogger("openseg")

REFINED = "label_w_segfix"
"""Default name of a folder of refined labels."""
_NAMES = ("before", "after")
_WRITTEN = (".png",)


@dataclass(frozen=True)
class Refinement:
    """Refinement results.

    Attributes:
        out: output folder.
        total: number of label maps, images or masks in the input.
        refined: number of refined ones.
        left_out: what could not be refined, with the reason; complete in ``left_out_file``.
        scores: ``before`` and ``after``, with ground truth.
        not_scored: why there are no scores.
        files: other written files: scores, report, figures.
    """

    out: Path
    total: int
    refined: int
    left_out: list[str] = field(default_factory=list)
    left_out_file: Path | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    not_scored: str = ""
    files: dict[str, list[Path]] = field(default_factory=dict)


def refine(
    labels: PathLike,
    *,
    offsets: PathLike | None = None,
    images: PathLike | None = None,
    checkpoint: PathLike | None = None,
    config: PathLike | None = None,
    dataset: str = "cityscapes",
    split: Literal["val", "test"] = "val",
    data_root: PathLike = "data",
    out: PathLike | None = None,
    scale: int | None = None,
    min_confidence: float = 0.0,
    keep_thin: int = 0,
    steps: int = 1,
    train_ids: bool = False,
    eval_ids_only: bool = False,
    report: bool = True,
    figures: int = 0,
    metrics: Sequence[str] = (),
    plugins: Sequence[str] = (),
    overwrite: bool = False,
    fail_fast: bool = False,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> Refinement:
    """Refine a folder of label maps; existing results of the same settings are skipped.

    Args:
        labels: folder of label maps: any ID space, 8 or 16 bits, palette or RGB colors.
        offsets: folder or zip archive of offset files; None is a search of the default locations, without ``images``.
        images: folder of the images, instead of ``offsets``; without ``checkpoint``, with the refiner that comes with
            openseg.
        checkpoint: checkpoint of a SegFix network or a refiner, with ``images``.
        config: config of the checkpoint; None is the one it names, or the shipped one it fits.
        dataset: built-in dataset name, or YAML file of your own dataset, for scores.
        split: val: compute scores if every label has ground truth below ``data_root``; test: no scores.
        data_root: root folder of all datasets.
        out: None is ``label_w_segfix``, beside an input named label, else inside the input.
        scale: step length in pixels; None is the image's shorter side divided by 512.
        min_confidence: minimum direction confidence (0 to 1) of pixels to refine.
        keep_thin: leave label parts thinner than this unchanged, in pixels; 0: refine all.
        steps: repetitions of the refinement with SegFix offsets, each of the labels of the one before.
        train_ids: the labels hold train IDs (needed for scores).
        eval_ids_only: set IDs outside the evaluated classes to 255.
        report: write an HTML report if scores are computed.
        figures: number of before-and-after figures to draw if scores are computed.
        metrics: registered metrics to compute in addition.
        plugins: Python modules to import first, which register metrics.
        overwrite: overwrite existing results.
        fail_fast: stop at the first invalid file instead of skipping it.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        Output folder, number of refined label maps, files left out, and scores before and after.

    Raises:
        ConfigError: arguments that contradict each other.
        DataError: nothing can be refined, or the folder of the results belongs to something else.

    For example:

        result = openseg.refine("results/label", offsets="offsets", dataset="camvid", scale=1)
        print(result.scores["after"].compute()["mIoU"])
    """
    load_plugins(plugins)
    for name in metrics:
        METRICS.look_up(name, "metrics")
    require_split(split)
    source = existing_dir(labels, "label maps to refine")
    target = Path(out).resolve() if out else default_out(source)
    how = RefineSettings(dataset, scale, min_confidence, eval_ids_only, keep_thin, steps)
    if source.resolve().is_relative_to(target):
        raise DataError(f"--out {target}: would overwrite the labels in {source}; choose another folder")
    require_one_source(offsets, images, checkpoint)
    job = Job(source, list_labels(source), target, how, worker_count(workers), overwrite, fail_fast)
    with show_progress(progress):
        if images is not None:
            from openseg.tools.refine_network import load_refiner, refine_by_network

            network = load_refiner(checkpoint, config, dataset, device)
            problems = refine_by_network(job, Path(images), network, checkpoint)
        else:
            problems = _refine_by_files(job, Path(offsets or find_offsets(split, dataset, Path(data_root))))
        listed = write_left_out(problems, len(job.labels), target)
        scores: dict[str, LabelScores] = {}
        files: dict[str, list[Path]] = {}
        not_scored = ""
        if split == "val" and problems:
            not_scored = f"{len(problems)} label maps were left out"
        elif split == "val":
            try:
                scores, files = _score(job, Path(data_root), train_ids, report, figures, metrics)
            except DataError as error:
                not_scored = str(error)
    done = len(job.labels) - len(problems)
    return Refinement(target, len(job.labels), done, problems, listed, scores, not_scored, files)


def default_out(folder: Path) -> Path:
    """Where refined labels of ``folder`` are written by default."""
    folder = folder.resolve()
    return folder.with_name(REFINED) if folder.name == "label" else folder / REFINED


def list_labels(source: Path) -> list[str]:
    """The label files to refine, relative to ``source``; what earlier calls wrote below it is left out.

    Raises:
        DataError: there are none.
    """
    files = list_given(source, LABEL_SUFFIXES)
    targets: dict[Path, Path] = {}
    for path in files:
        other = targets.setdefault(path.with_suffix(".png"), path)
        if other != path:
            raise DataError(f"{other} and {path} have the same name; keep one")
    return [path.relative_to(source).as_posix() for path in files]


def _refine_by_files(job: Job, place: Path) -> list[str]:
    """Refine with offset files; returns what was left out."""
    logger.info("offsets: %s", place)
    offsets = list_offsets(place)
    matches, missing = match_files(job.labels, [*offsets])
    problems = require_matches(missing, len(job.labels), f"offset in {place}; predict it", job.fail_fast)
    work = [(job.source / name, offsets[offset], job.target(name)) for name, offset in matches.items()]
    made_by = {"what": "refined labels", "labels": str(job.source.resolve()), "offsets": str(place.resolve())}
    with remaining(work, job.out, made_by | job.how.settings, job.overwrite, _WRITTEN) as (claimed, todo):
        claimed.start()
        refine_one = partial(refine_file, how=job.how, journal=claimed.journal, fail_fast=job.fail_fast)
        return problems + [each for each in map_parallel(refine_one, todo, "segfix", job.workers) if each]


def _score(
    job: Job, data_root: Path, train_ids: bool, wants_report: bool, figures: int, metrics: Sequence[str]
) -> tuple[dict[str, LabelScores], dict[str, list[Path]]]:
    """Scores before and after, and what else was written, where every label has its ground truth.

    Raises:
        DataError: a label has none, or a file cannot be used.
    """
    from openseg.tools.evaluate import instance_maps
    from openseg.tools.report.build import write_beside
    from openseg.tools.report.figures import write_comparisons
    from openseg.tools.report.html import Report
    from openseg.tools.report.tables import write_score_files

    dataset = job.how.dataset
    info = get_dataset_info(dataset)
    split = split_paths(info, data_root / info.folder, "val")
    pairs = [(job.source / name, job.target(name)) for name in job.labels]
    truths = match_labels([before for before, _ in pairs], split)
    triples = [(before, after, truths[before]) for before, after in pairs]
    samples = _samples(triples, split)
    page = Report(samples, _NAMES, dataset, train_ids, job.workers, metrics)
    scores = page.score(instance_maps(info, split, [sample.name for sample in samples]))
    out = job.out
    files = {"scores": [out.with_name(f"{out.name}_scores.json")]}
    write_score_files(scores, files["scores"][0])
    if wants_report:
        source = job.source.resolve()
        name = source.parent.name if source.name == "label" else source.name
        written = write_beside(page, out.with_name(f"{out.name}_report"), name)
        files["report"] = [written] if written else []
    if figures:
        folder = out.with_name(f"{out.name}_figures")
        files["figures"] = write_comparisons(triples, split, dataset, folder, figures)
    return scores, files


def _samples(triples: list[tuple[Path, Path, Path]], split: SplitPaths) -> list[Any]:
    from openseg.tools.report.samples import Sample

    try:
        images = index_files(list_images(split))
    except DataError:
        images = {}
    return [
        Sample(sample_key(before), (before, after), truth, images.get(sample_key(before)))
        for before, after, truth in triples
    ]

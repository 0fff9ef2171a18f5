"""``openseg.refine``: boundary refinement of label maps of any model with SegFix offsets, from files or a network."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_images, match_labels, split_paths
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.files import LABEL_SUFFIXES, atomic_write, file_hash, list_files
from openseg.io.matching import index_files, match_files, sample_key
from openseg.io.parallel import map_parallel
from openseg.io.progress import show_progress
from openseg.io.results import Journal, ResultFolder, list_given
from openseg.metrics import METRICS, LabelScores
from openseg.plugins import load_plugins
from openseg.segfix import OffsetMap
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.offset_source import find_offsets, require_split
from openseg.tools.paths import PathLike, existing_dir, worker_count
from openseg.tools.refining import RefineSettings, refine_file, refine_label, sources_of
from openseg.tools.scoring import first_of

if TYPE_CHECKING:
    from openseg.config import Config
    from openseg.inference.offsets import SegFixPredictor

__all__ = ["Refinement", "list_labels", "refine", "remaining", "require_matches", "write_left_out"]

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
        offsets: folder or zip archive of offset files; None is a search of the default locations.
        images: folder of the images, with ``checkpoint``.
        checkpoint: SegFix checkpoint, instead of ``offsets``.
        config: config of the checkpoint; None is the one it names, or the shipped one it fits.
        dataset: built-in dataset name, or YAML file of your own dataset, for scores.
        split: val: compute scores if every label has ground truth below ``data_root``; test: no scores.
        data_root: root folder of all datasets.
        out: None is ``label_w_segfix``, beside an input named label, else inside the input.
        scale: step length in pixels; None is the image's shorter side divided by 512.
        min_confidence: minimum direction confidence (0 to 1) of pixels to refine.
        keep_thin: leave label parts thinner than this unchanged, in pixels; 0: refine all.
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
    target = Path(out).resolve() if out else _default_out(source)
    how = RefineSettings(dataset, scale, min_confidence, eval_ids_only, keep_thin)
    if source.resolve().is_relative_to(target):
        raise DataError(f"--out {target}: would overwrite the labels in {source}; choose another folder")
    if (images is None) != (checkpoint is None):
        raise ConfigError("--images and --checkpoint belong together")
    if checkpoint is not None and offsets is not None:
        raise ConfigError("--offset and --checkpoint exclude each other")
    job = _Job(source, list_labels(source), target, how, worker_count(workers), overwrite, fail_fast)
    with show_progress(progress):
        if images is not None and checkpoint is not None:
            problems = _refine_by_network(job, Path(images), Path(checkpoint), config, device)
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


@dataclass(frozen=True)
class _Job:
    """One call of ``refine``; ``labels`` are relative to ``source``."""

    source: Path
    labels: list[str]
    out: Path
    how: RefineSettings
    workers: int
    overwrite: bool
    fail_fast: bool

    def target(self, name: str) -> Path:
        """Where the refined label is written: a PNG, whatever the label was."""
        return (self.out / name).with_suffix(".png")


def _default_out(folder: Path) -> Path:
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


def write_left_out(problems: Sequence[str], total: int, out: Path) -> Path | None:
    """Write what was left out beside ``out``; returns the file, None where nothing was left out.

    Raises:
        DataError: that is all.
    """
    listed = out.with_name(f"{out.name}_left_out.txt")
    if not problems:
        listed.unlink(missing_ok=True)
        return None
    if len(problems) >= total:
        raise DataError(first_of(problems))
    with atomic_write(listed) as temporary:
        temporary.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8", errors="replace")
    return listed


def require_matches(missing: Sequence[str], total: int, what: str, fail_fast: bool) -> list[str]:
    """What is wrong with files without a partner.

    Raises:
        DataError: all of them, or with ``fail_fast`` any.
    """
    problems = [f"{name} has no {what}" for name in missing]
    if problems and (fail_fast or len(problems) == total):
        raise DataError(f"{len(problems)} of {total} have no {what}: {first_of(problems)}")
    return problems


@contextlib.contextmanager
def remaining(
    files: Sequence[tuple[Path, OffsetFile, Path]],
    out: Path,
    made_by: dict[str, Any],
    overwrite: bool,
    suffixes: tuple[str, ...],
) -> Iterator[tuple[ResultFolder, list[tuple[Path, OffsetFile, Path]]]]:
    """The claimed folder, and what is still to do of (source, offset, output); see ``ResultFolder``."""
    with ResultFolder(out, made_by, suffixes, (".",), "overwrite" if overwrite else "replace") as folder:
        todo = [each for each in files if not folder.is_done(each[2], *sources_of(each), kind=".")]
        folder.tell_kept(len(files) - len(todo), len(files))
        yield folder, todo


def _refine_by_files(job: _Job, place: Path) -> list[str]:
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


def _refine_by_network(
    job: _Job, folder: Path, checkpoint: Path, config_file: PathLike | None, device: str
) -> list[str]:
    """Refine with offsets that are predicted on the way; returns what was left out."""
    from openseg.config import load_config
    from openseg.inference.offsets import SegFixPredictor
    from openseg.models.checkpoint.io import read_checkpoint
    from openseg.tools.convert import recognize

    if config_file is not None:
        config = load_config(Path(config_file))
    else:  # which dataset it was trained on does not matter, and its file may be elsewhere
        config = recognize(read_checkpoint(checkpoint), dataset=job.how.dataset)
    predictor = SegFixPredictor(config, checkpoint, device)
    logger.info("%s: %s", checkpoint, predictor.report)
    folder = existing_dir(folder, "the images of the labels")
    images = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
    matches, missing = match_files(job.labels, [*images])
    problems = require_matches(missing, len(job.labels), f"image in {folder}", job.fail_fast)
    work: list[tuple[Path, OffsetFile, Path]] = [
        (job.source / name, images[image], job.target(name)) for name, image in matches.items()
    ]
    made_by = {"what": "refined labels", "labels": str(job.source.resolve()), "images": str(folder.resolve())}
    made_by |= {"checkpoint": file_hash(checkpoint), **predictor.settings, **job.how.settings}
    with remaining(work, job.out, made_by, job.overwrite, _WRITTEN) as (claimed, todo):
        claimed.start()
        problems += _refine_todo(job, predictor, config, claimed.journal, todo, folder)
    return problems


def _refine_todo(
    job: _Job,
    predictor: SegFixPredictor,
    config: Config,
    journal: Journal,
    todo: list[tuple[Path, OffsetFile, Path]],
    folder: Path,
) -> list[str]:
    """Predict offsets and refine; returns what was left out."""
    from openseg.distributed import Group
    from openseg.inference.runner import run_over_images

    problems: list[str] = []
    jobs = {Path(str(image)): (label, target) for label, image, target in todo}
    if len(jobs) < len(todo):
        raise DataError(f"{folder}: an image belongs to two labels; give every label an image of its own name")
    broken: list[OpensegError] | None = None if job.fail_fast else []

    def compute(item: dict[str, Any]) -> OffsetMap:
        return predictor.predict(item["image"])

    def write(item: dict[str, Any], offsets: OffsetMap) -> None:
        label, target = jobs[item["path"]]
        try:
            with journal.writing(label, item["path"]):
                refine_label(label, offsets, target, job.how, str(item["path"]))
        except DataError as error:
            if job.fail_fast:
                raise
            problems.append(str(error))

    paths = [*jobs]
    run_over_images(config, paths, compute, write, "segfix", predictor.device, Group(), broken, job.workers)
    return problems + [str(error) for error in broken or ()]


def _score(
    job: _Job, data_root: Path, train_ids: bool, wants_report: bool, figures: int, metrics: Sequence[str]
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

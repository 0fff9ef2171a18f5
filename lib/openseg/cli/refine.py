"""``segfix.py``: sharpen label maps of any model with SegFix offsets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from openseg.catalog import IGNORE, Catalog, color_keys, get_catalog
from openseg.cli.common import HelpFormatter, add_debug, add_workers, existing_dir, run_command
from openseg.cli.profile import data_root
from openseg.data.folder import match_labels, split_paths
from openseg.errors import DataError
from openseg.files import list_files, sample_key
from openseg.images import color_mode, read_color_label, read_label, write_image, write_label
from openseg.parallel import run_parallel
from openseg.segfix import index_offsets, read_offsets, refine

__all__ = ["find_offsets", "main", "refine_file"]

_DESCRIPTION = """Sharpen label maps of any model with SegFix offsets.

  python segfix.py --input results/label --offset offset_pred/val/semantic/cityscapes/offset_hrnet48
  python segfix.py --input results/label --split val          # finds the offsets, scores before and after

A label a.png belongs to the offset a.png or a.mat (Cityscapes names meet by city, sequence and frame). Labels may be
in any id space, 8 or 16 bits, with or without a palette; ids are moved, never changed. Without --offset, the folders
tried are <data root>/<dataset>/val/offset_pred/semantic/offset_* (test: <data root>/<dataset>/test_offset/semantic/
offset_*) and offset_pred/<split>/semantic/<dataset>/offset_*. With --split val, labels that all have their truth in
<data root>/<dataset>/val/label are scored before and after.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="segfix.py", description=_DESCRIPTION, formatter_class=HelpFormatter)
    parser.add_argument("--input", required=True, metavar="DIR", help="label PNGs to sharpen")
    parser.add_argument("--offset", metavar="DIR", help="offsets (default: looked for, see above)")
    parser.add_argument(
        "--out", metavar="DIR", help="default: label_w_segfix, beside an input named label, else inside the input"
    )
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    parser.add_argument(
        "--scale", type=int, default=2, help="pixels a step (default: 2, for 1024x2048; 1 for ~480x360)"
    )
    parser.add_argument(
        "--dataset", default="cityscapes", metavar="NAME", help="or a YAML file of your own (default: cityscapes)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="default: DATA_ROOT of config.profile")
    parser.add_argument("--eval-ids-only", action="store_true", help="ids outside the evaluated classes become 255")
    parser.add_argument(
        "--figures", type=int, default=0, metavar="N", help="where scored: also draw N pictures of before and after"
    )
    add_workers(parser)
    add_debug(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments), arguments.debug)


def find_offsets(split: str, dataset: str, root: Path) -> Path:
    """The folder of offsets that the documentation names for a split.

    Raises:
        DataError: there is none, or several to choose from.
    """
    catalog = get_catalog(dataset)
    data = root / catalog.folder
    documented = {"val": data / "val/offset_pred/semantic", "test": data / "test_offset/semantic"}
    parents = [documented[split], Path("offset_pred") / split / "semantic" / catalog.name]
    for parent in parents:
        found = sorted(path for path in parent.glob("offset_*") if path.is_dir())
        if len(found) > 1:
            names = ", ".join(str(path) for path in found)
            raise DataError(f"several folders of offsets: {names}; choose one with --offset")
        if found:
            return found[0]
    tried = " or ".join(f"{parent}/offset_<backbone>" for parent in parents)
    raise DataError(
        f"no offsets in {tried}; predict them with a segfix launcher (segfix_pred_{split}), or pass --offset"
    )


def _refine_colors(files: tuple[Path, Path, Path], scale: int) -> None:
    """Sharpen a label file whose colours stand for classes."""
    label, offset, out = files
    colors, offsets = read_color_label(label), read_offsets(offset)
    _require_same_size(label, colors.shape[:2], offset, offsets)
    keys = refine(color_keys(colors), offsets, scale)
    write_image(out, np.stack([keys >> 16, keys >> 8 & 255, keys & 255], axis=2).astype(np.uint8))


def _require_same_size(label: Path, shape: tuple[int, ...], offset: Path, offsets: np.ndarray) -> None:
    if offsets.shape[:2] != shape:
        raise DataError(f"{label}: size {shape} differs from its offset {offset} {offsets.shape[:2]}")


def refine_file(
    files: tuple[Path, Path, Path], scale: int, catalog: Catalog | None = None, colored: bool = False
) -> None:
    """Sharpen one label file: ``files`` are label, offset and output; a palette stays.

    ``colored``: the data set's labels are colours. ``catalog`` given: ids outside its classes become 255, as the
    original wrote it, or ``void_id`` where 255 is a class.
    """
    label, offset, out = files
    if colored and color_mode(label) in ("RGB", "RGBA"):
        _refine_colors(files, scale)
        return
    labels, offsets = read_label(label), read_offsets(offset)
    _require_same_size(label, labels.shape, offset, offsets)
    refined = refine(labels, offsets, scale)
    if catalog is not None:
        train_ids = catalog.encode_prediction(refined)
        void = catalog.void_id if (catalog.encode_known(np.array([IGNORE])) != IGNORE).any() else IGNORE
        refined = np.where(train_ids == IGNORE, void, catalog.decode(train_ids)).astype(np.uint8)
    palette = Image.open(label).getpalette()
    write_label(out, refined, None if palette is None else bytes(palette))


SHARPENED = "label_w_segfix"


def _out_dir(folder: Path) -> Path:
    return folder.with_name(SHARPENED) if folder.name == "label" else folder / SHARPENED


def _list_labels(source: Path, out: Path) -> list[Path]:
    """The label files to sharpen; what an earlier call wrote below ``source`` is left out.

    Raises:
        DataError: there are none, or writing to ``out`` would overwrite them.
    """
    target = out.resolve()
    if source.resolve().is_relative_to(target):
        raise DataError(f"--out {out}: would overwrite the labels in {source}; choose another folder")

    def written(path: Path) -> bool:
        inside = path.relative_to(source).parts[:-1]
        return path.resolve().is_relative_to(target) or any(part.startswith(SHARPENED) for part in inside)

    labels = [path for path in list_files(source, (".png",)) if not written(path)]
    if not labels:
        raise DataError(f"{source}: holds no label PNG besides what segfix.py wrote")
    return labels


def _run(arguments: argparse.Namespace) -> None:
    source = existing_dir(arguments.input, "label PNGs to sharpen")
    out = Path(arguments.out) if arguments.out else _out_dir(source)
    root = Path(arguments.data_root) if arguments.data_root else data_root()
    offset_dir = Path(arguments.offset or find_offsets(arguments.split, arguments.dataset, root))
    print(f"offsets: {offset_dir}")
    labels = _list_labels(source, out)
    index = index_offsets(offset_dir)
    missing = [path for path in labels if sample_key(path) not in index]
    if missing:
        names = ", ".join(path.name for path in missing[:3])
        raise DataError(
            f"{len(missing)} of {len(labels)} labels have no offset in {offset_dir} ({names}); predict them first"
        )
    work = [(path, index[sample_key(path)], out / path.relative_to(source)) for path in labels]
    catalog = get_catalog(arguments.dataset)
    evaluated = catalog if arguments.eval_ids_only else None
    sharpen = partial(refine_file, scale=arguments.scale, catalog=evaluated, colored=catalog.label_colors)
    run_parallel(sharpen, work, "segfix", arguments.workers)
    print(f"{len(work)} label maps: {out}")
    if arguments.split == "val":
        _score(arguments, [(before, after) for before, _, after in work], root, out)


def _score(arguments: argparse.Namespace, files: list[tuple[Path, Path]], root: Path, out: Path) -> None:
    """Scores before and after, and pictures of both, where every label has its truth."""
    from openseg.engine.scoring import ScoredPair, score_files
    from openseg.report.figures import write_comparisons
    from openseg.report.tables import write_scores

    catalog = get_catalog(arguments.dataset)
    try:
        split = split_paths(catalog, root / catalog.folder, "val")
        truths = match_labels([before for before, _ in files], split)
        triples = [(before, after, truths[before]) for before, after in files]
        results = {
            name: score_files(
                [ScoredPair(triple[place], triple[2]) for triple in triples],
                arguments.dataset,
                what=f"score {name}",
                workers=arguments.workers,
            )
            for place, name in enumerate(("before", "after"))
        }
    except DataError as error:
        print(f"not scored: {error}")
        return
    scores = out.with_name(f"{out.name}_scores.json")
    write_scores(results, scores)
    print(f"\nscores: {scores}")
    if arguments.figures:
        folder = out.with_name(f"{out.name}_figures")
        for path in write_comparisons(triples, split, arguments.dataset, folder, arguments.figures):
            print(f"picture: {path}")

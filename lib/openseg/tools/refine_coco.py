"""COCO's results of instance segmentation, as Detectron2 and others write them, refined."""

from __future__ import annotations

import contextlib
import io
import json
import math
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openseg.errors import DataError, OpensegError
from openseg.io.files import atomic_write
from openseg.io.matching import match_files
from openseg.io.parallel import map_parallel
from openseg.segfix.offset_files import OffsetFile
from openseg.tools.refine import Refinement
from openseg.tools.refining import MaskRefiner, require_matches, write_left_out
from openseg.tools.scoring import first_of

__all__ = ["refine_coco"]

Result = dict[str, Any]
_DIGITS = 12  # of the file names of COCO's images
_LEAST_COORDINATES = 6  # of a polygon: three points


def refine_coco(
    source: Path,
    out: Path,
    files: dict[str, OffsetFile],
    how: MaskRefiner,
    annotations: Path | None,
    overwrite: bool,
    fail_fast: bool,
    workers: int,
    what: str = "offset",
) -> Refinement:
    """Refine a list of results; masks become compressed RLE, boxes and areas those of the refined masks.

    ``files`` are what ``how`` reads, by name, called ``what``. Results of images that are left out are not in ``out``.

    Raises:
        DataError: no such list, or nothing in it can be refined.
    """
    _mask_functions()
    if out == source.resolve():
        raise DataError(f"--out {out}: would overwrite the results; choose another file")
    if out.exists() and not overwrite:
        raise DataError(f"{out}: already exists; --overwrite replaces it")
    results: list[Result | None] = [*_read_results(source)]
    names = _image_names(annotations) if annotations else None
    places: dict[str, list[int]] = {}
    for place, result in enumerate(_read_results(source)):
        places.setdefault(str(result["image_id"]), []).append(place)
    matches = _match(places, files, names)
    missing = [f"image {image_id}" for image_id in places if image_id not in matches]
    hint = what if names is not None else f"{what} (--annotations says which file an image id is)"
    problems = require_matches(missing, len(places), hint, fail_fast)
    work = [([results[place] for place in places[image_id]], offset) for image_id, offset in matches.items()]
    refine = partial(_refine_image, how=how, fail_fast=fail_fast)
    for image_id, done in zip(matches, map_parallel(refine, work, "segfix", workers), strict=True):
        if isinstance(done, str):
            problems.append(done)
        for place, result in zip(places.pop(image_id), done, strict=False):
            results[place] = None if isinstance(done, str) else result
    for place in [place for left in places.values() for place in left]:
        results[place] = None
    refined = [result for result in results if result is not None]
    if not refined:
        raise DataError(first_of(problems))
    with atomic_write(out) as temporary:
        temporary.write_text(json.dumps(refined))
    listed = write_left_out(problems, len(problems) + 1, out)
    scores: dict[str, dict[str, float]] = {}
    not_scored = ""
    if annotations and not problems:
        scores, not_scored = _score(annotations, {"before": _read_results(source), "after": refined})
    return Refinement(out, len(results), len(refined), problems, listed, scores, not_scored)


def _mask_functions() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        raise OpensegError("COCO's results need pycocotools; install it with: pip install pycocotools") from None
    return mask


def _read_results(path: Path) -> list[Result]:
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from None
    if isinstance(results, list) and results and isinstance(results[0], dict) and "file_name" in results[0]:
        raise DataError(
            f"{path}: masks of classes by file name, as Detectron2 writes for semantic segmentation; write each "
            "image's label map as a PNG of class ids and refine those"
        )
    if not isinstance(results, list) or not results:
        raise DataError(f"{path}: not a list of COCO's results, [{{image_id, category_id, segmentation, score}}, ...]")
    for number, result in enumerate(results):
        if not isinstance(result, dict) or not isinstance(result.get("image_id"), (int, str)):
            raise DataError(f"{path}: result {number} has no image_id")
        if not isinstance(result.get("segmentation"), (list, dict)):
            raise DataError(f"{path}: result {number} of image {result['image_id']} has no segmentation")
        score = result.get("score", 0)
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise DataError(f"{path}: result {number} of image {result['image_id']} has the score {score!r}")
    return results


def _image_names(path: Path) -> dict[str, str]:
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        return {str(image["id"]): str(image["file_name"]) for image in images}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: no annotations of COCO ({error!r})") from None


def _match(
    image_ids: Iterable[str], offsets: dict[str, OffsetFile], names: dict[str, str] | None
) -> dict[str, OffsetFile]:
    """The offset of each image that has one; without ``names``, a file is called as its id, or with zeros before."""
    if names is not None:
        files = {names[image_id]: image_id for image_id in image_ids if image_id in names}
        return {files[name]: offsets[found] for name, found in match_files([*files], [*offsets])[0].items()}
    matches: dict[str, OffsetFile] = {}
    for digits in (0, _DIGITS):
        files = {f"{image_id.zfill(digits)}.jpg": image_id for image_id in image_ids if image_id not in matches}
        found = match_files([*files], [*offsets])[0]
        matches |= {files[name]: offsets[each] for name, each in found.items()}
    return matches


def _refine_image(job: tuple[list[Result], OffsetFile], how: MaskRefiner, fail_fast: bool) -> list[Result] | str:
    """The refined results of one image, or what is wrong with them."""
    results, place = job
    functions = _mask_functions()
    try:
        read = how.read(place)
        refined = []
        for result in results:
            mask = how.mask(_decode(result, (read.shape[0], read.shape[1])), read)
            code = functions.encode(np.asfortranarray(mask.astype(np.uint8)))
            more: dict[str, Any] = {"segmentation": {"size": code["size"], "counts": code["counts"].decode()}}
            if "bbox" in result:
                more["bbox"] = functions.toBbox(code).tolist()
            if "area" in result:
                more["area"] = int(functions.area(code))
            refined.append({**result, **more})
    except DataError as error:
        if fail_fast:
            raise
        return str(error)
    return refined


def _decode(result: Result, size: tuple[int, int]) -> np.ndarray:
    """Mask ``bool[H, W]`` of compressed or plain RLE, or of polygons."""
    segmentation, image = result["segmentation"], f"image {result['image_id']}"
    try:
        if isinstance(segmentation, list):
            polygons = [_polygon(points, size) for points in segmentation if len(points) >= _LEAST_COORDINATES]
            if not polygons:
                return np.zeros(size, bool)
            functions = _mask_functions()
            return functions.decode(functions.merge(functions.frPyObjects(polygons, *size))) > 0
        coded, counts = tuple(segmentation["size"]), segmentation["counts"]
        if len(coded) != 2 or not all(isinstance(length, int) for length in coded):
            raise ValueError(f"the size {coded}")
        runs = [int(run) for run in counts] if isinstance(counts, list) else _runs(counts)
    except Exception as error:  # pycocotools raises whatever it meets
        raise DataError(f"{image}: a segmentation that is neither RLE nor polygons ({error})") from None
    if coded != size:
        raise DataError(f"{image}: a mask of {coded[0]} x {coded[1]}, the image is {size[0]} x {size[1]}")
    # What the runs leave open is background; pycocotools would return whatever is in memory there.
    if min(runs, default=0) < 0 or sum(runs) > size[0] * size[1]:
        raise DataError(f"{image}: a damaged RLE, whose runs do not fit {size[0]} x {size[1]}")
    pixels = np.zeros(size[0] * size[1], bool)
    filled = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    pixels[: filled.size] = filled
    return pixels.reshape(size, order="F")


def _polygon(points: list[Any], size: tuple[int, int]) -> list[float]:
    """The coordinates of a polygon; pycocotools ends the process on some of other values."""
    values = [float(value) for value in points]
    most = 4 * max(*size, _DIGITS)
    if len(values) % 2 or not all(-most <= value <= most for value in values):  # NaN is neither
        raise ValueError(f"a polygon with coordinates that are not pairs from -{most} to {most}")
    return values


def _runs(counts: str | bytes) -> list[int]:
    """The runs of compressed RLE: characters of 5 bits, from the third run on differences to the last but one."""
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode() if isinstance(counts, str) else counts:
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if not digit & 32:
            if digit & 16:
                value -= 1 << shift
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


def _score(annotations: Path, results: dict[str, list[Result]]) -> tuple[dict[str, dict[str, float]], str]:
    """COCO's AP before and after, where the annotations hold objects; or why there is none."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with _quiet():
        truth = COCO(str(annotations))
    if not truth.anns:
        return {}, ""
    problem = _unfit_annotations(truth) or _strange_categories(truth, results["before"])
    if problem:
        return {}, problem
    functions, ids = _mask_functions(), {str(image_id): image_id for image_id in truth.imgs}
    scores = {}
    for name, found in results.items():
        try:
            plain = []
            for result in found:
                image_id = ids[str(result["image_id"])]
                size = truth.imgs[image_id]["height"], truth.imgs[image_id]["width"]
                code = functions.encode(np.asfortranarray(_decode(result, size).astype(np.uint8)))
                box = functions.toBbox(code).tolist()
                plain.append({**result, "image_id": image_id, "segmentation": code, "bbox": box})
            with _quiet():
                evaluation = COCOeval(truth, truth.loadRes(plain), "segm")
                evaluation.evaluate()
                evaluation.accumulate()
                evaluation.summarize()
        except (DataError, KeyError, TypeError, ValueError, AssertionError) as error:
            return {}, repr(error)
        values = (float(value) for value in evaluation.stats)
        scores[name] = dict(zip(("AP", "AP50", "AP75"), values, strict=False))
    return scores, ""


def _strange_categories(truth: Any, results: list[Result]) -> str:
    """Why results and annotations have no classes in common; empty if all is well."""
    strange = sorted({str(result.get("category_id")) for result in results} - {str(known) for known in truth.cats})
    if not strange:
        return ""
    known = ", ".join(map(str, sorted(truth.cats)[:8])) + (", ..." if len(truth.cats) > 8 else "")
    return f"category {', '.join(strange[:5])} is not in the annotations ({known}); map the results' to those"


def _unfit_annotations(truth: Any) -> str:
    """What pycocotools, which checks nothing, must not get to see; empty if all is well."""
    for annotation in truth.anns.values():
        image = truth.imgs.get(annotation.get("image_id"), {})
        try:
            size = int(image["height"]), int(image["width"])
            segmentation = annotation["segmentation"]
            if isinstance(segmentation, list):
                for points in segmentation:
                    _polygon(points, size)
            else:
                _decode({"image_id": annotation["image_id"], "segmentation": segmentation}, size)
        except (DataError, KeyError, TypeError, ValueError) as error:
            return f"annotation {annotation.get('id')} is unfit ({error})"
    return ""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()):
        yield

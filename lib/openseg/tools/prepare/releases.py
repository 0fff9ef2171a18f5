"""The public releases: which of their files are images and labels, and what becomes of them.

Files are found at any depth, so an additional top folder does not matter.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, DataError, nearest_names
from openseg.io.images import FORMATS
from openseg.io.mat import read_mat
from openseg.io.progress import show_progress
from openseg.tools.paths import PathLike, worker_count
from openseg.tools.prepare.archives import Entry, list_entries
from openseg.tools.prepare.placing import PreparedSplit, Source, Tree, find, merge, place

__all__ = ["RELEASES", "Release", "prepare"]

_JPG = r"(?P<suffix>\.jpe?g)"
_PNG = r"(?P<suffix>\.png)"
_STEM = r"(?P<stem>[^/]+)"


# Black, one channel, and its label is a single value: published by mistake.
_BROKEN = "troisdorf_000000_000073_leftImg8bit"


def _cityscapes(entries: list[Entry], options: Set[str]) -> Tree:
    tree = merge(
        find(entries, rf"leftImg8bit/(?P<split>train|val|test)/[^/]+/(?P<stem>[^/]+_leftImg8bit){_PNG}", "image"),
        _cityscapes_labels(entries, "gtFine", "labelIds", "label"),
    )
    coarse = _cityscapes_labels(entries, "gtCoarse", "labelIds", "label", "train|val|train_extra")
    if "coarse" in options:
        for split in ("train", "val"):
            labels = coarse.get(split, {}).get("label", {})
            images = tree.get(split, {}).get("image", {})
            tree[f"{split}_coarse"] = {"image": images, "label": labels}
    if "extra" in options:
        pattern = rf"leftImg8bit/(?P<split>train_extra)/[^/]+/(?P<stem>[^/]+_leftImg8bit){_PNG}"
        images = find(entries, pattern, "image").get("train_extra", {}).get("image", {})
        labels = coarse.get("train_extra", {}).get("label", {})
        tree["coarse"] = {
            "image": {name: source for name, source in images.items() if name != _BROKEN},
            "label": {name: source for name, source in labels.items() if name != _BROKEN},
        }
    return tree


def _cityscapes_labels(entries: list[Entry], root: str, what: str, kind: str, splits: str = "train|val") -> Tree:
    """Under the names of their images. ``gtFine/test`` is left out: its files mark the car's own hood alone."""
    pattern = rf"{root}/(?P<split>{splits})/[^/]+/{_STEM}_{root}_{what}{_PNG}"
    return find(entries, pattern, kind, "{stem}_leftImg8bit")


def _cityscapes_instances(entries: list[Entry], _: Set[str]) -> Tree:
    return _cityscapes_labels(entries, "gtFine", "instanceIds", "instance")


def _ade20k(entries: list[Entry], _: Set[str]) -> Tree:
    splits = {"training": "train", "validation": "val"}
    return merge(
        find(entries, rf"images/(?P<split>training|validation)/{_STEM}{_JPG}", "image", splits=splits),
        find(entries, rf"annotations/(?P<split>training|validation)/{_STEM}{_PNG}", "label", splits=splits),
        find(entries, rf"(?P<split>testing)/{_STEM}{_JPG}", "image", splits={"testing": "test"}),
    )


def _lip(entries: list[Entry], _: Set[str]) -> Tree:
    return merge(
        find(entries, rf"(?P<split>train|val)_images/{_STEM}{_JPG}", "image"),
        find(entries, rf"(?P<split>train|val)_segmentations/{_STEM}{_PNG}", "label"),
        find(entries, rf"testing_images/{_STEM}{_JPG}", "image", splits={"": "test"}),
    )


def _camvid(entries: list[Entry], _: Set[str]) -> Tree:
    suffix = r"(?P<suffix>\.png|\.jpe?g)"
    split = r"^(?:(?:[^/]+/)?CamVid/)?(?P<split>train|val|test)"  # there may be folders train of predictions too
    return merge(
        find(entries, rf"{split}(?:/image)?/{_STEM}{suffix}", "image"),
        find(entries, rf"{split}(?:annot|/label)/{_STEM}{_PNG}", "label"),
    )


def _mapillary(entries: list[Entry], _: Set[str]) -> Tree:
    splits = {"training": "train", "validation": "val", "testing": "test"}
    return merge(
        find(entries, rf"(?P<split>training|validation|testing)/images/{_STEM}{_JPG}", "image", splits=splits),
        find(entries, rf"(?P<split>training|validation)/(?:v1\.2/)?labels/{_STEM}{_PNG}", "label", splits=splits),
    )


def _coco_stuff_164k(entries: list[Entry], _: Set[str]) -> Tree:
    splits = {"train2017": "train", "val2017": "val"}
    split = r"(?P<split>train2017|val2017)"
    return merge(
        find(entries, rf"{split}/{_STEM}{_JPG}", "image", splits=splits),
        find(entries, rf"{split}/{_STEM}{_PNG}", "label", splits=splits, convert=coco_164k_label),
    )


def _coco_10k(entries: list[Entry], _: Set[str]) -> Tree:
    images = find(entries, rf"images/{_STEM}{_JPG}", "image").get("", {}).get("image", {})
    labels = find(entries, rf"annotations/{_STEM}(?P<suffix>\.mat)", "label", convert=coco_10k_label)
    lists = find(entries, r"imageLists/(?P<stem>train|test)(?P<suffix>\.txt)", "list").get("", {}).get("list", {})
    tree: Tree = {}
    for stem, split in (("train", "train"), ("test", "val")):
        if stem not in lists:
            continue
        names = lists[stem].entry.read().decode().split()
        absent = [name for name in names if name not in images]
        if absent:
            raise DataError(f"{lists[stem].entry.name}: {len(absent)} images are not there, such as {absent[0]}")
        found = labels.get("", {}).get("label", {})
        tree[split] = {
            "image": {name: images[name] for name in names},
            "label": {name: found[name] for name in names if name in found},
        }
    return tree


def coco_10k_label(content: bytes) -> np.ndarray:
    """The label map ``S`` of a ``.mat``: 0 unlabeled, 1..91 things, 92..182 stuff."""
    arrays = read_mat(content, ("S",))
    if "S" not in arrays:
        raise ValueError("no label map 'S'")
    labels = arrays["S"]
    if labels.min() < 0 or labels.max() > 182:
        raise ValueError(f"ids from {labels.min()} to {labels.max()}, not 0 to 182")
    return np.ascontiguousarray(labels.astype(np.uint8))


def coco_164k_label(content: bytes) -> np.ndarray:
    """A pixel map holds id - 1, and 255 where nothing is labeled: ids, and 0."""
    return np.array(Image.open(io.BytesIO(content), formats=FORMATS)).astype(np.uint8) + np.uint8(1)


def _pascal_context(entries: list[Entry], _: Set[str]) -> Tree:
    images = find(entries, rf"JPEGImages/{_STEM}{_JPG}", "image").get("", {}).get("image", {})
    masks = find(entries, r"(?P<stem>train|val)(?P<suffix>\.pth)", "masks").get("", {}).get("masks", {})
    tree: Tree = {}
    for split, source in masks.items():
        # 2008000002 is the mask of 2008_000002.jpg
        found = {f"{number // 10**6}_{number % 10**6:06d}": mask for number, mask in _read_masks(source.entry).items()}
        absent = sorted(set(found) - set(images))
        if absent:
            raise DataError(
                f"{source.entry.path}: {len(absent)} of {len(found)} masks have no image in JPEGImages ({absent[0]})"
            )
        tree[split] = {
            "image": {name: images[name] for name in found},
            "label": {name: Source(source.entry, ".png", values=mask) for name, mask in found.items()},
        }
    return tree


def _read_masks(entry: Entry) -> dict[int, np.ndarray]:
    """Masks ``uint8[H, W]`` by image number: a pickled mapping to Pillow images, read without running what it holds.

    Raises:
        DataError: something else.
    """
    import torch

    try:
        with torch.serialization.safe_globals([Image.Image]):
            masks = torch.load(io.BytesIO(entry.read()), weights_only=True)
        found = {int(number): np.array(mask) for number, mask in masks.items()}
        if any(mask.dtype != np.uint8 or mask.ndim != 2 or mask.max(initial=0) > 59 for mask in found.values()):
            raise ValueError("masks hold 0 to 59")
    except DataError:
        raise
    except Exception as error:  # the unpickler raises whatever it meets
        reason = str(error).split("\n")[0]
        raise DataError(f"{entry.path}: not the masks of PyTorch-Encoding ({reason}); download it again") from None
    return found


@dataclass(frozen=True)
class Release:
    """A public release.

    Attributes:
        description: what is prepared.
        collect: what its files become, given the names of options that are wanted.
        dataset: its name here.
        layout: what it looks like, for messages.
        options: what else can be had, by name.
    """

    description: str
    collect: Callable[[list[Entry], Set[str]], Tree]
    dataset: str
    layout: str
    options: Mapping[str, str] = field(default_factory=dict)


RELEASES = {
    "cityscapes": Release(
        "Cityscapes: fine labels of train and val, the images of test",
        _cityscapes,
        "cityscapes",
        "leftImg8bit and gtFine (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
        {
            "coarse": "also the coarse labels of train and val, as train_coarse, val_coarse",
            "extra": "also train_extra with its coarse labels, as the split coarse",
        },
    ),
    "cityscapes_instances": Release(
        "the instance maps of Cityscapes (16 bits: id * 1000 + number)",
        _cityscapes_instances,
        "cityscapes",
        "gtFine (gtFine_trainvaltest.zip)",
    ),
    "ade20k": Release(
        "ADE20K (scene parsing)",
        _ade20k,
        "ade20k",
        "images and annotations (ADEChallengeData2016.zip; release_test.zip for test)",
    ),
    "lip": Release(
        "LIP (single person)",
        _lip,
        "lip",
        "train_images, val_images, train_segmentations, val_segmentations (TrainVal_images.zip, "
        "TrainVal_parsing_annotations.zip; Testing_images.zip for test)",
    ),
    "camvid": Release(
        "CamVid (the SegNet release)",
        _camvid,
        "camvid",
        "train, trainannot, val and valannot, or train/image, train/label and so on",
    ),
    "mapillary_vistas": Release(
        "Mapillary Vistas v1.2",
        _mapillary,
        "mapillary_vistas",
        "training and validation with images and labels (mapillary-vistas-dataset_public_v1.2.zip)",
    ),
    "coco_stuff": Release(
        "COCO-Stuff 10k (v1.1)", _coco_10k, "coco_stuff", "images, annotations and imageLists (cocostuff-10k-v1.1.zip)"
    ),
    "coco_stuff_164k": Release(
        "COCO-Stuff 164k from its pixel maps, which hold id - 1; IDs are written",
        _coco_stuff_164k,
        "coco_stuff_164k",
        "train2017 and val2017 with images and pixel maps (train2017.zip, val2017.zip, "
        "stuffthingmaps_trainval2017.zip)",
    ),
    "pascal_context": Release(
        "PASCAL-Context with the masks of PyTorch-Encoding",
        _pascal_context,
        "pascal_context",
        "JPEGImages (VOCtrainval_03-May-2010.tar) and PytorchEncoding/train.pth, val.pth",
    ),
}
"""What can be prepared, by name."""


def prepare(
    release: str,
    inputs: Sequence[PathLike],
    *,
    data_root: PathLike = "data",
    options: Sequence[str] = (),
    link: bool = False,
    limit: int | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[PreparedSplit]:
    """Bring a public release into the layout ``<data root>/<dataset>/<split>/<kind>``; existing files are skipped.

    Args:
        release: one of ``RELEASES``.
        inputs: folders, zips or tars of the release.
        data_root: where the datasets go.
        options: what else is wanted, see ``Release.options``.
        link: hard-link unpacked files instead of copying them.
        limit: prepare only the first samples of each split, for a trial.

    Raises:
        ConfigError: an unknown release, or a limit below 1.
        DataError: nothing of the release is there, or it is incomplete.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit}: prepare at least one sample")
    if release not in RELEASES:
        raise ConfigError(f"unknown release '{release}'; {nearest_names(release, RELEASES)}")
    wanted = RELEASES[release]
    with show_progress(progress):
        tree = wanted.collect(list_entries(inputs), set(options))
        if not any(sources for kinds in tree.values() for sources in kinds.values()):
            names = " ".join(map(str, inputs))
            raise DataError(f"{names}: no files of the release found; expected {wanted.layout}")
        folder = Path(data_root) / get_dataset_info(wanted.dataset).folder
        return place(tree, folder, link, limit, worker_count(workers))

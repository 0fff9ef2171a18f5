"""The public releases: which of their files are images and labels, and what becomes of them.

Files are found at any depth, so an additional top folder does not matter.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy.io import loadmat

from openseg.errors import DataError
from openseg.tools.prepare.archives import Entry
from openseg.tools.prepare.placing import Source, Tree, find, merge, program

__all__ = [
    "ade20k",
    "camvid",
    "cityscapes",
    "cityscapes_instances",
    "coco_stuff",
    "coco_stuff_164k",
    "lip",
    "mapillary",
    "pascal_context",
]

_JPG = r"(?P<suffix>\.jpe?g)"
_PNG = r"(?P<suffix>\.png)"
_STEM = r"(?P<stem>[^/]+)"


def cityscapes(argv: Sequence[str] | None = None) -> int:
    """Cityscapes: fine labels of train and val, the images of test; coarse ones on request."""

    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--coarse", action="store_true", help="also the coarse labels of train and val, as train_coarse, val_coarse"
        )
        parser.add_argument(
            "--extra", action="store_true", help="also train_extra with its coarse labels, as the split coarse"
        )

    return program(
        "Prepare Cityscapes.",
        _cityscapes,
        "cityscapes",
        "leftImg8bit and gtFine (leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip)",
        argv,
        options,
    )


# Black, one channel, and its label is a single value: published by mistake.
_BROKEN = "troisdorf_000000_000073_leftImg8bit"


def _cityscapes(entries: list[Entry], arguments: argparse.Namespace) -> Tree:
    tree = merge(
        find(entries, rf"leftImg8bit/(?P<split>train|val|test)/[^/]+/(?P<stem>[^/]+_leftImg8bit){_PNG}", "image"),
        _cityscapes_labels(entries, "gtFine", "labelIds", "label"),
    )
    coarse = _cityscapes_labels(entries, "gtCoarse", "labelIds", "label", "train|val|train_extra")
    if arguments.coarse:
        for split in ("train", "val"):
            labels = coarse.get(split, {}).get("label", {})
            images = tree.get(split, {}).get("image", {})
            tree[f"{split}_coarse"] = {"image": images, "label": labels}
    if arguments.extra:
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


def cityscapes_instances(argv: Sequence[str] | None = None) -> int:
    """Instance maps of Cityscapes."""
    return program(
        "Prepare the instance maps of Cityscapes (16 bits: id * 1000 + number).",
        lambda entries, _: _cityscapes_labels(entries, "gtFine", "instanceIds", "instance"),
        "cityscapes",
        "gtFine (gtFine_trainvaltest.zip)",
        argv,
    )


def ade20k(argv: Sequence[str] | None = None) -> int:
    """ADE20K, scene parsing with 150 classes."""

    def collect(entries: list[Entry], _: argparse.Namespace) -> Tree:
        splits = {"training": "train", "validation": "val"}
        return merge(
            find(entries, rf"images/(?P<split>training|validation)/{_STEM}{_JPG}", "image", splits=splits),
            find(entries, rf"annotations/(?P<split>training|validation)/{_STEM}{_PNG}", "label", splits=splits),
            find(entries, rf"(?P<split>testing)/{_STEM}{_JPG}", "image", splits={"testing": "test"}),
        )

    layout = "images and annotations (ADEChallengeData2016.zip; release_test.zip for test)"
    return program("Prepare ADE20K (scene parsing).", collect, "ade20k", layout, argv)


def lip(argv: Sequence[str] | None = None) -> int:
    """LIP, single person."""

    def collect(entries: list[Entry], _: argparse.Namespace) -> Tree:
        return merge(
            find(entries, rf"(?P<split>train|val)_images/{_STEM}{_JPG}", "image"),
            find(entries, rf"(?P<split>train|val)_segmentations/{_STEM}{_PNG}", "label"),
            find(entries, rf"testing_images/{_STEM}{_JPG}", "image", splits={"": "test"}),
        )

    layout = "train_images, val_images, train_segmentations, val_segmentations (TrainVal_images.zip, "
    layout += "TrainVal_parsing_annotations.zip; Testing_images.zip for test)"
    return program("Prepare LIP (single person).", collect, "lip", layout, argv)


def camvid(argv: Sequence[str] | None = None) -> int:
    """CamVid, the SegNet release."""

    def collect(entries: list[Entry], _: argparse.Namespace) -> Tree:
        suffix = r"(?P<suffix>\.png|\.jpe?g)"
        split = r"^(?:(?:[^/]+/)?CamVid/)?(?P<split>train|val|test)"  # there may be folders train of predictions too
        return merge(
            find(entries, rf"{split}(?:/image)?/{_STEM}{suffix}", "image"),
            find(entries, rf"{split}(?:annot|/label)/{_STEM}{_PNG}", "label"),
        )

    layout = "train, trainannot, val and valannot, or train/image, train/label and so on"
    return program("Prepare CamVid (the SegNet release).", collect, "camvid", layout, argv)


def mapillary(argv: Sequence[str] | None = None) -> int:
    """Mapillary Vistas v1.2."""

    def collect(entries: list[Entry], _: argparse.Namespace) -> Tree:
        splits = {"training": "train", "validation": "val", "testing": "test"}
        return merge(
            find(entries, rf"(?P<split>training|validation|testing)/images/{_STEM}{_JPG}", "image", splits=splits),
            find(entries, rf"(?P<split>training|validation)/labels/{_STEM}{_PNG}", "label", splits=splits),
        )

    layout = "training and validation with images and labels (mapillary-vistas-dataset_public_v1.2.zip)"
    return program("Prepare Mapillary Vistas v1.2.", collect, "mapillary_vistas", layout, argv)


def coco_stuff(argv: Sequence[str] | None = None) -> int:
    """COCO-Stuff 10k (v1.1)."""
    layout = "images, annotations and imageLists (cocostuff-10k-v1.1.zip)"
    return program("Prepare COCO-Stuff 10k (v1.1).", _coco_10k, "coco_stuff", layout, argv)


def _coco_10k(entries: list[Entry], _: argparse.Namespace) -> Tree:
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
    labels = loadmat(io.BytesIO(content), variable_names=["S"])["S"]
    if labels.min() < 0 or labels.max() > 182:
        raise ValueError(f"ids from {labels.min()} to {labels.max()}, not 0 to 182")
    return np.ascontiguousarray(labels.astype(np.uint8))


def coco_stuff_164k(argv: Sequence[str] | None = None) -> int:
    """COCO-Stuff 164k from its pixel maps, in the ids of COCO-Stuff 10k."""

    def collect(entries: list[Entry], _: argparse.Namespace) -> Tree:
        splits = {"train2017": "train", "val2017": "val"}
        split = r"(?P<split>train2017|val2017)"
        return merge(
            find(entries, rf"{split}/{_STEM}{_JPG}", "image", splits=splits),
            find(entries, rf"{split}/{_STEM}{_PNG}", "label", splits=splits, convert=coco_164k_label),
        )

    layout = "train2017 and val2017 with images and pixel maps (train2017.zip, val2017.zip, "
    layout += "stuffthingmaps_trainval2017.zip)"
    description = "Prepare COCO-Stuff 164k; its maps hold id - 1, written are ids."
    return program(description, collect, "coco_stuff_164k", layout, argv)


def coco_164k_label(content: bytes) -> np.ndarray:
    """A pixel map holds id - 1, and 255 where nothing is labeled: ids, and 0."""
    return np.array(Image.open(io.BytesIO(content))).astype(np.uint8) + np.uint8(1)


def pascal_context(argv: Sequence[str] | None = None) -> int:
    """PASCAL-Context with the masks of PyTorch-Encoding."""
    layout = "JPEGImages (VOCtrainval_03-May-2010.tar) and PytorchEncoding/train.pth, val.pth"
    return program("Prepare PASCAL-Context.", _pascal_context, "pascal_context", layout, argv)


def _pascal_context(entries: list[Entry], _: argparse.Namespace) -> Tree:
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

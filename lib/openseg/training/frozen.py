"""Training of the head on a frozen backbone; where augmentation allows, its features are computed once."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence

import torch
from torch import nn

from openseg.config import Config
from openseg.datasets.cache import DecodedCache
from openseg.datasets.features import FeatureStore, leaves_images_alone
from openseg.datasets.loaders import ImageSet, iterate_images
from openseg.datasets.splits import Pair
from openseg.datasets.transforms import normalize
from openseg.distributed import Group
from openseg.errors import ConfigError, DataError
from openseg.inference.prepare import prepare_for_inference
from openseg.io.progress import progress
from openseg.training.state import Training

__all__ = ["compute_features"]

logger = logging.getLogger("openseg")


def compute_features(training: Training, pairs: Sequence[Pair], group: Group) -> FeatureStore | None:
    """Compute and keep the features of all training images, of each process its share.

    Returns None where there are none to keep: the backbone is not frozen, or, which is logged, images are augmented by
    more than a flip, there is no cache, or the network is SegFix.

    Raises:
        ConfigError: the features take more than ``data.cache_gb``.
        DataError: an image cannot be read, or is of another size than ``augment.crop_size``.
    """
    config = training.config
    if not config.model.freeze_backbone:
        return None
    reason = _why_not_kept(config)
    if reason is not None:
        logger.warning("%s: the frozen backbone computes features in every iteration: %s", config.name, reason)
        return None
    backbone = training.model.get_submodule("backbone").eval()
    size = config.augment.crop_size
    with torch.inference_mode():
        example = torch.zeros(1, config.dataset_info.channels, *size, device=training.device)
        shapes = tuple((each.shape[1], each.shape[2], each.shape[3]) for each in backbone(example))
    cache = DecodedCache.of(config)
    store = FeatureStore(cache, _fingerprint(backbone, config), shapes)
    flips = (False, True) if config.augment.flip > 0 else (False,)
    _require_room(store, len(pairs) * len(flips), config)
    paths = [pair.image for pair in pairs]
    todo = [path for path in group.share_of(paths) if not all(store.has(path, flip) for flip in flips)]
    if todo:
        network = prepare_for_inference(nn.Sequential(copy.deepcopy(backbone)))
        _compute(network, store, ImageSet(config, todo), flips, training.device, group)
    group.wait()
    logger.info("%s: features of %d images in %s", config.name, len(pairs), cache.folder)
    return store


def _why_not_kept(config: Config) -> str | None:
    if not config.predicts_labels:
        return f"those of task {config.task} are not kept"
    if not leaves_images_alone(config):
        return "images are augmented by more than a flip"
    return None if config.data.cache_gb else "data.cache_gb=0; set it to keep them on disk"


@torch.inference_mode()
def _compute(
    network: nn.Module,
    store: FeatureStore,
    images: ImageSet,
    flips: Sequence[bool],
    device: torch.device,
    group: Group,
) -> None:
    config = images.config
    items = iterate_images(images, config.data.workers, device.type == "cuda")
    for item in progress(items, len(images), "features", hidden=not group.first):
        image, path = item["image"], item["path"]
        if tuple(image.shape[-2:]) != config.augment.crop_size:
            raise DataError(
                f"{path}: is {image.shape[-2]}x{image.shape[-1]}; with kept features all images have the size "
                f"augment.crop_size={list(config.augment.crop_size)}: set it, or data.size, or let them be computed in "
                "every iteration with data.cache_gb=0"
            )
        views = normalize(
            torch.stack([image.flip(-1) if flip else image for flip in flips]).to(device), config.normalization
        )
        maps = network(views)
        for number, flip in enumerate(flips):
            store.write(path, flip, [each[number] for each in maps])
        if store.cache.full:
            raise ConfigError(f"{store.cache.folder}: is full; free some space, or raise data.cache_gb")


def _require_room(store: FeatureStore, count: int, config: Config) -> None:
    """Raises ConfigError where half precision features of ``count`` images exceed the cache's limit."""
    wanted = 2 * store.values * count / 1e9
    if wanted > config.data.cache_gb:
        raise ConfigError(
            f"the features of {count} images take {wanted:.1f} GB, data.cache_gb is {config.data.cache_gb:g}; raise it "
            "or set it to 0 to compute them in every iteration"
        )


def _fingerprint(backbone: nn.Module, config: Config) -> str:
    """Identifies a backbone's weights and what its input is."""
    hashed = hashlib.sha256()
    for key, value in backbone.state_dict().items():
        hashed.update(key.encode())
        hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    settings = config.normalization, config.data.size, config.data.short_side, config.dataset_info.bands
    hashed.update(f"{config.model.backbone} {config.model.backbone_settings} {settings}".encode())
    return hashed.hexdigest()[:24]

"""The recipe of the goldens: synthetic weights and inputs that depend on nothing but names and shapes."""

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import torch

GOLDENS = Path(__file__).parent / "goldens"
HEAD_GAIN = 2.0
BACKBONE_GAINS = {True: 1.0, False: 0.3}  # ResNet, HRNet


def golden(name):
    return np.load(GOLDENS / f"{name}.npz")


def manifest_names():
    return sorted(path.name.removesuffix(".json.gz") for path in (GOLDENS / "manifests").iterdir())


def golden_state(name, values=True):
    """The state dict of manifest ``name``, as a released file holds it (keys start with ``module.``).

    ``values=False``: only names and shapes matter, the values are whatever was in memory.
    """
    manifest = json.loads(gzip.decompress((GOLDENS / "manifests" / f"{name}.json.gz").read_bytes()))
    entries = manifest["entries"]
    if not values:
        return {f"module.{key}": torch.empty(entry[0]) for key, entry in entries.items()}
    gain = BACKBONE_GAINS["r101" in name]
    return {f"module.{key}": torch.from_numpy(_values(key, entry[0], entries, gain)) for key, entry in entries.items()}


def golden_input(shape):
    return torch.from_numpy(np.random.default_rng(20240607).standard_normal(tuple(shape)).astype(np.float32))


def _values(key, shape, entries, backbone_gain):
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    prefix, _, leaf = key.rpartition(".")
    norm = f"{prefix}.running_mean" in entries
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if leaf == "weight" and norm:
        gamma = rng.uniform(0.5, 1.5, shape)
        gamma[rng.random(shape) < 0.25] *= -1
        return gamma.astype(np.float32)
    values = rng.standard_normal(shape)
    if leaf != "weight":
        return (values * 0.1).astype(np.float32)
    fan_in = int(np.prod(shape[1:]))
    if fan_in > 1:
        values -= values.mean(axis=(1, 2, 3), keepdims=True)
    gain = backbone_gain if key.startswith("backbone.") else HEAD_GAIN
    return (values * np.sqrt(gain / fan_in)).astype(np.float32)

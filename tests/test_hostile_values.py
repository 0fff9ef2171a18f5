"""Values that nothing may choke on: damaged MATLAB files, odd arrays, overrides and YAML."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from scipy.io import savemat

import openseg
from openseg.errors import DataError
from openseg.segfix import read_offset_map, refine
from openseg.segfix.targets import make_instance_targets, make_targets

CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"

DAMAGE = [(compressed, seed) for compressed in (False, True) for seed in range(3)]


@pytest.mark.parametrize(("compressed", "seed"), DAMAGE)
def test_damaged_matlab_files_are_one_error(compressed, seed, tmp_path):
    """In this process: a reader that crashes would end it."""
    path, rng = tmp_path / "a.mat", np.random.default_rng(seed)
    savemat(path, {"mat": rng.integers(-1, 2, (30, 40, 2)), "more": np.zeros(9)}, do_compression=compressed)
    whole = path.read_bytes()
    for _ in range(300):
        content = bytearray(whole[: rng.integers(8, len(whole))] if rng.random() < 0.2 else whole)
        for place in rng.integers(0, len(content), rng.integers(1, 5)):
            content[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(content)
        try:
            assert read_offset_map(path).shape
        except DataError as error:
            assert "a.mat" in str(error) and "\n" not in str(error)


def test_a_matlab_bomb_takes_no_memory(tmp_path):
    import resource

    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    count = 4_000_000_000
    matrix = struct.pack("<IIIIIIiiII", 6, 8, 9, 0, 5, 8, 1, count - (1 << 32), 1 | 3 << 16, 0)[:40]
    body = zlib.compress(struct.pack("<II", 14, 0xFFFFFFF0) + matrix + bytes(50_000_000))
    (tmp_path / "a.mat").write_bytes(header + struct.pack("<II", 15, len(body)) + body)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"a\.mat"):
        read_offset_map(tmp_path / "a.mat")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000


ARRAYS = {
    "objects": np.array([[object()]]),
    "dates": np.zeros((4, 4), "M8[s]"),
    "complex": np.zeros((4, 4), np.complex64),
    "text": np.zeros((4, 4), "U3"),
    "half": np.zeros((4, 4), np.float16),
    "long double": np.zeros((4, 4), np.longdouble),
    "three dimensions": np.zeros((4, 4, 4), np.uint8),
    "none": None,
    "list": [[1]],
    "large": np.full((4, 4), 1 << 30, np.int32),
    "negative": np.full((4, 4), -1, np.int32),
    "300": np.full((4, 4), 300, np.int32),
}


@pytest.mark.parametrize("values", ARRAYS.values(), ids=ARRAYS)
def test_odd_arrays_never_reach_compiled_code(values):
    offsets = np.zeros((4, 4, 2), np.int8)
    for call in (
        lambda: refine(values, offsets),
        lambda: refine(np.zeros((4, 4), np.uint8), values),
        lambda: refine(np.zeros((4, 4), np.uint8), offsets, scale=values),
        lambda: refine(np.zeros((4, 4), np.uint8), offsets, confidence=values),
        lambda: make_targets(values, "clean"),
        lambda: make_targets(values),
        lambda: make_instance_targets(values, [1]),
        lambda: openseg.metrics.BoundaryCounts(3).update(values, values),
        lambda: openseg.metrics.ConfusionMatrix(3).update(values, values),
    ):
        try:
            call()
        except DataError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("scale", [float("nan"), 0.5, -1, 1 << 40, "2", True, None])
def test_scales_that_are_none(scale):
    with pytest.raises(DataError, match="scale"):
        refine(np.zeros((4, 4), np.uint8), np.zeros((4, 4, 2), np.int8), scale=scale)


OVERRIDES = [
    *["test.ss.scales=[.inf]", "test.ss.scales=[1e308]", "test.ss.scales=[30]", "test.ss.scales=[.nan]"],
    *["augment.scale_range=[2,0.5]", "augment.scale_range=[.inf,.inf]", "train.seed=1e23", "train.seed=-1"],
    *["data.cache_gb=1e300", "data.size=[100000,100000]", "train.momentum=.nan", "train.lr=.inf", "train.lr=nan"],
    *["data=!!float x", "train.precision=0b_", "train.ema=!!timestamp x", "test.ms=2001-99-99", "train.lr=0x"],
    *[f"train.seed={'9' * 5000}", f"train.seed={'9' * 4000}", f"train={'[' * 900}", f"x={'{a: ' * 300}", "train.lr=*a"],
    *["train.lr=!!python/object:os.system x", "train.lr=&a [*a]", "=1", "train..lr=1", "train.lr", "train.lr.x=1"],
    *["train.lr=~", "train.ema=1_0", "train.ema=.5.5", "name=../../evil", "name=", "name=[]"],
    *["augment.crop_size=[32,32,32]", "augment.crop_size=32", "loss=[{type: 3}]", "train=\x00"],
    *[
        "train.lr=\ud800",
        "train=<<: x",
        "train={<<: 3}",
        "data.dataset=.",
        "data.dataset=/",
        "metrics=[3]",
        "plugins=[3]",
    ],
]


@pytest.mark.parametrize("override", OVERRIDES, ids=lambda text: ascii(text[:30]))
def test_odd_overrides_are_one_line(override, command, one_line_error):
    error = one_line_error(command("config", "--config", CONFIG, override))
    assert len(error) < 1500


def test_aliases_that_blow_up(tmp_path, command, one_line_error):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))
    Path("bomb.yaml").write_text(f"{bomb}classes: *a9\n")
    error = one_line_error(command("check", "--dataset", "bomb.yaml"), "bomb.yaml")
    assert len(error) < 1000

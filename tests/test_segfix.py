"""SegFix on arrays and files: exact to the original, and the plain gather that it says it is."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from recipe import golden
from scipy.io import loadmat, savemat

from openseg.datasets.registry import get_dataset_info
from openseg.errors import DataError
from openseg.io.images import write_label
from openseg.segfix import (
    DIRECTION_VECTORS,
    OffsetMap,
    angles_to_directions,
    codes_to_directions,
    directions_to_offsets,
    list_offsets,
    make_instance_targets,
    make_targets,
    read_offset_map,
    read_offsets,
    read_targets,
    refine,
    refine_mask,
    thin_parts,
    write_offsets,
    write_targets,
)
from openseg.segfix.directions import flip_codes

CITYSCAPES = get_dataset_info("cityscapes")


def test_directions_equal_the_original():
    expected = golden("dt_offset_helper")
    np.testing.assert_array_equal(angles_to_directions(expected["angle"]), expected["angle_to_label8"])
    np.testing.assert_array_equal(DIRECTION_VECTORS, expected["label_to_vector8_n2hw"][0, :, 0].T)


def test_a_flipped_code_points_the_mirrored_way():
    codes = np.arange(181, dtype=np.uint8)
    # Codes next to a bin's edge may fall on its other side, since the bins are half open.
    away_from_edges = np.abs((2.0 * codes - 180 + 22.5) % 45) > 1e-6
    mirrored = DIRECTION_VECTORS[codes_to_directions(flip_codes(codes))]
    original = DIRECTION_VECTORS[codes_to_directions(codes)]
    np.testing.assert_array_equal(mirrored[away_from_edges], (original * [1, -1])[away_from_edges])
    np.testing.assert_array_equal(flip_codes(flip_codes(codes)) % 180, codes % 180)


def check_targets(targets, depth, code):
    np.testing.assert_array_equal(targets.depth, depth)
    difference = np.abs(targets.angle_code.astype(int) - code)
    assert np.minimum(difference, 180 - difference).max() <= 1
    assert np.mean(difference > 0) < 0.01


def test_targets_equal_the_original():
    expected = golden("dt_offset_generator")
    check_targets(make_targets(CITYSCAPES.encode(expected["label"])), expected["depth"], expected["dir_deg"])


def test_instance_targets_equal_the_original():
    expected = golden("dt_offset_generator")
    targets = make_instance_targets(expected["instance_label"].astype(np.uint16), CITYSCAPES.ids)
    np.testing.assert_array_equal(targets.depth, expected["instance_depth"])
    # The original's float32 angles of this variant often lie just below the exact ones, so one code lower.
    directions = codes_to_directions(targets.angle_code)
    assert np.count_nonzero(directions != codes_to_directions(expected["instance_dir_deg"])) <= 1


@pytest.mark.parametrize("rule", ["original", "clean"])
def test_an_image_of_one_class_has_no_boundary(rule):
    targets = make_targets(np.zeros((20, 30), np.uint8), rule)
    assert targets.depth.min() == 250


def slow_targets(regions, rule):
    """The definition, pixel by pixel: squared distances, and gradients (down, right) of the distance in each region."""
    height, width = regions.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    squared = np.full(regions.shape, 250**2)
    for y, x in places:
        others = [(y - v) ** 2 + (x - u) ** 2 for v, u in places if regions[v, u] != regions[y, x]]
        squared[y, x] = min(others, default=250**2)
    gradients = np.zeros((2, height, width))
    for y, x in places:
        for dy in range(-2, 3):
            for dx in range(-2, 3):
                v, u = y + dy, x + dx
                if rule == "clean":
                    v, u = min(max(v, 0), height - 1), min(max(u, 0), width - 1)
                inside = 0 <= v < height and 0 <= u < width and regions[v, u] == regions[y, x]
                if inside and (dy or dx):
                    gradients[:, y, x] += np.array([dy, dx]) / (dy**2 + dx**2) * np.sqrt(squared[v, u])
    return squared, gradients


label_maps = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 2))


@given(label_maps, st.sampled_from(["original", "clean"]))
@settings(deadline=None, max_examples=60)
def test_targets_are_exact(labels, rule):
    targets = make_instance_targets(labels.astype(np.uint16), range(3), rule)
    squared, gradients = slow_targets(labels, rule)
    angles = np.degrees(np.arctan2(*gradients))
    away = (np.abs(gradients).max(axis=0) > 1e-6) & (np.abs((angles + 180) / 2 % 1 - 0.5) < 0.49)  # no tie, no edge
    np.testing.assert_array_equal(targets.angle_code[away], ((angles + 180) / 2).astype(int)[away])
    depth = np.sqrt(squared).astype(int)
    if rule == "original":
        np.testing.assert_array_equal(targets.depth, depth)
        return
    height, width = labels.shape
    for (y, x), code in np.ndenumerate(targets.angle_code):
        dy, dx = DIRECTION_VECTORS[codes_to_directions(code)]
        v, u = min(max(y + dy, 0), height - 1), min(max(x + dx, 0), width - 1)
        stays = labels[v, u] != labels[y, x] or squared[v, u] <= squared[y, x]
        assert targets.depth[y, x] == (250 if stays else depth[y, x])


def test_clean_targets_keep_what_is_thin_and_small():
    labels = np.zeros((60, 80), np.uint8)
    labels[:, 20], labels[:, 40:43], labels[30:39, 60:69] = 1, 2, 3  # poles of 1 and 3 pixels, a sign of 81
    original, clean = make_targets(labels), make_targets(labels, "clean")
    assert (original.depth[30:39, 60:69] == 0).all() and clean.depth[34, 62] == 3
    offsets = [
        directions_to_offsets(codes_to_directions(each.angle_code)) * (each.depth <= 5)[..., None]
        for each in (original, clean)
    ]
    labels[30:39, 60:69] = 0  # the original lets all of it go to the right
    assert (refine(labels, offsets[0]) != labels).any()
    np.testing.assert_array_equal(refine(labels, offsets[1]), labels)
    # Sky above a field, out to the image's sides: at the sides too its inside is straight up.
    halves = np.repeat(np.arange(2, dtype=np.uint8), 20)[:, None] * np.ones((1, 30), np.uint8)
    assert set(np.unique(make_targets(halves, "clean").angle_code[17:20])) == {45}
    assert set(np.unique(make_targets(halves).angle_code[17:20])) != {45}


def test_target_files(tmp_path):
    targets = make_targets(CITYSCAPES.encode(golden("dt_offset_generator")["label"]))
    write_targets(tmp_path / "a.mat", targets)
    again = read_targets(tmp_path / "a.mat")
    np.testing.assert_array_equal(again.depth, targets.depth)
    np.testing.assert_array_equal(again.angle_code, targets.angle_code)
    (tmp_path / "b.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:300])
    for name in ("b.mat", "c.mat"):
        with pytest.raises(DataError, match=name):
            read_targets(tmp_path / name)


def test_target_files_as_png(tmp_path):
    labels = CITYSCAPES.encode(golden("dt_offset_generator")["label"])
    targets = make_targets(np.kron(labels, np.ones((2, 2), np.uint8)))
    write_targets(tmp_path / "a.png", targets)
    again = read_targets(tmp_path / "a.png", max_distance=5)
    assert targets.depth.max() > 30
    np.testing.assert_array_equal(again.depth, np.minimum(targets.depth, 30))
    directions = codes_to_directions(targets.angle_code)
    np.testing.assert_array_equal(codes_to_directions(again.angle_code), directions)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), 31 * directions + again.depth)
    with pytest.raises(DataError, match="format mat"):
        read_targets(tmp_path / "a.png", max_distance=30)
    write_label(tmp_path / "b.png", targets.depth)
    with pytest.raises(DataError, match="something else"):
        read_targets(tmp_path / "b.png")


def test_arrays_of_every_layout():
    labels = np.arange(63, dtype=np.uint16).reshape(7, 9)
    offsets = np.random.default_rng(0).integers(-1, 2, (7, 9, 2))
    expected, targets = refine(labels, offsets), make_instance_targets(labels // 20, [0, 1, 2])
    still = labels.copy()
    still.flags.writeable = False
    padded = np.zeros((9, 12), np.uint16)
    padded[1:8, 2:11] = labels
    for same in (still, np.asfortranarray(labels), labels.astype(">u2"), padded[1:8, 2:11]):
        for moves in (offsets, np.asfortranarray(offsets), offsets.astype(">i4"), offsets.astype(np.float32)):
            np.testing.assert_array_equal(refine(same, moves), expected)
        np.testing.assert_array_equal(make_instance_targets(same // 20, [0, 1, 2]).depth, targets.depth)
    for wrong in (np.zeros((7, 9, 3), np.uint8), np.zeros((7, 9), np.uint16)):
        with pytest.raises(DataError, match="codes are uint8"):
            OffsetMap(wrong)


def test_refinement_equals_the_original():
    expected = golden("segfix_shift")
    train_ids = CITYSCAPES.encode_prediction(expected["label_ids"])
    refined = CITYSCAPES.decode(refine(train_ids, expected["offset_hw2"], scale=2))
    np.testing.assert_array_equal(refined, expected["sem_refined_aligncorners_true_TORCH04"])
    for scale, key in ((1, ""), (2, "scale2_")):
        for mask, result in zip(
            expected["inst_masks"], expected[f"inst_refined_{key}aligncorners_true_TORCH04"], strict=True
        ):
            np.testing.assert_array_equal(refine(mask, expected["offset_hw2"], scale), result)


@st.composite
def labels_and_offsets(draw):
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    dtype = draw(st.sampled_from([np.uint8, np.uint16, np.int32, np.int64]))
    labels = draw(hnp.arrays(dtype, shape, elements=st.integers(0, 40)))
    offsets = draw(hnp.arrays(np.int8, (*shape, 2), elements=st.integers(-1, 1)))
    return labels, offsets, draw(st.integers(0, 4))


@given(labels_and_offsets())
@settings(deadline=None)
def test_refine_is_a_clamped_gather(case):
    labels, offsets, scale = case
    before = labels.copy()
    refined = refine(labels, offsets, scale)
    height, width = labels.shape
    for h in range(height):
        for w in range(width):
            dh, dw = offsets[h, w].astype(int) * scale
            assert refined[h, w] == labels[min(max(h + dh, 0), height - 1), min(max(w + dw, 0), width - 1)]
    assert refined.dtype == labels.dtype
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(refine(labels, np.zeros_like(offsets), scale), labels)


@given(labels_and_offsets(), st.data())
@settings(deadline=None)
def test_confidence_decides_who_moves_in_numpy_and_torch(case, data):
    labels, offsets, scale = case
    confidence = data.draw(hnp.arrays(np.uint8, labels.shape))
    threshold = data.draw(st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
    levels = np.floor(confidence.astype(float) * 30 / 255 + 0.5) / 30
    still = np.where((levels >= threshold - 1e-9)[..., None], offsets, 0).astype(np.int8)
    expected = refine(labels, still, scale)
    np.testing.assert_array_equal(refine(labels, offsets, scale, confidence, threshold), expected)
    both = OffsetMap.of(offsets, confidence)
    np.testing.assert_array_equal(refine(labels, both, scale, min_confidence=threshold), expected)
    if labels.dtype != np.uint16:  # of which torch has no gather
        tensors = [torch.from_numpy(each) for each in (labels, still)]
        np.testing.assert_array_equal(refine(*tensors, scale).numpy(), expected)
        np.testing.assert_array_equal(refine(tensors[0], both, scale, min_confidence=threshold).numpy(), expected)
        moved = refine(tensors[0], torch.from_numpy(offsets), scale, torch.from_numpy(confidence), threshold)
        np.testing.assert_array_equal(moved.numpy(), expected)
    mask = labels > 20
    np.testing.assert_array_equal(refine_mask(mask, both, scale, threshold), refine(mask, both, scale, None, threshold))


@given(labels_and_offsets(), st.integers(0, 4))
@settings(deadline=None)
def test_what_is_thin_is_kept(case, width):
    labels, offsets, scale = case
    labels = labels % 2
    height, length = labels.shape
    wide = np.full(labels.shape, width <= 1)
    # Blocks may stick out of the map, since its border cuts regions off.
    for top in range(1 - width, height):
        for left in range(1 - width, length):
            area = np.s_[max(top, 0) : top + width, max(left, 0) : left + width]
            if labels[area].size and np.ptp(labels[area]) == 0:
                wide[area] = True
    np.testing.assert_array_equal(thin_parts(labels, width), ~wide)
    kept = np.where(wide, refine(labels, offsets, scale), labels)
    np.testing.assert_array_equal(refine(labels, offsets, scale, keep_thin=width), kept)
    mask, codes = labels == 1, OffsetMap.of(offsets)
    expected = refine(mask, codes, scale, keep_thin=width)
    np.testing.assert_array_equal(refine_mask(mask, codes, scale, keep_thin=width), expected)
    if labels.dtype != np.uint16:
        tensors = [torch.from_numpy(each) for each in (labels, offsets)]
        np.testing.assert_array_equal(refine(*tensors, scale, keep_thin=width).numpy(), kept)


def test_offsets_of_another_size_are_refused():
    with pytest.raises(DataError, match="differ in size"):
        refine(np.zeros((4, 5), np.uint8), np.zeros((5, 4, 2), np.int8))
    with pytest.raises(DataError, match="from 0 to 2"):
        refine(np.zeros((4, 5), np.uint8), np.full((4, 5, 2), 2, np.int8) * (np.arange(5) > 2)[:, None])
    with pytest.raises(DataError, match="scale"):
        refine(np.zeros((4, 5), np.uint8), np.zeros((4, 5, 2), np.int8), -1)


@pytest.mark.parametrize("suffix", [".png", ".mat"])
def test_offset_files_keep_every_direction(suffix, tmp_path):
    directions = np.array([[*range(8), 255]], np.uint8)
    offsets = directions_to_offsets(directions)
    write_offsets(tmp_path / f"a{suffix}", offsets)
    again = read_offsets(tmp_path / f"a{suffix}")
    assert again.dtype == np.int8
    np.testing.assert_array_equal(again, offsets)
    assert list_offsets(tmp_path) == {f"a{suffix}": tmp_path / f"a{suffix}"}


def test_the_originals_int32_offsets_are_read(tmp_path):
    offsets = golden("segfix_shift")["offset_hw2"].astype(np.int32)
    savemat(tmp_path / "a.mat", {"mat": offsets}, do_compression=True)
    np.testing.assert_array_equal(read_offsets(tmp_path / "a.mat"), offsets)


@pytest.mark.parametrize("name", ["a.png", "a.mat"])
def test_confidence_stays_beside_the_offsets(name, tmp_path):
    rng = np.random.default_rng(0)
    offsets = rng.integers(-1, 2, (40, 31, 2)).astype(np.int8)
    confidence = rng.integers(0, 256, (40, 31), np.uint8)
    write_offsets(tmp_path / name, OffsetMap.of(offsets, confidence), dtype="int32")
    again = read_offset_map(tmp_path / name)
    moving = offsets.any(axis=2)
    np.testing.assert_array_equal(again.offsets, offsets)
    assert np.abs(again.confidence.astype(int) - confidence)[moving].max() <= 4  # half a step of 255 / 30
    assert (again.confidence[~moving] == 0).all()
    if name == "a.mat":
        assert loadmat(tmp_path / name)["mat"].dtype == np.int32


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "f4", "f8"])
@pytest.mark.parametrize("compressed", [True, False])
def test_offsets_of_every_type_that_matlab_writes(dtype, compressed, tmp_path):
    offsets = np.random.default_rng(0).integers(-1, 2, (17, 23, 2)).astype(dtype)
    savemat(tmp_path / "a.mat", {"other": np.arange(3), "mat": offsets}, do_compression=compressed)
    np.testing.assert_array_equal(read_offsets(tmp_path / "a.mat"), offsets)


def test_offsets_are_read_inside_archives(tmp_path):
    offsets = np.random.default_rng(0).integers(-1, 2, (9, 7, 2)).astype(np.int8)
    for split in ("val/offset_pred/semantic/offset_hrnext", "test_offset/semantic/offset_hrnext"):
        write_offsets(tmp_path / f"root/{split}/{split.split('/')[0]}.mat", offsets)
    archive = Path(shutil.make_archive(str(tmp_path / "offset_semantic"), "zip", tmp_path / "root"))
    index = list_offsets(archive)
    assert {Path(name).name for name in index} == {"val.mat", "test_offset.mat"}
    inside = list_offsets(archive / "val/offset_pred/semantic/offset_hrnext")
    assert len(inside) == 1
    np.testing.assert_array_equal(read_offset_map(next(iter(inside.values()))).offsets, offsets)
    with pytest.raises(DataError, match="no offset file"):
        list_offsets(archive / "train")
    (tmp_path / "cut.zip").write_bytes(archive.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged archive"):
        list_offsets(tmp_path / "cut.zip")


def test_what_is_no_offset_file_is_refused(tmp_path):
    write_label(tmp_path / "label.png", np.ones((4, 4), np.uint8))
    savemat(tmp_path / "other.mat", {"depth": np.zeros((4, 4))})
    savemat(tmp_path / "large.mat", {"mat": np.full((4, 4, 2), 3)})
    (tmp_path / "damaged.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    write_offsets(tmp_path / "cut.png", np.ones((64, 64, 2), np.int8))
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:-40])
    for name in ("label.png", "other.mat", "large.mat", "damaged.mat", "cut.png", "missing.mat"):
        with pytest.raises(DataError, match=name):
            read_offsets(tmp_path / name)


def test_an_offset_png_is_a_small_grey_picture(tmp_path):
    write_offsets(tmp_path / "a.png", directions_to_offsets(np.full((64, 64), 3, np.uint8)))
    assert Image.open(tmp_path / "a.png").mode == "L"
    assert (tmp_path / "a.png").stat().st_size < 300

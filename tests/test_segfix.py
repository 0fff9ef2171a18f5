"""SegFix on arrays and files: exact to the original, and the plain gather that it says it is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from recipe import golden
from scipy.io import savemat

from openseg.catalog import get_catalog
from openseg.errors import DataError
from openseg.images import write_label
from openseg.segfix import (
    DIRECTION_VECTORS,
    angles_to_directions,
    codes_to_directions,
    directions_to_offsets,
    index_offsets,
    make_instance_targets,
    make_targets,
    offsets_to_directions,
    read_offsets,
    read_targets,
    refine,
    write_offsets,
    write_targets,
)
from openseg.segfix.directions import flip_codes

CITYSCAPES = get_catalog("cityscapes")


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


def test_an_image_of_one_class_has_no_boundary():
    targets = make_targets(np.zeros((20, 30), np.uint8))
    assert targets.depth.min() == 250


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


def test_offsets_of_another_size_are_refused():
    with pytest.raises(DataError, match="differ in size"):
        refine(np.zeros((4, 5), np.uint8), np.zeros((5, 4, 2), np.int8))


@pytest.mark.parametrize("suffix", [".png", ".mat"])
def test_offset_files_keep_every_direction(suffix, tmp_path):
    directions = np.array([[*range(8), 255]], np.uint8)
    offsets = directions_to_offsets(directions)
    np.testing.assert_array_equal(offsets_to_directions(offsets), directions)
    write_offsets(tmp_path / f"a{suffix}", offsets)
    again = read_offsets(tmp_path / f"a{suffix}")
    assert again.dtype == np.int8
    np.testing.assert_array_equal(again, offsets)
    assert index_offsets(tmp_path) == {"a": tmp_path / f"a{suffix}"}


def test_the_originals_int32_offsets_are_read(tmp_path):
    offsets = golden("segfix_shift")["offset_hw2"].astype(np.int32)
    savemat(tmp_path / "a.mat", {"mat": offsets}, do_compression=True)
    np.testing.assert_array_equal(read_offsets(tmp_path / "a.mat"), offsets)


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

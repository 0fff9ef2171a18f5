"""Label spaces: both ways are a table, and an unknown value is an error that names it."""

import numpy as np
import pytest

from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.errors import ConfigError, DataError
from openseg.labels import IGNORE_INDEX


@pytest.mark.parametrize("name", DATASET_NAMES)
def test_ids_survive_both_ways(name):
    info = get_dataset_info(name)
    ids = np.array(info.ids, np.uint8)
    np.testing.assert_array_equal(info.encode(ids), np.arange(info.num_classes))
    np.testing.assert_array_equal(info.decode(info.encode(ids)), ids)
    assert (info.encode(np.array([*info.ignored_ids, IGNORE_INDEX], np.uint8)) == IGNORE_INDEX).all()
    assert len(info.colors) == len(set(info.classes)) == len(set(info.ids)) == info.num_classes
    assert all(0 <= value <= 255 for color in info.colors for value in color)
    assert (info.encode(info.decode(np.array([IGNORE_INDEX], np.uint8))) == IGNORE_INDEX).all()


def test_unknown_values_are_named():
    with pytest.raises(DataError, match=r"x\.png: value 77 is not a label ID of cityscapes"):
        get_dataset_info("cityscapes").encode(np.array([[7, 77]], np.uint8), "x.png")
    with pytest.raises(DataError, match="value 26001"):
        get_dataset_info("cityscapes").encode(np.array([[7, 26001]], np.uint16), "x.png")


def test_in_a_prediction_whatever_is_no_class_is_a_miss():
    encoded = get_dataset_info("camvid").encode_prediction(np.array([0, 10, 11, 77, 255, 300], np.uint16))
    assert encoded.tolist() == [0, 10, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX]


def test_unknown_data_set_names_the_nearest():
    with pytest.raises(ConfigError, match="cityscapes"):
        get_dataset_info("city_scapes")


def test_published_class_counts_and_left_and_right():
    counts = {"cityscapes": 19, "pascal_context": 59, "lip": 20, "coco_stuff": 171, "ade20k": 150, "camvid": 11}
    assert {name: get_dataset_info(name).num_classes for name in counts} == counts
    lip = get_dataset_info("lip")
    for index, flipped in enumerate(lip.flipped_classes):
        name = lip.classes[index] if index < 20 else ""
        other = name.replace("Left", "?").replace("Right", "Left").replace("?", "Right")
        assert (lip.classes[flipped] if index < 20 else flipped) == (other if index < 20 else index)


def test_classes_of_cityscapes_bring_its_boundary_width_and_scores(tmp_path):
    from openseg.metrics import CityscapesCounts

    def described(text):
        (tmp_path / "mine.yaml").write_text(text)
        return get_dataset_info(str(tmp_path / "mine.yaml"))

    mine = described("classes: cityscapes")
    assert mine.boundary_ratio == 0.005 and CityscapesCounts.fits(mine)
    assert described("classes: cityscapes\nboundary_ratio: 0.03").boundary_ratio == 0.03
    assert described("classes: [a, b]").boundary_ratio == 0.02
    assert not CityscapesCounts.fits(described("classes: cityscapes\nlabel_colors: true"))
    assert not CityscapesCounts.fits(described("classes: cityscapes\nids: train"))
    with pytest.raises(ConfigError, match="thing_ids: from 1 to 64"):
        described("classes: [a, b]\nthing_ids: [0, 1]")

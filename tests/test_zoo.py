"""Every row of the model zoo: its config has the published settings, its launcher finds the published file."""

import gzip
import json
import re
import subprocess
import sys

import pytest
from conftest import ROOT
from recipe import GOLDENS

from openseg.config import MultiScale, load_config
from openseg.datasets.registry import get_dataset_info
from openseg.training.checkpoints import find_checkpoint

ZOO = json.loads(gzip.decompress((GOLDENS / "zoo.json.gz").read_bytes()))
ROWS = ZOO["rows"]
HEADS = {
    "base_ocnet": "base_oc",
    "isanet": "isa",
    "spatial_ocrnet": "ocr",
    "spatial_asp_ocrnet": "asp_ocr",
    "hrnet_w48_ocr": "ocr",
}
BACKBONES = {"deepbase_resnet101_dilated8": "resnet101", "hrnet48": "hrnet48", "hrnet2x20": "hrnext20"}
LOSSES = {"fs_auxce_loss": "ce", "fs_auxohemce_loss": "ohem", "segfix_loss": "segfix"}


def config_path(row):
    """The config of the row's launcher."""
    return re.search(r"^CONFIG=(\S+)$", (ROOT / row["master"]["script"]).read_text(), re.MULTILINE)[1]


@pytest.fixture(params=ROWS, ids=lambda row: row["id"])
def row(request):
    return request.param


@pytest.fixture
def config(row):
    return load_config(ROOT / config_path(row))


def size_hw(width_height):
    return tuple(reversed(width_height))


def test_optimization(row, config):
    settings, train = row["master"], config.train
    assert settings["optimizer"] == train.optimizer and settings["momentum"] == train.momentum
    assert not settings["nesterov"] and settings["weight_decay_on_bn_and_bias"] and not settings["warmup"]
    assert train.warmup_iters == 0 and train.weight_decay == settings["weight_decay"]
    assert settings["lr_policy"] == "lambda_poly" and train.poly_power == settings["poly_power"]
    assert train.lr == settings["base_lr"] and train.head_lr_multiplier == settings["nbb_mult"]
    assert train.max_iters == settings["max_iters"] and train.batch_size == settings["train_batch_size"]
    assert train.val_interval == int(settings["val_trainer_test_interval"])
    if "iterations" in row["published"]:
        assert train.max_iters == row["published"]["iterations"]
        assert train.batch_size == row["published"]["batch_size"]


def test_data(row, config):
    settings, data, info = row["master"], config.data, get_dataset_info(config.data.dataset)
    assert data.dataset == row["dataset"] and info.folder == row["data_root_subdir"]
    assert info.num_classes == settings["num_classes"]
    labels = settings.get("label_list")
    if labels:
        assert [value for value in labels if value not in info.ignored_ids] == list(info.ids)
    if settings["reduce_zero_label"]:
        assert 0 in info.ignored_ids
    assert data.train_split == ("train+val" if settings["include_val"] else "train")
    if config.task == "segfix":
        assert config.segfix.offset_gt == row["offset_gt_dir"]
    order, scale = settings["input_channel_order"].lower(), settings["normalize"]["div_value"]
    assert (config.normalization.order, config.normalization.scale) == (order, scale)
    assert list(config.normalization.mean) == settings["normalize"]["mean"]
    assert list(config.normalization.std) == settings["normalize"]["std"]


def test_augmentation(row, config):
    settings, augment, info = row["master"], config.augment, get_dataset_info(config.data.dataset)
    steps = {name: values for step in settings["augmentation_in_order"] for name, values in step.items()}
    expected = ["random_crop", "random_brightness"]
    if augment.scale_range is not None:
        expected.insert(0, "random_resize")
        assert list(augment.scale_range) == steps["random_resize"]["scale_range"]
        assert list(augment.aspect_range) == steps["random_resize"]["aspect_range"]
    resize = {"min_side_length": config.data.short_side, "target_size": config.data.size}
    resize = {key: value for key, value in resize.items() if value is not None}
    if resize:
        expected.insert(0, "resize")
        assert {key: tuple(v) if isinstance(v, list) else v for key, v in steps["resize"].items()} == resize
        assert {"resize": steps["resize"]} in settings["val_transforms"]
    expected.insert(0 if augment.flip_first else -1, "random_hflip")
    assert list(steps) == expected
    assert size_hw(steps["random_crop"]["crop_size"]) == augment.crop_size == size_hw(settings["train_input_size_wh"])
    assert steps["random_hflip"]["ratio"] == augment.flip
    assert [tuple(pair) for pair in steps["random_hflip"]["swap_pair"]] == list(info.flip_pairs)
    assert steps["random_brightness"] == {"ratio": 1.0, "shift_value": augment.brightness}


def test_network_and_loss(row, config):
    settings, model, (loss,) = row["master"], config.model, config.loss
    assert model.backbone == BACKBONES[settings["backbone"]]
    assert set(model.multi_grid or [1]) == set(settings["multi_grid"] or [1]) and model.output_stride in (None, 8)
    assert settings["bn_type_config"] == "inplace_abn" and model.head_activation == "leaky_relu"
    assert loss.type == LOSSES[settings["loss_type"]]
    if config.task == "segfix":
        assert config.test.window == size_hw(settings["train_input_size_wh"])
        assert config.test.window_stride == tuple(side // 3 for side in config.test.window)
        assert (
            config.segfix.max_distance == row["env"]["dt_max_distance"]
            and loss.mask_weight == loss.direction_weight == 1
        )
        return
    assert model.head == HEADS[settings["model_name"]]
    assert settings["loss_weights"] == {"aux_loss": loss.aux_weight, "seg_loss": 1.0}
    weights = get_dataset_info(config.data.dataset).class_weights if loss.class_weights else None
    assert list(weights or ()) == (settings["ce_weight"] or [])
    if loss.type == "ohem":
        assert (loss.threshold, loss.min_kept) == (settings["ohem_thresh"], settings["ohem_min_kept"])


def test_prediction(row, config):
    settings, test, published = row["master"], config.test, row["published"]
    if config.task == "segfix":
        return
    multi = published["multi_scale"]
    assert (test.ms if multi else test.ss).flip == published["flip"]
    scales = (settings["ms_test_cfg"] or {}).get("scale_search", MultiScale().scales)
    assert test.ms.scales == tuple(scales) and test.ms.flip
    padding = ((settings["ms_test_cfg"] or {}).get("data_transformer") or {}).get("fit_stride", 1)
    assert test.ms.pad_to == padding
    assert test.ss.pad_to == settings["val_collate"].get("fit_stride", 1)


def test_the_launcher_has_its_modes_and_finds_the_published_file(row, config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    number = row["script_id_needed_for_published_file"]
    assert str(config.published.id) == number and f"./{config.published.pretrained}" == row["master"]["pretrained"]
    if config.task == "segfix":
        kind = row["offset_output_dir"]["val"].split("/")[2]
        assert config.published.offsets.startswith(f"{kind}/cityscapes/offset_{config.model.backbone}")
    shown = subprocess.run(["bash", row["master"]["script"], "help"], cwd=ROOT, capture_output=True, text=True).stdout
    for mode in row["master"]["modes"]:
        assert f"  {mode} ID" in shown or mode == "debug"  # dead in the original as well
    name = row["published_checkpoint_file"] or row["master"]["checkpoint_expected_for_id1"]
    for root in (tmp_path / "here", tmp_path / "checkpoints"):
        path = root / row["dataset"] / name
        path.parent.mkdir(parents=True)
        path.touch()
        named = config.model_copy(update={"name": f"{config.name}_{number}"})
        assert find_checkpoint(named, tmp_path / "here") == path
        path.unlink()


def zoo_rows(column="Script"):
    """The rows of MODEL_ZOO.md whose table has ``column``, as mappings from column to text."""
    rows, header = [], []
    for line in (ROOT / "MODEL_ZOO.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells or set(line) <= set("|-"):
            header = header if cells else []
        elif not header:
            header = cells
        else:
            rows.append(dict(zip(header, cells, strict=True)))
    return [row for row in rows if column in row]


def test_the_document_says_what_the_row_says(row, config):
    script, published = f"`{row['master']['script']}`", row["published"]
    mentions = [each for each in zoo_rows() if each["Script"] == script]
    if len(mentions) > 1:
        mentions = [each for each in mentions if (each["Multi-scale"] == "yes") == published["multi_scale"]]
    (said,) = mentions
    assert said["Config"] == f"`{config_path(row)}`"
    assert said["Train set"] == published["train_set"].replace("+", " + ")
    assert (int(said["Iterations"]), int(said["Batch size"])) == (
        config.train.max_iters,
        config.train.batch_size,
    )
    name = row["published_checkpoint_file"] or row["master"]["checkpoint_expected_for_id1"]
    assert said["Checkpoint name"] == f"`{name}`"
    if "miou" in published:
        assert float(said["mIoU"]) == published["miou"] and said["Test set"] == published["test_set"]
        for column, key in (("OHEM", "ohem"), ("Multi-scale", "multi_scale"), ("Flip", "flip")):
            assert (said[column] == "yes") == published[key]
        if "miou_segfix" in published:
            assert float(said["mIoU w/ SegFix"]) == published["miou_segfix"]


def test_every_script_and_experiment_in_the_document_is_there():
    for said in zoo_rows():
        script = ROOT / said["Script"].strip("`")
        assert f"CONFIG={said['Config'].strip('`')}\n" in script.read_text()
    launchers = {str(path.relative_to(ROOT)) for path in ROOT.glob("scripts/*/**/run_*.sh")}
    documented = {said["Script"].strip("`") for said in zoo_rows()}
    assert documented == {path for path in launchers if "camvid" not in path and "refiner" not in path}


def test_the_tables_are_those_of_the_configs():
    result = subprocess.run(
        [sys.executable, "scripts/model_zoo.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_the_published_predictions_are_those_on_record():
    tables = ZOO["_about"]["segfix_refinement_tables"]
    for column, pairs in (("mIoU w/ SegFix", tables["semantic"]), ("AP w/ SegFix", tables["instance_AP"])):
        said = [each for each in zoo_rows(column) if "Script" not in each]
        before = column.split(" ")[0]
        assert [[float(each[before]), float(each[column])] for each in said] == list(pairs.values())


def test_no_published_link_is_lost():
    text = (ROOT / "MODEL_ZOO.md").read_text()
    links = (GOLDENS / "zoo_links.txt").read_text().split()
    assert [link for link in links if link not in text] == []

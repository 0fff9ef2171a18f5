"""Configs: all that are shipped load, and a mistake is named."""

import pickle
from pathlib import Path

import pytest
import yaml

from openseg.config import load_config
from openseg.errors import ConfigError
from openseg.models.factory import BACKBONES, HEADS

CONFIGS = sorted(Path(__file__).parents[1].glob("configs/*/*.yaml"))
CAMVID = Path(__file__).parents[1] / "configs/camvid/hrnet18_ocr.yaml"
DEMO = Path(__file__).parents[1] / "configs/demo/hrnet_tiny_ocr.yaml"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_shipped_configs_load(path):
    config = load_config(path)
    assert config.data.dataset == ("demo" if path.parent.name in ("your_data", "refiner") else path.parent.name)
    assert config.model.head in HEADS
    assert config.model.backbone in BACKBONES or config.model.backbone.startswith("timm:")


def test_the_last_override_wins():
    config = load_config(CAMVID, ["train.lr=1e-3", "train.lr=2e-3", "augment.crop_size=[64, 96]"])
    assert config.train.lr == 2e-3 and config.augment.crop_size == (64, 96)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.max_itters=3", ["train.max_itters", "max_iters"]),
        ("trian.lr=1", ["trian", "train"]),
        ("data.dataset=cityscape", ["cityscape", "cityscapes"]),
        ("train.batch_size=0", ["train.batch_size"]),
        ("loss={type: segfix}", ["task", "segfix"]),
        ("data.dataset=gone.yaml", ["gone.yaml", "docs/your-data.md"]),
        ("train.lr", ["train.lr", "key.sub=value"]),
        ("name.sub=1", ["name"]),
        ("train=[", ["YAML"]),
    ],
)
def test_mistakes_are_named(override, words):
    with pytest.raises(ConfigError) as error:
        load_config(CAMVID, [override])
    for word in words:
        assert word in str(error.value)


def test_anchors_may_be_merged_and_keys_not_repeated(tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text("name: x\ndata: {<<: &d {dataset: demo}, workers: 1}\ntrain: {lr: 1, lr: 2}\n")
    with pytest.raises(ConfigError, match=r"key 'lr' is there twice, again in line 3"):
        load_config(path)
    path.write_text("name: x\ndata: {<<: &d {dataset: demo}, workers: 1}\n")
    assert load_config(path).data.workers == 1
    with pytest.raises(ConfigError, match="cache_gb"):
        load_config(path, ["data.cache_gb=.inf"])


@pytest.mark.parametrize("content", [None, "a: [", "- 1", "\x00"])
def test_unusable_files_are_named(content, tmp_path):
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"x\.yaml"):
        load_config(path)


def test_a_dumped_config_takes_overrides_of_its_loss(tmp_path):
    config = load_config(DEMO, ["augment.transforms=[cutout]"])
    path = tmp_path / "dumped.yaml"
    path.write_text(yaml.safe_dump(config.dump()))
    again = load_config(path, ["loss.aux_weight=0.2", "augment.transforms.0.holes=3"])
    assert (again.loss[0].aux_weight, again.augment.transforms[0].holes) == (0.2, 3)
    assert pickle.loads(pickle.dumps(again)) == again  # as worker processes get it


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("test.ms.scales.0.x=2", "value, not a section"),
        ("loss.2.weight=1", "no position in a list of 2"),
        ("model.backbone_options={output_stride: 16}", "use model.output_stride"),
        ("model.head_options={in_channels: 4}", "in_channels"),
        ("name=../../evil", "letters, digits"),
        ("name=", "name"),
        ("name='x*y[z]?'", "letters, digits"),
        ("name=a_iter5", "another ending"),
    ],
)
def test_overrides_that_lead_nowhere(override, words):
    with pytest.raises(ConfigError, match=words):
        load_config(DEMO, ["loss=[ce, dice]", "loss.1.weight=2", "test.ms.scales=[1.0]", override])

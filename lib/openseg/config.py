"""What an experiment may say: typed, validated, and with every default in this one place.

An experiment is one short YAML file plus ``dotted.key=value`` overrides::

    experiment = load_experiment("configs/camvid/hrnet18_ocr.yaml", ["train.max_iters=100"])
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from openseg.catalog import Catalog, get_catalog
from openseg.errors import ConfigError, OpensegError
from openseg.schema import Section, explain, read_yaml

__all__ = [
    "AugmentConfig",
    "DataConfig",
    "Experiment",
    "LossConfig",
    "ModelConfig",
    "MultiScale",
    "Normalization",
    "SingleScale",
    "TestConfig",
    "TrainConfig",
    "load_experiment",
    "shipped_configs",
]

Size = tuple[Annotated[int, Field(ge=32)], Annotated[int, Field(ge=32)]]
Range = tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
Positive = Annotated[int, Field(ge=1)]
Scales = Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)]


class Normalization(Section):
    """``(pixel / scale - mean) / std`` on channels in ``order``; part of a checkpoint's exactness.

    The default is what the released HRNet and SegFix files were trained with: the ImageNet statistics of R, G, B
    applied to channels that are in fact B, G, R.
    """

    order: Literal["bgr", "rgb"] = Field("bgr", description="channels that mean and std are of")
    scale: float = Field(255.0, description="what pixels are divided by")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="is subtracted")
    std: tuple[float, float, float] = Field((0.229, 0.224, 0.225), description="what it is divided by then")


class DataConfig(Section):
    """Where samples come from: ``<root>/<folder of the data set>/<split>/{image,label}``, or where its YAML says.

    ``short_side`` or ``size`` brings every image to that size first, in training and in prediction; predicted logits
    are resized back to the image's own size.
    """

    dataset: str = Field(description="one of the catalog, or the YAML file of your own, see docs/your-data.md")
    root: Path = Field(Path("data"), description="folder of all data sets")
    train_split: str = Field("train", description="several are joined by +, such as train+val")
    val_split: str = Field("val", description="several are joined by +")
    short_side: Annotated[int, Field(ge=32)] | None = Field(None, description="pixels of the shorter side")
    size: Size | None = Field(None, description="height, width that every image is stretched to")
    targets: Literal["files", "label", "instance"] = Field(
        "files", description="SegFix ground truth: from offset_gt, or made of label or instance maps while reading"
    )
    offset_gt: str = Field("offset_gt/dt_offset", description="SegFix ground truth, a folder inside the split")
    target_rule: Literal["original", "clean"] = Field(
        "original", description="SegFix ground truth made while reading: as the original, or without its defects"
    )
    workers: Annotated[int, Field(ge=0)] = Field(2, description="processes that read samples, at most one a core")
    cache_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        0.0, description="keep up to so many GB (1e9 bytes) of decoded samples on disk; 0: none"
    )
    cache_dir: Path | None = Field(None, description="where; null: <root>/cache/<data set>")

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            get_catalog(name)
        except OpensegError as error:
            raise ValueError(str(error)) from None
        return name


class AugmentConfig(Section):
    """Random changes of a training sample, in this order: resize, crop, flip, brightness."""

    crop_size: Size = Field((512, 1024), description="height, width in pixels")
    scale_range: Range | None = Field((0.5, 2.0), description="null: no random resize")
    aspect_range: Range = Field((0.9, 1.1), description="width / height is multiplied by a draw from this range")
    flip: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="probability of a horizontal flip")
    flip_first: bool = Field(False, description="flip before everything else instead of after the crop")
    brightness: Annotated[int, Field(ge=0)] = Field(10, description="largest shift of all grey values")


class ModelConfig(Section):
    """The network. The defaults are the released one: OCR on HRNet-W48."""

    backbone: str = Field("hrnet48", description="such as hrnet48, resnet101 or hrnext20 (MODEL_ZOO.md)")
    head: str = Field("ocr", description="fcn, base_oc, isa, ocr, asp_ocr")
    output_stride: Literal[8, 16] | None = Field(None, description="of a ResNet; null: 8")
    multi_grid: tuple[Positive, ...] | None = Field(
        None, description="of a ResNet: dilation factors of the blocks of the last stage; null: all 1"
    )
    head_channels: Positive = Field(512, description="of the head's maps")
    key_channels: Positive = Field(256, description="of queries and keys in attention")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="of the head")
    aux_channels: Positive | None = Field(None, description="of the auxiliary head; null: as many as it reads")
    aux_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="of the auxiliary head")
    aux_kernel: Literal[1, 3] = Field(3, description="of the auxiliary head's first convolution")
    head_activation: Literal["relu", "leaky_relu"] | None = Field(
        None,
        description="null: that of the checkpoint, relu in fresh training; leaky_relu (slope 0.01) is what the files "
        "released for torch 0.4 were trained with",
    )
    pretrained: Path | None = Field(None, description="ImageNet weights of the backbone; null: random")

    @property
    def activation(self) -> str:
        """The heads' activation, resolved."""
        return self.head_activation or "relu"


class LossConfig(Section):
    """Training loss; ``segfix`` belongs to ``task: segfix``. OHEM picks among the main logits' pixels only."""

    type: Literal["ce", "ohem", "segfix"] = Field("ce", description="ce: cross-entropy; ohem: hard pixels only")
    aux_weight: Annotated[float, Field(ge=0)] = Field(0.4, description="of the auxiliary logits' loss")
    class_weights: bool = Field(False, description="use the weights of the data set's catalog entry")
    ohem_threshold: float = Field(0.9, description="pixels whose class is less probable than this are hard")
    ohem_min_kept: Positive = Field(100_000, description="at least so many pixels are hard")
    ohem_count_first_pixel: bool = Field(
        False, description="count the batch's first pixel even if it is ignored, as later versions of the original do"
    )
    mask_weight: float = Field(1.0, description="of SegFix: of the boundary loss")
    direction_weight: float = Field(1.0, description="of SegFix: of the direction loss")
    mask_threshold: float = Field(0.5, description="of SegFix: pixels with a larger boundary probability move")
    max_distance: Positive = Field(5, description="pixels up to this far from a boundary are boundary pixels")
    mean_over: Literal["process", "batch"] = Field(
        "process",
        description="which pixels a mean and OHEM's choice are over: those of each process and part, as the original, "
        "or of the whole batch, which makes the loss independent of the number of processes",
    )


class TrainConfig(Section):
    """Optimisation over iterations, each of which is one update with one batch."""

    max_iters: Positive = Field(80_000, description="updates")
    batch_size: Positive = Field(8, description="samples of an update, of all processes together")
    accumulate: Positive = Field(1, description="parts that a batch goes through the network in, which saves memory")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="adamw learns faster in a short run from random weights"
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="learning rate at its highest")
    head_lr_multiplier: float = Field(1.0, description="of everything but the backbone")
    momentum: float = Field(0.9, description="of sgd")
    weight_decay: float = Field(5e-4, description="of the optimizer")
    decay_norms: bool = Field(True, description="weight decay of biases and batch norms too, as the original")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="longest gradient; null: any")
    schedule: Literal["poly", "cosine", "step"] = Field("poly", description="how the learning rate falls")
    poly_power: float = Field(0.9, description="of poly")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.85), description="of step: shares of max_iters from which the rate is step_factor times what it was"
    )
    step_factor: Annotated[float, Field(gt=0)] = Field(0.1, description="of step")
    warmup_iters: Annotated[int, Field(ge=0)] = Field(0, description="updates in which the rate rises linearly")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="validate and keep a moving average of the weights with this decay, such as 0.999"
    )
    freeze_bn: bool = Field(False, description="batch norms keep the statistics that the weights came with")
    sync_bn: bool = Field(True, description="on several GPUs: batch norms see the samples of all")
    val_interval: Positive = Field(1000, description="iterations between validations")
    save_interval: Positive = Field(1000, description="iterations between writes of <name>_latest.pth")
    keep: Positive = Field(
        2, description="states kept besides the best: <name>_latest.pth and earlier <name>_iter<N>.pth"
    )
    log_interval: Positive = Field(10, description="iterations between lines and points of the curves")
    max_nonfinite: Positive = Field(
        20, description="stop after so many updates in a row whose gradient was not finite; they are skipped"
    )
    seed: Annotated[int, Field(ge=0)] = Field(304, description="of weights, samples and dropout")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="tf32: fp32 with faster products on GPUs since Ampere; bf16 and fp16: autocast"
    )
    channels_last: bool = Field(False, description="memory layout; faster on most devices")
    compile: bool = Field(False, description="torch.compile: faster after minutes of preparation")
    checkpoint_activations: bool = Field(
        False, description="compute blocks of the backbone again in the backward pass: less memory, somewhat slower"
    )


class SingleScale(Section):
    """How a semantic network predicts in mode ``ss``, and a SegFix network its offsets."""

    scales: Scales = Field((1.0,), description="of the image; their logits are summed")
    flip: bool = Field(False, description="add the logits of the mirrored image")
    pad_to: Positive = Field(1, description="pad images on the right and below to multiples of this many pixels")
    weights: Scales | None = Field(None, description="of the scales; null: all 1")

    @model_validator(mode="after")
    def _a_weight_a_scale(self) -> SingleScale:
        if self.weights and len(self.weights) != len(self.scales):
            raise ValueError(f"{len(self.weights)} weights for {len(self.scales)} scales")
        return self


class MultiScale(SingleScale):
    """How a semantic network predicts in mode ``ms``: the sum of the logits of all scales, mirrored and not."""

    scales: Scales = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), description="of the image; their logits are summed")
    flip: bool = Field(True, description="add the logits of the mirrored image")


class TestConfig(Section):
    """Prediction; ``ms`` and ``average`` are of semantic networks, ``ss`` is of SegFix as well."""

    __test__ = False  # the name starts with Test; pytest should not collect it

    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: faster, on a few pixels another class")
    ss: SingleScale = SingleScale()
    ms: MultiScale = MultiScale()
    average: Literal["logits", "probabilities"] = Field(
        "logits",
        description="what ss and ms combine of scales and mirror images: logits as published, or probabilities",
    )
    window: Size | None = Field(
        None, description="height, width of sliding windows, which need less memory; null: the whole image in one pass"
    )
    window_stride: tuple[Positive, Positive] | None = Field(
        None, description="null: of semantic networks the window, of SegFix a third of it, as the original"
    )
    direction: Literal["argmax", "mean"] = Field(
        "argmax",
        description="SegFix: a pixel goes the most probable way as published, or the mean of the 8 by probability",
    )
    compile: bool = Field(False, description="compile the network first (torch.compile): faster for many images")

    @model_validator(mode="after")
    def _stride_fits_window(self) -> TestConfig:
        if (
            self.window
            and self.window_stride
            and any(s > w for s, w in zip(self.window_stride, self.window, strict=True))
        ):
            raise ValueError("window_stride must not exceed window, or pixels between the windows get no prediction")
        return self


class Experiment(Section):
    """One experiment: everything that decides its result."""

    name: str = Field(description="of checkpoints, runs and results")
    task: Literal["semantic", "segfix"] = Field("semantic", description="labels, or SegFix offsets")
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    normalization: Normalization = Normalization()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    test: TestConfig = TestConfig()

    @model_validator(mode="after")
    def _loss_fits_task(self) -> Experiment:
        if (self.loss.type == "segfix") != (self.task == "segfix"):
            raise ValueError(f"task '{self.task}' and loss.type '{self.loss.type}' do not belong together")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Experiment:
        if self.data.short_side and self.data.size:
            raise ValueError("data.short_side and data.size exclude each other")
        if self.task == "segfix" and (self.data.short_side or self.data.size):
            raise ValueError("a SegFix network works at the images' own size; remove data.short_side and data.size")
        if self.task == "segfix" and self.test.ss.pad_to > 1:
            raise ValueError("test.ss.pad_to is of semantic networks")
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Experiment:
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} cannot be cut into train.accumulate={self.train.accumulate} "
                "equal parts"
            )
        if self.loss.mean_over == "batch" and self.train.accumulate > 1 and self.loss.type != "ce":
            raise ValueError(
                f"loss.mean_over=batch of loss.type={self.loss.type} needs the logits of the whole batch at once; set "
                "train.accumulate=1 or loss.mean_over=process"
            )
        if self.loss.mean_over == "batch" and self.loss.ohem_count_first_pixel:
            raise ValueError("loss.ohem_count_first_pixel is of each process; set loss.mean_over=process")
        if self.train.compile and self.train.checkpoint_activations:
            raise ValueError("train.compile and train.checkpoint_activations exclude each other")
        return self

    @property
    def catalog(self) -> Catalog:
        """The facts of the data set."""
        return get_catalog(self.data.dataset, fresh=False)

    @property
    def data_dir(self) -> Path:
        """Folder of the data set: below the data root, or where its own YAML file says."""
        return self.data.root / self.catalog.folder

    def dump(self) -> dict[str, Any]:
        """The resolved experiment as plain types (what a checkpoint stores)."""
        return self.model_dump(mode="json")


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """Read an experiment from YAML and apply ``dotted.key=value`` overrides, the last one winning.

    Raises:
        ConfigError: missing file, bad YAML, unknown key (with the nearest names), or a value that cannot be.
    """
    path = _found(Path(path))
    values = read_yaml(path, "the experiment; see configs/")
    for override in overrides:
        _apply(values, override)
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Experiment)}") from None


def shipped_configs() -> Path:
    """The folder ``configs`` that came with this package: beside ``lib`` in a checkout, else inside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "configs"
    return checkout if checkout.is_dir() else package / "configs"


def _found(path: Path) -> Path:
    """``path``, or what came with this package where ``configs/...`` is not here."""
    if path.exists() or path.parts[:1] != ("configs",):
        return path
    shipped = shipped_configs().parent / path
    return shipped if shipped.exists() else path


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': write it as key.sub=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"override '{override}': the value is not valid YAML") from None
    *parents, leaf = key.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"override '{override}': '{parent}' is a value, not a section")
        values = child
    values[leaf] = value

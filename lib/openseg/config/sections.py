"""The sections of a config: typed, validated, and with every default in this one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from openseg.config.losses import CrossEntropyTerm, LossTerms
from openseg.config.numbers import NotNegative, Pixels, Positive, Range, Scales, Size, Weights
from openseg.config.published import Published
from openseg.config.tasks import TASKS
from openseg.config.transforms import TransformTerms
from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, OpensegError
from openseg.metrics.registry import METRICS
from openseg.schema import Section

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "MultiScale",
    "Normalization",
    "SegFixConfig",
    "SingleScale",
    "TestConfig",
    "TrainConfig",
]

_NAME = re.compile(r"\w[\w .+-]*")
_LONGEST_NAME = 180  # of the 255 bytes of a file's name
_OWN_ENDING = re.compile(r"_(iter\d+|latest|best)$")


_Deviation = Annotated[float, Field(gt=0)]


class Normalization(Section):
    """``(pixel / scale - mean) / std`` on channels in ``order``; part of a checkpoint's exactness.

    The default is what the released HRNet and SegFix files were trained with: the ImageNet statistics of R, G, B
    applied to channels that are in fact B, G, R.
    """

    order: Literal["bgr", "rgb"] = Field("bgr", description="channels that mean and std are of")
    scale: Annotated[float, Field(gt=0)] = Field(255.0, description="what pixels are divided by")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="is subtracted")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(
        (0.229, 0.224, 0.225), description="what it is divided by then"
    )


class DataConfig(Section):
    """Where samples come from: ``<root>/<folder of the dataset>/<split>/{image,label}``, or where its YAML says.

    ``short_side`` or ``size`` brings every image to that size first, in training and in prediction; predicted logits
    are resized back to the image's own size.
    """

    dataset: str = Field(description="a built-in dataset, or the YAML file of your own, see docs/your-data.md")
    root: Path = Field(Path("data"), description="folder of all datasets")
    train_split: str = Field("train", description="several are joined by +, such as train+val")
    val_split: str | None = Field("val", description="several are joined by +; null: train without validation")
    short_side: Pixels | None = Field(None, description="pixels of the shorter side")
    size: Size | None = Field(None, description="height, width that every image is stretched to")
    workers: Annotated[int, Field(ge=0, le=4096)] = Field(
        2, description="processes that read samples, at most one a core"
    )
    cache_gb: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="keep up to so many GB (1e9 bytes) of decoded samples on disk; 0: none"
    )
    cache_dir: Path | None = Field(None, description="where; null: <root>/cache/<dataset>")

    @property
    def splits(self) -> list[str]:
        """What training reads: the training split, and the one to validate on if there is one."""
        return [self.train_split, *([self.val_split] if self.val_split is not None else [])]

    @property
    def validation_split(self) -> str:
        """The split to validate on.

        Raises:
            ConfigError: there is none.
        """
        if self.val_split is None:
            raise ConfigError("data.val_split=null: there is nothing to validate on; name a split, data.val_split=val")
        return self.val_split

    @field_validator("dataset")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            get_dataset_info(name)
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
    brightness: Annotated[int, Field(ge=0, le=255)] = Field(10, description="largest shift of all gray values")
    transforms: TransformTerms = Field((), description="further transforms, in this order, after those above")


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
    backbone_options: dict[str, Any] = Field({}, description="further arguments of a backbone of your own")
    head_options: dict[str, Any] = Field({}, description="further arguments of a head of your own")

    @model_validator(mode="after")
    def _options_are_no_settings(self) -> ModelConfig:
        for name, options in (("backbone_options", self.backbone_options), ("head_options", self.head_options)):
            known = {*self.backbone_settings, *self.head_settings, "in_channels"} & options.keys()
            if known:
                key = min(known)
                fix = "images have 3 channels" if key == "in_channels" else f"use model.{key}"
                raise ValueError(f"{name}: '{key}' cannot be set here; {fix}")
        return self

    @property
    def backbone_settings(self) -> dict[str, Any]:
        """Arguments of the backbone; None where it decides itself."""
        return {"output_stride": self.output_stride, "multi_grid": self.multi_grid}

    @property
    def head_settings(self) -> dict[str, Any]:
        """Arguments of heads that have them."""
        names = ("head_channels", "key_channels", "dropout", "aux_channels", "aux_dropout", "aux_kernel")
        return {name: getattr(self, name) for name in names} | {"activation": self.activation}

    @property
    def activation(self) -> str:
        """The heads' activation, resolved."""
        return self.head_activation or "relu"


class SegFixConfig(Section):
    """SegFix: its ground truth, and what is made of its outputs."""

    targets: Literal["files", "label", "instance"] = Field(
        "files", description="ground truth: from files in offset_gt, or made from label or instance maps while reading"
    )
    offset_gt: str = Field("offset_gt/dt_offset", description="folder of ground truth files inside the split")
    target_rule: Literal["original", "clean"] = Field(
        "original", description="ground truth made while reading: as the original, or without its defects"
    )
    max_distance: Positive = Field(5, description="pixels up to this far from a boundary are boundary pixels")
    mask_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="pixels with a larger boundary probability move"
    )
    direction: Literal["argmax", "mean"] = Field(
        "argmax",
        description="a pixel moves in the most probable direction as published, or in the mean of the 8 by probability",
    )


class TrainConfig(Section):
    """Optimization over iterations, each of which is one update with one batch."""

    max_iters: Positive = Field(80_000, description="updates")
    batch_size: Positive = Field(8, description="samples of an update, of all processes together")
    accumulate: Positive = Field(1, description="parts that a batch goes through the network in, which saves memory")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="adamw learns faster in a short run from random weights"
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="learning rate at its highest")
    head_lr_multiplier: NotNegative = Field(1.0, description="of everything but the backbone")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="of sgd")
    weight_decay: NotNegative = Field(5e-4, description="of the optimizer")
    decay_norms: bool = Field(True, description="weight decay of biases and batch norms too, as the original")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="longest gradient; null: any")
    schedule: Literal["poly", "cosine", "step"] = Field("poly", description="how the learning rate falls")
    poly_power: NotNegative = Field(0.9, description="of poly")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.85), description="of step: shares of max_iters from which the rate is step_factor times what it was"
    )
    step_factor: Annotated[float, Field(gt=0)] = Field(0.1, description="of step")
    warmup_iters: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="updates in which the rate rises linearly"
    )
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
    seed: Annotated[int, Field(ge=0, lt=2**62)] = Field(304, description="of weights, samples and dropout")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="tf32: fp32 with faster products on GPUs since Ampere; bf16 and fp16: autocast"
    )
    channels_last: bool = Field(False, description="memory layout; faster on most devices")
    compile: bool = Field(False, description="torch.compile: faster after minutes of preparation")
    grad_checkpointing: bool = Field(
        False, description="compute blocks of the backbone again in the backward pass: less memory, somewhat slower"
    )


class SingleScale(Section):
    """How a semantic network predicts in mode ``ss``, and a SegFix network its offsets."""

    scales: Scales = Field((1.0,), description="of the image; their logits are summed")
    flip: bool = Field(False, description="add the logits of the mirrored image")
    pad_to: Positive = Field(1, description="pad images on the right and below to multiples of this many pixels")
    weights: Weights | None = Field(None, description="of the scales; null: all 1")

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


class Config(Section):
    """One config: everything that decides its result."""

    name: str = Field(description="of checkpoints, runs and results")
    task: Literal["semantic", "segfix"] = Field("semantic", description="labels, or SegFix offsets")
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    normalization: Normalization = Normalization()
    model: ModelConfig = ModelConfig()
    loss: LossTerms = Field((CrossEntropyTerm(),), description="a loss, or a list whose weighted sum is minimized")
    segfix: SegFixConfig = SegFixConfig()
    metrics: tuple[str, ...] = Field((), description="registered metrics beside the built-in ones")
    plugins: tuple[str, ...] = Field(
        (), description="Python modules to import first, which register backbones, heads, losses, metrics, transforms"
    )
    train: TrainConfig = TrainConfig()
    test: TestConfig = TestConfig()
    published: Published = Field(Published(), exclude=True)

    @field_validator("name")
    @classmethod
    def _name_is_a_file_name(cls, name: str) -> str:
        """It becomes part of file names, beside ``_latest``, ``_best`` and ``_iter<number>``."""
        if not _NAME.fullmatch(name) or len(name.encode()) > _LONGEST_NAME:
            raise ValueError(f"{name!r}: use letters, digits, spaces and _ - . +, at most {_LONGEST_NAME} bytes")
        if _OWN_ENDING.search(name):
            raise ValueError(f"{name!r}: ends as the files of another training; choose another ending")
        return name

    @field_validator("metrics")
    @classmethod
    def _metrics_are_registered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            for name in names:
                METRICS.look_up(name, "metrics")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return names

    @model_validator(mode="after")
    def _loss_fits_task(self) -> Config:
        for term in self.loss:
            if (term.type == "segfix") != self.needs_targets:
                raise ValueError(f"task '{self.task}' and loss.type '{term.type}' do not belong together")
        if self.needs_targets and len(self.loss) > 1:
            raise ValueError("loss: a SegFix network has a single loss")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Config:
        if self.data.short_side and self.data.size:
            raise ValueError("data.short_side and data.size exclude each other")
        if self.needs_targets and (self.data.short_side or self.data.size):
            raise ValueError("a SegFix network works at the images' own size; remove data.short_side and data.size")
        if self.needs_targets and self.test.ss.pad_to > 1:
            raise ValueError("test.ss.pad_to is of semantic networks")
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> Config:
        if self.train.batch_size % self.train.accumulate:
            raise ValueError(
                f"train.batch_size {self.train.batch_size} cannot be cut into train.accumulate={self.train.accumulate} "
                "equal parts"
            )
        over_batch = [term for term in self.loss if getattr(term, "mean_over", "") == "batch"]
        whole = [term.type for term in over_batch if term.type != "ce"]
        if whole and self.train.accumulate > 1:
            raise ValueError(
                f"loss.mean_over=batch of loss.type={whole[0]} needs the logits of the whole batch at once; set "
                "train.accumulate=1 or loss.mean_over=process"
            )
        if any(getattr(term, "count_first_pixel", False) for term in over_batch):
            raise ValueError("loss.count_first_pixel is of each process; set loss.mean_over=process")
        if self.train.compile and self.train.grad_checkpointing:
            raise ValueError("train.compile and train.grad_checkpointing exclude each other")
        return self

    @property
    def predicts_labels(self) -> bool:
        """Whether the network classifies pixels; otherwise it predicts SegFix offsets."""
        return TASKS[self.task].predicts_labels

    @property
    def needs_targets(self) -> bool:
        """Whether training needs SegFix ground truth beside labels."""
        return TASKS[self.task].needs_targets

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the exported network can give, the default first."""
        return TASKS[self.task].outputs

    @property
    def dataset_info(self) -> DatasetInfo:
        """The facts of the dataset."""
        return get_dataset_info(self.data.dataset, fresh=False)

    @property
    def data_dir(self) -> Path:
        """Folder of the dataset: below the data root, or where its own YAML file says."""
        return self.data.root / self.dataset_info.folder

    def dump(self) -> dict[str, Any]:
        """The resolved config as plain types (what a checkpoint stores)."""
        return self.model_dump(mode="json")

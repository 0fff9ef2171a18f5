"""The sections of a config: typed, validated, and with every default in this one place."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from openseg.config.losses import CrossEntropyTerm, LossTerms
from openseg.config.network import ModelConfig, Normalization
from openseg.config.numbers import Pixels, Positive, Range, Scales, Size, Weights
from openseg.config.published import Published
from openseg.config.tasks import TASKS
from openseg.config.training import TrainConfig
from openseg.config.transforms import TransformTerms
from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, OpensegError
from openseg.metrics.registry import METRICS
from openseg.schema import Section
from openseg.timm_facts import PREFIX, pretrained_normalization

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "ModelConfig",
    "MultiScale",
    "Normalization",
    "RefinerConfig",
    "SegFixConfig",
    "SingleScale",
    "TestConfig",
    "TrainConfig",
]

_NAME = re.compile(r"\w[\w .+-]*")
_SMALL_SIDE = 768  # shorter side of images that a refiner sees enlarged
_LONGEST_NAME = 180  # of the 255 bytes of a file's name
_OWN_ENDING = re.compile(r"_(iter\d+|latest|best)$")


class DataConfig(Section):
    """Where samples come from: ``<root>/<folder of the dataset>/<split>/{image,label}``, or where its YAML says.

    ``short_side`` or ``size`` brings every image to that size first, in training and in prediction; predicted logits
    are resized back to the image's own size.
    """

    dataset: str = Field(description="built-in dataset name, or YAML file of your own dataset (docs/your-data.md)")
    root: Path = Field(Path("data"), description="root folder of all datasets")
    train_split: str = Field("train", description="training split; join several with +, such as train+val")
    val_split: str | None = Field("val", description="validation split; join several with +; null: no validation")
    short_side: Pixels | None = Field(None, description="resize images to this length of the shorter side, in pixels")
    size: Size | None = Field(None, description="resize every image to this height and width")
    predictions: Path | None = Field(
        None,
        description="folder of a model's labels that a refiner learns to refine, with {split} in its path for the "
        "split's name; null: labels are made of the ground truth by the transform degrade",
    )
    workers: Annotated[int, Field(ge=0, le=4096)] = Field(2, description="data loading processes, at most one per core")
    cache_gb: Annotated[float, Field(ge=0, le=1e9)] = Field(
        0.0, description="maximum size in GB (1e9 bytes) of the disk cache of decoded samples; 0: no cache"
    )
    cache_dir: Path | None = Field(None, description="folder of the disk cache; null: <root>/cache/<dataset>")

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

    crop_size: Size = Field((512, 1024), description="crop height and width in pixels")
    scale_range: Range | None = Field((0.5, 2.0), description="random resize factor; null: no resize")
    aspect_range: Range = Field((0.9, 1.1), description="range of the random factor applied to the aspect ratio")
    flip: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="probability of a horizontal flip")
    flip_first: bool = Field(False, description="flip before all other transforms instead of after the crop")
    brightness: Annotated[int, Field(ge=0, le=255)] = Field(10, description="maximum shift of all pixel values")
    copy_paste: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="probability of pasting the rare classes of another training image into a sample"
    )
    progressive_crop: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="crop size at the start, as a fraction of crop_size, which it reaches in four steps"
    )
    transforms: TransformTerms = Field((), description="further transforms, applied after the built-in ones")


class SegFixConfig(Section):
    """SegFix: its ground truth, and what is made of its outputs."""

    targets: Literal["files", "label", "instance"] = Field(
        "files", description="ground truth: files in offset_gt, or computed from label or instance maps"
    )
    offset_gt: str = Field("offset_gt/dt_offset", description="folder of ground truth files inside the split")
    target_rule: Literal["original", "clean"] = Field(
        "original", description="rule for computed ground truth: original, or clean (without its defects)"
    )
    max_distance: Positive = Field(5, description="maximum distance of boundary pixels from a boundary, in pixels")
    mask_threshold: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="minimum boundary probability of pixels that are refined"
    )
    direction: Literal["argmax", "mean"] = Field(
        "argmax",
        description="argmax: the most probable direction, as published; mean: the probability-weighted mean of all 8",
    )


class RefinerConfig(Section):
    """The refiner: which pixels' labels a pixel may take, and when it does."""

    radii: Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=8)] = Field(
        (1, 2, 4, 7), description="distances in pixels of the pixels, in 8 directions, whose label a pixel may take"
    )
    upsampling: Annotated[int, Field(ge=1, le=4)] | None = Field(
        None,
        description="enlarge images and labels by this factor for the network; null: 2 where the shorter side has at "
        "most 768 pixels, otherwise 1",
    )
    margin: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="a pixel changes where another label is more probable than its own by more than this"
    )

    def upsampling_of(self, size: tuple[int, ...]) -> int:
        """The factor for images of (height, width)."""
        return self.upsampling or (2 if min(size) <= _SMALL_SIDE else 1)


class SingleScale(Section):
    """How a semantic network predicts in mode ``ss``, and a SegFix network its offsets."""

    scales: Scales = Field((1.0,), description="image scales; their logits are summed")
    flip: bool = Field(False, description="add the logits of the horizontally flipped image")
    pad_to: Positive = Field(1, description="pad images at the right and bottom to multiples of this many pixels")
    weights: Weights | None = Field(None, description="weights of the scales; null: all 1")

    @model_validator(mode="after")
    def _a_weight_a_scale(self) -> SingleScale:
        if self.weights and len(self.weights) != len(self.scales):
            raise ValueError(f"{len(self.weights)} weights for {len(self.scales)} scales")
        return self


class MultiScale(SingleScale):
    """How a semantic network predicts in mode ``ms``: the sum of the logits of all scales, mirrored and not."""

    scales: Scales = Field((0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0), description="image scales; their logits are summed")
    flip: bool = Field(True, description="add the logits of the horizontally flipped image")


class TestConfig(Section):
    """Prediction; ``ms`` and ``average`` are of semantic networks, ``ss`` is of SegFix as well."""

    __test__ = False  # the name starts with Test; pytest should not collect it

    precision: Literal["fp32", "bf16", "auto"] = Field(
        "fp32",
        description="inference precision; bf16 is faster and changes the class of few pixels; auto: bf16 where the "
        "processor has it and the command verify accepted it for this checkpoint",
    )
    ss: SingleScale = SingleScale()
    ms: MultiScale = MultiScale()
    average: Literal["logits", "probabilities"] = Field(
        "logits", description="average logits, as published, or probabilities"
    )
    window: Size | None = Field(
        None, description="height and width of sliding windows, which need less memory; null: whole image"
    )
    window_stride: tuple[Positive, Positive] | None = Field(
        None, description="stride of sliding windows; null: the window, for SegFix a third of it, as the original"
    )
    compile: bool = Field(False, description="use torch.compile: faster for many images")
    runtime: Literal["torch", "openvino", "onnxruntime"] = Field(
        "torch", description="what runs the network; the others are faster on many CPUs, and need their packages"
    )

    @model_validator(mode="after")
    def _compile_is_of_torch(self) -> TestConfig:
        if self.compile and self.runtime != "torch":
            raise ValueError(f"compile is of runtime torch, not of {self.runtime}")
        return self

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

    name: str = Field(description="name of checkpoints, runs and results")
    task: Literal["semantic", "segfix", "refiner"] = Field(
        "semantic", description="predict labels, or SegFix offsets, or refine labels of any model"
    )
    data: DataConfig
    augment: AugmentConfig = AugmentConfig()
    normalization: Normalization = Normalization()
    model: ModelConfig = ModelConfig()
    loss: LossTerms = Field((CrossEntropyTerm(),), description="loss, or list of losses to sum")
    segfix: SegFixConfig = SegFixConfig()
    refiner: RefinerConfig = RefinerConfig()
    metrics: tuple[str, ...] = Field((), description="registered metrics to compute besides the built-in ones")
    plugins: tuple[str, ...] = Field(
        (), description="Python modules to import first; they register backbones, heads, losses, metrics, transforms"
    )
    train: TrainConfig = TrainConfig()
    test: TestConfig = TestConfig()
    published: Published = Field(Published(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _normalization_of_timm(cls, values: Any) -> Any:
        """Unless set, images are normalized as timm's weights of its backbone expect."""
        if not isinstance(values, dict) or "normalization" in values:
            return values
        model = values.get("model")
        name = model.get("backbone") if isinstance(model, dict) else getattr(model, "backbone", None)
        if not isinstance(name, str) or not name.startswith(PREFIX):
            return values
        try:
            return values | {"normalization": pretrained_normalization(name.removeprefix(PREFIX))}
        except ConfigError as error:
            raise ValueError(f"model.backbone: {error}") from None

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
            if (term.type if term.type in TASKS else "semantic") != self.task:
                raise ValueError(f"task '{self.task}' and loss.type '{term.type}' do not belong together")
        if not self.predicts_labels and len(self.loss) > 1:
            raise ValueError(f"loss: a network of task {self.task} has a single loss")
        if self.train.loss_stride > 1 and any(term.type in (*TASKS, "boundary") for term in self.loss):
            kinds = ", ".join(term.type for term in self.loss)
            raise ValueError(f"loss {kinds} is about neighboring pixels; set train.loss_stride=1")
        return self

    @model_validator(mode="after")
    def _labels_to_refine(self) -> Config:
        predictions = self.data.predictions
        if predictions is not None and not self.needs_coarse:
            raise ValueError("data.predictions is of task refiner")
        if predictions is not None and "{split}" not in str(predictions):
            raise ValueError(f"data.predictions {predictions}: write {{split}} in place of the split's name")
        if self.needs_coarse and self.dataset_info.bands:
            raise ValueError("a refiner sees RGB images; the dataset's have bands")
        return self

    @model_validator(mode="after")
    def _one_size(self) -> Config:
        if self.data.short_side and self.data.size:
            raise ValueError("data.short_side and data.size exclude each other")
        if not self.predicts_labels and (self.data.short_side or self.data.size):
            raise ValueError(
                f"a network of task {self.task} works at the images' own size; remove data.short_side and data.size"
            )
        if not self.predicts_labels and self.test.ss.pad_to > 1:
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
        if self.augment.copy_paste and not self.predicts_labels:
            raise ValueError("augment.copy_paste is of semantic networks")
        if self.train.compile and self.train.grad_checkpointing:
            raise ValueError("train.compile and train.grad_checkpointing exclude each other")
        return self

    @property
    def predicts_labels(self) -> bool:
        """Whether the network classifies the pixels of an image; otherwise it helps to refine labels."""
        return TASKS[self.task].predicts_labels

    @property
    def needs_targets(self) -> bool:
        """Whether training needs SegFix ground truth beside labels."""
        return TASKS[self.task].needs_targets

    @property
    def needs_coarse(self) -> bool:
        """Whether the network is a refiner, which takes labels beside the image."""
        return TASKS[self.task].needs_coarse

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

"""The optimization's section of a config."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from openseg.config.numbers import NotNegative, Positive
from openseg.schema import Section

__all__ = ["TrainConfig"]


class TrainConfig(Section):
    """Optimization over iterations, each of which is one update with one batch."""

    max_iters: Positive = Field(80_000, description="number of training iterations")
    batch_size: Positive = Field(8, description="batch size of an iteration, over all processes")
    accumulate: Positive = Field(1, description="gradient accumulation steps per iteration; saves memory")
    optimizer: Literal["sgd", "adamw"] = Field(
        "sgd", description="optimizer; adamw converges faster in short trainings from scratch"
    )
    lr: Annotated[float, Field(gt=0)] = Field(0.01, description="base learning rate")
    head_lr_multiplier: NotNegative = Field(1.0, description="learning rate multiplier outside the backbone")
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="learning rate factor from each backbone stage (of a ViT: block) to the one before it"
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.9, description="momentum of SGD")
    weight_decay: NotNegative = Field(5e-4, description="weight decay")
    decay_norms: bool = Field(True, description="apply weight decay to biases and batch norms too, as in the original")
    clip_grad_norm: Annotated[float, Field(gt=0)] | None = Field(None, description="max gradient norm; null: disabled")
    schedule: Literal["poly", "cosine", "step"] = Field("poly", description="learning rate schedule")
    poly_power: NotNegative = Field(0.9, description="power of the poly schedule")
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.6, 0.85), description="fractions of max_iters at which the step schedule multiplies by step_factor"
    )
    step_factor: Annotated[float, Field(gt=0)] = Field(0.1, description="learning rate factor of the step schedule")
    warmup_iters: Annotated[int, Field(ge=0, le=10**9)] = Field(
        0, description="iterations of linear learning rate warmup"
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        None, description="decay of the weights' moving average, which is validated, such as 0.999; null: none"
    )
    loss_stride: Annotated[int, Field(ge=1, le=16)] = Field(
        1, description="compute losses at every n-th row and column of the labels: n * n times fewer pixels"
    )
    freeze_bn: bool = Field(False, description="keep the batch norm statistics of the initial weights")
    sync_bn: bool = Field(True, description="synchronize batch norms between GPUs")
    val_interval: Positive = Field(1000, description="iterations between validations")
    patience: Positive | None = Field(
        None, description="stop after this many validations in a row without a new best; null: never"
    )
    save_interval: Positive = Field(1000, description="iterations between checkpoints (<name>_latest.pth)")
    keep: Positive = Field(2, description="checkpoints to keep besides the best: <name>_latest.pth, <name>_iter<N>.pth")
    log_interval: Positive = Field(10, description="iterations between log entries")
    max_nonfinite: Positive = Field(
        20, description="stop after this many consecutive (skipped) iterations with non-finite gradients"
    )
    seed: Annotated[int, Field(ge=0, lt=2**62)] = Field(304, description="random seed of weights, sampling and dropout")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32", description="tf32: fp32 with TF32 matrix products on Ampere or newer GPUs; bf16, fp16: autocast"
    )
    channels_last: bool = Field(False, description="channels-last memory layout; faster on most devices")
    compile: bool = Field(False, description="use torch.compile: faster after minutes of compilation")
    grad_checkpointing: bool = Field(
        False, description="recompute backbone blocks in the backward pass: less memory, somewhat slower"
    )

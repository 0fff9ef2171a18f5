"""One training step: forward, loss, backward, optimizer; nothing in it synchronizes with the GPU."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from openseg.config import Config
from openseg.datasets.features import FeatureStore
from openseg.datasets.transforms import normalize
from openseg.distributed import Group, end_with_the_others, has_bfloat16
from openseg.errors import ConfigError
from openseg.losses.total import build_loss
from openseg.models.base import freeze_statistics
from openseg.models.factory import build_model
from openseg.training.schedule import set_lr
from openseg.training.state import Training

__all__ = ["Step", "local_batch_size", "require_norm_values", "to_device"]

logger = logging.getLogger("openseg")

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_WINDOW = "window"  # of a batch: read on the CPU, where reading it waits for nothing


def local_batch_size(config: Config, group: Group) -> int:
    """Return the number of samples per process and update.

    Raises:
        ConfigError: the batch cannot be split equally.
    """
    train = config.train
    if train.batch_size % (group.world * train.accumulate):
        raise ConfigError(
            f"train.batch_size={train.batch_size} cannot be shared equally by {group.world} processes with "
            f"train.accumulate={train.accumulate}; use a multiple of {group.world * train.accumulate}"
        )
    return train.batch_size // group.world


def require_norm_values(config: Config, group: Group) -> None:
    """Raise ConfigError where a batch norm would get a single value per channel, which has no variance.

    This happens for a single sample if a feature map has one pixel, or OCR has one class.
    """
    samples = local_batch_size(config, group) // config.train.accumulate
    if samples > 1 or config.train.freeze_bn:
        return
    with torch.device("meta"):  # takes neither memory nor time
        model, images = (
            build_model(config).train(),
            torch.empty(samples, config.dataset_info.channels, *config.augment.crop_size),
        )
        try:
            model(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            height, width = config.augment.crop_size
            raise ConfigError(
                f"one sample of {height}x{width} pixels leaves a batch norm a single value, of which it cannot learn; "
                "use a larger train.batch_size (or a smaller train.accumulate) or augment.crop_size, or "
                "train.freeze_bn=true"
            ) from None
        except (NotImplementedError, RuntimeError):  # a network of one's own that cannot run without values
            return


def to_device(batches: Iterator[dict[str, Tensor]], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Yield batches on ``device``; copies to a GPU overlap with the computation of the previous batch."""
    if device.type != "cuda":
        yield from batches
        return
    stream, ahead = torch.cuda.Stream(device), None
    for batch in batches:
        with torch.cuda.stream(stream):
            moved = {
                key: value if key == _WINDOW else value.to(device, non_blocking=True) for key, value in batch.items()
            }
        if ahead is not None:
            yield ahead
        torch.cuda.current_stream(device).wait_stream(stream)
        for key, value in moved.items():
            if key != _WINDOW:
                value.record_stream(torch.cuda.current_stream(device))
        ahead = moved
    if ahead is not None:
        yield ahead


def _autocast_type(precision: str, device: torch.device) -> torch.dtype | None:
    """The type of autocast; none for bf16 on an x86 CPU without instructions for it, which takes many times longer."""
    if precision == "bf16" and device.type == "cpu" and not has_bfloat16(device):
        logger.warning("this CPU has no bfloat16 instructions: training in fp32, which is several times faster on it")
        return None
    return _AUTOCAST.get(precision)


def _no_mark(_: str) -> None:
    pass


class Step:
    """``step(batch)`` performs one update and returns the loss terms, on the device.

    Attributes:
        grad_norm: norm of the last gradient before clipping, ``float32[]``.
        skipped: number of consecutive skipped updates (non-finite gradients) up to the last one.
    """

    def __init__(self, training: Training, group: Group, features: FeatureStore | None = None) -> None:
        config, device = training.config, training.device
        self.training, self.group, self.features = training, group, features
        self.batch_size = local_batch_size(config, group)
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()  # all crops are of one size
        self.loss = build_loss(config, device, group)
        self.scaler = training.scaler
        self.dtype = _autocast_type(config.train.precision, device)
        with end_with_the_others():
            self.network = self._parallel(training.model)
        self._statistics = [buffer for buffer in training.model.buffers() if buffer.is_floating_point()]
        self.grad_norm = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)

    def _parallel(self, model: nn.Module) -> Any:
        config, device = self.training.config, self.training.device
        network: Any = model
        if self.group.world > 1:  # batch norms go on with the statistics of the first process, which are saved
            network = DistributedDataParallel(
                model,
                device_ids=[device] if device.type == "cuda" else None,
                find_unused_parameters=not any(getattr(term, "aux_weight", 1) for term in config.loss),
                gradient_as_bucket_view=True,
            )
        return torch.compile(network) if config.train.compile else network

    def __call__(self, batch: dict[str, Tensor], mark: Callable[[str], None] = _no_mark) -> dict[str, Tensor]:
        """Run one update; ``mark(name)`` is called after each part, for measurements."""
        training, config = self.training, self.training.config
        train = config.train
        training.model.train()
        if train.freeze_bn:
            freeze_statistics(training.model)
        if config.model.freeze_backbone:
            training.model.get_submodule("backbone").eval()
        # What is random in an update is a function of its number: nothing of it needs to be saved.
        torch.manual_seed(_seed(train.seed, training.iteration, self.group.rank))
        set_lr(training.optimizer, training.iteration, train)
        training.optimizer.zero_grad(set_to_none=True)
        terms: dict[str, Tensor] = {}
        before = _joined(self._statistics)
        for number, part in enumerate(_parts(batch, train.accumulate), start=1):
            with end_with_the_others(), self._keep_gradients(number < train.accumulate):
                found = self.forward(part, batch, mark)
                self.scaler.scale(found["loss"] / train.accumulate).backward()
            mark("backward")
            for name, value in found.items():
                terms[name] = terms.get(name, 0.0) + value.detach() / train.accumulate
        self._update(before)
        mark("optimizer")
        return terms

    def forward(self, part: dict[str, Tensor], whole: dict[str, Tensor], mark: Callable) -> dict[str, Tensor]:
        """Return the losses of ``batch``, a part of the batch ``whole``."""
        config, device = self.training.config, self.training.device
        train = config.train
        layout = torch.channels_last if train.channels_last else torch.preserve_format
        inputs: Tensor | list[Tensor]
        if self.features is not None:
            inputs = [each.to(memory_format=layout) for each in self.features.unpack(part["features"])]
        else:
            inputs = normalize(part["image"], config.normalization, part[_WINDOW]).to(memory_format=layout)
        mark("transfer")
        with torch.autocast(device.type, self.dtype, enabled=self.dtype is not None):
            output = self.network(inputs, part["coarse"]) if config.needs_coarse else self.network(inputs)
        mark("forward")
        found = self.loss(output, part, whole)
        mark("loss")
        return found

    def _keep_gradients(self, more: bool) -> contextlib.AbstractContextManager:
        """Return a context without gradient exchange, except for the last accumulation step."""
        return self.network.no_sync() if more and self.group.world > 1 else contextlib.nullcontext()

    def _update(self, statistics: Tensor) -> None:
        """Apply the gradient if finite; otherwise change nothing and restore batch norms from ``statistics``.

        Only the moving average counts a skipped update; avoiding that would take a copy or a synchronization.
        """
        training, train = self.training, self.training.config.train
        optimizer = training.optimizer
        self.scaler.unscale_(optimizer)
        gradients = [p.grad for p in training.model.parameters() if p.grad is not None]
        self.grad_norm = nn.utils.get_total_norm(gradients)
        if train.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(training.model.parameters(), train.clip_grad_norm, self.grad_norm)
        bad = (~self.grad_norm.isfinite()).float()
        self.skipped = (self.skipped + 1) * bad
        # Fused optimizers read whether to skip from the device; but not the first time, when SGD's momentum would then
        # be whatever is in memory.
        if optimizer.state or not bad.item():
            if not self.scaler.is_enabled():
                optimizer.found_inf = bad  # type: ignore[attr-defined]
            self.scaler.step(optimizer)
        self.scaler.update()
        if self._statistics:
            kept = torch.where(bad > 0, statistics, _joined(self._statistics))
            sizes = [each.numel() for each in self._statistics]
            torch._foreach_copy_([each.view(-1) for each in self._statistics], list(kept.split(sizes)))
        if training.ema is not None:
            training.ema.update_parameters(training.model)


def _parts(batch: dict[str, Tensor], count: int) -> list[dict[str, Tensor]]:
    if count == 1:
        return [batch]
    chunks = {key: value.chunk(count) for key, value in batch.items()}
    return [{key: value[number] for key, value in chunks.items()} for number in range(count)]


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([each.detach().view(-1) for each in tensors]) if tensors else torch.empty(0)


def _seed(seed: int, iteration: int, rank: int) -> int:
    return int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1, np.uint64)[0]) >> 1  # for torch

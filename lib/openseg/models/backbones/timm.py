"""Backbones of the timm library, by the name ``timm:<model>`` (extra ``timm``).

Convolutional networks and hierarchical transformers give the maps that timm's ``features_only`` gives, from stride 4
on. Plain vision transformers (ViT, DeiT, DINOv2, DINOv3, EVA, MAE) give four maps of evenly spaced blocks, brought to a
quarter, half, once and twice the patch size by a simple feature pyramid (Li et al., "Exploring Plain Vision Transformer
Backbones for Object Detection", ECCV 2022).
"""

from __future__ import annotations

import functools
import logging
import socket
import sys
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.errors import CheckpointError, ConfigError
from openseg.models.folding import fold_as_run
from openseg.timm_facts import PREFIX, known_model

__all__ = ["TimmBackbone"]

_PLAIN = ("vision_transformer", "eva", "deit")  # timm's modules of plain vision transformers
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var")
_PYRAMID = (4.0, 2.0, 1.0, 0.5)


class TimmBackbone(nn.Module):
    """``forward(images: float[B, C, H, W])`` gives feature maps ``float[B, C_i, h_i, w_i]``, the finest first.

    Where a model only takes sides that are multiples of some number, images are resized to the next one.
    """

    def __init__(
        self,
        name: str,
        in_channels: int = 3,
        output_stride: int | None = None,
        drop_path: float | None = None,
        finest_stride: int = 4,
    ) -> None:
        """
        Args:
            name: the model's name in timm, with or without a tag of its weights.
            in_channels: channels of images.
            output_stride: stride of the coarsest maps, where the model can be dilated; None is the model's own.
            drop_path: probability of dropping a residual branch in training (stochastic depth), of the last block.
            finest_stride: stride from which on maps are given; 8 makes heads several times faster.

        Raises:
            ConfigError: timm is not installed, has no such model, or it lacks an option; or it is no backbone, since
                it takes images of a single size.
        """
        super().__init__()
        self.name, self.in_channels = name, in_channels
        self._options = {} if drop_path is None else {"drop_path_rate": drop_path}
        if output_stride is not None:
            self._options["output_stride"] = output_stride
        module = known_model(name).models.model_entrypoint(name.partition(".")[0]).__module__.rpartition(".")[2]
        self._plain = module in _PLAIN
        if module.startswith("swin_transformer"):
            self._options["strict_img_size"] = False
        self.body = self._create(features_only=not self._plain)
        self.pyramid: nn.ModuleList | None = None
        if self._plain:
            patch, width, depth = self.body.patch_embed.patch_size[0], self.body.embed_dim, len(self.body.blocks)
            self.body.fc_norm = nn.Identity()  # of the classifier that is left out
            self._taken = [depth * (number + 1) // 4 - 1 for number in range(4)]
            levels = [(i, x) for i, x in zip(self._taken, _PYRAMID, strict=True) if round(patch / x) >= finest_stride]
            self._taken = [i for i, _ in levels]
            self.strides, self._multiple = [round(patch / x) for _, x in levels], patch
            self.channels = [width] * len(levels)
            self.pyramid = nn.ModuleList(_resampling(width, factor) for _, factor in levels)
        else:
            facts = self.body.feature_info
            self._taken = [i for i, stride in enumerate(facts.reduction()) if stride >= finest_stride]
            self.channels = [facts.channels()[i] for i in self._taken]
            self.strides = [facts.reduction()[i] for i in self._taken]
            self._multiple, self._channels_last = self._probe()

    def _create(self, features_only: bool, **options: Any) -> Any:
        timm = known_model(self.name)
        options = {"in_chans": self.in_channels, **self._options, **options}
        options |= {"features_only": True} if features_only else {"num_classes": 0}
        if self._plain:
            options["dynamic_img_size"] = True
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return timm.create_model(self.name, **options)
        except (TypeError, NotImplementedError, AssertionError, RuntimeError, AttributeError, ValueError) as error:
            given = [key for key in ("output_stride", "drop_path_rate") if key in self._options]
            hint = f"; does it have {' and '.join(given)}? leave it out to see" if given else ""
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason given'}"
            raise ConfigError(f"backbone '{PREFIX}{self.name}' cannot be built ({reason}){hint}") from None

    @torch.no_grad()
    def _probe(self) -> tuple[int, bool]:
        """Return what sides must be multiples of, and whether maps come as ``[B, h, w, C]``, found by trying."""
        training = self.body.training
        self.body.eval()
        parameter = next(self.body.parameters())
        native = (getattr(self.body, "pretrained_cfg", None) or {}).get("input_size", (3, 224, 224))[-1]
        for multiple in sorted({1, 4, self.strides[-1], native}):
            height, width = -(-67 // multiple) * multiple, (101 // multiple + 2) * multiple
            images = torch.zeros(1, self.in_channels, height, width, device=parameter.device)
            try:
                maps = [self.body(images)[i] for i in self._taken]
            except (RuntimeError, AssertionError, ValueError):
                continue
            sizes = [(-(-height // stride), -(-width // stride)) for stride in self.strides]
            for last in (False, True):
                wanted = [(*s, c) if last else (c, *s) for s, c in zip(sizes, self.channels, strict=True)]
                if [tuple(each.shape[1:]) for each in maps] == wanted:
                    self.body.train(training)
                    return multiple, last
        raise ConfigError(
            f"backbone '{PREFIX}{self.name}' takes images of one size only, so it cannot segment; use another one, "
            "such as timm:convnext_tiny or timm:swin_tiny_patch4_window7_224"
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        # Of positive numbers: ONNX rounds a quotient towards zero.
        size = [(side + self._multiple - 1) // self._multiple * self._multiple for side in images.shape[-2:]]
        if self._multiple > 1 and (torch.compiler.is_exporting() or list(images.shape[-2:]) != size):
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=True)
        if self.pyramid is not None:
            maps = self.body.forward_intermediates(
                images, indices=self._taken, norm=True, output_fmt="NCHW", intermediates_only=True
            )
            return [level(each) for level, each in zip(self.pyramid, maps, strict=True)]
        maps = self.body(images)
        maps = [maps[i] for i in self._taken]
        return [each.permute(0, 3, 1, 2).contiguous() for each in maps] if self._channels_last else maps

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass, as timm does it.

        Raises:
            ConfigError: timm does not for this model.
        """
        try:
            getattr(self.body, "model", self.body).set_grad_checkpointing(enable)
        except (AttributeError, AssertionError, NotImplementedError):
            raise ConfigError(
                f"train.grad_checkpointing: timm cannot recompute the activations of '{self.name}'; set it to false"
            ) from None

    def fuse(self) -> None:
        """Merge the branches of reparameterizable models, and fold batch norms into convolutions, for inference.

        Raises:
            NotImplementedError: that would change the outputs, so nothing was done.
        """
        side = -(-64 // self._multiple) * self._multiple
        fold_as_run(self, (1, self.in_channels, side, side), _reparameterize)

    @staticmethod
    def synchronize_norms(model: nn.Module) -> nn.Module:
        """``model`` with synchronized batch norms; PyTorch's own conversion would lose activations inside of timm's."""
        from timm.layers import convert_sync_batchnorm

        return convert_sync_batchnorm(model)

    @property
    def layers(self) -> Sequence[nn.Module]:
        """The parts of the body in the order that an image passes them, for layer-wise learning rates."""
        return [part for child in getattr(self.body, "model", self.body).children() for part in _parts(child)]

    def load_pretrained(self) -> str:
        """Load timm's own weights, from its cache or the Hugging Face Hub; returns what was loaded.

        Raises:
            CheckpointError: there are none for this model, or they cannot be downloaded.
        """
        facts = known_model(self.name).models.get_pretrained_cfg(self.name)
        if facts is None or not facts.has_weights:
            raise CheckpointError(f"model.pretrained=auto: timm has no weights of '{self.name}'; name a file")
        remedy = f"download them elsewhere (huggingface.co/{facts.hf_hub_id}) and set model.pretrained=FILE"
        if _is_offline() and not _is_cached(facts.hf_hub_id):
            raise CheckpointError(f"model.pretrained=auto: no network to download timm's '{self.name}'; {remedy}")
        loggers = [logging.getLogger(name) for name in ("timm", "huggingface_hub", "httpx", "httpx2")]
        levels = [each.level for each in loggers]
        try:
            for each in loggers:
                each.setLevel(logging.CRITICAL)
            source = self._create(features_only=not self._plain, pretrained=True)
        except OSError as error:
            reason = str(error).splitlines()[0]
            raise CheckpointError(
                f"model.pretrained=auto: cannot download '{self.name}' ({reason}); {remedy}"
            ) from None
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)
        self.body.load_state_dict(source.state_dict())
        return f"timm's {self.name}.{facts.tag or 'default'} ({facts.license or 'no license stated'})"

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of timm's, torchvision's or the authors' files under the names that they have here.

        Names that timm does not know either are taken by their order, if every tensor has the expected shape.
        """
        own = self.state_dict()
        if sum(key in own for key in state) > len(own) // 2:
            return state
        candidates = [lambda: state, lambda: self._filtered(state), lambda: self._by_order(state)]
        best: dict[str, Tensor] = {}
        for candidate in candidates:
            renamed = self._renamed(candidate())
            if sum(key in own for key in renamed) > sum(key in own for key in best):
                best = renamed
            if all(key in best for key in own if _counts(key)):
                break
        return best or state

    def _renamed(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """timm's names under those of the features-only model, which joins the first parts by underscores."""
        children = {name for name, _ in self.body.named_children()} | {name for name, _ in self.body.named_parameters()}
        own, renamed = self.state_dict(), {}
        for key, value in state.items():
            parts = key.split(".")
            for count in range(min(len(parts), 4), 0, -1):
                if "_".join(parts[:count]) in children:
                    key = ".".join(["_".join(parts[:count]), *parts[count:]])
                    break
            key = f"body.{key}"
            renamed[key] = self._fit_channels(value, own[key]) if key in own else value
        return renamed | {key: value for key, value in own.items() if key.startswith("pyramid.")}

    def _fit_channels(self, value: Tensor, wanted: Tensor) -> Tensor:
        """A first convolution of RGB for other channels, as timm adapts it."""
        if (
            value.ndim == 4
            and value.shape != wanted.shape
            and value.shape[1] == 3
            and wanted.shape[1] == self.in_channels
        ):
            return known_model(self.name).models.adapt_input_conv(self.in_channels, value)
        return value

    def _full(self) -> Any:
        return self.body if self._plain else _full_model(self.name, self.in_channels)

    def _filtered(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """What timm's own filter of released files makes of ``state``."""
        full = self._full()
        convert = getattr(sys.modules[type(full).__module__], "checkpoint_filter_fn", None)
        try:
            return {k: v for k, v in convert(dict(state), full).items() if isinstance(v, Tensor)} if convert else {}
        except Exception:  # it assumes the names of one release
            return {}

    def _by_order(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """``state`` under timm's names, if its tensors are of the same kinds and shapes in the same order."""
        wanted = [(key, value) for key, value in self._full().state_dict().items() if _counts(key)]
        given = [(key, value) for key, value in state.items() if _counts(key)]
        if len(given) < len(wanted):
            return {}
        renamed = {}
        for (key, value), (name, found) in zip(wanted, given, strict=False):
            leaf, other = key.rpartition(".")[2], name.rpartition(".")[2]
            same_kind = leaf == other or not {leaf, other} & set(_NORM_LEAVES)
            channels = value.ndim == 4 and value.shape[1] == self.in_channels and found.shape[1:2] == (3,)
            same_shape = value.shape == found.shape or (channels and value.shape[2:] == found.shape[2:])
            if not (same_kind and same_shape):
                return {}
            renamed[key] = found
        return renamed


@functools.lru_cache(maxsize=1)
def _full_model(name: str, in_channels: int) -> Any:
    """The whole model, whose names and shapes weights are compared with."""
    return known_model(name).create_model(name, in_chans=in_channels, num_classes=0)


def _counts(key: str) -> bool:
    return not key.endswith("num_batches_tracked")


def _parts(child: nn.Module) -> Iterator[nn.Module]:
    """The entries of a container, or the child itself."""
    if isinstance(child, (nn.Sequential, nn.ModuleList)):
        yield from child
    elif any(True for _ in child.parameters()):
        yield child


def _resampling(width: int, factor: float) -> nn.Module:
    """A level of the simple feature pyramid."""
    if factor == 4:
        return nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.BatchNorm2d(width),
            nn.GELU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
    if factor == 2:
        return nn.ConvTranspose2d(width, width, 2, stride=2)
    return nn.Identity() if factor == 1 else nn.MaxPool2d(2, ceil_mode=True)


def _reparameterize(module: nn.Module) -> None:
    from timm.utils import reparameterize_model

    module.body = reparameterize_model(module.body)  # type: ignore[arg-type]


def _is_offline() -> bool:
    """Whether the host of weights has no address; unknown behind a proxy, which looks addresses up itself."""
    from huggingface_hub import constants

    if {"https", "all"} & urllib.request.getproxies().keys():
        return False
    try:
        socket.getaddrinfo(urllib.parse.urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return True
    return False


def _is_cached(repository: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    names = ("model.safetensors", "pytorch_model.bin")
    return repository is not None and any(isinstance(try_to_load_from_cache(repository, n), str) for n in names)

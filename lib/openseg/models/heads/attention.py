"""What the attention heads share."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.config import ModelConfig
from openseg.models.layers import conv_bn_act, init_weights

__all__ = ["attend", "aux_classifier", "init_head", "project_twice"]


def project_twice(in_channels: int, channels: int, act: str, bias: bool = True) -> nn.Sequential:
    """Two 1x1 convolutions with norm and activation: how the family makes queries and keys."""
    return nn.Sequential(
        *conv_bn_act(in_channels, channels, 1, act, bias), *conv_bn_act(channels, channels, 1, act, bias)
    )


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention scaled by ``C ** -0.5``: ``[B, N, C]``, ``[B, M, C]``, ``[B, M, D]`` -> ``[B, N, D]``."""
    # With an axis of heads, and values as wide as the keys, PyTorch never holds the N x M matrix; without, it does.
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


def aux_classifier(in_channels: int, num_classes: int, config: ModelConfig, bias: bool = True) -> nn.Sequential:
    """The auxiliary head: a convolution to ``aux_channels`` (None: as many as come in) and a classifier."""
    channels = config.aux_channels or in_channels
    conv, norm_act = conv_bn_act(in_channels, channels, config.aux_kernel, config.activation, bias)
    norm_act.append(nn.Dropout2d(config.aux_dropout))
    return nn.Sequential(conv, norm_act, nn.Conv2d(channels, num_classes, 1))


def init_head(head: nn.Module) -> None:
    """He initialisation, and small weights for the two classifiers."""
    init_weights(head)
    for layer in (head.aux[-1], head.classifier):
        nn.init.normal_(layer.weight, std=0.01)

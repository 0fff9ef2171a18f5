"""Shared parts of the attention heads."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.heads.inputs import MapSelection
from openseg.models.layers import conv_bn_act, fold_sequences

__all__ = ["ContextHead", "attend", "project_twice"]


def project_twice(in_channels: int, channels: int, act: str, bias: bool = True) -> nn.Sequential:
    """Two 1x1 convolutions with norm and activation, for queries and keys."""
    return nn.Sequential(
        *conv_bn_act(in_channels, channels, 1, act, bias), *conv_bn_act(channels, channels, 1, act, bias)
    )


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention scaled by ``C ** -0.5``: ``[B, N, C]``, ``[B, M, C]``, ``[B, M, D]`` -> ``[B, N, D]``."""
    # With an axis of heads, and values as wide as the keys, PyTorch never holds the N x M matrix; without, it does.
    return F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]


class ContextHead(nn.Module):
    """A head of the OCNet family: an auxiliary classifier, a main one, and in ``_build`` what is between.

    Layers have PyTorch's default initialization, as in the published training: uniform within ``fan_in ** -0.5``.

    ``forward(features: list of float[B, C_i, h_i, w_i])`` gives ``(logits, aux_logits)``, both ``float[B, K, h, w]``;
    auxiliary logits that only serve training are None unless ``aux``.
    """

    bias = True
    """Whether convolutions that a norm follows have one."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        head_channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        aux_channels: int | None = None,
        aux_dropout: float = 0.0,
        aux_kernel: int = 3,
        activation: str = "relu",
        classifier_bias: bool = True,
    ) -> None:
        """
        Args:
            channels, strides: of the backbone's feature maps.
            head_channels: channels of the head's maps.
            key_channels: channels of queries and keys.
            dropout: rate of channel dropout before the classifier.
            aux_channels: channels of the auxiliary head; None: as many as it reads.
            aux_kernel: of the auxiliary head's first convolution, 1 or 3.
            activation: ``relu`` or ``leaky_relu``.
            classifier_bias: whether both classifiers have one.
        """
        super().__init__()
        self.inputs = MapSelection(channels, strides)
        self.head_channels, self.key_channels, self.activation = head_channels, key_channels, activation
        hidden = aux_channels or self.inputs.aux_channels
        conv, norm_act = conv_bn_act(self.inputs.aux_channels, hidden, aux_kernel, activation, self.bias)
        assert isinstance(norm_act, nn.Sequential)
        norm_act.append(nn.Dropout2d(aux_dropout))
        self.aux = nn.Sequential(conv, norm_act, nn.Conv2d(hidden, num_classes, 1, bias=classifier_bias))
        self.dropout = dropout
        self._build(self.inputs.main_channels)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1, bias=classifier_bias)

    def _build(self, in_channels: int) -> None:
        """Make the layers between the map that is read, of ``in_channels`` channels, and the classifier."""
        raise NotImplementedError

    def _conv(self, in_channels: int, kernel: int, dilation: int = 1) -> list[nn.Module]:
        """A convolution to ``head_channels`` with norm and activation."""
        return conv_bn_act(in_channels, self.head_channels, kernel, self.activation, self.bias, dilation)

    def _project(self, in_channels: int) -> nn.Sequential:
        """The last 1x1 convolution before the classifier, with dropout."""
        return nn.Sequential(*self._conv(in_channels, 1), nn.Dropout2d(self.dropout))

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        fold_sequences(self)

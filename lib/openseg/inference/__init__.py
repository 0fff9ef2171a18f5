"""Inference of labels and offsets: whole images or sliding windows, multi-scale and flipped."""

from openseg.inference.boundary import Boundary, predict_boundary
from openseg.inference.lazy import LazyLogits, argmax, bands, cubic, from_tensor, resized
from openseg.inference.logits import predict_labels, predict_logits, predict_scores
from openseg.inference.tiling import window_starts

__all__ = [
    "Boundary",
    "LazyLogits",
    "argmax",
    "bands",
    "cubic",
    "from_tensor",
    "predict_boundary",
    "predict_labels",
    "predict_logits",
    "predict_scores",
    "resized",
    "window_starts",
]

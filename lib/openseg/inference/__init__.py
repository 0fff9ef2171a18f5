"""From images to labels and offsets: whole images or sliding windows, several scales, mirrored or not."""

from openseg.inference.boundary import Boundary, predict_boundary
from openseg.inference.predict import predict_labels, predict_logits, predict_scores, window_starts
from openseg.inference.rows import Rows, argmax, bands, cubic, held, resized

__all__ = [
    "Boundary",
    "Rows",
    "argmax",
    "bands",
    "cubic",
    "held",
    "predict_boundary",
    "predict_labels",
    "predict_logits",
    "predict_scores",
    "resized",
    "window_starts",
]

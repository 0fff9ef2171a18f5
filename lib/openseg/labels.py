"""The two values of a label map in memory that are no class."""

__all__ = ["IGNORE_INDEX", "UNKNOWN"]

IGNORE_INDEX = 255
"""Train ID of pixels that count neither in the loss nor in a score."""

UNKNOWN = 254
"""What ``DatasetInfo.encode_known`` gives for values that are no ID of the dataset."""

"""SegFix on arrays and its own files; needs neither torch nor a model or dataset of openseg.

>>> import numpy as np
>>> from openseg.segfix import refine
>>> labels = np.array([[1, 1, 2, 2]], np.uint8)
>>> offsets = np.zeros((1, 4, 2), np.int8)
>>> offsets[0, 1] = (0, 1)          # the second pixel belongs to the object on its right
>>> refine(labels, offsets)
array([[1, 2, 2, 2]], dtype=uint8)
"""

from openseg.segfix.directions import (
    DIRECTION_VECTORS,
    NUM_DIRECTIONS,
    angles_to_directions,
    codes_to_directions,
    directions_to_offsets,
)
from openseg.segfix.offset_files import OFFSET_SUFFIXES, list_offsets, read_offset_map, read_offsets, write_offsets
from openseg.segfix.offsets import OffsetMap
from openseg.segfix.refine import refine, refine_mask, thin_parts
from openseg.segfix.target_files import read_targets, write_targets
from openseg.segfix.targets import Targets, make_instance_targets, make_targets

__all__ = [
    "DIRECTION_VECTORS",
    "NUM_DIRECTIONS",
    "OFFSET_SUFFIXES",
    "OffsetMap",
    "Targets",
    "angles_to_directions",
    "codes_to_directions",
    "directions_to_offsets",
    "list_offsets",
    "make_instance_targets",
    "make_targets",
    "read_offset_map",
    "read_offsets",
    "read_targets",
    "refine",
    "refine_mask",
    "thin_parts",
    "write_offsets",
    "write_targets",
]

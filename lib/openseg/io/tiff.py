"""TIFF metadata that Pillow does not offer: channels, and which pages are images."""

from __future__ import annotations

import contextlib
import warnings
from pathlib import Path

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from openseg.io.blob import HeldFile

__all__ = ["count_pictures", "describe_tiff", "unnamed_band"]

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _CHANNELS = 254, 256, 257, 258, 259, 277
_EXTRA_SAMPLES, _SAMPLE_FORMAT = 338, 339
_REDUCED, _MASK = 1, 4
_FORMATS = {1: "unsigned", 2: "signed", 3: "float", 5: "complex", 6: "complex"}
_MOST_PAGES = 10_000


def describe_tiff(path: Path | HeldFile) -> str:
    """Describe the channels of an unsupported TIFF; empty if the file is not a TIFF."""
    with contextlib.suppress(Exception), warnings.catch_warnings(), path.open("rb") as file:
        warnings.simplefilter("ignore")
        header = file.read(8)
        if header[:4] not in (b"II*\0", b"MM\0*"):
            return "a BigTIFF; save it as TIFF" if header[:4] in (b"II+\0", b"MM\0+") else ""
        tags = ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        channels, bits = int(tags.get(_CHANNELS, 1)), tags.get(_BITS, (1,))
        kind = _FORMATS.get(int(tags.get(_SAMPLE_FORMAT, (1,))[0]), "")
        return (
            f"a TIFF of {channels} {'channel' if channels == 1 else 'channels'} of {max(bits)} bits ({kind}, "
            f"compression {tags.get(_COMPRESSION, 1)})"
        )
    return ""


def count_pictures(image: Image.Image) -> int:
    """Count the pages of a TIFF that are neither reduced-resolution copies nor masks."""
    count = 0
    for page in range(min(getattr(image, "n_frames", 1), _MOST_PAGES)):
        image.seek(page)
        kind = int(image.tag_v2.get(_SUBFILE, 0) or 0)  # type: ignore[attr-defined]
        count += not kind & (_REDUCED | _MASK)
    image.seek(0)
    return count


def unnamed_band(image: Image.Image) -> bool:
    """Whether a color TIFF has an additional channel that is not alpha, such as near infrared."""
    tags = getattr(image, "tag_v2", None)
    if tags is None or int(tags.get(_CHANNELS, 1)) <= 3:
        return False
    extra = tags.get(_EXTRA_SAMPLES, (0,))
    return int((extra if isinstance(extra, tuple) else (extra,))[0]) == 0

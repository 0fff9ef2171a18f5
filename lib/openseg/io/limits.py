"""Limit on the size of a single image."""

from __future__ import annotations

import os

from openseg.errors import ConfigError

__all__ = ["TooManyPixels", "max_pixels", "too_many_pixels"]

_DEFAULT = 178_956_970  # where Pillow stops too


def max_pixels() -> int:
    """Return the maximum number of pixels of an image (environment variable ``OPENSEG_MAX_PIXELS``).

    Raises:
        ConfigError: the variable is not a positive number.
    """
    text = os.environ.get("OPENSEG_MAX_PIXELS", "")
    if not text:
        return _DEFAULT
    if not text.isdecimal() or not 0 < int(text[:19]) < 1 << 40:
        raise ConfigError(f"OPENSEG_MAX_PIXELS={text}: use a number of pixels, such as {_DEFAULT}")
    return int(text)


class TooManyPixels(ValueError):
    """An image exceeds ``max_pixels()``."""


def too_many_pixels(size: tuple[int, int]) -> str:
    """Explain that an image of ``size`` (height, width) is too large, with the remedy."""
    return (
        f"{size[0]} x {size[1]} is more than {max_pixels():,} pixels; cut it into tiles, or, if you trust it, set "
        "OPENSEG_MAX_PIXELS"
    )

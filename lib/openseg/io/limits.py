"""How large a single image may be."""

from __future__ import annotations

import os

from openseg.errors import ConfigError

__all__ = ["max_pixels"]

_DEFAULT = 178_956_970  # where Pillow stops too


def max_pixels() -> int:
    """Pixels that an image may have before it is refused unread; ``OPENSEG_MAX_PIXELS`` of the environment.

    Raises:
        ConfigError: the variable is no positive number.
    """
    text = os.environ.get("OPENSEG_MAX_PIXELS", "")
    if not text:
        return _DEFAULT
    if not text.isdecimal() or not 0 < int(text[:19]) < 1 << 40:
        raise ConfigError(f"OPENSEG_MAX_PIXELS={text}: use a number of pixels, such as {_DEFAULT}")
    return int(text)

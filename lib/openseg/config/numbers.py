"""Numbers and their bounds, as the sections of a config have them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

__all__ = ["Factor", "NotNegative", "Pixels", "Positive", "Range", "Scales", "Size", "Weights"]


def in_order(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError(f"from {values[0]:g} to {values[1]:g}: the smaller number comes first")
    return values


Pixels = Annotated[int, Field(ge=32, le=32768)]
Factor = Annotated[float, Field(ge=0.01, le=100)]
NotNegative = Annotated[float, Field(ge=0)]
Size = tuple[Pixels, Pixels]
Range = Annotated[tuple[Factor, Factor], AfterValidator(in_order)]
Positive = Annotated[int, Field(ge=1, le=10**9)]
Scales = Annotated[tuple[Annotated[float, Field(ge=0.01, le=10)], ...], Field(min_length=1, max_length=100)]
Weights = Annotated[tuple[Annotated[float, Field(gt=0, le=1e6)], ...], Field(min_length=1)]

"""The options of each transform, which follow from the parameters of its function."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from openseg.config.terms import Term, parse_terms
from openseg.datasets import degradation  # noqa: F401  (registers transforms)
from openseg.datasets.augmentations import TRANSFORMS

__all__ = ["TransformTerm", "TransformTerms"]


class TransformTerm(Term):
    """One transform of a training sample."""


def _parse(values: Any) -> Any:
    return parse_terms(values, TRANSFORMS, TransformTerm, {}, ("sample", "rng"))


TransformTerms = Annotated[tuple[SerializeAsAny[TransformTerm], ...], BeforeValidator(_parse)]

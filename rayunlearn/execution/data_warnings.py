"""What has to be known of given data, caught where it is told; Ray is not imported for it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from rayunlearn.errors import DataWarning

T = TypeVar("T")


def caught(call: Callable[[], T]) -> tuple[T, list[str]]:
    """An answer and the texts of the `DataWarning`s that it came with; other warnings go their way."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", DataWarning)
        answer = call()
    others = [w for w in found if not issubclass(w.category, DataWarning)]
    for other in others:
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return answer, [str(w.message) for w in found if w not in others]

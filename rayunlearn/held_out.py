"""What is held out for testing: a setting, apart from `rayunlearn.data`, which splits."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Gt, Lt

OFFICIAL_OR_HALF: Literal["official_or_half"] = "official_or_half"
"""The publisher's test part where the dataset has one, else half of each class."""

TestFraction = Annotated[float, Gt(0), Lt(1)] | Literal["official_or_half"] | None
"""A share of each class; `OFFICIAL_OR_HALF`; None for the publisher's test part, which has to be there."""


def stated_fraction(dataset: str, fraction: TestFraction) -> TestFraction:
    """What hashes and comparisons go by: the digits have no official test part, and 0.5 was their default."""
    return 0.5 if dataset == "digits" and fraction == OFFICIAL_OR_HALF else fraction

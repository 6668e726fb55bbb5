"""What is held out for testing: a setting, apart from `rayunlearn.data`, which splits."""

from __future__ import annotations

from typing import Literal

OFFICIAL_OR_HALF: Literal["official_or_half"] = "official_or_half"
"""The publisher's test part where the dataset has one, else half of each class."""

TestFraction = float | Literal["official_or_half"] | None
"""A share of each class; `OFFICIAL_OR_HALF`; None for the publisher's test part, which has to be there."""

"""What a number that a decision rests on may be, said in one place."""

from __future__ import annotations

import math

from rayunlearn.errors import BadInput


def check_count(name: str, value: object, *, least: int = 0) -> None:
    """Refuse what is not a whole number of at least `least`; a bool is not a number.

    >>> check_count("guard", True)
    Traceback (most recent call last):
    rayunlearn.errors.BadInput: guard is True; allowed: a whole number of at least 0
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInput(name, value, f"a whole number of at least {least}")


def check_share(name: str, value: object) -> None:
    """Refuse what is not a number from 0 to 1 (NaN included); a bool is not a number."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not 0 <= value <= 1:  # type: ignore[arg-type,operator]
        raise BadInput(name, value, "a number from 0 to 1")


def check_correct(what: str, correct: object, count: object, *, prefix: str = "") -> None:
    """Refuse a number right that is no whole number from 0 to its count, and a count of nothing.

    The fields are named `<prefix><what>_correct` and `<what>_count`.
    """
    check_count(f"{what}_count", count, least=1)
    check_count(f"{prefix}{what}_correct", correct)
    if correct > count:  # type: ignore[operator]
        raise BadInput(f"{prefix}{what}_correct", correct, f"at most {what}_count, which is {count}")


def check_forget(correct: object, count: object, *, samples: bool) -> None:
    """Refuse counts on forget images: of classes as any counts; of single samples, which none shows, 0 of 0.

    >>> check_forget(0, 0, samples=True)
    >>> check_forget(0, 0, samples=False)
    Traceback (most recent call last):
    rayunlearn.errors.BadInput: forget_count is 0; allowed: a whole number of at least 1
    """
    if not samples:
        check_correct("forget", correct, count)
    elif (correct, count) != (0, 0):
        allowed = "0 of 0 where single samples are to be forgotten: no synthetic image shows them"
        raise BadInput("forget_correct and forget_count", (correct, count), allowed)

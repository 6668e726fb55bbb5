"""What counts that a decision rests on may be beside each other, said in one place."""

from __future__ import annotations

from pydantic import PositiveInt

from rayunlearn.errors import BadInput
from rayunlearn.fields import check_value


def check_correct(what: str, correct: int, count: int, *, prefix: str = "") -> None:
    """Refuse more right than there are.

    The fields are named `<prefix><what>_correct` and `<what>_count`.
    """
    if correct > count:
        raise BadInput(f"{prefix}{what}_correct", correct, f"at most {what}_count, which is {count}")


def check_forget(correct: int, count: int, *, samples: bool) -> None:
    """Refuse counts on forget images: of classes as any counts; of single samples, which none shows, 0 of 0.

    >>> check_forget(0, 0, samples=True)
    >>> check_forget(0, 0, samples=False)
    Traceback (most recent call last):
    rayunlearn.errors.BadInput: forget_count is 0; allowed: a whole number > 0
    """
    if not samples:
        check_value("forget_count", count, PositiveInt)
        check_correct("forget", correct, count)
    elif (correct, count) != (0, 0):
        allowed = "0 of 0 where single samples are to be forgotten: no synthetic image shows them"
        raise BadInput("forget_correct and forget_count", (correct, count), allowed)

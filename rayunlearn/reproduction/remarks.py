"""Why something did not reproduce, as far as it is known: written by hand, shown only where it did not."""

from __future__ import annotations

from fnmatch import fnmatchcase

REMARKS: dict[str, str] = {
    "table-III-Fisher-zero-glance": (
        "the Fisher information is taken from the samples to retain, so that what is to be forgotten is "
        "never looked at."
    ),
    "*-min_max": (
        "what training on noise alone ends in depends on the noise's penalty, which the paper and published "
        "code have differently, and on the rate of the impair step (docs/log.md, 35)."
    ),
    "figure-5-crash": "the paper saw it at cycle 1750, and the run here is shorter.",
}
"""Pattern of a shortfall's name (that of its row or claim; * and ? as in a shell) -> the reason."""


def remark_on(name: str) -> str:
    """The first remark whose pattern fits; that there is none is said, too."""
    found = (said for pattern, said in REMARKS.items() if fnmatchcase(name, pattern))
    return next(found, "not explained.")

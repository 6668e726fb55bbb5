"""What a paper says of its tables and figures in words, held against what was run here.

A claim of a paper's figures can be checked on other data than the paper's; its accuracies cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from papers.results import Result
from papers.rows import Row


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of the paper and what was found.

    Attributes:
        name: what a remark is found by.
        said: the paper's sentence in our words, with what counts as holding it.
        found: our figures.
        holds: whether they agree.
    """

    name: str
    said: str
    found: str
    holds: bool


Check = Callable[[Sequence[Row], Sequence[Result]], list[Claim]]
"""Claims that rows and results can tell of."""

"""The papers that are reproduced, by name: their pages, and what they claim of them."""

from __future__ import annotations

from collections.abc import Sequence

from papers import few_shot, few_shot_claims, zero_shot, zero_shot_claims
from papers.claims import Claim
from papers.results import Result
from papers.rows import Page
from rayunlearn.errors import BadInput, nearest

PAGES = {"zero-shot": zero_shot.page, "few-shot": few_shot.page}
CLAIMS = {"zero-shot": zero_shot_claims.claims, "few-shot": few_shot_claims.claims}


def page(paper: str, kind: str, number: str, scale: str) -> Page:
    """A paper's table or figure by its number.

    Raises:
        BadInput: no such paper, table, figure or scale; the nearest are named.
    """
    if paper not in PAGES:
        raise BadInput("--paper", paper, nearest(paper, PAGES))
    return PAGES[paper](kind, number, scale)


def claims(page: Page, results: Sequence[Result]) -> list[Claim]:
    """Every claim of the paper about its page that results can tell of."""
    return CLAIMS[page.paper](page, results)

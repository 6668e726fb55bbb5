"""Pages of a list that grows: each begins after the last entry of the one before."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from rayunlearn.errors import BadInput
from rayunlearn.ledger.status import Standing

MOST = 1000
"""Entries of a page."""
_LONGEST_MARK = 1000


@dataclass(frozen=True, kw_only=True)
class Page:
    """A part of a list.

    Attributes:
        entries: in the order of receipt.
        next: the mark of the next page; None where this is the last.
    """

    entries: tuple[Standing, ...]
    next: str | None


def page_of(found: Sequence[Standing], *, limit: int, after: str | None) -> Page:
    """The page that begins after a mark; the first one where there is none.

    A request that changes its status stays where it was, so that no page skips one of those that were there.

    Raises:
        BadInput: `after` is no mark of a page.
    """
    last = () if after is None else _key_from(after)
    entries = sorted((s for s in found if _key(s) > last), key=_key)
    page = tuple(entries[:limit])
    return Page(entries=page, next=_mark(page[-1]) if len(entries) > limit else None)


def _key(standing: Standing) -> tuple[str, ...]:
    received = standing.received_at or datetime.max.replace(tzinfo=UTC)
    beside = (standing.reason or "")[:200] if standing.status == "rejected" else ""
    return received.isoformat(timespec="microseconds"), standing.request_id, beside


def _mark(standing: Standing) -> str:
    return base64.urlsafe_b64encode(json.dumps(_key(standing)).encode()).decode()


def _key_from(mark: str) -> tuple[str, ...]:
    try:
        key = json.loads(base64.urlsafe_b64decode(mark.encode()))
    except (ValueError, RecursionError):
        key = None
    if not isinstance(key, list) or not all(isinstance(part, str) for part in key):
        raise BadInput("after", mark[:_LONGEST_MARK], "the `next` of the page before")
    return tuple(key)

"""Where requests stand, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayunlearn.ledger.status import Standing
from rayunlearn.reports.terminal import STATUS_STYLES
from rayunlearn.reports.wording import ABSENT, asked, plain


def described(standing: Standing) -> dict[str, Any]:
    """A request as plain data; times stay times."""
    return asdict(standing)


def show_standings(console: Console, found: Sequence[Standing]) -> None:
    """A table with a line for each request, and below it why some were not served."""
    console.print(_table(found))
    for s in found:
        for said in [*([s.reason] if s.reason else []), *(["to be cancelled"] if s.cancelling else [])]:
            style = STATUS_STYLES.get(s.status, "")
            parts = (plain(s.request_id), "bold"), " ", (f"{s.status}: ", style), plain(said)
            console.print(Text.assemble(*parts), soft_wrap=True)


def _table(found: Sequence[Standing]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption="Times are UTC.",
        caption_justify="left",
    )  # fmt: skip
    wraps = {"Request": 10, "Lineage": 7, "Forget": 6, "Received": 10, "Deadline": 10, "Run": 10}
    for name in ("Request", "Status", "Lineage", "Forget", "Received", "Deadline", "Priority", "Run"):
        table.add_column(name, no_wrap=name not in wraps, min_width=wraps.get(name), overflow="fold")
    for s in found:
        table.add_row(
            Text(plain(s.request_id)),
            Text(s.status, STATUS_STYLES.get(s.status, "")),
            Text(plain(s.lineage)) if s.lineage else ABSENT,
            asked(s.kind or "classes", s.target, s.whole_classes),
            moment(s.received_at),
            moment(s.deadline),
            str(s.priority),
            Text(plain(s.run_id)) if s.run_id else ABSENT,
        )
    return table


def moment(at: datetime | None) -> str:
    """A time to the minute, UTC."""
    return f"{at:%Y-%m-%d %H:%M}" if at else ABSENT

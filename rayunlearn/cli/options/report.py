"""Flags of `rayunlearn report`: a request's certificate."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Write the erasure certificate of a request; of one that was not served, a page that says so."""

    request: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="REQUEST")]
    """Id of the request."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""

    out: Path | None = None
    """Folder for the files; by default that of the jobs' reports, in the storage."""

    key: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File of the log's key (`key new`): with it a third file is written, signed, for `verify`."""

    json: bool = False
    """As JSON, for programs."""

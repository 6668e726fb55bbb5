"""Flags of `rayunlearn http`: where requests over HTTP are taken, from whom, and how many."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class HttpOptions:
    """Take requests over HTTP, whether a scheduler runs or not."""

    place: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="HOST:PORT")] = "127.0.0.1:8080"
    """Where to listen; port 0 takes a free one."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, of the scheduler."""

    tokens: Path | None = None
    """File of tokens, one line each: NAME ROLES SHA256. Without one, only this machine may call."""

    regulations: tuple[str, ...] = ("gdpr=1m", "ccpa=45d")
    """Deadlines that a request may name, in days or months after its receipt."""

    regulation: str | None = None
    """Of requests that say neither a deadline nor a regulation; else these have no deadline."""

    rate: float = 100.0
    """Requests a second, for each token."""

    burst: float = 200.0
    """Requests at once, for each token."""

    upload_mb: int = 64
    """Most megabytes of a request with its examples."""

"""Flags of `rayunlearn status`: the storage location to look at."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StatusOptions:
    """Show where every request stands, and what the service is doing now."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, of the scheduler; nothing is written to it."""

    json: bool = False
    """As JSON, for programs."""

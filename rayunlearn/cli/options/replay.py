"""Flags of `rayunlearn replay`: a certified request to run again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """Run a certified request again from the version before: exit code 0 where the same bits come out."""

    certificate: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CERTIFICATE")]
    """The certificate's JSON."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with ledger and the version before; nothing is written to it."""

    seed: int = 0
    """Seed that the storage location was begun with."""

    threads: int = 1
    """Torch threads, as each process of the run had."""

"""Flags of `rayunlearn key`: keys to make or hand over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Make an Ed25519 key: FILE, which its owner alone can read, and FILE.pub, which is to be given out."""

    name: str
    """Name of the log or the witness, such as erasure.example.org/ledger; it stays over every hand-over."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write; it must not be there yet."""

    witness: bool = False
    """The key is a witness's, which cosigns checkpoints and signs nothing else."""


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """Hand over to a new key: the old one signs the new one, and both are on record in the storage."""

    key: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File of the key in force; it signs no certificate any more."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write for the new key; FILE.pub has the old public keys and the hand-over as well."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Make the key that signs certificates and checkpoints, or hand over to the next one."""

    command: (
        Annotated[NewOptions, tyro.conf.subcommand("new")]
        | Annotated[RotateOptions, tyro.conf.subcommand("rotate")]
    )

"""Flags of `rayunlearn log`: checkpoints, proofs and anchors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Sign a checkpoint of the ledger as it is now and put it on record; refused where it was rewritten."""

    key: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File of the log's key."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""

    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """File to write the checkpoint to as well, to be given out."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class ProveOptions:
    """Prove that the ledger of one size begins with that of an earlier size."""

    first: int
    """Entries of the earlier checkpoint."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write."""

    second: int | None = None
    """Entries of the later checkpoint; by default all that the ledger has."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class CosignOptions:
    """As a witness: cosign a checkpoint if the log only grew since the last one, and remember it."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A checkpoint, or a certificate's NAME.evidence.json; the cosignature is added to it."""

    log: Annotated[Path, tyro.conf.arg(metavar="PUBKEY")]
    """File of the log's public key."""

    key: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File of the witness's key."""

    state: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """Where the witness keeps the checkpoint that it cosigned last; one for each log."""

    proof: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """Proof of `log prove` from that one; a certificate has those from the latest checkpoints itself."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class StampOptions:
    """Ask a time stamping authority (RFC 3161) for a stamp on a certificate's checkpoint."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """A certificate's NAME.evidence.json; the stamp is added to it."""

    url: str
    """Address of the authority."""

    tsa: Annotated[Path | None, tyro.conf.arg(metavar="CERT")] = None
    """PEM certificates of the authority, with its root: a stamp that is not its own is not added."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """Checkpoints of the ledger, proofs that it only grew, and anchors outside."""

    command: (
        Annotated[CheckpointOptions, tyro.conf.subcommand("checkpoint")]
        | Annotated[ProveOptions, tyro.conf.subcommand("prove")]
        | Annotated[CosignOptions, tyro.conf.subcommand("cosign")]
        | Annotated[StampOptions, tyro.conf.subcommand("stamp")]
    )

"""Flags of `rayunlearn models`: versions to list, verify or export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List every version of every lineage, oldest first."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""

    lineage: str | None = None
    """Of this lineage alone."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """Check the ledger's chain, recompute the id of every kept version, and look for its requests."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger; nothing is written to it."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Write one version to a safetensors file, with what it is in the file's metadata."""

    version: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="VERSION")]
    """Id of the version, or its beginning; `models list` names them."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE.safetensors")]
    """File to write."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""

    lineage: str | None = None
    """Lineage of the version, where several have one of this id."""

    force: bool = False
    """Replace a file that is there."""


@dataclass(frozen=True, kw_only=True)
class ModelsOptions:
    """List, verify or export the versions of a storage location."""

    command: (
        Annotated[ListOptions, tyro.conf.subcommand("list")]
        | Annotated[VerifyOptions, tyro.conf.subcommand("verify")]
        | Annotated[ExportOptions, tyro.conf.subcommand("export")]
    )

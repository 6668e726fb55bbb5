"""Flags of `rayunlearn request`: requests to add, list or cancel."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rayunlearn.scheduling.requests import DEFAULT_LINEAGE


@dataclass(frozen=True, kw_only=True)
class AddOptions:
    """Add a request, or a file of them. The request is on disk when this command returns."""

    target: tuple[int | str, ...] = ()
    """What is to be forgotten, as --kind says: classes or labels, by number or name; or training samples."""

    id: str | None = None
    """Id of the request. If not given: a new id. The same request under the same id is added once."""

    lineage: str = DEFAULT_LINEAGE
    """Name of the model that is to forget."""

    kind: Literal["classes", "samples", "examples"] = "classes"
    """What the target names. With --examples, labels that similar images must no longer get."""

    deadline: str | None = None
    """Deadline in ISO 8601, with the offset from UTC: 2026-01-31T12:00:00Z."""

    priority: int = 0
    """From -1000 to 1000. Of requests with the same deadline, the highest is served first."""

    method: str | None = None
    """Name of the method; `rayunlearn methods` lists them. If not given: the scheduler chooses."""

    data_access: tuple[str, ...] = ("weights",)
    """What may be used: weights, few_examples, forget, retain, training_log, pretrained_generator."""

    examples: str | None = None
    """Folder with one folder of images for each label, or Parquet shards. They are stored with the
    request."""

    whole_classes: bool = False
    """With --examples: forget the whole classes of the labels."""

    file: Path | None = None
    """JSON Lines, one request a line, instead of all of the above."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, of the scheduler."""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """List every request and where it stands, in the order of receipt."""

    status: tuple[
        Literal["waiting", "received", "planned", "served", "failed", "rejected", "cancelled"], ...
    ] = ()
    """Only requests with these statuses. `waiting`: no scheduler has read the request yet."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, of the scheduler; nothing is written to it."""

    json: bool = False
    """As JSON, for programs."""


@dataclass(frozen=True, kw_only=True)
class CancelOptions:
    """Cancel a request that was not served yet."""

    request: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ID")]
    """Id of the request; `request list` names them."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, of the scheduler."""


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """Add, list or cancel requests, while a scheduler runs or none does."""

    command: (
        Annotated[AddOptions, tyro.conf.subcommand("add")]
        | Annotated[ListOptions, tyro.conf.subcommand("list")]
        | Annotated[CancelOptions, tyro.conf.subcommand("cancel")]
    )

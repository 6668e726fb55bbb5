"""Flags of `rayunlearn audit`: what is measured of a version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

FIGURES = (
    "Folder for PNG files: relearning curves, the membership attack's ROC, and the images of a forgotten "
    "class that an attacker draws from the weights, beside that class's mean image. These images are "
    "sensitive, since they show what was to be forgotten: they are made only where this is given, and go "
    "nowhere else."
)
"""Help of `--figures`."""


@dataclass(frozen=True, kw_only=True)
class AuditOptions:
    """Measure a published version on real data, beside gold models retrained for it."""

    version: str
    """Id of the version, or its beginning; the report of a job and the versions table name it."""

    data: str = "digits"
    """Data to measure on, that of the original: digits, parquet:FOLDER, or package.module:function."""

    measures: str | None = None
    """Names, separated by commas. If not given: every measure that fits what the version has forgotten."""

    golds: int = 3
    """Number of models to retrain, each from its own seed. Figures are compared with their spread."""

    recipe: str = "digits"
    """Settings that the version was made by, by name."""

    storage: str = "storage"
    """Folder or s3://BUCKET/PREFIX with versions and ledger; no scheduler may run there at the same time."""

    seed: int = 0
    """Seed of the first job on this storage."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    figures: Annotated[Path | None, tyro.conf.arg(help=FIGURES)] = None
    """Folder for PNG files."""

    set: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction
    ] = ()
    """Settings to change, as audit.few_per_class=20; a wrong name lists the nearest."""

"""Flags of `rayunlearn serve`: what is served, where, and on which share of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rayunlearn.cli.model_flags import ModelFlags


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Serve erasure requests: those that wait in the storage, and those of a file."""

    recipe: str = "digits"
    """Settings of the service, by name."""

    requests: Path | None = None
    """JSON Lines, one request a line: {"request_id": "r1", "target": [0]}; they come before what waits."""

    storage: str = "storage"
    """Folder or s3://BUCKET/PREFIX for versions, ledger and reports; the same goes on where a job stopped."""

    wait: float = 0
    """Seconds to wait for a storage that another job uses; by default until that is known to be alive."""

    placement: Literal["split", "colocated"] = "split"
    """Teacher, student and generator in three actors, or in one. The weights are the same."""

    seed: int = 0
    """Root of every random draw."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()

    generator: Path | None = None
    """Weights of a conditional generator trained elsewhere, for few_shot_pretrained; else one is trained."""

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction] = ()
    """Settings to change, as gated_inversion.cycles=80; a wrong name lists the nearest."""

    tuned: str | None = None
    """A sweep of `rayunlearn tune` in this storage: its winner's settings; --set goes over them."""

    cpus_per_role: float | None = None
    """CPUs reserved for each actor; else a share of what the cluster has."""

    gpus_per_role: float | None = None
    """GPUs reserved for each actor; else a share of what the cluster has."""

    workers: int = 1
    """Processes that share out synthesis and sampling, where the run itself is in one."""

    together: int = 1
    """Classes that requests which wait together may forget in one run; 1 serves them one after another."""

    node_wait: float | None = None
    """Seconds that a run waits for its place, also for more than the cluster has: nodes are to be added."""

    dry_run: bool = False
    """Check everything, show the plan, and run nothing."""

    watch: bool = False
    """Stay when nothing waits any more, and serve what comes into the inbox, until a signal ends it."""

    keep: bool = False
    """Keep superseded weights and the runs' files, which still know the forgotten classes."""

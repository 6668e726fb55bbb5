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
    """Folder or s3://BUCKET/PREFIX for versions, ledger and reports; the same storage continues an earlier
    job."""

    wait: float = 0
    """Seconds to wait for a storage that another job uses. If not given: until it is clear whether that
    job still runs."""

    placement: Literal["split", "colocated"] = "split"
    """Teacher, student and generator in three actors, or in one. The weights are the same."""

    seed: int = 0
    """Root of every random draw."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()

    generator: Path | None = None
    """Weights of a conditional generator for few_shot_pretrained. If not given: the job trains one."""

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction] = ()
    """Settings to change, as gated_inversion.cycles=80; a wrong name lists the nearest."""

    tuned: str | None = None
    """Name of a sweep of `rayunlearn tune` in this storage. The job uses its best settings; --set
    overrides them."""

    cpus_per_role: float | None = None
    """CPUs reserved for each actor. If not given: an equal share of the cluster."""

    gpus_per_role: float | None = None
    """GPUs reserved for each actor. If not given: an equal share of the cluster."""

    workers: int = 1
    """Processes that share the work of synthesis and sampling."""

    together: int = 1
    """Most classes that one run forgets when several requests wait. 1 serves requests one after another."""

    node_wait: float | None = None
    """Seconds that a run waits for CPUs and GPUs, so that nodes can be added to the cluster."""

    dry_run: bool = False
    """Check everything, show the plan, and run nothing."""

    watch: bool = False
    """Keep running when no request waits, and serve new requests from the inbox, until a signal ends the
    job."""

    keep: bool = False
    """Keep weights of earlier versions and files of runs. They still contain the forgotten classes."""

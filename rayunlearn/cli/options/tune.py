"""Flags of `rayunlearn tune`: what is searched, by what, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rayunlearn.cli.model_flags import ModelFlags


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """Search the settings of a method without real data."""

    recipe: str = "digits_gkt"
    """Settings of the service, by name; what is searched is its method's."""

    requests: Path
    """JSON Lines, as `rayunlearn serve` takes them."""

    request: str | None = None
    """Id of the request in that file which every trial practises on; else its first."""

    storage: str = "storage"
    """Folder or s3://BUCKET/PREFIX of the service that is tuned."""

    wait: float = 0.0
    """Seconds to wait for a storage location that another job holds."""

    name: str | None = None
    """Of the sweep; else one made of all that its results depend on."""

    space: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=KIND(...)"), tyro.conf.UseAppendAction
    ] = ()
    """Over the recipe's declared space, as gkt.beta=loguniform(1,1000); a wrong key lists the nearest."""

    sampler: Literal["random", "grid", "optuna"] = "random"
    """What chooses the points: even draws, every point, or Optuna's TPE."""

    scheduler: Literal["asha", "median", "none"] = "asha"
    """What stops trials early."""

    budget: str = "16 trials"
    """In trials, cpu-hours, gpu-hours, seconds, minutes or hours."""

    grace: int | None = None
    """Cycles that every trial gets before it may be stopped early; else a sixteenth of a full trial."""

    placement: Literal["split", "colocated"] = "colocated"
    """A trial's teacher, student and generator in one actor, or in three."""

    cpus_per_role: float | None = None
    """CPUs reserved for each actor of a trial; else a share of what the cluster has."""

    gpus_per_role: float | None = None
    """GPUs reserved for each actor of a trial, fractions allowed; else a share of what the cluster has."""

    seed: int = 0
    """Root of every random draw."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction] = ()
    """Settings to change for all trials alike."""

    log: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Experiment trackers to tell besides: tensorboard, mlflow, wandb, where they are installed."""

    audit: bool = False
    """Measure the chosen checkpoints on real test data afterwards, beside their synthetic scores."""

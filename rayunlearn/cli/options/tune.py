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
    """Id of the request that every trial serves. If not given: the first request of the file."""

    storage: str = "storage"
    """Folder or s3://BUCKET/PREFIX of the service that is tuned."""

    wait: float = 0.0
    """Seconds to wait for a storage location that another job holds."""

    name: str | None = None
    """Name of the sweep. If not given: a name made from all inputs of the sweep."""

    space: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=KIND(...)"), tyro.conf.UseAppendAction
    ] = ()
    """Changes to the recipe's search space, as gkt.beta=loguniform(1,1000). A wrong key lists the nearest
    names."""

    sampler: Literal["random", "grid", "optuna"] = "random"
    """How points are chosen: at random, every point of a grid, or by Optuna's TPE."""

    scheduler: Literal["asha", "median", "none"] = "asha"
    """What stops trials early."""

    budget: str = "16 trials"
    """In trials, cpu-hours, gpu-hours, seconds, minutes or hours."""

    grace: int | None = None
    """Cycles before a trial may be stopped early. If not given: a sixteenth of a full trial."""

    placement: Literal["split", "colocated"] = "colocated"
    """A trial's teacher, student and generator in one actor, or in three."""

    cpus_per_role: float | None = None
    """CPUs reserved for each actor of a trial. If not given: an equal share of the cluster."""

    gpus_per_role: float | None = None
    """GPUs reserved for each actor of a trial, also fractions. If not given: an equal share of the
    cluster."""

    seed: int = 0
    """Root of every random draw."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = ModelFlags()

    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY.PATH=VALUE"), tyro.conf.UseAppendAction] = ()
    """Settings to change in every trial."""

    log: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Experiment trackers that also get the results: tensorboard, mlflow, wandb. They must be installed."""

    audit: bool = False
    """Measure the chosen checkpoints on real test data after the sweep, and show both scores."""

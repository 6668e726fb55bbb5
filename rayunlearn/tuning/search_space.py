"""The one place where a recipe's search space becomes Ray Tune's: spaces, samplers, schedulers.

A trial's configuration is flat, dotted path -> value. It reports `SCORE`, which is maximised, and `CYCLE`,
which early stopping goes by, at every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import PositiveInt
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import BasicVariantGenerator
from ray.tune.search.optuna import OptunaSearch

from rayunlearn.errors import BadInput, nearest
from rayunlearn.extras import require
from rayunlearn.fields import AtLeastTwo, check_value
from rayunlearn.methods.registry import method_named
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.space import SPACES, Dimension, Point, Space, Value, parse_space
from rayunlearn.seeds import generator
from rayunlearn.settings import override, paths

SCORE = "score"
CYCLE = "cycle"
SAMPLERS = ("random", "grid", "optuna")
SCHEDULERS = ("asha", "median", "none")


def space_of(recipe: Recipe, entries: Sequence[str] = ()) -> Space:
    """The space that a recipe declares for its method, with `--space` entries over it.

    Searchable are the settings of the method. The others make what all trials share (data, original,
    synthetic sets) or say what is wanted (stopping, gate): trials that differ in them cannot be compared.

    Raises:
        BadInput: as `parse_space`; or the method has no settings, or no space is declared and none given.
    """
    section = method_named(recipe.method).section

    def read(assigned: Sequence[str]) -> dict[str, Value]:
        leaves = paths(override(recipe, assigned))
        return {path: value for path, (_, value) in leaves.items() if path.startswith(f"{section}.")}

    declared = SPACES.get((recipe.name, recipe.method), ())
    if not declared and not entries:
        known = ", ".join(f"{name} with method {method}" for name, method in SPACES)
        allowed = f"a recipe that declares a space ({known}), or --space over {nearest('', read(()))}"
        raise BadInput("--recipe", f"{recipe.name} with method {recipe.method}", allowed)
    return parse_space(entries, read, declared)


def draw(space: Space, seed: int, trial: int) -> Point:
    """The point of a trial under random search; it depends on the seed and the trial's number alone."""

    def unit(key: str) -> float:
        random = generator(seed, "sweep", trial, key)
        return float(torch.rand((), dtype=torch.float64, generator=random))

    return space.at(trial, unit)


def to_tune(space: Space) -> dict[str, Any]:
    """The space in Tune's terms, for its `param_space`."""
    return {dimension.key: _domain(dimension) for dimension in space.dimensions}


def _domain(dimension: Dimension) -> Any:
    values: Any = dimension.values
    if dimension.kind == "choice":
        return tune.choice(list(values))
    if dimension.kind == "grid":
        return tune.grid_search(list(values))
    low, high, *step = values
    if dimension.kind == "loguniform":
        return tune.loguniform(low, high)
    if dimension.kind == "uniform":
        return tune.uniform(low, high)
    if isinstance(low, float):
        return tune.quniform(low, high, *step)
    if step in ([], [1]):
        return tune.randint(low, high + 1)  # Tune's upper end is exclusive here, and not below
    return tune.qrandint(low, high, *step)


@dataclass(frozen=True, kw_only=True)
class Search:
    """What Tune is given to search.

    Attributes:
        param_space: for `Tuner`.
        algorithm: for `TuneConfig`, as the next.
        num_samples: most trials.
    """

    param_space: dict[str, Any]
    algorithm: BasicVariantGenerator | OptunaSearch
    num_samples: int


def search_algorithm(
    name: str, space: Space, *, seed: int, trials: int, first: Mapping[str, Value] | None = None
) -> Search:
    """A sampler: "random", "grid" (every point, in order), or "optuna" (TPE).

    `first`, the recipe's own values, is the first point of a random or an Optuna search whose space holds it:
    so a search finds nothing that is worse than what there was.

    The points of the first two are ours, so that a trial's does not depend on those before it; Tune hands
    them out. "grid" takes no more trials than there are points.

    Raises:
        BadInput: no sampler of that name; optuna is not installed; a space that the sampler cannot search;
            fewer trials than a grid has points.
    """
    check_value("trials", trials, PositiveInt)
    if name not in SAMPLERS:
        raise BadInput("--sampler", name, nearest(name, SAMPLERS))
    own = [{d.key: first[d.key] for d in space.dimensions}] if first and space.holds(first) else []
    if name == "optuna":
        return Search(param_space=to_tune(space), algorithm=_optuna(space, seed, own), num_samples=trials)
    if name == "grid":
        points = space.grid()
        if trials < len(points):
            raise BadInput("trials", trials, f"at least {len(points)}, the points of the grid")
    else:
        points = [*own, *(draw(space, seed, trial) for trial in range(len(own), trials))]
    algorithm = BasicVariantGenerator(points_to_evaluate=[dict(point) for point in points])
    return Search(param_space=to_tune(space), algorithm=algorithm, num_samples=len(points))


def _optuna(space: Space, seed: int, own: Sequence[Point]) -> OptunaSearch:
    require("optuna")
    for dimension in space.dimensions:
        if dimension.kind == "grid":
            allowed = "choice(...): optuna chooses for itself what to visit"
            raise BadInput(dimension.key, dimension.text, allowed, where="--space")
    return OptunaSearch(seed=seed, points_to_evaluate=list(own) or None)


def trial_scheduler(name: str, *, cycles: int, grace: int, reduction: int = 4) -> TrialScheduler:
    """What stops trials early: "asha", "median", or "none".

    Args:
        name: of the scheduler.
        cycles: of a full trial, which ends by itself: no rung lies there.
        grace: cycles that every trial gets.
        reduction: ASHA lets one in so many pass each rung, at cycles grace, grace * reduction, ...; those
            whose score equals the last that passes go on too.

    Raises:
        BadInput: no scheduler of that name, or a grace period that is not below the cycles.
    """
    if name not in SCHEDULERS:
        raise BadInput("--scheduler", name, nearest(name, SCHEDULERS))
    check_value("grace", grace, PositiveInt)
    check_value("reduction", reduction, AtLeastTwo)
    if name != "none" and grace >= cycles:
        raise BadInput("grace", grace, f"below the cycles of a full trial, {cycles}")
    if name == "asha":
        return AsyncHyperBandScheduler(
            time_attr=CYCLE, max_t=cycles - 1, grace_period=grace, reduction_factor=reduction,
            stop_last_trials=False,
        )  # fmt: skip
    if name == "median":
        return MedianStoppingRule(time_attr=CYCLE, grace_period=grace)
    return FIFOScheduler()

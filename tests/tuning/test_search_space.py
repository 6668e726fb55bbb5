"""A recipe's space in Tune's terms: declared spaces, draws by trial, and Tune's samplers on them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search.optuna import OptunaSearch

from rayunlearn import extras
from rayunlearn.errors import BadInput, NotInstalled
from rayunlearn.recipes import RECIPES, digits, digits_gkt, load_recipe
from rayunlearn.scheduling.space import SPACES, Dimension, Space, assignments
from rayunlearn.settings import override, paths
from rayunlearn.tuning.search_space import (
    CYCLE,
    SCORE,
    draw,
    search_algorithm,
    space_of,
    to_tune,
    trial_scheduler,
)

MIXED = Space((
    Dimension("gkt.epsilon", "loguniform", (0.001, 0.1)),
    Dimension("gkt.temperature", "uniform", (0.5, 2.0)),
    Dimension("gkt.beta", "quniform", (0.0, 1.0, 0.25)),
    Dimension("gkt.batch_size", "quniform", (32, 128, 32)),
    Dimension("gkt.z_dim", "quniform", (8, 9, 1)),
    Dimension("gkt.student_steps", "randint", (1, 3)),
    Dimension("gkt.divergence", "choice", ("kl", "js")),
))  # fmt: skip
FINITE = Space(
    (Dimension("gkt.student_steps", "randint", (1, 3)), Dimension("gkt.divergence", "grid", ("kl", "js")))
)


@pytest.mark.parametrize("name", [name for name, _ in SPACES if name in RECIPES])
def test_declared_spaces_are_of_their_recipes(name: str) -> None:
    """Each parses, holds the recipe's own settings or lies around them, and any point of it is accepted."""
    recipe = load_recipe(name)
    space = space_of(recipe)
    for trial in range(20):
        point = draw(space, 0, trial)
        tried = override(recipe, assignments(point))
        assert {key: paths(tried)[key][1] for key in point} == point
    for dimension in space.dimensions:
        own = paths(recipe)[dimension.key][1]
        inside = (
            own in dimension.values
            or dimension.size is None
            and dimension.values[0] <= own <= dimension.values[1]
        )
        assert inside, f"{dimension.key}: {own} lies outside {dimension.text}"


def test_entries_go_over_the_declared_space() -> None:
    """One key changed, the others as declared."""
    declared, changed = (space_of(digits_gkt(), entries) for entries in ((), ["gkt.beta=choice(0,250)"]))
    assert {d for d in changed.dimensions if d not in declared.dimensions} == {
        Dimension("gkt.beta", "choice", (0.0, 250.0))
    }
    assert len(changed.dimensions) == len(declared.dimensions)


def test_settings_of_the_method_alone_are_searchable() -> None:
    """What the trials share and what they are judged by is not, and a wrong key names the nearest."""
    for key in (
        "stopping.forget_tolerance",
        "validation.per_retain_class",
        "model.width",
        "min_max.impair_lr",
    ):
        with pytest.raises(BadInput, match=f"--space: setting is '{key}'.*gkt.") as refused:
            space_of(digits_gkt(), [f"{key}=uniform(0.1,0.2)"])
        assert f"'{key}'" not in refused.value.allowed
    with pytest.raises(BadInput, match=r"'gkt.epsilon', .*nearest of"):
        space_of(digits_gkt(), ["gkt.epsilom=uniform(0.1,0.2)"])


def test_a_recipe_without_a_space_says_what_is_searchable() -> None:
    """The recipes that declare one, and the keys of this one; with entries it needs none declared."""
    with pytest.raises(BadInput) as refused:
        space_of(digits())
    for part in (
        "digits with method gated_inversion",
        "digits_gkt with method gkt",
        "'gated_inversion.epsilon'",
    ):
        assert part in str(refused.value)
    assert space_of(digits(), ["gated_inversion.epsilon=loguniform(0.001,0.1)"]).size is None


def test_a_draw_depends_on_the_seed_the_trial_and_the_key_alone() -> None:
    """Not on the trials before, on the global generator, or on the other keys."""
    first = [draw(MIXED, 3, trial) for trial in range(4)]
    torch.manual_seed(0)
    assert [draw(MIXED, 3, trial) for trial in (3, 2, 1, 0)] == first[::-1]
    part = Space(tuple(d for d in MIXED.dimensions if d.key != "gkt.beta"))
    assert draw(part, 3, 2) == {key: value for key, value in first[2].items() if key != "gkt.beta"}
    dense = {draw(MIXED, seed, trial)["gkt.epsilon"] for seed in range(4) for trial in range(4)}
    assert len(dense) == 16


def test_tunes_domains_hold_the_values_that_ours_do() -> None:
    """300 of Tune's own draws of every kind: both ends of a stepped range, nothing beside, the right type."""
    ours = {d.key: d for d in MIXED.dimensions}
    domains = to_tune(MIXED)
    assert domains.keys() == ours.keys()
    for key, domain in domains.items():
        drawn, dimension = domain.sample(size=300), ours[key]
        if dimension.size is None:
            assert all(dimension.values[0] <= value <= dimension.values[1] for value in drawn)
        else:
            assert set(drawn) == {dimension.value(i) for i in range(dimension.size)}
    logs = [math.log10(value) for value in domains["gkt.epsilon"].sample(size=300)]
    assert sum(log < -2 for log in logs) == pytest.approx(150, abs=50)  # half below the geometric mean
    assert to_tune(FINITE)["gkt.divergence"] == {"grid_search": ["kl", "js"]}


def test_optuna_gets_the_same_ends_and_steps() -> None:
    """Tune's own conversion of our domains: the ends are included, the logarithm is kept."""
    of = pytest.importorskip("optuna").distributions
    space = OptunaSearch.convert_search_space(to_tune(MIXED))
    assert space == {
        "gkt.epsilon": of.FloatDistribution(0.001, 0.1, log=True),
        "gkt.temperature": of.FloatDistribution(0.5, 2.0),
        "gkt.beta": of.FloatDistribution(0.0, 1.0, step=0.25),
        "gkt.batch_size": of.IntDistribution(32, 128, step=32),
        "gkt.z_dim": of.IntDistribution(8, 9),
        "gkt.student_steps": of.IntDistribution(1, 3),
        "gkt.divergence": of.CategoricalDistribution(("kl", "js")),
    }


def test_what_cannot_be_searched_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names, spaces that a sampler cannot search, and budgets that cut a grid short."""
    with pytest.raises(BadInput, match="--sampler is 'tpe'; allowed: 'grid', 'optuna', 'random'"):
        search_algorithm("tpe", MIXED, seed=0, trials=4)
    with pytest.raises(BadInput, match="gkt.epsilon is 'loguniform"):
        search_algorithm("grid", MIXED, seed=0, trials=4)
    with pytest.raises(BadInput, match="trials is 5; allowed: at least 6, the points of the grid"):
        search_algorithm("grid", FINITE, seed=0, trials=5)
    with pytest.raises(BadInput, match=r"gkt.divergence is 'grid\(kl,js\)'; allowed: choice"):
        search_algorithm("optuna", FINITE, seed=0, trials=4)
    with pytest.raises(BadInput, match="trials is 0"):
        search_algorithm("random", MIXED, seed=0, trials=0)
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(NotInstalled, match=r"rayunlearn\[optuna\]"):
        search_algorithm("optuna", MIXED, seed=0, trials=4)


def test_schedulers_by_name() -> None:
    """Tune's own, by our cycles; ASHA has no rung at the end, where a trial finishes by itself."""
    asha = trial_scheduler("asha", cycles=960, grace=60)
    assert type(asha) is AsyncHyperBandScheduler and asha._time_attr == CYCLE
    (bracket,) = asha._brackets
    assert [milestone for milestone, _ in bracket._rungs] == [240, 60]
    median = trial_scheduler("median", cycles=960, grace=60)
    assert type(median) is MedianStoppingRule and median._time_attr == CYCLE and median._grace_period == 60
    assert type(trial_scheduler("none", cycles=10, grace=60)) is FIFOScheduler
    for name, grace, reduction in (("pbt", 1, 4), ("asha", 960, 4), ("median", 0, 4), ("asha", 1, 1)):
        with pytest.raises(BadInput):
            trial_scheduler(name, cycles=960, grace=grace, reduction=reduction)


def _trial(config: dict[str, Any]) -> None:
    """Eight checkpoints, whose score rises with epsilon alone."""
    for cycle in range(10, 90, 10):
        tune.report({SCORE: math.log10(config["gkt.epsilon"]) + cycle / 1000, CYCLE: cycle})


def run(tmp_path: Path, sampler: str, space: Space, trials: int, scheduler: str = "none") -> tune.ResultGrid:
    """A sweep of that function, one trial at a time."""
    search = search_algorithm(sampler, space, seed=0, trials=trials)
    return tune.Tuner(
        tune.with_resources(_trial, {"cpu": 1}),
        param_space=search.param_space,
        tune_config=tune.TuneConfig(
            metric=SCORE, mode="max", search_alg=search.algorithm, num_samples=search.num_samples,
            scheduler=trial_scheduler(scheduler, cycles=80, grace=10, reduction=2), max_concurrent_trials=1,
            reuse_actors=True,  # as sweeps do: one process for all trials, not a start for each
        ),
        run_config=tune.RunConfig(name=sampler, storage_path=str(tmp_path), verbose=0),
    ).fit()  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_tune_runs_our_points(tmp_path: Path) -> None:
    """Random search runs exactly the draws of (seed, trial); ASHA stops some early, not the best."""
    results = run(tmp_path, "random", MIXED, 6, "asha")
    assert not results.errors
    points = sorted((draw(MIXED, 0, trial) for trial in range(6)), key=str)
    assert sorted((result.config for result in results), key=str) == points
    cycles = Counter(result.metrics[CYCLE] for result in results)
    assert cycles[80] >= 1 and sum(cycle * n for cycle, n in cycles.items()) < 6 * 80
    best = results.get_best_result()
    assert best.metrics[CYCLE] == 80 and best.config == max(points, key=lambda p: p["gkt.epsilon"])


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_tune_visits_every_point_of_a_grid(tmp_path: Path) -> None:
    """Each once, though more trials were allowed."""
    space = Space((*FINITE.dimensions, Dimension("gkt.epsilon", "choice", (0.01,))))
    results = run(tmp_path, "grid", space, 100)
    assert not results.errors
    assert [result.config for result in results] == space.grid()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_optunas_sampler_searches_the_space_and_repeats_itself(tmp_path: Path) -> None:
    """Every suggestion is a point of the space that the settings accept; the same seed suggests the same."""
    pytest.importorskip("optuna")
    runs = [[result.config for result in run(tmp_path / str(i), "optuna", MIXED, 4)] for i in range(2)]
    assert runs[0] == runs[1] and len({point["gkt.epsilon"] for point in runs[0]}) == 4
    for point in runs[0]:
        assert override(digits_gkt(), assignments(point)).gkt.divergence == point["gkt.divergence"]

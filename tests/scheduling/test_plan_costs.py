"""Unlearn or retrain: estimates against a slow reference, and both sides of each rule of the choice."""

from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.costs import Costs, CostSettings, PastRun

QUICK = settings(deadline=None, max_examples=150, database=None)
METHODS = ("gkt", "ispf", "retrain")


def runs(method, forgotten, *, seconds, kept=0.95, passed=True, count=3, recipe="digits"):
    """So many past runs with the same figures."""
    run = PastRun(
        method=method, recipe=recipe, forgotten=forgotten, seconds=seconds, passed=passed, kept=kept
    )
    return [run] * count


def chosen(history, *, methods=METHODS, forgotten=3, kept=1.0, **bounds):
    """The choice from some past runs."""
    return Costs(history, CostSettings(**bounds), "retrain").choose(methods, "digits", forgotten, kept)


PAST_RUNS = st.lists(
    st.builds(
        PastRun,
        method=st.sampled_from(["gkt", "gkt", "gkt", "retrain"]),
        recipe=st.sampled_from(["digits", "digits", "digits", "other"]),
        forgotten=st.integers(0, 9),
        seconds=st.integers(0, 50).map(float),
        passed=st.booleans(),
        kept=st.sampled_from([None, 0.5, 0.9, 1.0]),
    ),
    max_size=14,
)


@QUICK
@given(PAST_RUNS, st.integers(0, 9), st.integers(1, 4))
def test_an_estimate_is_the_median_of_the_nearest_like_runs(history, forgotten, evidence):
    """As far away as the `evidence`-th nearest like run lies, all count; no others do."""
    like = [run for run in history if (run.method, run.recipe) == ("gkt", "digits")]
    distances = sorted(abs(run.forgotten - forgotten) for run in like)
    reach = distances[min(evidence, len(distances)) - 1] if distances else 0
    near = [run for run in like if abs(run.forgotten - forgotten) <= reach]
    estimate = Costs(history, CostSettings(evidence=evidence), None).estimate("gkt", "digits", forgotten)
    if not near:
        assert estimate is None
        return
    kept = [run.kept for run in near if run.kept is not None]
    assert estimate.seconds == median(run.seconds for run in near)
    assert estimate.kept == (median(kept) if kept else None)
    assert (estimate.passed, estimate.runs) == (sum(run.passed for run in near), len(near))


def test_without_history_the_configured_order_rules():
    """Nothing known: the first in order, at the default time, with what is left unchanged."""
    choice = chosen([], kept=0.7, default_s=99.0)
    assert (choice.method, choice.seconds, choice.kept) == ("gkt", 99.0, 0.7)
    assert "gkt has no like run to go by" in choice.why


@pytest.mark.parametrize(("seconds", "method"), [(99.0, "retrain"), (100.0, "gkt"), (101.0, "gkt")])
def test_the_cheaper_of_two_that_are_good_enough(seconds, method):
    """Retraining is preferred when it takes less time, and not when it takes as much."""
    assert chosen([*runs("gkt", 3, seconds=100.0), *runs("retrain", 3, seconds=seconds)]).method == method


def test_what_is_cheaper_must_be_good_enough():
    """A retraining that is cheap and bad is not preferred, nor one that nothing is known of."""
    gkt = runs("gkt", 3, seconds=100.0)
    assert chosen([*gkt, *runs("retrain", 3, seconds=1.0, kept=0.5)]).method == "gkt"
    assert chosen([*gkt, *runs("retrain", 3, seconds=1.0, passed=False)]).method == "gkt"
    assert chosen(gkt, default_s=1.0).method == "gkt"


@pytest.mark.parametrize(("kept", "method"), [(0.84, "retrain"), (0.85, "gkt")])
def test_wear_adds_up_and_retraining_ends_it(kept, method):
    """A run that leaves 0.95 of 0.843 leaves 0.8, the bound; retraining does not ask what was there."""
    history = [*runs("gkt", 3, seconds=1.0, kept=0.95), *runs("retrain", 3, seconds=1000.0, kept=0.95)]
    choice = chosen(history, methods=("gkt", "retrain"), kept=kept, min_kept=0.8)
    assert choice.method == method
    assert choice.kept == pytest.approx(0.95 if method == "retrain" else 0.95 * kept)


def test_the_next_unlearning_method_comes_before_dear_retraining():
    """An unlearning method that falls short is passed over for the next one in order."""
    bad = runs("gkt", 3, seconds=1.0, passed=False)
    assert chosen([*bad, *runs("retrain", 3, seconds=1000.0)]).method == "ispf"
    assert "the first not known to fall short of 80 % left or 50 % published" in chosen(bad).why


@pytest.mark.parametrize(("count", "method"), [(2, "gkt"), (3, "ispf")])
def test_fewer_runs_than_evidence_rule_nothing_out(count, method):
    """Two refused runs do not speak against a method, three do."""
    assert chosen(runs("gkt", 3, seconds=1.0, passed=False, count=count), evidence=3).method == method


@pytest.mark.parametrize(("passed", "method"), [(1, "ispf"), (2, "gkt")])
def test_the_share_published_at_its_bound(passed, method):
    """Half of the runs published is enough, a quarter is not."""
    good = runs("gkt", 3, seconds=1.0, count=passed)
    history = good + runs("gkt", 3, seconds=1.0, passed=False, count=4 - passed)
    assert chosen(history, min_passed=0.5).method == method


def test_where_none_is_good_enough_the_best_is_tried():
    """A request is to be served: by what was published most often, then by what leaves most."""
    gkt = runs("gkt", 3, seconds=1.0, kept=0.3)
    assert chosen([*gkt, *runs("ispf", 3, seconds=1.0, kept=0.4)], methods=METHODS[:2]).method == "ispf"
    refused = runs("ispf", 3, seconds=1.0, kept=0.4, passed=False)
    choice = chosen([*gkt, *refused], methods=METHODS[:2])
    assert choice.method == "gkt" and "the gate decides" in choice.why


def test_other_recipes_and_methods_are_no_basis():
    """What is known of another recipe or method changes nothing."""
    bad = {"seconds": 1.0, "passed": False}
    assert chosen([*runs("gkt", 3, recipe="other", **bad), *runs("ispf", 3, **bad)]).method == "gkt"


def test_the_reason_gives_the_figures_of_every_option():
    """A reader of the ledger finds time, quality, number of runs and their classes, for each option."""
    history = [
        *runs("gkt", 3, seconds=150.0, count=2),
        *runs("gkt", 4, seconds=150.0, count=1, passed=False),
        *runs("retrain", 3, seconds=9000.0, kept=1.0),
    ]
    assert chosen(history, methods=("gkt", "retrain"), kept=0.9).why == (
        "gkt: the first in order, and retraining is not known to be cheaper "
        "(gkt takes 2.5 min and leaves 85.5 % of the accuracy "
        "(median of 3 like runs with 3 to 4 classes forgotten, 2 published); "
        "retrain takes 2.5 h and leaves 100.0 % of the accuracy "
        "(median of 3 like runs with 3 classes forgotten, 3 published))."
    )


@pytest.mark.parametrize(
    ("make", "thing"),
    [
        (lambda: runs("gkt", -1, seconds=1.0), "forgotten"),
        (lambda: runs("gkt", 1, seconds=float("nan")), "seconds"),
        (lambda: runs("gkt", 1, seconds=-1.0), "seconds"),
        (lambda: runs("gkt", 1, seconds=True), "seconds"),
        (lambda: runs("gkt", 1, seconds=1.0, kept=1.1), "kept"),
        (lambda: CostSettings(min_kept=2.0), "plan.costs.min_kept"),
        (lambda: CostSettings(min_passed=-0.1), "plan.costs.min_passed"),
        (lambda: CostSettings(evidence=0), "plan.costs.evidence"),
        (lambda: CostSettings(default_s=float("inf")), "plan.costs.default_s"),
    ],
)
def test_bad_figures_are_refused(make, thing):
    """Figures that no run can give and bounds that are none are refused by name."""
    with pytest.raises(BadInput) as error:
        make()
    assert error.value.thing == thing

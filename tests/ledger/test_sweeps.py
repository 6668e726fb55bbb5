from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from rayunlearn.errors import AccessDenied, BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.ledger.sweeps import (
    SweepView,
    real_figures,
    sweep_named,
    trial_run,
    trials_table,
    winning_settings,
)
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import in_memory, row_of
from tests.reports import demo_sweep as demo


def view(store: Store, name: str = demo.SWEEP) -> SweepView:
    """The sweep of a store."""
    return sweep_named(LedgerReader(store), name)


@pytest.fixture(scope="module")
def store() -> Store:
    """Sixteen trials of every kind."""
    return demo.sweep_store(demo.made_up(16))


def test_a_sweep_is_told_as_it_was_begun_and_as_it_ended(store: Store) -> None:
    """Names, space and request are the first row's, winner and seconds the last one's."""
    sweep = view(store)
    assert (sweep.sweep, sweep.recipe, sweep.method) == (demo.SWEEP, "digits_gkt", "gkt")
    assert (sweep.sampler, sweep.scheduler, sweep.budget) == ("random", "asha", "16 trials")
    assert sweep.space == demo.SPACE
    assert sweep.request["kind"] == "classes" and sweep.request["target"] == [0]
    assert (sweep.status, sweep.reason, sweep.seconds) == ("finished", None, 81.5)
    best = max(demo.made_up(16), key=lambda made: made.result.score)
    assert sweep.winner == best.trial
    assert sweep.best() is not None and sweep.best().settings == best.settings


def test_trials_are_those_that_were_written(store: Store) -> None:
    """Every trial has its settings, status, result on either set and failure, in the order of its start."""
    written, found = demo.made_up(16), view(store).trials
    assert [trial.trial for trial in found] == [made.trial for made in written]
    assert {made.end for made in written} == {"finished", "stopped", "failed"}
    for made, trial in zip(written, found, strict=True):
        assert trial.settings == made.settings and trial.status == made.end
        assert trial.failure == (demo.TRACEBACK if made.end == "failed" else None)
        assert trial.seconds == 0.25 * made.result.cycles and (trial.cpus, trial.gpus) == (1.0, 0.0)
        assert trial.result is not None
        told = (trial.result.score, trial.result.step, trial.result.cycles)
        assert told == (made.result.score, made.result.step, made.result.cycles)
        if made.second is not None:
            assert trial.result.second_score == made.second / demo.RETAIN
            assert trial.result.gap == pytest.approx(made.result.score - made.second / demo.RETAIN)
        else:
            assert trial.result.second is None and trial.result.gap is None


def test_what_is_not_over_runs() -> None:
    """Without an end a sweep and its trials are running, without a result, a winner or a duration."""
    trials = [demo.learner("a", 0.9), replace(demo.learner("b", 0.95), end=None)]
    sweep = view(demo.sweep_store(trials, over=False))
    assert (sweep.status, sweep.winner, sweep.seconds, sweep.best()) == ("running", None, None, None)
    ended, running = sweep.trials
    assert ended.status == "finished" and ended.result is not None
    assert (running.status, running.result, running.seconds) == ("running", None, None)


def test_a_failed_sweep_has_its_reason_until_it_is_resumed() -> None:
    """The last event of the sweep counts."""
    store = demo.sweep_store([demo.DemoTrial(trial="a", settings=demo.OWN, end="failed")])
    assert view(store).status == "failed"
    assert view(store).reason == "none of 1 trials has an admissible checkpoint"
    told = {"sweep": demo.SWEEP, "winner": None, "seconds": None, "reason": None}
    Ledger(store).append("sweeps", [row_of("sweeps", **told, event="resumed")])
    assert (view(store).status, view(store).reason) == ("running", None)


def test_a_trial_that_was_lost_has_no_result() -> None:
    """One that raised before its first checkpoint has the worst score; of lost processes none is known."""
    failed = demo.DemoTrial(trial="a", settings=demo.OWN, end="failed")
    raised, lost = view(demo.sweep_store([failed, replace(failed, trial="b", lost=True)])).trials
    assert raised.result is not None and (raised.result.score, raised.result.cycles) == (-3.0, 0)
    assert lost.result is None
    assert raised.failure == lost.failure == demo.TRACEBACK


def test_of_ends_that_repeat_the_last_counts() -> None:
    """A trial that went on after the sweep was resumed has its later result, not the earlier second set's."""
    early = demo.learner("a", 0.9, cycles=10, second=70)
    store = demo.sweep_store([replace(early, end="stopped")])
    assert view(store).trials[0].result.second is not None
    late = demo.learner("a", 0.9)
    assert late.result.step != early.result.step
    end = {"score": late.result.score, "step": late.result.step, "cycles": demo.CYCLES, "reason": "so"}
    row = row_of("trials", sweep=demo.SWEEP, trial="a", settings=json.dumps(demo.OWN), event="finished")
    Ledger(store).append("trials", [row | end | {"second_correct": None, "second_count": None}])
    (trial,) = view(store).trials
    assert trial.status == "finished" and trial.result is not None
    assert (trial.result.step, trial.result.second) == (late.result.step, None)


def test_sweeps_of_one_ledger_stay_apart() -> None:
    """Each has its own trials, also where their ids are the same."""
    store = in_memory()
    ledger = Ledger(store)
    demo.write_sweep(ledger, [demo.learner("a", 0.9)], sweep="one")
    demo.write_sweep(ledger, [demo.learner("a", 0.7), demo.learner("b", 0.8)], sweep="two")
    assert [trial.trial for trial in view(store, "one").trials] == ["a"]
    assert (view(store, "one").winner, view(store, "two").winner) == ("a", "b")
    one, two = (view(store, name).trials[0].result for name in ("one", "two"))
    assert one.score > two.score


def test_an_unknown_sweep_is_refused_with_the_nearest(store: Store) -> None:
    """The error names what there is, or says that there is nothing."""
    with pytest.raises(BadInput, match="sweep is 'sweep-dem0'; allowed: 'sweep-demo'"):
        view(store, "sweep-dem0")
    with pytest.raises(BadInput, match="no sweep was run here yet"):
        view(in_memory(), "any")


def test_the_table_has_a_typed_column_for_every_setting(store: Store) -> None:
    """A row a trial; numbers stay numbers, whole ones whole; what was not measured is null."""
    sweep = view(store)
    table = trials_table(sweep)
    kinds = {
        "trial": pa.string(), "status": pa.string(), "gkt.beta": pa.float64(),
        "gkt.divergence": pa.string(), "gkt.epsilon": pa.float64(), "gkt.generator_steps": pa.int64(),
        "gkt.temperature": pa.float64(), "score": pa.float64(), "step": pa.int64(), "cycles": pa.int64(),
        "second_score": pa.float64(), "gap": pa.float64(), "seconds": pa.float64(),
    }  # fmt: skip
    assert {field.name: field.type for field in table.schema} == kinds
    for row, trial in zip(table.to_pylist(), sweep.trials, strict=True):
        assert {key: row[key] for key in demo.SPACE} == trial.settings
        assert (row["trial"], row["status"], row["seconds"]) == (trial.trial, trial.status, trial.seconds)
        for name in ("score", "step", "cycles", "second_score", "gap"):
            assert row[name] == (None if trial.result is None else getattr(trial.result, name))


def test_a_table_without_results_keeps_its_types() -> None:
    """Columns of nothing but null have the type that they would have; of no trials too."""
    for trials in ([], [demo.DemoTrial(trial="a", settings=demo.OWN, end="failed")]):
        table = trials_table(view(demo.sweep_store(trials)))
        assert table.num_rows == len(trials)
        assert table.schema.field("score").type == pa.float64()
        assert table.schema.field("step").type == pa.int64()


def test_real_figures_are_found_by_trial() -> None:
    """Of the sweep's own trials, where both accuracies were measured, by readers that may see audits."""
    store = demo.sweep_store([demo.learner("a", 0.9), demo.learner("b", 0.8)])
    for run, measure, value in (
        (trial_run(demo.SWEEP, "a"), "retain_accuracy", 0.75),
        (trial_run(demo.SWEEP, "a"), "forget_accuracy", 0.25),
        (trial_run(demo.SWEEP, "b"), "retain_accuracy", 0.5),
        (trial_run("another", "b"), "forget_accuracy", 0.0),
    ):
        told = {"run_id": run, "subject": "checkpoint", "measure": measure, "value": value}
        Ledger(store).append("audits", [row_of("audits", **told)])
    assert real_figures(LedgerReader(store, ALL_TABLES), view(store)) == {"a": (0.75, 0.25)}
    with pytest.raises(AccessDenied):
        real_figures(LedgerReader(store), view(store))


def test_the_winner_is_handed_on(store: Store) -> None:
    """Its settings are the winner's, to the last bit."""
    best = max(demo.made_up(16), key=lambda made: made.result.score)
    found = winning_settings(LedgerReader(store), demo.SWEEP, recipe="digits_gkt", method="gkt")
    assert found == best.settings


@pytest.mark.parametrize(("recipe", "method"), [("mnist_lenet", "gkt"), ("digits_gkt", "delete")])
def test_settings_of_another_recipe_or_method_are_refused(store: Store, recipe: str, method: str) -> None:
    """Settings that were judged elsewhere are not handed on."""
    with pytest.raises(BadInput, match=f"over {recipe} with method {method}; this one is over digits_gkt"):
        winning_settings(LedgerReader(store), demo.SWEEP, recipe=recipe, method=method)


def test_a_sweep_that_found_nothing_has_no_settings() -> None:
    """The error says why: the sweep's own reason, or that it is not over."""
    for trials, over, why in (
        ([demo.learner("a", 0.3)], True, "none of 1 trials has an admissible checkpoint"),
        ([demo.learner("a", 0.9)], False, "it is running"),
    ):
        reader = LedgerReader(demo.sweep_store(trials, over=over))
        with pytest.raises(BadInput, match=f"--tuned is 'sweep-demo'.*{why}"):
            winning_settings(reader, demo.SWEEP, recipe="digits_gkt", method="gkt")

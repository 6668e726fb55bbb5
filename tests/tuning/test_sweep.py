"""Sweeps by Ray Tune: from a space to a winner, and on through kills of whatever carries a trial."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ray.util.state import list_actors

from rayunlearn.cli.job import tuned_settings
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.execution.cluster import Placement
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.sweeps import SweepView, sweep_named, trials_table
from rayunlearn.scheduling.budget import parse_budget
from rayunlearn.scheduling.objective import best
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.store import Store
from rayunlearn.tuning.search_space import space_of
from rayunlearn.tuning.sweep import Sweep, where_for
from rayunlearn.tuning.sweep_record import SweepSettings
from tests.local_ray import Head
from tests.serving.tiny import (
    NOON,
    ROOT,
    SMALL,
    Quiet,
    environment,
    forget,
    rows,
    tiny_context,
    tiny_recipe,
    tiny_scheduler,
)
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

SPACE = ("gkt.epsilon=loguniform(0.02,0.1)", "gkt.student_lr=loguniform(0.0003,0.01)")
"""Without the recipe's own epsilon, so that a winner differs from the recipe."""
TINY = ("gkt.cycles=12", "gkt.schedule_cycles=12", "gkt.divergence=kl")
CPUS = 1.5
"""Of a trial: two are side by side on the head, and others take over their actors."""


@dataclass(frozen=True)
class Found:
    """A sweep's view and where it is."""

    view: SweepView
    store: Store


SIGNALS = (signal.SIGINT, signal.SIGUSR1)


def swept(
    folder: Path, *, space: tuple[str, ...] = SPACE, trials: int = 3, request: Request | None = None,
    progress: Quiet | None = None, method: tuple[str, ...] = TINY, **settings: Any,
) -> Found:  # fmt: skip
    """A sweep over the tiny original, in a folder."""
    store = Store.open(folder, sync=False)
    recipe = tiny_recipe("digits_gkt", *method)
    scheduler = tiny_scheduler(store, recipe)
    budget = f"{trials} trials"
    declared = SweepSettings(
        space=space_of(recipe, (*space, *FIXED)), budget=parse_budget(budget), budget_text=budget,
        scheduler=settings.pop("scheduler", "none"), **settings,
    )  # fmt: skip
    context = replace(scheduler.context, progress=progress or Quiet())
    where = where_for(recipe, Placement.COLOCATED, cpus_per_role=CPUS, gpus_per_role=None)
    parent = versions(LedgerReader(store), "default")[-1]
    sweep = Sweep(context, parent, request or forget(0), declared, where, name="s")
    handlers = [signal.getsignal(number) for number in SIGNALS]
    found = Found(sweep.run(), store)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers, "Tune's handlers stay"
    return found


FIXED = tuple(
    f"gkt.{key}=choice({value})"
    for key, value in (("beta", "250"), ("temperature", "1"), ("generator_lr", "0.001"), ("divergence", "kl"))
)
"""The rest of the recipe's declared space, held fixed."""


@pytest.fixture(scope="module")
def undisturbed(cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """Three trials, in one go."""
    return swept(tmp_path_factory.mktemp("sweep"))


def outcomes(view: SweepView) -> list[Any]:
    """What came out of each trial, by its settings."""
    return sorted(
        (sorted(t.settings.items()), t.result.score, t.result.step, t.result.second_score)
        for t in view.trials if t.result is not None
    )  # fmt: skip


def test_a_space_becomes_a_winner(undisturbed: Found) -> None:
    """Every checkpoint is a candidate, the best is named, and a second set has judged what was chosen."""
    view, store = undisturbed.view, undisturbed.store
    assert view.status == "finished" and len(view.trials) == 3
    results = [t.result for t in view.trials if t.result is not None]
    winner = best(results)
    assert winner is not None and view.winner == winner.trial
    assert all(r.second is not None for r in results if r.admissible)
    checkpoints = rows(store, "checkpoints", run_id="s")
    assert {row["trial"] for row in checkpoints} == {t.trial for t in view.trials}
    assert len(checkpoints) == 3 * 6
    assert len({tuple(t.settings.items()) for t in view.trials}) == 3
    table = trials_table(view)
    assert table.schema.field("gkt.epsilon").type == "double" and table.num_rows == 3
    assert len(store.list("sets")) == 1
    kept = store.list("runs")
    assert len(kept) == sum(r.admissible for r in results)  # the chosen students alone


def test_a_finished_sweep_is_not_run_again(undisturbed: Found) -> None:
    """The same command reads what is there and appends nothing."""
    before = undisturbed.store.list("ledger")
    again = swept(Path(undisturbed.store.local_path("x")).parent)
    assert again.view == undisturbed.view and undisturbed.store.list("ledger") == before


def test_the_winner_serves(undisturbed: Found) -> None:
    """Its settings go over the recipe's, and the run says which sweep found them."""
    recipe = tiny_recipe("digits_gkt", *TINY)
    found = tuned_settings(undisturbed.store, recipe, "s")
    winner = undisturbed.view.best()
    assert winner is not None and found.gkt.epsilon == winner.settings["gkt.epsilon"] != recipe.gkt.epsilon
    with pytest.raises(BadInput, match="'s'"):
        tuned_settings(undisturbed.store, recipe, "t")
    with pytest.raises(BadInput, match="a sweep over digits with method gated_inversion"):
        tuned_settings(undisturbed.store, tiny_recipe("digits"), "s")
    scheduler = tiny_scheduler(undisturbed.store, found)
    scheduler.context = replace(scheduler.context, sweep="s")
    assert scheduler.serve(forget(0, name="tuned")).version is not None
    assert {row["sweep"] for row in rows(undisturbed.store, "runs")} == {"s"}


class Killing(Quiet):
    """Kills a process that carries a trial, once, when so many cycles have been reported."""

    def __init__(self, head: Head, actor: str, after: int) -> None:
        super().__init__()
        self.head, self.actor, self.after, self.killed = head, actor, after, 0

    def advance(self, n: int = 1, **figures: float) -> None:
        """A checkpoint was reported."""
        self.after -= n
        if self.after <= 0 and not self.killed:
            found = list_actors(self.head.dashboard, filters=[("state", "=", "ALIVE")])
            named = {actor.class_name.rpartition(".")[2]: actor.pid for actor in found}
            self.killed = named.get(self.actor, 0)
            assert self.killed, named
            os.kill(self.killed, signal.SIGKILL)


@pytest.mark.parametrize("actor", ["SealedProcess", "ResourceTrainable"])
def test_a_killed_trial_goes_on_to_the_same_bits(
    actor: str, head: Head, undisturbed: Found, tmp_path: Path
) -> None:
    """Its actor, or the process that Tune gave it: nothing is lost, nothing recorded twice."""
    killing = Killing(head, actor, after=10)
    found = swept(tmp_path, progress=killing)
    assert killing.killed
    assert outcomes(found.view) == outcomes(undisturbed.view)
    steps = [(row["trial"], row["step"]) for row in rows(found.store, "checkpoints")]
    assert len(steps) == len(set(steps)) == 18


def test_no_admissible_trial_is_said(cluster: None, tmp_path: Path) -> None:
    """Nothing is published by it, and it says what to change."""
    found = swept(tmp_path, trials=1, method=(*TINY, "stopping.min_retain=1", "stopping.forget_tolerance=0"))
    assert found.view.status == "failed" and "stopping.min_retain (1)" in str(found.view.reason)


def test_a_trial_that_raises_does_not_end_the_sweep(cluster: None, tmp_path: Path) -> None:
    """Its traceback is in the ledger; the others are searched on."""
    space = (*SPACE, "gkt.z_dim=choice(8,1000000000000)")
    found = swept(tmp_path, space=space, trials=4)
    failed = [t for t in found.view.trials if t.status == "failed"]
    assert failed and all(t.settings["gkt.z_dim"] == 10**12 for t in failed)
    assert "Traceback" in str(failed[0].failure)
    assert found.view.status == "finished" and found.view.winner not in {t.trial for t in failed}


def test_what_cannot_be_searched_is_refused_at_once(cluster: None, tmp_path: Path) -> None:
    """A place larger than the cluster, a method with data, images that would differ between trials."""
    recipe = tiny_recipe("digits_gkt")
    with pytest.raises(BadInput, match="CPU that the cluster has"):
        where_for(recipe, Placement.SPLIT, cpus_per_role=64, gpus_per_role=None)
    store = Store.open(tmp_path, sync=False)
    parent = versions(tiny_scheduler(store, recipe).reader, "default")[-1]
    where = where_for(recipe, Placement.COLOCATED, cpus_per_role=0.5, gpus_per_role=None)

    def refused(of: str, method: str, entries: tuple[str, ...], request: Request) -> str:
        changed = tiny_recipe(of, f"method={method}")
        budget = parse_budget("1 trial")
        settings = SweepSettings(space=space_of(changed, entries), budget=budget, budget_text="1 trial")
        with pytest.raises(BadInput) as error:
            Sweep(tiny_context(store, changed), parent, request, settings, where)
        return str(error.value)

    with_data = Request(request_id="r", target=(0,), data_access=("retain", "weights"), received_at=NOON)
    said = refused("digits", "retrain", ("train.lr=choice(0.1,0.2)",), with_data)
    assert "this one declares retain" in said
    images = ("gated_inversion.inverted_per_class=choice(8,9)",)
    assert "which all trials share" in refused("digits", "gated_inversion", images, forget(0))


def sweep_job(storage: Path, head: Head, *flags: str) -> subprocess.Popen[str]:
    """`python jobs/tune_sweep.py` on the head, tiny."""
    command = [sys.executable, "jobs/tune_sweep.py", "--storage", str(storage), "--address", head.address]
    command += ["--budget", "3 trials", "--scheduler", "none", "--cpus-per-role", str(CPUS), *flags]
    for setting in (*SMALL, *TINY):
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_until(is_so: Callable[[], bool], timeout_s: float = HANG_S) -> None:
    """Look again and again."""
    end = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)


def test_a_killed_driver_goes_on_by_the_same_command(head: Head, tmp_path: Path) -> None:
    """Finished trials are kept, those under way go on; then the winner is named, and the table printed.

    The first one is killed when Tune has a folder and has not yet written its state there.
    """
    storage = tmp_path / "storage"
    with sweep_job(storage, head, "--log", "tensorboard") as job:
        wait_until(lambda: job.poll() is not None or any(storage.glob("tune/*/tuner.pkl")))
        job.send_signal(signal.SIGKILL)
    with sweep_job(storage, head, "--log", "tensorboard") as job:

        def some_are_recorded() -> bool:
            assert job.poll() is None, job.stdout.read() if job.stdout else ""
            return len(list(storage.glob("ledger/checkpoints/*"))) >= 5

        wait_until(some_are_recorded)
        job.send_signal(signal.SIGKILL)
    with sweep_job(storage, head, "--log", "tensorboard") as job:
        out, _ = job.communicate(timeout=HANG_S)
    assert job.returncode == ExitCode.OK, out
    assert "Traceback" not in out, out
    assert len({path.parent for path in storage.glob("tune/*/*/events.out.tfevents*")}) == 3
    assert "on the second set" in out and "--tuned sweep-" in out
    reader = LedgerReader(Store.open(storage))
    (name,) = {row["sweep"] for row in reader.read("sweeps").to_pylist()}
    view = sweep_named(reader, name)
    assert view.status == "finished" and sum(t.status == "finished" for t in view.trials) == 3
    steps = [(row["trial"], row["step"]) for row in reader.read("checkpoints", run_id=name).to_pylist()]
    assert len(steps) == len(set(steps)) >= 18

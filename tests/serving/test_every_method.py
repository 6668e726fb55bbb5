"""Every method as a request: by the scheduler, with checkpoints, gate and ledger; and in a sealed actor."""

from __future__ import annotations

import pytest
import torch

from rayunlearn.auditing.training import fit_logged
from rayunlearn.errors import BadInput
from rayunlearn.execution.cluster import Placement, open_executor
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.serving.training_logs import keep_log, load_log
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import NOON, memory_store, original, original_job, tiny_context, tiny_recipe

ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))
SHORT = (
    "publish_refused=true", "inversion.iterations=5", "min_max.noise_images=8", "min_max.noise_steps=3",
    "min_max.batch_size=32", "min_max.impair_epochs=1", "unsir.noise_images=8", "unsir.noise_steps=3",
    "unsir.retain_per_class=10", "ispf.epochs=2", "ispf.warmup_epochs=1", "ispf.student_steps=3",
    "ispf.batch_size=16", "ispf.generator_width=0.1", "delete.steps=4", "delete.forget_images=8",
    "delete.batch_size=8", "amnesiac_relabel.epochs=1", "amnesiac_rollback.epochs=1", "fisher.max_samples=20",
    "train.epochs=2", "trivial.gaussian.samples=100", "trivial.gaussian.epochs=1", "fine_tune.epochs=1",
    "last_layer.unlearn.steps=3", "last_layer.unlearn.samples=4",
)  # fmt: skip


OF_CLASSES = [name for name, method in METHODS.items() if "classes" in method.granularity]
"""Those for requests of examples are tested in test_examples.py."""


def recipe_of(method: str) -> Recipe:
    """A recipe under which any method takes a second or two."""
    return tiny_recipe("digits", f"method={method}", *SHORT)


def request_for(method: str, *more: str) -> Request:
    """A request that grants what the method declares."""
    access = METHODS[method].data_access | {"weights"} | set(more)
    return Request(request_id="r", target=(0,), received_at=NOON, data_access=tuple(access))


def served(method: str, open_executor=InlineExecutor) -> tuple[Outcome, Scheduler]:
    """A request served by a method from the tiny original."""
    store = memory_store()
    scheduler = Scheduler(
        tiny_context(store, recipe_of(method)), open_executor=open_executor, placement="inline", grant=grant
    )
    spec, weights = original()
    scheduler.publish(
        lineage="default", weights=weights, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    if "training_log" in METHODS[method].data_access:
        keep_log(store, "default", fit_logged(original_job())[1])
    return scheduler.serve(request_for(method)), scheduler


@pytest.mark.parametrize("method", OF_CLASSES)
def test_a_request_is_served(method: str) -> None:
    """A new version is published whose weights changed; run, checkpoints and evaluations are recorded."""
    outcome, scheduler = served(method)
    assert outcome.version is not None
    chain = versions(scheduler.reader, "default")
    assert [v.version for v in chain] == [chain[0].version, outcome.version]
    assert chain[1].version != chain[0].version and chain[1].classes_forgotten == (0,)
    reader = LedgerReader(scheduler.context.store, ALL_TABLES)
    checkpoints = reader.read("checkpoints", run_id=outcome.run_id).to_pylist()
    assert len(checkpoints) == 1 if METHODS[method].fixed_length else len(checkpoints) >= 1
    measured = set(reader.read("evaluations", run_id=outcome.run_id).column("measure").to_pylist())
    judged = {"retain_accuracy", "forget_accuracy", "probe_recall", "stand_in_probe_recall"}
    assert {"chosen_step", *judged} <= measured
    events = [r["event"] for r in reader.read("runs", run_id=outcome.run_id).to_pylist()]
    assert events[0] == "started" and events[-1] == "published"


@pytest.mark.parametrize("method", [m for m in OF_CLASSES if len(METHODS[m].data_access) > 1])
def test_a_request_that_grants_less_is_refused(method: str) -> None:
    """Weights alone are not enough for a method that declares data: the sentence says what it needs."""
    _, scheduler = served("mask_logit")
    scheduler = Scheduler(
        tiny_context(scheduler.context.store, recipe_of(method)), open_executor=InlineExecutor,
        placement="inline", grant=grant,
    )  # fmt: skip
    needed = ", ".join(sorted(METHODS[method].data_access - {"weights"}))
    with pytest.raises(BadInput, match=f"what '{method}' needs besides: {needed}"):
        scheduler.serve(Request(request_id="x", target=(1,), received_at=NOON))


def test_rolling_back_leaves_a_log_without_what_was_forgotten() -> None:
    """After the request no step of the log took a sample of the class, so none can be undone twice."""
    before = fit_logged(original_job())[1]
    outcome, scheduler = served("amnesiac_rollback")
    store = scheduler.context.store
    left = load_log(store, "default")
    split_seed = original_job().split_seed
    forget = grant(scheduler.context.recipe.data, split_seed, ROLES, ["forget"]).forget
    assert forget is not None and outcome.version is not None
    assert len(left.updates) < len(before.updates)
    assert not any(bool(torch.isin(batch, forget.ids).any()) for batch in left.sample_ids)
    assert any(bool(torch.isin(batch, forget.ids).any()) for batch in before.sample_ids)


def test_a_log_that_was_never_written_is_named() -> None:
    """Rollback of a lineage whose original was trained without a log says so."""
    store = memory_store()
    scheduler = Scheduler(
        tiny_context(store, recipe_of("amnesiac_rollback")), open_executor=InlineExecutor, placement="inline",
        grant=grant,
    )  # fmt: skip
    spec, weights = original()
    scheduler.publish(
        lineage="default", weights=weights, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    outcome = scheduler.serve(request_for("amnesiac_rollback"))
    assert outcome.version is None
    assert "prepare: training log of lineage is 'default'" in str(outcome.reason)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("method", ["unsir", "bad_teacher", "ispf", "delete", "eubo", "retrain"])
def test_a_sealed_actor_gives_the_same_version(cluster: None, method: str) -> None:
    """In a process that cannot open any data, handed what the method declares: the same weights."""

    def in_actor():
        return open_executor(Placement.COLOCATED, cpus_per_role=1)

    assert served(method, in_actor)[0].version == served(method)[0].version

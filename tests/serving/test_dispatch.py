"""Plans carried out on the tiny original: order, company, escalation, side by side, and through kills."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.lineages.requested import request_row
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.plan import PlanSettings
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.dispatch import Dispatcher
from rayunlearn.serving.grants import grant
from rayunlearn.serving.scheduler import Outcome, Scheduler
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import (
    NOON,
    Recording,
    forget,
    memory_store,
    original,
    rows,
    tiny_context,
    tiny_recipe,
)

pytestmark = pytest.mark.usefixtures("few_draws")

SEQUENCE = PlanSettings(order=("gkt",), max_classes=1)
TOGETHER = PlanSettings(order=("gkt",), max_classes=4)


def dispatcher(
    store: Store, settings: PlanSettings = SEQUENCE, *, slots: int | Callable[[], int] | None = None,
    recipe: Recipe | None = None, news: Callable[[], Iterable[Request]] = tuple,
    cancelled: Callable[[], set[str]] = set,
) -> Dispatcher:  # fmt: skip
    """A dispatcher over a store; whatever so short a run forgets or not on this processor is published."""
    context = tiny_context(store, recipe or tiny_recipe("digits_gkt", "publish_refused=true"))

    @functools.cache
    def scheduler_for(method: str) -> Scheduler:
        own = replace(context, recipe=replace(context.recipe, method=method))
        return Scheduler(own, open_executor=InlineExecutor, placement="inline", grant=grant)

    def begin(lineage: str) -> None:
        spec, weights = original()
        scheduler_for(context.recipe.method).publish(
            lineage=lineage, weights=weights, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
            run=None,
        )  # fmt: skip

    return Dispatcher(
        context, scheduler_for=scheduler_for, settings=settings,
        slots=(lambda: slots) if isinstance(slots, int) else slots,
        begin_lineage=begin, news=news, cancelled=cancelled,
    )  # fmt: skip


def received(store: Store, *requests: Request) -> None:
    """Requests as intake leaves them in the ledger."""
    dispatcher(store).context.ledger.append(
        "requests", [request_row(request, "received", NOON) for request in requests]
    )


def served(store: Store, *requests: Request, **options: Any) -> dict[str, Outcome]:
    """Requests taken in and served."""
    received(store, *requests)
    return dispatcher(store, **options).drain(requests)


def statuses(store: Store) -> dict[str, str]:
    """Request -> what became of it."""
    return {name: status(events) for name, events in request_events(LedgerReader(store)).items()}


def test_requests_are_served_in_the_plan_s_order() -> None:
    """The earliest deadline first, each from the version of the one before; plans are on record."""
    store = memory_store()
    late, early = forget(0), replace(forget(2), deadline=NOON.replace(year=2026))
    outcomes = served(store, late, early)
    assert list(outcomes) == ["forget-2", "forget-0"]
    chain = versions(LedgerReader(store), "default")
    assert [v.classes_forgotten for v in chain] == [(), (2,), (0, 2)]
    plans = rows(store, "plans")
    assert [(row["event"], row["request_ids"]) for row in plans] == [
        ("start", ["forget-2"]), ("wait", ["forget-0"]), ("start", ["forget-0"])
    ]  # fmt: skip
    assert plans[0]["method"] == "gkt" and plans[0]["parent_version"] == chain[0].version


def test_what_waits_together_is_served_by_one_run() -> None:
    """One version forgets both, names both, and both are recorded as served by the same run."""
    store = memory_store()
    outcome, same = served(store, forget(0), forget(2, 3), settings=TOGETHER).values()
    assert [r.request_id for r in outcome.requests] == ["forget-0", "forget-2-3"] and outcome is same
    head = versions(LedgerReader(store), "default")[-1]
    assert head.classes_forgotten == (0, 2, 3) and set(head.request_ids) == {"forget-0", "forget-2-3"}
    assert statuses(store) == {"forget-0": "served", "forget-2-3": "served"}
    assert {row["run_id"] for row in rows(store, "requests", event="served")} == {outcome.run_id}


def test_company_changes_the_seed_and_not_its_order() -> None:
    """The same requests in another order are the same run, to the bit."""
    one, other = memory_store(), memory_store()
    a, _ = served(one, forget(0), forget(2), settings=TOGETHER).values()
    b, _ = served(other, forget(2), forget(0), settings=TOGETHER).values()
    assert a.version == b.version and a.run_id == b.run_id


def test_a_refusal_in_company_is_followed_by_each_alone() -> None:
    """Then nothing is left for a zero-shot request: parked, with the story, and the job ends."""
    store = memory_store()
    strict = tiny_recipe("digits_gkt", "stopping.min_retain=1", "stopping.forget_tolerance=0")
    outcomes = served(store, forget(0), forget(2), settings=TOGETHER, recipe=strict)
    assert [o.version for o in outcomes.values()] == [None, None]
    attempts = [(row["request_ids"], row["attempt"]) for row in rows(store, "runs", event="started")]
    assert attempts == [(["forget-0", "forget-2"], 1), (["forget-0"], 2), (["forget-2"], 2)]
    assert statuses(store) == {"forget-0": "failed", "forget-2": "failed"}
    parked = rows(store, "plans", event="park")
    assert {row["request_ids"][0] for row in parked} == {"forget-0", "forget-2"}


def test_retraining_is_the_last_resort_where_the_data_are_allowed() -> None:
    """The method is refused, and a request that allows the data is served by retraining."""
    store = memory_store()
    strict = tiny_recipe("digits_gkt", "stopping.min_retain=1", "stopping.forget_tolerance=0")
    allowed = replace(forget(0), data_access=("retain", "weights"))
    served(store, allowed, recipe=strict)
    methods = [row["method"] for row in rows(store, "runs", event="started")]
    assert methods == ["gkt", "retrain"]


def test_lineages_run_side_by_side() -> None:
    """Each to the version that it has alone."""
    alone = memory_store()
    served(alone, forget(0), replace(forget(2), lineage="other"))
    store = memory_store()
    served(store, forget(0), replace(forget(2), lineage="other"), slots=2)
    reader, other = LedgerReader(store), LedgerReader(alone)
    for lineage in ("default", "other"):
        assert versions(reader, lineage)[-1].version == versions(other, lineage)[-1].version
    begun = [row["lineage"] for row in rows(store, "runs") if row["event"] in ("started", "published")]
    assert begun[:2] in (["default", "other"], ["other", "default"]), "both begin before either ends"


def test_what_comes_meanwhile_is_served_too() -> None:
    """And what was cancelled before its turn is not."""
    store = memory_store()
    arriving = [[], [forget(3)], []]
    received(store, forget(0), forget(2), forget(3))
    outcomes = dispatcher(
        store, news=lambda: arriving.pop(0) if arriving else [], cancelled=lambda: {"forget-2"}
    ).drain([forget(0), forget(2)])
    assert list(outcomes) == ["forget-0", "forget-3"]


def test_nobody_who_can_serve_it_is_said_and_recorded() -> None:
    """A method that there is not parks the request; the others are served."""
    store = memory_store()
    outcomes = served(store, replace(forget(0), method="gkd"), forget(2))
    reasons = {name: outcome.reason for name, outcome in outcomes.items()}
    assert "there is no method 'gkd'" in str(reasons["forget-0"]).lower() and reasons["forget-2"] is None
    assert statuses(store) == {"forget-0": "failed", "forget-2": "served"}


def test_a_missed_deadline_is_flagged_and_served_all_the_same() -> None:
    """At once, in the ledger; once, however often it is planned."""
    store = memory_store()
    served(store, forget(2), replace(forget(0), deadline=NOON))
    (flag,) = rows(store, "plans", event="flag")
    assert flag["request_ids"] == ["forget-0"]
    assert statuses(store)["forget-0"] == "served"


def test_a_deadline_that_had_passed_at_receipt_stays_on_record() -> None:
    """Every event of a request has the deadline as asked, served or parked, and so has the flag's reason."""
    store, late = memory_store(), NOON - timedelta(days=3)
    parked = replace(forget(0), method="gkd")
    served(store, *(replace(request, deadline=late) for request in (parked, forget(2))))
    assert statuses(store) == {"forget-0": "failed", "forget-2": "served"}
    events = LedgerReader(store).read("requests").to_pylist()
    assert {(row["deadline"], row["received_at"]) for row in events} == {(late, NOON)}
    flags = LedgerReader(store).read("plans", event="flag").to_pylist()
    assert len(flags) == 2 and all(late.isoformat() in flag["why"] for flag in flags)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SEQUENCE, TOGETHER], ids=["one after another", "together"])
def test_a_killed_driver_loses_nothing_and_serves_nothing_twice(settings: PlanSettings) -> None:
    """From whatever was stored before each change: the same versions, each request in exactly one of them."""
    asked = forget(0), forget(2)
    undisturbed = Recording()
    served(undisturbed, *asked, settings=settings)
    ends = [v.version for v in versions(LedgerReader(undisturbed), "default")]
    moments = [i for i, (change, _) in enumerate(undisturbed.before) if "ledger" in change]
    for moment in moments[:: len(moments) // 12]:
        change, files = undisturbed.before[moment]
        if not any(name.startswith("ledger/requests") for name in files):
            continue
        store = memory_store(files)
        waiting = [r for r in asked if statuses(store).get(r.request_id) in ("received", "planned")]
        dispatcher(store, settings).drain(waiting)
        chain = versions(LedgerReader(store), "default")
        assert [v.version for v in chain] == ends, change
        assert statuses(store) == {"forget-0": "served", "forget-2": "served"}


def failures(store: Store) -> list[tuple[str, bool]]:
    """Failed requests by the ledger, one for each row, and whether a run is named."""
    return [(row["request_id"], bool(row["run_id"])) for row in rows(store, "requests", event="failed")]


def test_a_killed_driver_records_a_failure_once() -> None:
    """From whatever was stored around the run's end: one row that names the run, however many jobs follow."""
    strict = tiny_recipe("digits_gkt", "stopping.min_retain=1", "stopping.forget_tolerance=0")
    undisturbed = Recording()
    served(undisturbed, forget(0), recipe=strict)
    assert failures(undisturbed) == [("forget-0", True)]
    ended = [files for _, files in undisturbed.before if _run_failed(files)]
    assert len(ended) > 1, "the run's end and the request's are two writes"
    for files in ended:
        store = memory_store(files)
        for _ in range(2):
            outcome = dispatcher(store, recipe=strict).drain([forget(0)])["forget-0"]
            assert outcome.version is None and "No method is left" in str(outcome.reason)
            assert failures(store) == [("forget-0", True)]
    begun = {row["run_id"] for row in rows(store, "runs", event="started")}
    assert {row["run_id"] for row in rows(store, "requests", event="failed")} == begun


def _run_failed(files: dict[str, bytes]) -> bool:
    there = any(name.startswith("ledger/runs") for name in files)
    return there and bool(rows(memory_store(files), "runs", event="failed"))


def test_what_no_method_may_serve_is_recorded_once() -> None:
    """A later job parks the request again and says so, without another row; a new reason is a new row."""
    store, asked = memory_store(), replace(forget(0), method="gkd")
    served(store, asked)
    again = dispatcher(store).drain([asked])["forget-0"]
    assert again.version is None and failures(store) == [("forget-0", False)]
    other = replace(asked, method="gke")
    dispatcher(store).drain([other])
    assert failures(store) == [("forget-0", False)] * 2

"""What a plan goes by: kept up to date piece by piece, it is what reading the whole ledger anew gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rayunlearn.ledger.history import REMEMBERED, History, Known, likeness
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import OpenRequests, request_events, waits
from tests.ledger.ledgers import in_memory, row_of

MODEL = json.dumps({"num_classes": 10})


def known(history: History, waiting: tuple[str, ...] = ()) -> Known:
    """What a history gives under the settings "{}"."""
    return history.known("{}", waiting=waiting, under_way={}, config_hash=lambda method: "x")


class Told:
    """A ledger told of runs as the scheduler tells it."""

    def __init__(self) -> None:
        self.store = in_memory()
        self.ledger = Ledger(self.store, compact_at=5)
        self.reader = LedgerReader(self.store)
        self.number = 0

    def original(self, lineage: str) -> None:
        """A lineage begins."""
        self._version(lineage, f"{lineage}-0", None, [])

    def received(self, request: str, target: int) -> None:
        """A request comes in."""
        self._request("received", request, target)

    def run(self, lineage: str, request: str, target: int, *, method: str, kept: float, passed: bool) -> None:
        """A run of three seconds serves or fails."""
        self.number += 1
        run = f"run-{self.number}"
        common = {"run_id": run, "lineage": lineage, "request_ids": [request], "method": method, "attempt": 1}
        self.ledger.append("runs", [row_of("runs", event="started", seconds=None, **common)])
        self._request("planned", request, target)
        for seconds in (1.0, 2.0):
            row = row_of("runs", event="phase", seconds=seconds, **common)
            self.ledger.append("runs", [row])
        measures = {"retain_accuracy": kept * 0.5, "parent_retain_accuracy": 0.5, "other": 7.0}
        rows = [row_of("evaluations", run_id=run, measure=name, value=v) for name, v in measures.items()]
        self.ledger.append("evaluations", rows)
        if passed:
            before = known(History(self.reader)).lineages[lineage].forgotten
            self._version(lineage, f"{lineage}-{self.number}", run, sorted({*before, target}))
        event = "published" if passed else "failed"
        self.ledger.append("runs", [row_of("runs", event=event, seconds=None, reason=event, **common)])
        self._request("served" if passed else "failed", request, target)

    def _request(self, event: str, request: str, target: int) -> None:
        asked = {"request_id": request, "kind": "classes", "target": [target], "run_id": None}
        self.ledger.append("requests", [row_of("requests", event=event, **asked)])

    def _version(self, lineage: str, version: str, run: str | None, forgotten: list[int]) -> None:
        told = {"run_id": run, "classes_forgotten": forgotten, "model": MODEL, "event": "published"}
        self.ledger.append("versions", [row_of("versions", lineage=lineage, version=version, **told)])


def test_lineages_costs_and_refusals() -> None:
    """Shares multiply, retraining begins anew, a failed run counts what it was to forget."""
    told = Told()
    told.original("a")
    for number, (method, kept, passed) in enumerate(
        [("gkt", 0.9, True), ("gkt", 0.8, True), ("gkt", 0.1, False), ("retrain", 0.7, True)]
    ):
        told.received(f"r{number}", number)
        told.run("a", f"r{number}", number, method=method, kept=kept, passed=passed)
    found = known(History(told.reader), ("r2",))
    lineage = found.lineages["a"]
    assert (lineage.version, lineage.num_classes, lineage.forgotten) == ("a-4", 10, {0, 1, 3})
    assert abs(lineage.kept - 0.7) < 1e-12
    assert [(run.method, run.forgotten, run.seconds, run.passed) for run in found.past] == [
        ("gkt", 1, 3.0, True), ("gkt", 2, 3.0, True), ("gkt", 3, 3.0, False), ("retrain", 3, 3.0, True),
    ]  # fmt: skip
    assert [round(run.kept or 0.0, 9) for run in found.past] == [0.9, 0.8, 0.1, 0.7]
    assert {run.recipe for run in found.past} == {likeness("{}")}
    assert [(r.request_ids, r.method, r.reason) for r in found.refusals] == [(("r2",), "gkt", "failed")]
    assert known(History(told.reader), ("r1",)).refusals == ()


STEPS = st.tuples(
    st.sampled_from(["a", "b"]),
    st.integers(0, 3),
    st.sampled_from(["gkt", "retrain"]),
    st.booleans(),
    st.booleans(),
)


@settings(max_examples=12)
@given(steps=st.lists(STEPS, max_size=12))
def test_piece_by_piece_is_as_all_at_once(steps: list[tuple[str, int, str, bool, bool]]) -> None:
    """Asked at any time, a history and the open requests are what fresh ones give; nothing closed is held."""
    told = Told()
    history, opened = History(told.reader), OpenRequests(told.reader)
    for lineage in ("a", "b"):
        told.original(lineage)
    waiting: tuple[str, ...] = ()
    for number, (lineage, target, method, passed, ask) in enumerate(steps):
        request = f"r{number}"
        told.received(request, target)
        if number % 3 != 2:
            told.run(lineage, request, target, method=method, kept=0.9, passed=passed)
        waiting = (*waiting, request)
        if ask:
            assert known(history, waiting) == known(History(told.reader), waiting)
            assert opened.events() == OpenRequests(told.reader).events()
    every: dict[str, Any] = request_events(told.reader)
    assert opened.events() == {name: events for name, events in every.items() if waits(events)}
    assert known(history, waiting) == known(History(told.reader), waiting)
    assert not history._open
    assert set(history._targets) == set(opened.events())


def test_only_the_last_runs_are_remembered() -> None:
    """More runs than are remembered leave the last ones."""
    told = Told()
    told.original("a")
    history = History(told.reader)
    rows = [
        row_of("runs", event="published", run_id=f"run-{n}", lineage="a", request_ids=[], attempt=n + 1)
        | {"method": f"m{n}"}
        for n in range(REMEMBERED + 5)
    ]
    told.ledger.append("runs", rows)
    past = known(history).past
    assert (len(past), past[0].method, past[-1].method) == (REMEMBERED, "m5", f"m{REMEMBERED + 4}")

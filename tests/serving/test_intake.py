"""The inbox taken in: checked as a file is, in order, once whatever is killed, without what is cancelled."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import request_events, status
from rayunlearn.lineages.requested import request_row
from rayunlearn.lineages.runs import RunFiles
from rayunlearn.methods.unlearning import Samples
from rayunlearn.scheduling.requests import Rejected, Request, parse_requests
from rayunlearn.serving import intake as intake_module
from rayunlearn.serving.examples import (
    keep_examples,
    load_examples,
    reference,
    referred_to,
    to_bytes,
)
from rayunlearn.serving.intake import (
    Intake,
    Row,
    carry_out_cancellations,
    drain,
    read_requests,
    take_in,
)
from rayunlearn.serving.retention import purge
from rayunlearn.storage.inbox import REQUESTS, Inbox
from rayunlearn.storage.store import Store
from tests.serving.tiny import files_of, memory_store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
NOW = NOON + timedelta(hours=9)


def asks(name: str, *target: int, **more: Any) -> Request:
    """A request to forget these classes."""
    return Request(request_id=name, target=target, **more)


def taken(
    store: Store,
    first: Sequence[Request | Rejected] = (),
    *,
    method: str = "gkt",
    record: bool = True,
) -> Intake:
    """The inbox of a store taken in, for models of ten classes that a method serves."""
    reader = LedgerReader(store)

    def check(entries: Any, received: Any) -> tuple[Intake, list[Row]]:
        return take_in(
            reader, entries, method=method, num_classes=10, check_samples=lambda roles, head: None,
            read_examples=lambda request: keep_examples(
                store, referred_to(store, Inbox(store), request)
            ),
            config_hash="c0", now=NOW, received=received,
        )  # fmt: skip

    return drain(Inbox(store), reader, Ledger(store) if record else None, check, first=first, now=NOW)


def told(store: Store) -> list[tuple[str, str]]:
    """Every event of every request, in order."""
    return [(r["request_id"], r["event"]) for r in LedgerReader(store).read("requests").to_pylist()]


def statuses(store: Store) -> dict[str, str]:
    """What became of each accepted request."""
    return {k: status(v) for k, v in request_events(LedgerReader(store)).items()}


def pending(intake: Intake) -> list[str]:
    """Ids of what is to be served, in order."""
    return [request.request_id for request in intake.pending]


def filled(*requests: Request, cancel: Sequence[str] = ()) -> Store:
    """A store whose inbox holds these requests, received one hour after the other."""
    store = memory_store()
    for hour, request in enumerate(requests):
        Inbox(store).add(request, now=NOON + timedelta(hours=hour))
    for name in cancel:
        Inbox(store).cancel(name, now=NOW)
    return store


def closed(store: Store, request: Request, event: str) -> None:
    """Record an event of a request."""
    more = {"reason": "gate", "run_id": "run"} if event == "failed" else {}
    Ledger(store).append("requests", [request_row(request, event, NOW, **more)])


def test_what_waits_is_taken_in_in_the_order_of_receipt() -> None:
    """Each is received, with the time when it was added, its priority and its method; the inbox is empty."""
    store = filled(asks("z", 1, priority=7, method="gkt"), asks("a", 2))
    assert pending(taken(store)) == ["z", "a"]
    assert told(store) == [("z", "received"), ("a", "received")]
    z, a = LedgerReader(store).read("requests").to_pylist()
    assert (z["received_at"], a["received_at"], z["at"]) == (NOON, NOON + timedelta(hours=1), NOW)
    assert (z["priority"], z["method"], a["priority"], a["method"]) == (7, "gkt", 0, None)
    assert Inbox(store).entries() == []


def test_what_waits_in_the_ledger_waits_on() -> None:
    """Taken in before and not served yet: it is pending again, first, and no row is written."""
    store = filled(asks("a", 1))
    taken(store)
    Inbox(store).add(asks("b", 2), now=NOON)
    assert pending(taken(store)) == ["a", "b"]
    before = store.list()
    assert pending(taken(store)) == ["a", "b"] and store.list() == before
    closed(store, asks("a", 1), "served")
    assert pending(taken(store)) == ["b"]


def test_a_file_comes_before_the_inbox_and_after_the_ledger() -> None:
    """What a file and the inbox both say is served once; another body of the id is refused with both."""
    store = filled(asks("old", 1))
    taken(store)
    for request in (asks("both", 2), asks("other", 5), asks("new", 3)):
        Inbox(store).add(request, now=NOON)
    intake = taken(store, [asks("file", 4), asks("both", 2), asks("other", 6)])
    assert pending(intake) == ["old", "file", "both", "other", "new"]
    (bad,) = intake.rejected
    assert bad.reason.startswith("request 'other': request_id is 'other'; allowed: ")
    assert "target [5] rather than [6]" in bad.reason
    assert Inbox(store).entries() == [] and told(store).count(("both", "received")) == 1


def test_the_checks_are_those_of_a_file() -> None:
    """Each bad one is recorded with its reason, and the good one after them is received."""
    store = filled(
        asks("unknown", 10),
        asks("first", 1),
        asks("again", 1),
        asks("samples", 3, kind="samples", data_access=("retain", "weights")),
        asks("access", 4, data_access=("retain",)),
        asks("method", 5, method="gtk"),
        asks("elsewhere", 5, method="fisher"),
        asks("last", 2),
    )
    Inbox(store).store.put(f"{REQUESTS}/torn.json", b"{")
    intake = taken(store)
    assert pending(intake) == ["first", "last"]
    reasons = {
        row["request_id"]: row["reason"]
        for row in LedgerReader(store).read("requests", event="rejected").to_pylist()
    }
    for name, said in {
        "unknown": "target class is [10]",
        "again": "target class is [1]; allowed: classes not forgotten already",
        "samples": "kind is 'samples'",
        "access": "data_access is ['retain']",
        "method": "method is 'gtk'; allowed: 'gkt'",
        "elsewhere": "allowed: what 'fisher' needs besides: retain",
        "torn": f"{REQUESTS}/torn.json: malformed JSON",
    }.items():
        assert said in reasons.pop(name)
    assert reasons == {} and Inbox(store).entries() == []


def test_ids_that_the_ledger_knows() -> None:
    """The same request is done or pending, and nothing is recorded; another under its id is rejected."""
    store = filled(asks("served", 1), asks("open", 2))
    taken(store)
    closed(store, asks("served", 1), "served")
    for request in (asks("served", 1), asks("open", 2)):
        Inbox(store).add(request, now=NOW)
    before = told(store)
    intake = taken(store)
    assert pending(intake) == ["open"] and [r.request_id for r in intake.done] == ["served"]
    assert told(store) == before and Inbox(store).entries() == []
    for request in (asks("served", 5), asks("open", 6)):
        Inbox(store).add(request, now=NOW)
    intake = taken(store)
    assert pending(intake) == ["open"] and {r.request_id for r in intake.rejected} == {"served", "open"}
    assert statuses(store) == {"served": "served", "open": "received"}


def test_a_deadline_that_has_passed() -> None:
    """It is no reason to refuse: the request is late, and is received at the time at which it came."""
    store = filled(asks("late", 1, deadline=NOON - timedelta(days=1)))
    assert pending(taken(store)) == ["late"] and pending(taken(store)) == ["late"]
    (row,) = LedgerReader(store).read("requests").to_pylist()
    assert row["received_at"] == NOON and row["deadline"] == NOON - timedelta(days=1)


def test_what_was_accepted_and_cannot_be_served_here_goes_on_waiting() -> None:
    """A job with another method tells it and records nothing; one that can serve it finds it."""
    store = filled(asks("a", 1))
    taken(store)
    before = told(store)
    intake = taken(store, method="fine_tune")
    assert pending(intake) == [] and [r.request_id for r in intake.rejected] == ["a"]
    assert told(store) == before and pending(taken(store)) == ["a"]


def test_cancelled_before_it_was_taken_in() -> None:
    """Its events are its receipt and its cancellation; what it named is free for the next one."""
    store = filled(asks("a", 1), asks("b", 1), cancel=["a"])
    intake = taken(store)
    assert pending(intake) == ["b"] and intake.cancelled == (asks("a", 1),)
    assert told(store) == [("a", "received"), ("a", "cancelled"), ("b", "received")]
    assert Inbox(store).entries() == [] and Inbox(store).cancellations() == []
    assert {row["received_at"] for row in request_events(LedgerReader(store))["a"]} == {NOON}


def test_cancelled_afterwards() -> None:
    """What is pending is cancelled, run begun or not, and left out for good, also where a file names it."""
    store = filled(asks("a", 1), asks("b", 2))
    taken(store)
    closed(store, asks("b", 2), "planned")
    for name in ("a", "b"):
        Inbox(store).cancel(name, now=NOW)
    assert pending(taken(store)) == []
    assert statuses(store) == {"a": "cancelled", "b": "cancelled"}
    before = store.list()
    intake = taken(store, [asks("a", 1)])
    assert pending(intake) == [] and intake.cancelled == (asks("a", 1),) and store.list() == before
    (bad,) = taken(store, [asks("a", 5)]).rejected
    assert "request_id is 'a'" in bad.reason


@pytest.mark.parametrize("event", ["served", "failed"])
def test_too_late_to_be_cancelled(event: str) -> None:
    """What was served or failed stays so, as does what nobody knows; the cancellation is gone."""
    store = filled(asks("a", 1))
    taken(store)
    closed(store, asks("a", 1), event)
    for name in ("a", "nobody"):
        Inbox(store).cancel(name, now=NOW)
    assert taken(store).cancelled == () and statuses(store) == {"a": event}
    assert Inbox(store).cancellations() == []


def test_what_is_published_is_not_cancelled() -> None:
    """A driver killed between the publication and the request's last event: it goes on to be recorded."""
    store = filled(asks("a", 1))
    taken(store)
    version = {
        "version": "v1", "lineage": "default", "path": "models/v1", "request_ids": ["a"], "run_id": "run",
        "parent": "v0", "classes_forgotten": [1], "model": json.dumps({"num_classes": 10}),
        "event": "published", "created_at": NOW, "at": NOW,
    }  # fmt: skip
    Ledger(store).append("versions", [version])
    Inbox(store).cancel("a", now=NOW)
    intake = taken(store)
    assert pending(intake) == ["a"] and intake.cancelled == () and statuses(store) == {"a": "received"}


def test_a_dry_run_writes_nothing() -> None:
    """It sorts as an intake does, cancellations included, and leaves every file as it was."""
    store = filled(asks("a", 1), asks("b", 1), asks("c", 99), cancel=["a"])
    before = files_of(store)
    intake = taken(store, [asks("f", 2)], record=False)
    assert pending(intake) == ["f", "b"] and [r.request_id for r in intake.cancelled] == ["a"]
    assert [r.request_id for r in intake.rejected] == ["c"] and files_of(store) == before


class Mortal(Store):
    """A store in memory whose process is killed before one of its changes."""

    def __init__(self, lives: int, files: dict[str, bytes]) -> None:
        super().__init__(MemoryStore(), "memory")
        self.lives = len(files) + lives
        for name, data in files.items():
            self.put(name, data)

    def _change(self) -> None:
        if self.lives == 0:
            raise KeyboardInterrupt
        self.lives -= 1

    def create(self, name: str, data: bytes) -> None:
        """Store under a new name, if alive."""
        self._change()
        super().create(name, data)

    def put(self, name: str, data: bytes) -> None:
        """Store under a name, if alive."""
        self._change()
        super().put(name, data)

    def delete(self, name: str) -> None:
        """Delete a name, if alive."""
        self._change()
        super().delete(name)


def test_every_change_of_an_intake_may_be_its_last() -> None:
    """Killed before any of them and called again, it ends with the same rows and an empty inbox."""
    start = filled(asks("old", 9), asks("dead", 8))
    taken(start)
    for request in (asks("a", 1), asks("b", 2), asks("bad", 99), asks("again", 1)):
        Inbox(start).add(request, now=NOON)
    for name in ("b", "dead"):
        Inbox(start).cancel(name, now=NOON)
    files = files_of(start)
    undisturbed = memory_store(files)
    expected = pending(taken(undisturbed))
    assert expected == ["old", "a"]
    kills = 0
    while True:
        store = Mortal(kills, files)
        try:
            taken(store)
            break
        except KeyboardInterrupt:
            kills += 1
        again = memory_store(files_of(store))
        assert pending(taken(again)) == expected, kills
        assert told(again) == told(undisturbed), kills
        assert Inbox(again).entries() == [] and Inbox(again).cancellations() == []
    assert kills > 10


def test_every_change_of_an_addition_may_be_its_last() -> None:
    """Killed before its only change nothing is there, killed after it the request is, and is taken in."""
    dead = Mortal(0, {})
    with pytest.raises(KeyboardInterrupt):
        Inbox(dead).add(asks("a", 1), now=NOON)
    assert dead.list() == []
    alive = Mortal(1, {})
    Inbox(alive).add(asks("a", 1), now=NOON)
    assert pending(taken(memory_store(files_of(alive)))) == ["a"]


def test_cancelled_before_its_turn() -> None:
    """Between two runs a cancellation is carried out by itself, and again it is nothing."""
    store = filled(asks("a", 1), asks("b", 2))
    taken(store)
    carry_out = functools.partial(
        carry_out_cancellations, Inbox(store), LedgerReader(store), Ledger(store), now=NOW
    )
    assert carry_out() == []
    Inbox(store).cancel("b", now=NOW)
    assert carry_out(under_way={"b"}) == [] and statuses(store)["b"] == "received"  # until its run ends
    assert carry_out() == [asks("b", 2)] and carry_out() == []
    assert statuses(store) == {"a": "received", "b": "cancelled"}


def test_the_files_of_a_cancelled_run_are_thrown_away() -> None:
    """A run that was begun for it leaves none; those of a request that waits stay."""
    store = filled(asks("a", 1), asks("b", 2))
    taken(store)
    ledger = Ledger(store)
    for name in ("a", "b"):
        RunFiles(store, f"run-{name}").put_state({"step": 1})
        run = {
            "run_id": f"run-{name}", "lineage": "default", "request_ids": [name], "method": "gkt",
            "placement": "split", "parent_version": "v0", "event": "started", "at": NOW, "config": "{}",
            "config_hash": "c0", "seed": 0, "attempt": 1,
        }  # fmt: skip
        ledger.append("runs", [run])
    Inbox(store).cancel("a", now=NOW)
    taken(store)
    purge(store, Ledger(store), lambda: NOW)
    assert {name.split("/")[1] for name in store.list("runs")} == {"run-b"}


@settings(deadline=None, max_examples=25, database=None)
@given(st.lists(st.binary(max_size=40), max_size=3), st.lists(st.text(max_size=8), max_size=3))
def test_no_file_blocks_the_others(contents: list[bytes], names: list[str]) -> None:
    """Whatever lies in the inbox, the good requests are received and the rest is recorded as rejected."""
    store = filled(asks("good", 1))
    for number, data in enumerate(contents):
        store.put(f"{REQUESTS}/bad-{number}.json", data)
    for number, name in enumerate(names):
        odd = json.dumps({"added_at": NOON.isoformat(), "request": {"request_id": name, "target": [name]}})
        store.put(f"{REQUESTS}/odd-{number}.json", odd.encode())
    intake = taken(store)
    assert pending(intake) == ["good"] and len(intake.rejected) == len(contents) + len(names)
    assert told(store).count(("good", "received")) == 1 and len(told(store)) == 1 + len(intake.rejected)
    assert Inbox(store).entries() == []


def test_lines_of_a_file_that_are_none_are_rejected_beside_the_inbox() -> None:
    """A job's file and the inbox have one answer."""
    store = filled(asks("a", 1))
    lines = parse_requests('{"request_id": "f", "target": [2]}\n{', "f.jsonl")
    intake = taken(store, lines)
    assert pending(intake) == ["f", "a"] and [bad.line for bad in intake.rejected] == [2]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "none", "."])
def test_what_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    """By the flag that names it; also a name that no file can have."""
    with pytest.raises(BadInput, match="^--file is .* allowed: "):
        read_requests(f"{tmp_path}/{name}", "--file")


def test_intakes_are_joined() -> None:
    """What both have stands once, in the order of the first; what only one has is kept."""
    a, b, c = (asks(name, 1) for name in "abc")
    bad = Rejected(line=0, request_id="x", lineage="default", kind=None, target=(), reason="why")
    one = Intake(pending=(a, b), done=(), rejected=(bad,))
    later = Intake(pending=(b, c), done=(a,), rejected=(bad,), cancelled=(c,))
    assert one.joined(later) == Intake(pending=(a, b, c), done=(a,), rejected=(bad,), cancelled=(c,))


def test_examples_move_from_the_inbox_to_where_runs_find_them() -> None:
    """They are kept by their reference once taken in; others than it refers to are refused."""
    store = memory_store()
    given = Samples(images=torch.rand(2, 1, 8, 8), labels=torch.tensor([9, 9]), ids=torch.arange(2))
    for name, said in (("a", reference(given)), ("b", "sha256:0")):
        request = asks(name, 9, kind="examples", examples=said, data_access=("few_examples", "weights"))
        Inbox(store).add(request, now=NOON, examples=to_bytes(given))
    intake = taken(store, method="few_shot")
    assert pending(intake) == ["a"] and intake.pending[0].examples == reference(given)
    (bad,) = intake.rejected
    assert "examples is 'sha256:0'; allowed: a reference to what is handed over" in bad.reason
    assert torch.equal(load_examples(store, reference(given)).images, given.images)
    assert Inbox(store).entries() == [] and pending(taken(store, method="few_shot")) == ["a"]


def test_a_requests_file_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at no further; nor is one that never ends. The control has exactly as many bytes."""
    line = json.dumps({"request_id": "a", "target": [0]}).encode()
    monkeypatch.setattr(intake_module, "MOST_BYTES", len(line))
    path = tmp_path / "requests.jsonl"
    path.write_bytes(line)
    assert [r.request_id for r in read_requests(path)] == ["a"]
    path.write_bytes(line + b"\n")
    for endless in (path, Path("/dev/zero")):
        with pytest.raises(BadInput, match=f"at most {len(line)} bytes"):
            read_requests(endless)


def test_examples_are_those_that_came_with_the_request() -> None:
    """An entry that names the examples of another open request has to bring these itself."""
    images = torch.zeros(2, 1, 8, 8)
    kept, other = (
        Samples(images=images, labels=torch.tensor([9, label]), ids=torch.arange(2)) for label in (9, 4)
    )
    store = memory_store()
    said = keep_examples(store, kept)
    access = ("few_examples", "weights")
    thief = Request(request_id="r", target=(4, 9), kind="examples", examples=said, data_access=access)
    Inbox(store).add(thief, now=NOON, examples=to_bytes(other))
    with pytest.raises(BadInput, match="what is handed over"):
        referred_to(store, Inbox(store), thief)
    Inbox(store).done(f"{REQUESTS}/r.json")
    assert torch.equal(referred_to(store, Inbox(store), thief).labels, kept.labels)

"""Looks that callers share, pages of a list that grows, deadlines by regulation, and two who ask at once."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.http.looks import Shared
from rayunlearn.http.paging import page_of
from rayunlearn.http.regulations import Period, parse_regulations
from rayunlearn.ledger.status import Standing
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import IdTaken, Inbox
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import in_memory

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)


def test_a_look_begins_after_it_was_asked_for() -> None:
    """Who asks during a look gets the next one, and of many who do there is one for all of them."""
    began, go = threading.Semaphore(0), threading.Semaphore(0)
    world, looks = ["old"], []

    def look() -> str:
        looks.append(world[0])
        began.release()
        go.acquire()
        return looks[-1]

    shared, found = Shared(look), []
    threads = [threading.Thread(target=lambda: found.append(shared())) for _ in range(6)]
    threads[0].start()
    began.acquire()
    world[0] = "new"
    for thread in threads[1:]:
        thread.start()
    while any(thread.ident is None for thread in threads):
        pass
    go.release(6)
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(found) == ["new"] * 5 + ["old"] and 2 <= len(looks) <= 6


def standing(name: str, minute: int, status: str = "waiting") -> Standing:
    """A request that was received at this minute."""
    return Standing(
        request_id=name, status=status, lineage="default", kind="classes", target=(3,), whole_classes=False,
        deadline=None, priority=0, method=None, received_at=NOON + timedelta(minutes=minute),
    )  # fmt: skip


def test_pages_skip_nothing_while_the_list_changes() -> None:
    """What changes its status stays where it was, and what comes later is on a later page."""
    found = [standing(f"r{n}", n // 2) for n in range(6)]
    first = page_of(found, limit=2, after=None)
    found[1] = replace(found[1], status="served")
    found.append(standing("r9", 9))
    second = page_of(found, limit=2, after=first.next)
    rest = page_of(found, limit=9, after=second.next)
    assert [s.request_id for p in (first, second, rest) for s in p.entries] == [
        "r0", "r1", "r2", "r3", "r4", "r5", "r9"
    ]  # fmt: skip
    assert rest.next is None
    with pytest.raises(BadInput, match="after is 'x'; allowed: the `next` of the page before"):
        page_of(found, limit=2, after="x")


@pytest.mark.parametrize(
    ("received", "due"),
    [
        ("2027-01-15T09:00", "2027-02-15T09:00"),
        ("2027-01-31T09:00", "2027-02-28T09:00"),
        ("2028-01-31T09:00", "2028-02-29T09:00"),
        ("2027-12-31T09:00", "2028-01-31T09:00"),
        ("2027-05-31T09:00", "2027-06-30T09:00"),
    ],
)
def test_a_month_ends_on_the_same_day(received: str, due: str) -> None:
    """Or on the last of the month; 45 days are 45 days."""
    moment = datetime.fromisoformat(received).replace(tzinfo=UTC)
    assert Period(1, months=True).after(moment) == datetime.fromisoformat(due).replace(tzinfo=UTC)
    assert Period(45, months=False).after(moment) - moment == timedelta(days=45)


@pytest.mark.parametrize("entry", ["gdpr", "gdpr=", "gdpr=0d", "gdpr=1y", "=1m", "GDPR=1m", "gdpr=1m,a=1d"])
def test_regulations_have_one_form(entry: str) -> None:
    """Anything else is named, and a name that is there twice; negative control: the two that are set."""
    with pytest.raises(BadInput, match="--regulations is .*; allowed: NAME=NUMBERd or NAME=NUMBERm"):
        parse_regulations([entry])
    with pytest.raises(BadInput, match="each name once"):
        parse_regulations(["gdpr=1m", "gdpr=2m"])
    assert parse_regulations(["gdpr=1m", "ccpa=45d"]) == {"gdpr": Period(1, True), "ccpa": Period(45, False)}


@pytest.fixture
def clock() -> list[datetime]:
    """The time that the door's clock shows; it goes on by a second at each look."""
    return [NOON]


def test_a_deadline_is_counted_from_the_first_receipt(clock: list[datetime]) -> None:
    """Asked again later it is the same; by the client's own time of receipt where it gives one."""
    pytest.importorskip("jinja2", reason="needs the extra report")
    from rayunlearn.execution.placement import Placement
    from rayunlearn.http.door import Door, UnknownRequest

    store = in_memory()
    regulations = parse_regulations(["gdpr=1m", "ccpa=45d"])
    door = Door(store, regulations, clock=lambda: clock[0])

    def ask(name: str, **more: object) -> object:
        clock[0] += timedelta(seconds=1)
        return door.create(json.dumps({"request_id": name, "target": [3], **more}).encode())["deadline"]

    first = ask("a", regulation="gdpr")
    assert first == (NOON + timedelta(seconds=1)).replace(month=7).isoformat()
    assert ask("a", regulation="gdpr") == first
    with pytest.raises(IdTaken, match="deadline"):
        ask("a", regulation="ccpa")
    with pytest.raises(IdTaken, match="deadline"):
        ask("a")
    early = {"received_at": "2025-05-20T00:00:00Z", "regulation": "ccpa"}
    assert ask("b", **early) == "2025-07-04T00:00:00+00:00"
    assert ask("c") is None, "negative control: no regulation, no deadline"
    by_default = Door(store, regulations, "ccpa", clock=lambda: clock[0])
    made = by_default.create(b'{"request_id": "d", "target": [3]}')
    assert made["deadline"] == (clock[0] + timedelta(days=45)).isoformat()
    with pytest.raises(UnknownRequest):
        door.request("..")
    from rayunlearn.http.door import SEALED

    assert set(SEALED) == {placement.value for placement in Placement}


def test_two_who_ask_at_once(clock: list[datetime], monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds the first's file only when it writes its own, and takes over the deadline."""
    pytest.importorskip("jinja2", reason="needs the extra report")
    from rayunlearn.http.door import Door

    store, add = in_memory(), Inbox.add
    door = Door(store, parse_regulations(["gdpr=1m"]), clock=lambda: clock[0])
    body = b'{"request_id": "a", "target": [3], "regulation": "gdpr"}'
    firsts: list[dict[str, object]] = []

    def add_second(self: Inbox, request: Request, **more: object) -> str:
        if not firsts:
            monkeypatch.setattr(Inbox, "add", add)
            clock[0] = NOON + timedelta(hours=1)
            firsts.append(door.create(body))
        return add(self, request, **more)

    monkeypatch.setattr(Inbox, "add", add_second)
    second = door.create(body)
    assert second == firsts[0] and second["deadline"] == "2025-07-01T13:00:00+00:00"
    (waiting,) = Inbox(store).entries()
    assert waiting.added_at == NOON + timedelta(hours=1)


def test_a_retry_waits_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another has created may not have reached the disk yet when it is found."""
    store = in_memory()
    settled: list[str] = []
    monkeypatch.setattr(Store, "settle", lambda self, name: settled.append(name))
    request = Request(request_id="a", target=(3,))
    Inbox(store).add(request, now=NOON)
    assert settled == [], "negative control: its own it has waited for"
    Inbox(store).add(request, now=NOON)
    assert settled == ["inbox/requests/a.json"]

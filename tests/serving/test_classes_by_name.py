"""Requests that name classes by name, from the file, the inbox and the command to the ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.cli.options.request import AddOptions
from rayunlearn.cli.request_command import run_request
from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.status import standings
from rayunlearn.scheduling.class_names import numbered_classes
from rayunlearn.scheduling.requests import Rejected, Request
from rayunlearn.serving.intake import Intake, Row, drain, refused, take_in
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.serving.tiny import memory_store, rows

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
NAMES = tuple(f"class {c}" for c in "abcdefghij")


def named(entry: Request | Rejected) -> Request | Rejected:
    """As a service of these classes does."""
    if isinstance(entry, Rejected):
        return entry
    try:
        return numbered_classes(entry, NAMES)
    except BadInput as error:
        return refused(entry, error)


def taken(store: Store, **more: Any) -> Intake:
    """The inbox taken in for models of ten classes."""
    reader = LedgerReader(store)

    def check(entries: Any, received: Any) -> tuple[Intake, list[Row]]:
        return take_in(
            reader, entries, method="gkt", num_classes=10, check_samples=lambda roles, head: None,
            read_examples=str, config_hash="c0", now=NOON, received=received,
        )  # fmt: skip

    return drain(Inbox(store), reader, Ledger(store), check, now=NOON, **more)


def test_the_ledger_has_numbers() -> None:
    """A name that the lineage has is recorded as its number; another is rejected."""
    store = memory_store()
    Inbox(store).add(Request(request_id="good", names=("class c",)), now=NOON)
    Inbox(store).add(Request(request_id="bad", names=("class z",)), now=NOON)
    intake = taken(store, number=named)
    assert [(r.request_id, r.target) for r in intake.pending] == [("good", (2,))]
    assert "target class is 'class z'; allowed: 'class " in intake.rejected[0].reason
    assert rows(store, "requests", request_id="good")[0]["target"] == [2]
    assert Inbox(store).entries() == []
    # the same under the same id, by number: it is known, so nothing is recorded twice
    Inbox(store).add(Request(request_id="good", target=(2,)), now=NOON)
    assert [r.target for r in taken(store, number=named).pending] == [(2,)]
    assert len(rows(store, "requests", request_id="good")) == 1


def test_nobody_serves_a_name_that_nobody_knows() -> None:
    """The control: where nothing turns names into numbers the request is rejected, and none is made up."""
    store = memory_store()
    Inbox(store).add(Request(request_id="good", names=("class c",)), now=NOON)
    intake = taken(store)
    assert intake.pending == () and "classes by their numbers" in intake.rejected[0].reason


@pytest.mark.parametrize(
    ("name", "events"), [("class c", ["received", "cancelled"]), ("class z", ["rejected"])]
)
def test_a_request_by_name_can_be_cancelled(name: str, events: list[str]) -> None:
    """While it lies in the inbox; one whose name is none is rejected all the same."""
    store = memory_store()
    Inbox(store).add(Request(request_id="r", names=(name,)), now=NOON)
    Inbox(store).cancel("r", now=NOON)
    taken(store, number=named)
    assert [row["event"] for row in rows(store, "requests")] == events
    assert Inbox(store).cancellations() == [] and Inbox(store).entries() == []


def test_the_list_shows_what_waits_by_its_name(tmp_path: Path) -> None:
    """Beside the numbers that it gives."""
    store = Store.open(tmp_path / "s", sync=False)
    Inbox(store).add(Request(request_id="r", target=(3,), names=("class c",)), now=NOON)
    assert [s.target for s in standings(store)] == [(3, "class c")]


def _begun(store: Store, names: tuple[str, ...] | None) -> None:
    model = {"num_classes": 10} | ({} if names is None else {"class_names": list(names)})
    row = {
        "version": "v" * 64, "lineage": "default", "parent": None, "request_ids": [], "run_id": None,
        "classes_forgotten": [], "path": "p", "model": json.dumps(model), "event": "published",
        "created_at": NOON, "at": NOON,
    }  # fmt: skip
    Ledger(store).append("versions", [row])


@pytest.mark.parametrize("names", [NAMES, None])
def test_the_command_asks_the_lineage(
    names: tuple[str, ...] | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that has names refuses others at once; one that has none leaves it to the scheduler."""
    store = Store.open(tmp_path / "s", sync=False)
    _begun(store, names)
    options = {"storage": str(tmp_path / "s")}
    good = run_request(AddOptions(target=("class c", 3), id="good", **options), now=NOON)
    bad = run_request(AddOptions(target=("class z",), id="bad", **options), now=NOON)
    said = " ".join(capsys.readouterr().out.split())
    waiting = {w.request_id: w.entry for w in Inbox(store).entries()}
    good_entry = waiting["good"]
    assert isinstance(good_entry, Request) and good == 0
    if names is None:
        assert good_entry.names == ("class c",) and bad == 0 and set(waiting) == {"good", "bad"}
    else:
        assert (good_entry.target, good_entry.names) == ((2, 3), ()) and bad == 2 and set(waiting) == {"good"}
        assert "target class is 'class z'" in said

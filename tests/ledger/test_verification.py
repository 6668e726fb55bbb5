"""Custody: a lineage as the scheduler leaves it has no finding, and each thing out of order is found."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.verification import find_version, findings, held_versions
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import NOON, contents, in_memory, row_of
from tests.reports.two_requests import BYTES, IDS, PATHS, Rows, identify, story, tell


def found(store: Store) -> list[str]:
    """Every finding as a sentence."""
    return [str(finding) for finding in findings(store, identify)]


def changed(table: str, of: dict[str, Any], **columns: Any) -> Callable[[Rows], Rows]:
    """The story with columns of some rows changed."""

    def change(rows: Rows) -> Rows:
        picked = [row for name, row in rows if name == table and of.items() <= row.items()]
        assert picked
        return [(name, row | columns if row in picked else row) for name, row in rows]

    return change


def without(table: str, **of: Any) -> Callable[[Rows], Rows]:
    """The story without some rows."""
    return lambda rows: [(name, row) for name, row in rows if name != table or not of.items() <= row.items()]


SECOND = {"version": IDS[2]}


def test_what_the_scheduler_leaves_has_no_finding() -> None:
    """Weights kept, weights purged, an original: all of it accepted, and nothing is written."""
    store = tell(in_memory())
    before = contents(store)
    assert found(store) == []
    assert contents(store) == before
    assert findings(in_memory(), identify) == [], "nor has an empty ledger"


def test_a_superseded_version_may_be_kept() -> None:
    """Before a purge nothing is missing: superseded weights that are there are no finding."""
    assert found(tell(in_memory(), without("versions", event="purged")(story()), kept=(0, 1, 2))) == []


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        (PATHS[2], BYTES[1], f"those of {IDS[1]}; expected: {IDS[2]}"),
        (PATHS[2], BYTES[2][:-1] + b"\x01", "those of "),
        (PATHS[2], b"junk", "safetensors bytes"),
        (PATHS[2], None, "not stored; expected: stored, or recorded as purged"),
        (PATHS[0], BYTES[0], "still stored; expected: none, they were recorded as purged at 2025-06-01 13"),
        ("models/default/stray.safetensors", b"", "stored; expected: weights of a version in the ledger"),
    ],
)  # fmt: skip
def test_weights_that_are_not_as_recorded(name: str, data: bytes | None, said: str) -> None:
    """Edited, exchanged, unreadable, missing, not purged, nobody's: one finding, which names the file."""
    store = tell(in_memory())
    if data is None:
        store.delete(name)
    else:
        store.put(name, data)
    (finding,) = found(store)
    assert name in finding and said in finding


PARENT, RUN, REQUEST = "parent of version .*: ", "run of version .*: ", "request 'r1' .*: "
SERVED = {"request_id": "r1", "event": "served"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (changed("versions", SECOND, parent="f" * 64), f"{PARENT}{'f' * 64}; expected: {IDS[1]}"),
        (changed("versions", SECOND, parent=IDS[0]), f"{PARENT}{IDS[0]}; expected: {IDS[1]}"),
        (changed("versions", SECOND, classes_forgotten=[]), r"classes_.*: \[\]; expected: \[0\]"),
        (changed("versions", SECOND, classes_forgotten=[0, 5]), r"classes_.*: \[0, 5\]; expected: \[0\]"),
        (changed("versions", SECOND, samples_forgotten=[]), r"samples_.*: \[\]; expected: \[7\]"),
        (changed("versions", SECOND, run_id="run-0"), f"{RUN}run-0, which published {IDS[1]}"),
        (changed("versions", SECOND, run_id=None), f"{RUN}none"),
        (changed("versions", SECOND, path="../secret"), "weights of version .*: .*'../secret'"),
        (changed("versions", {"version": IDS[0]}, request_ids=["r0"]), "requests of .*r0.*none of an"),
        (without("requests", request_id="r1", event="received"), f"{REQUEST}never received"),
        (without("requests", request_id="r1"), f"{REQUEST}not in the ledger; expected: served by run-1"),
        (without("requests", **SERVED), f"{REQUEST}planned by run-1; expected: served by run-1"),
        (changed("requests", SERVED, run_id="run-7"), f"{REQUEST}served by run-7; expected: served by run-1"),
        (changed("requests", {"request_id": "r1"}, lineage="other"), f"lineage of {REQUEST}'other'"),
        (without("runs", run_id="run-1", event="published"), f"{RUN}run-1, which published nothing"),
    ],
)  # fmt: skip
def test_a_record_that_does_not_bear_a_version_out(change: Callable[[Rows], Rows], said: str) -> None:
    """Parent, requests, run, what was forgotten: each is found, with its value and what is expected."""
    assert any(re.search(said, finding) for finding in found(tell(in_memory(), change(story()))))


def test_a_forged_version_without_a_request() -> None:
    """A row that nobody asked for is found, even where its weights are what it says."""
    forged = row_of(
        "versions", version=IDS[3], parent=IDS[2], lineage="default", path=PATHS[3], request_ids=[],
        run_id=None, classes_forgotten=[0], samples_forgotten=[7], event="published",
    )  # fmt: skip
    store = tell(in_memory(), [*story(), ("versions", forged)], kept=(2, 3))
    named = f"version {IDS[3][:12]} of lineage 'default'"
    assert found(store) == [
        f"requests of {named}: none; expected: at least one, it is no original",
        f"run of {named}: none; expected: a run that published {IDS[3]}",
    ]


def test_a_second_original() -> None:
    """A lineage has one original, its first version: one that was put in later is found."""
    forged = row_of(
        "versions", version=IDS[3], parent=None, lineage="default", path=PATHS[3], request_ids=[],
        run_id=None, classes_forgotten=[], samples_forgotten=[], event="published",
    )  # fmt: skip
    said = found(tell(in_memory(), [*story(), ("versions", forged)], kept=(2, 3)))
    assert [line.split(" of ")[0] for line in said] == ["parent", "classes_forgotten", "samples_forgotten"]


def test_a_request_that_is_called_served_has_a_version() -> None:
    """Negative control of the ledger against itself: the word served alone is no evidence."""
    rows = [(table, row) for table, row in story() if table != "versions" or row["version"] != IDS[2]]
    (finding,) = found(tell(in_memory(), rows, kept=()))
    assert finding == "request 'r1': served by run-1; expected: a version that serves it"


def test_every_finding_is_listed() -> None:
    """One does not hide another."""
    change = changed("versions", SECOND, classes_forgotten=[], parent="f" * 64)
    store = tell(in_memory(), change(story()), kept=())
    assert len(found(store)) == 3


def test_a_broken_chain_is_a_finding_beside_the_others() -> None:
    """An edited entry is named, and the versions are checked as far as the tables can be read."""
    store = tell(in_memory(), kept=())
    (name, *_) = [name for name in store.list("ledger/evaluations")]
    store.put(name, store.get(name)[:-1])
    first, second = found(store)
    assert first.startswith(f"ledger: {name} was edited") and "not stored" in second
    name = store.list("ledger/versions")[0]
    store.put(name, b"")
    *_, last = found(store)
    assert "no version could be checked" in last


def test_a_version_is_found_by_the_beginning_of_its_id() -> None:
    """The one that is meant; none, several, and the same in two lineages are refused with candidates."""
    store = tell(in_memory())
    held = held_versions(LedgerReader(store))
    assert [h.version.version for h in held] == IDS[:3]
    assert [h.method for h in held] == [None, "gkt", "gkt"]
    assert [h.purged_at is None for h in held] == [False, False, True]
    assert held[0].successor == held[1].version and held[2].successor is None
    assert held[0].published_at == NOON
    for number, version in enumerate(IDS[:3]):
        assert find_version(held, version[:9]) is held[number]
    for name in ("", "zz", IDS[2] + "0"):
        with pytest.raises(BadInput, match=IDS[2][:12]):
            find_version(held, name)
    other = tell(in_memory(), changed("versions", {}, lineage="b")(story()))
    twice = [*held, *held_versions(LedgerReader(other))]
    with pytest.raises(BadInput, match=rf"{IDS[0][:12]} \(default\), {IDS[0][:12]} \(b\)"):
        find_version(twice, IDS[0])
    assert find_version(twice, IDS[0], "b").version.lineage == "b"
    with pytest.raises(BadInput, match="none, nothing was published"):
        find_version([], "ab")

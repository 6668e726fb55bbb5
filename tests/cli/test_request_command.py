"""`python -m rayunlearn request`: what is acknowledged, shown and refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.__main__ import main
from rayunlearn.auditing.training import classifier_spec
from rayunlearn.cli.request_command import AddOptions, CancelOptions, ListOptions, run_request
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.lineages.requested import request_row
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.examples import are_kept, handed_over
from rayunlearn.storage.inbox import REQUESTS, Inbox
from rayunlearn.storage.store import Store
from tests.data.shards import packed, write_shard
from tests.serving.tiny import tiny_recipe

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage location with nothing in it."""
    Store.open(tmp_path / "storage", sync=False)
    return tmp_path / "storage"


@pytest.fixture
def add(storage: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `request add`: the exit code, and what was printed with single spaces."""

    def run(**options: Any) -> tuple[int, str]:
        code = run_request(AddOptions(**{"storage": str(storage), **options}), now=NOON)
        return code, " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def cancel(storage: Path, capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs `request cancel`, likewise."""

    def run(request: str) -> tuple[int, str]:
        code = run_request(CancelOptions(request=request, storage=str(storage)), now=NOON)
        return code, " ".join(capsys.readouterr().out.split())

    return run


@pytest.fixture
def listed(storage: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """Runs `request list --json`: what it says of each request."""

    def run(*status: Any) -> list[dict[str, Any]]:
        assert run_request(ListOptions(storage=str(storage), status=status, json=True)) == 0
        found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
        return found

    return run


def happened(storage: Path, name: str, *events: str) -> None:
    """Record what became of a request to forget 3."""
    more = {"reason": "gate: too low", "run_id": f"run-{name}"}
    request = Request(request_id=name, target=(3,))
    rows = [request_row(request, event, NOON, **(more if event == "failed" else {})) for event in events]
    Ledger(Store.open(storage, sync=False)).append("requests", rows)


def test_a_request_is_acknowledged_and_waits(add: Say, storage: Path) -> None:
    """What was asked is said, and is in the inbox with every field; the same again is acknowledged again."""
    told = {
        "target": (4, 3), "id": "r1", "lineage": "cats", "priority": 5, "method": "fisher",
        "deadline": "2026-01-31T12:00:00+02:00", "data_access": ("weights", "retain"), "kind": "samples",
    }  # fmt: skip
    code, said = add(**told)
    assert code == 0 and said.startswith("added: r1: forget 2 samples of lineage cats Safe in")
    assert add(**told)[0] == 0
    (waiting,) = Inbox(Store.open(storage)).entries()
    assert waiting.added_at == NOON
    assert waiting.entry == Request(
        request_id="r1", lineage="cats", kind="samples", target=(3, 4), priority=5, method="fisher",
        deadline=datetime(2026, 1, 31, 10, tzinfo=UTC), data_access=("retain", "weights"),
    )  # fmt: skip


def test_an_id_is_made_up(add: Say, storage: Path) -> None:
    """Without an id each call adds a request of its own."""
    add(target=(3,))
    add(target=(3,))
    first, second = [w.request_id for w in Inbox(Store.open(storage)).entries()]
    assert first != second and first.startswith("r-")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"id": "r1"}, "--target is (); allowed: a non-empty list"),
        ({"target": (3,), "id": "a b"}, "--id is 'a b'; allowed: 1 to 128"),
        ({"target": (3,), "deadline": "tomorrow"}, "--deadline is 'tomorrow'; allowed: an ISO 8601"),
        ({"target": (3,), "data_access": ("weight",)}, "--data-access is 'weight'; allowed: 'weights'"),
        ({"target": (3,), "priority": 2000}, "--priority is 2000; allowed: a whole number from -1000"),
        ({"target": (3,), "method": "gtk"}, "method is 'gtk'; allowed: 'gkt'"),
        ({"target": (3,), "kind": "samples", "method": "gkt"}, "kind is 'samples'"),
        ({"target": (3,), "method": "fisher"}, "what 'fisher' needs besides: retain"),
        ({"target": (3,), "kind": "examples"}, "--examples is None; allowed: a folder with"),
        (
            {"target": (3,), "kind": "examples", "examples": "here"},
            "lineage is 'default'; allowed: a lineage with",
        ),
        ({"file": Path("none.jsonl")}, "--file is 'none.jsonl'; allowed: a readable file"),
        ({"file": Path("none.jsonl"), "target": (3,)}, "--file is 'none.jsonl'; allowed: none beside"),
    ],
)
def test_bad_flags_are_named(add: Say, storage: Path, options: dict[str, Any], said: str) -> None:
    """Flag, value and what is allowed; nothing is added (exit 2)."""
    code, out = add(**options)
    assert code == 2 and said in out and Inbox(Store.open(storage)).entries() == []


def test_a_file_of_requests(add: Say, storage: Path, tmp_path: Path) -> None:
    """Each line gets its answer; bad ones are refused by their place, and the others are added (exit 2)."""
    file = tmp_path / "q.jsonl"
    file.write_text(
        '{"request_id": "a", "target": [1]}\n{"request_id": "b"}\n{"request_id": "c", "target": [2]}'
    )
    code, said = add(file=file)
    assert (
        code == 2
        and said.startswith("added: a: forget 1 ")
        and f"refused: {file}:2: target of request 'b'" in said
    )
    assert [w.request_id for w in Inbox(Store.open(storage)).entries()] == ["a", "c"]
    file.write_text('{"request_id": "a", "target": [1]}')
    assert add(file=file)[0] == 0


def test_an_id_that_is_known(add: Say, storage: Path) -> None:
    """In the inbox or in the ledger: the same request is acknowledged, another is refused with what they ask.

    A cancelled one is refused, since it would never be served.
    """
    add(target=(3,), id="waits")
    happened(storage, "done", "received", "served")
    happened(storage, "gone", "received", "cancelled")
    assert add(target=(3,), id="done")[1].startswith("known: done: forget 3 of lineage default; it is served")
    for name in ("waits", "done"):
        code, said = add(target=(4,), id=name)
        assert code == 2 and f"request '{name}': request_id is '{name}'" in said
        assert "target [3] rather than [4]" in said
    code, said = add(target=(3,), id="gone")
    assert code == 2 and "another id; the request of this one was cancelled" in said
    assert [w.request_id for w in Inbox(Store.open(storage)).entries()] == ["waits"]


def test_a_new_storage_location_is_begun_and_said(add: Say, tmp_path: Path) -> None:
    """A misspelt place is not taken for the right one without a word; a bad request begins none."""
    new = tmp_path / "new"
    assert add(id="r1", storage=str(new))[0] == 2 and not new.exists()
    code, said = add(target=(3,), storage=str(new))
    assert code == 0 and f"{new} was no storage location and is one now" in said
    assert "was no storage" not in add(target=(3,), storage=str(new))[1]


def test_list(add: Say, storage: Path, listed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of inbox and ledger with status, run and reason; a rejection stands beside its id's request."""
    happened(storage, "new", "received")
    happened(storage, "done", "received", "planned", "served")
    happened(storage, "bad", "received", "planned", "failed")
    no_line = {"request_id": "done", "event": "rejected", "at": NOON, "reason": "f:2: malformed JSON"}
    Ledger(Store.open(storage)).append("requests", [no_line])
    add(target=(7,), id="here", priority=9, deadline="2027-01-31T12:00:00Z")
    Inbox(Store.open(storage)).store.put(f"{REQUESTS}/torn.json", b"{")
    Inbox(Store.open(storage)).store.put("inbox/note.txt", b"hello")
    found = {(s["request_id"], s["status"]): s for s in listed()}
    assert sorted(found) == [
        ("bad", "failed"), ("done", "rejected"), ("done", "served"), ("here", "waiting"), ("new", "received"),
        ("torn", "rejected"),
    ]  # fmt: skip
    assert found["here", "waiting"] == {
        "request_id": "here", "status": "waiting", "lineage": "default", "kind": "classes", "target": [7],
        "whole_classes": False, "deadline": "2027-01-31T12:00:00+00:00", "priority": 9, "method": None,
        "received_at": "2025-06-01T12:00:00+00:00", "run_id": None, "reason": None, "cancelling": False,
    }  # fmt: skip
    assert (found["bad", "failed"]["run_id"], found["bad", "failed"]["reason"]) == (
        "run-bad",
        "gate: too low",
    )
    assert [s["request_id"] for s in listed("waiting", "received")] == ["new", "here"]
    assert run_request(ListOptions(storage=str(storage))) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "here waiting default 7 2025-06-01 12:00 2027-01-31 12:00 9 –" in out
    assert "bad failed: gate: too low" in out and "done rejected: f:2: malformed JSON" in out
    assert "torn rejected: inbox/requests/torn.json: malformed JSON" in out
    assert "inbox/note.txt is no request" in out


def test_list_of_nothing(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """There is a sentence where there is no request, and an error where there is no storage location."""
    assert run_request(ListOptions(storage=str(storage))) == 0
    assert "No request was added yet." in capsys.readouterr().out
    assert run_request(ListOptions(storage=str(storage / "none"))) == 2
    assert "does not exist" in capsys.readouterr().out


def test_cancel(add: Say, cancel: Say, storage: Path, listed: Any) -> None:
    """What waits in the inbox or in the ledger; asked twice it is the same, and `list` shows it."""
    add(target=(3,), id="here")
    happened(storage, "open", "received", "planned")
    for name in ("here", "open", "here"):
        code, said = cancel(name)
        assert code == 0 and said.startswith(f"cancelled: {name};")
    assert {s["request_id"]: s["cancelling"] for s in listed()} == {"here": True, "open": True}
    happened(storage, "open", "cancelled")
    assert "cancelled before" in cancel("open")[1]
    assert {s["request_id"]: s["cancelling"] for s in listed()} == {"here": True, "open": False}


def test_what_cannot_be_cancelled(add: Say, cancel: Say, storage: Path) -> None:
    """What was served or has failed, by what became of it; an unknown id, with the nearest that wait."""
    happened(storage, "done", "received", "served")
    happened(storage, "bad", "received", "failed")
    add(target=(3,), id="request-17")
    for name, said in (
        ("done", "request is 'done'; allowed: one that waits; this one was served"),
        ("bad", "this one has failed"),
        ("reqest-17", "request is 'reqest-17'; allowed: the id of a request that waits: 'request-17'"),
        ("../x", "request is '../x'"),
    ):
        code, out = cancel(name)
        assert code == 2 and said in out
    assert Inbox(Store.open(storage)).cancellations() == []


def test_examples_are_taken_in_at_once(add: Say, storage: Path, tmp_path: Path) -> None:
    """They wait with their request, so that the folder may go; the reference is to what was given."""
    store = Store.open(storage)
    data = tiny_recipe().data
    spec = classifier_spec(data, "allcnn", 0.125)
    version = {
        "version": "v0", "lineage": "default", "path": "models/v0", "request_ids": [],
        "classes_forgotten": [], "model": json.dumps(spec.to_dict()), "event": "published",
        "created_at": NOON, "at": NOON,
    }  # fmt: skip
    Ledger(store).append("versions", [version])
    shape = (spec.in_channels, spec.image_size, spec.image_size)
    images = torch.arange(2 * spec.image_size**2 * spec.in_channels).view(2, *shape).to(torch.uint8)
    shard = tmp_path / "examples.parquet"
    write_shard(shard, [packed(image) for image in images], [9, 9])
    told = {
        "target": (9,),
        "kind": "examples",
        "examples": str(shard),
        "data_access": ("few_examples", "weights"),
    }
    assert add(id="r1", **told)[0] == 0
    code, said = add(id="r2", **{**told, "target": (4,)})
    assert code == 2 and "labels of the examples is [9]" in said
    (tmp_path / "given").mkdir()
    shard = shard.rename(tmp_path / "given/examples.parquet")
    (tmp_path / "given/nine.png").write_bytes(packed(images[0]))
    code, said = add(id="r1", **{**told, "examples": str(shard.parent)})
    assert code == 0 and "examples: not read were files that are no Parquet (1: nine.png)" in said
    shard.unlink()
    (waiting,) = Inbox(store).entries()
    assert isinstance(waiting.entry, Request) and waiting.entry.examples is not None
    found = handed_over(waiting, waiting.entry.examples)
    assert found.labels.tolist() == [9, 9]
    mean, std = spec.mean[0], spec.std[0]
    assert torch.equal(((found.images * std + mean) * 255).round().to(torch.uint8), images)
    assert not are_kept(store, waiting.entry.examples)
    assert LedgerReader(store).read("requests").num_rows == 0


def test_the_command_line(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Flags arrive: several targets and statuses after one flag, the id of what to cancel by its place."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rayunlearn", "request", *arguments, "--storage", str(storage)])
        code = main()
        return code, " ".join(capsys.readouterr().out.split())

    assert run("add", "--target", "3", "4", "--id", "r1")[1].startswith("added: r1: forget 3, 4 of lineage")
    assert "r1 waiting default 3, 4" in run("list", "--status", "waiting", "served")[1]
    assert run("cancel", "r1")[0] == 0
    assert run("cancel", "r9")[0] == 2

"""The inbox: what is added stays, once, whoever else adds; what cannot be read stands in nobody's way."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from obstore.store import MemoryStore

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.requests import Rejected, Request
from rayunlearn.storage import inbox as inbox_module
from rayunlearn.storage.inbox import CANCELLATIONS, REQUESTS, Inbox
from rayunlearn.storage.store import Store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)


def memory() -> Inbox:
    """An inbox in memory."""
    return Inbox(Store(MemoryStore(), "memory"))


def asks(name: str = "r1", *target: int, **more: Any) -> Request:
    """A request to forget these classes, by default 3."""
    return Request(request_id=name, target=target or (3,), **more)


def ids(inbox: Inbox) -> list[str]:
    """The ids of what waits, in order."""
    return [waiting.request_id for waiting in inbox.entries()]


def test_what_is_added_waits_as_it_was_given() -> None:
    """Every field comes back, with the time of receipt and the examples, in the order of receipt."""
    inbox = memory()
    by_examples = asks("b", kind="examples", examples="sha256:0", whole_classes=True, priority=-3)
    name = inbox.add(by_examples, now=LATER, examples=b"\0bytes")
    inbox.add(asks("z", 1, 2, method="gkt", deadline=NOON - timedelta(days=9)), now=NOON)
    first, second = inbox.entries()
    assert (first.entry, first.added_at) == (
        asks("z", 1, 2, method="gkt", deadline=NOON - timedelta(days=9)),
        NOON,
    )
    assert (second.entry, second.added_at, second.examples) == (by_examples, LATER, b"\0bytes")
    assert second.name == name and inbox.find("b") == second and inbox.find("c") is None


def test_the_same_request_is_added_once() -> None:
    """Added again it changes nothing, not even the time of receipt; the body counts, not when it came."""
    inbox = memory()
    name = inbox.add(asks(), now=NOON)
    assert inbox.add(replace(asks(), received_at=LATER), now=LATER) == name
    (waiting,) = inbox.entries()
    assert waiting.added_at == NOON


def test_an_id_has_one_request() -> None:
    """Another body under it is refused with what the two ask, and what waits is left as it is."""
    inbox = memory()
    inbox.add(asks("r1", 3, priority=5), now=NOON)
    with pytest.raises(BadInput, match=r"'r1'.*target \[3\] rather than \[4\], priority 5 rather than 0"):
        inbox.add(asks("r1", 4), now=NOON)
    assert [waiting.entry for waiting in inbox.entries()] == [asks("r1", 3, priority=5)]


def test_examples_are_handed_over_or_refused() -> None:
    """A path alone is refused, since it may lead nowhere later; so are bytes that nothing refers to."""
    inbox = memory()
    with pytest.raises(BadInput, match="examples is './shards'"):
        inbox.add(asks(kind="examples", examples="./shards"), now=NOON)
    with pytest.raises(BadInput, match="examples is None"):
        inbox.add(asks(), now=NOON, examples=b"x")
    assert inbox.entries() == []


def test_what_would_be_rejected_as_a_line_is_not_acknowledged() -> None:
    """A request that says it was received after its deadline; negative control: one that says no receipt."""
    inbox = memory()
    late = asks("a", 1, received_at=NOON, deadline=NOON - timedelta(days=1))
    with pytest.raises(BadInput, match="deadline is .* allowed: not before received_at"):
        inbox.add(late, now=NOON)
    assert inbox.entries() == []
    inbox.add(replace(late, received_at=None), now=NOON)


def test_cancelling() -> None:
    """A cancellation stands beside its request, asked for twice is one; the id is no more to be added."""
    inbox = memory()
    inbox.add(asks(), now=NOON)
    name = inbox.cancel("r1", now=NOON)
    assert inbox.cancel("r1", now=LATER) == name
    (wish,) = inbox.cancellations()
    assert (wish.name, wish.request_id) == (name, "r1") and ids(inbox) == ["r1"]
    with pytest.raises(BadInput, match="another id"):
        inbox.add(asks(), now=LATER)
    inbox.done(name)
    assert inbox.cancellations() == [] and ids(inbox) == ["r1"]


def test_done() -> None:
    """What was taken in is gone, and the rest is not; a file that is gone already is no error."""
    inbox = memory()
    name = inbox.add(asks("a"), now=NOON)
    inbox.add(asks("b"), now=NOON)
    inbox.done(name)
    inbox.done(name)
    assert ids(inbox) == ["b"]


def test_ids_that_look_like_other_files() -> None:
    """Requests, their cancellations and ids with dots in them do not get into each other's way."""
    inbox = memory()
    for name in ("a", "a.json", "a.cancel", "requests"):
        inbox.add(asks(name), now=NOON)
    inbox.cancel("a", now=NOON)
    assert ids(inbox) == ["a", "a.cancel", "a.json", "requests"]
    assert [wish.request_id for wish in inbox.cancellations()] == ["a"]


def test_a_request_that_is_taken_in_while_it_is_added_again() -> None:
    """Between finding its name taken and reading what is there it was taken in: it is added anew."""

    class TakenIn(Inbox):
        def _read(self, name: str) -> Any:
            self.done(name)
            return super()._read(name)

    inbox = memory()
    inbox.add(asks(), now=NOON)
    again = TakenIn(inbox.store)
    again.add(asks(), now=LATER)
    assert [waiting.added_at for waiting in inbox.entries()] == [LATER]


@pytest.mark.parametrize("same", [True, False])
def test_two_at_once(tmp_path: Path, same: bool) -> None:
    """Of many who use one id at once one is added; who asks the same is told so, who does not is refused."""
    store = Store.open(tmp_path / "s", sync=False)
    start = threading.Barrier(8)
    outcomes: list[object] = []

    def add(number: int) -> None:
        start.wait()
        try:
            outcomes.append(Inbox(store).add(asks("r1", 1 if same else number), now=NOON))
        except BadInput as error:
            outcomes.append(error)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    refused = [outcome for outcome in outcomes if isinstance(outcome, BadInput)]
    assert len(outcomes) == 8 and len(refused) == (0 if same else 7)
    assert ids(Inbox(store)) == ["r1"]


def test_strays() -> None:
    """Files that no call leaves are named, and are neither requests nor cancellations."""
    inbox = memory()
    inbox.add(asks(), now=NOON)
    inbox.cancel("r1", now=NOON)
    odd = [f"inbox/{name}" for name in ("note.txt", "requests/a.txt", "requests/a/b.json")]
    for name in odd:
        inbox.store.put(name, b"{}")
    assert inbox.strays() == odd and ids(inbox) == ["r1"] and len(inbox.cancellations()) == 1


def body(**changes: Any) -> bytes:
    """A good file of request r1 with some fields replaced or added."""
    good = {"added_at": "2025-06-01T12:00:00+00:00", "request": asks().to_dict(), "examples": None}
    return json.dumps({**good, **changes}).encode()


MALFORMED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "malformed JSON"),
    "torn": (body()[:-9], "malformed JSON"),
    "not UTF-8": (b"\xff\xfe", "UTF-8"),
    "no object": (b"[1]", "one JSON object"),
    "nested beyond reading": (b"[" * 100_000, "malformed JSON"),
    "a field twice": (body().replace(b'"target"', b'"kind": "classes", "target"'), "each field once"),
    "an unknown field": (body(requests=1), "'request'"),
    "an unknown field, long": (body(**{"x" * 10_000: 1}), "field is 'xxx"),
    "no time": (body(added_at=None), "time of receipt"),
    "a time without offset": (body(added_at="2025-06-01T12:00:00"), "offset from UTC"),
    "no request": (body(request=None), "one JSON object"),
    "a bad request": (body(request=asks().to_dict() | {"target": []}), "target of request 'r1' is []"),
    "the request of another id": (body(request=asks("r2").to_dict()), "as the file's name says"),
    "examples that are none": (body(examples="!"), "base64"),
    "examples of another type": (body(examples=1234), "base64"),
    "examples nobody refers to": (body(examples=base64.b64encode(b"x").decode()), "examples is None"),
    "a reference to nothing": (
        body(request=asks(kind="examples", examples="sha256:0").to_dict()),
        "a reference to what the file holds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_named_and_blocks_nobody(name: str) -> None:
    """It is rejected under the id that it is named for, with its name, what is wrong and what is allowed."""
    data, said = MALFORMED[name]
    inbox = memory()
    inbox.add(asks("a"), now=NOON)
    inbox.store.put(f"{REQUESTS}/r1.json", data)
    inbox.add(asks("z"), now=LATER)
    entries = {waiting.request_id: waiting.entry for waiting in inbox.entries()}
    assert entries.keys() == {"a", "r1", "z"}
    bad = entries.pop("r1")
    assert isinstance(bad, Rejected) and bad.request_id == "r1"
    assert (
        bad.reason.startswith(f"{REQUESTS}/r1.json:") and said in bad.reason and "; allowed: " in bad.reason
    )
    assert len(bad.reason) < 600
    assert all(isinstance(entry, Request) for entry in entries.values())
    with pytest.raises(BadInput, match="cannot be read|already"):
        inbox.add(asks("r1", 5), now=NOON)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["added_at", "request", "examples", "request_id", "target", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


def mutated(good: bytes) -> Callable[[tuple[int, bytes]], bytes]:
    """Puts some bytes in the place of others of a good file."""
    return lambda change: good[: change[0]] + change[1] + good[change[0] + len(change[1]) :]


@settings(deadline=None, max_examples=150, database=None)
@given(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.tuples(st.integers(0, len(body())), st.binary(min_size=1, max_size=3)).map(mutated(body()))
)
def test_no_file_raises(data: bytes) -> None:
    """Whatever a file holds it is a request of the id that it is named for, or rejected with its name."""
    inbox = memory()
    inbox.store.put(f"{REQUESTS}/r1.json", data)
    inbox.store.put(f"{CANCELLATIONS}/r2.json", data)
    inbox.add(asks("good"), now=NOON)
    entries = {waiting.request_id: waiting.entry for waiting in inbox.entries()}
    assert entries.keys() == {"r1", "good"} and entries["good"] == asks("good")
    found = entries["r1"]
    assert found.request_id == "r1"
    assert isinstance(found, Request) or found.reason.startswith(f"{REQUESTS}/r1.json:")
    assert [wish.request_id for wish in inbox.cancellations()] == ["r2"]


def test_a_link_out_of_the_storage_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link to a request elsewhere is no request, and the others are read."""
    inbox = Inbox(Store.open(tmp_path / "s", sync=False))
    inbox.add(asks("a"), now=NOON)
    (tmp_path / "elsewhere.json").write_bytes(body())
    (tmp_path / "s" / REQUESTS / "r1.json").symlink_to(tmp_path / "elsewhere.json")
    assert ids(inbox) == ["a"]


def written_by_hand(**changes: Any) -> bytes:
    """A file of a request by examples, as anybody who may write to the storage can write it."""
    request = asks("r1", kind="examples", examples="sha256:0", data_access=("few_examples", "weights"))
    entry = {"added_at": NOON.isoformat(), "request": request.to_dict() | changes, "examples": "AAAA"}
    return json.dumps(entry).encode()


@pytest.mark.parametrize(
    "path", ["/etc", "../elsewhere", "digits", "file:///etc", "SHA256:0", " sha256:0", "s3://bucket/x"]
)
def test_no_path_of_the_server_comes_from_the_inbox(path: str) -> None:
    """Only a reference to what the file itself holds; the control is one."""
    inbox = memory()
    inbox.store.put(f"{REQUESTS}/r1.json", written_by_hand(examples=path))
    (waiting,) = inbox.entries()
    assert isinstance(waiting.entry, Rejected) and "no path" in waiting.entry.reason
    inbox = memory()
    inbox.store.put(f"{REQUESTS}/r1.json", written_by_hand())
    (waiting,) = inbox.entries()
    assert isinstance(waiting.entry, Request) and waiting.entry.examples == "sha256:0"


class Counting(Store):
    """A store in memory that counts what is read."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), "memory")
        self.read: list[str] = []

    def get(self, name: str, *, most: int | None = None) -> bytes:
        """What is stored."""
        self.read.append(name)
        return super().get(name, most=most)


def test_a_file_is_read_once_however_often_it_is_looked_at() -> None:
    """An idle job looks every second; what is new is read, what is done and comes again, too."""
    inbox = Inbox(Counting())
    inbox.add(asks("a"), now=NOON)
    inbox.store.put(f"{REQUESTS}/torn.json", b"{")
    first = inbox.entries()
    for _ in range(3):
        assert inbox.entries() == first and inbox.find("a") == first[0]
    assert sorted(inbox.store.read) == [f"{REQUESTS}/a.json", f"{REQUESTS}/torn.json"]  # type: ignore[attr-defined]
    inbox.done(f"{REQUESTS}/a.json")
    inbox.add(asks("a", 4), now=LATER)
    assert {w.request_id: w.entry for w in inbox.entries()}["a"] == asks("a", 4)
    Inbox(inbox.store).done(f"{REQUESTS}/a.json")  # by another process
    assert ids(inbox) == ["torn"]


def test_a_file_that_is_too_large_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is rejected by its size, nothing of it is in memory; nor is it added. The control fits exactly."""
    good = body()
    monkeypatch.setattr(inbox_module, "MOST_BYTES", len(good))
    inbox = memory()
    inbox.store.put(f"{REQUESTS}/r1.json", good)
    inbox.store.put(f"{REQUESTS}/r2.json", good + b" ")
    one, other = (inbox.find(name) for name in ("r1", "r2"))
    assert one is not None and isinstance(one.entry, Request)
    assert other is not None and isinstance(other.entry, Rejected)
    assert f"size of the file in bytes is {len(good) + 1}; allowed: at most {len(good)}" in other.entry.reason
    by_examples = asks("r3", kind="examples", examples="sha256:0")
    with pytest.raises(BadInput, match="size of the request in bytes"):
        inbox.add(by_examples, now=NOON, examples=b"x" * len(good))
    assert inbox.find("r3") is None

"""Requests that nobody has taken in yet: anybody who may write to the storage location may add to them.

The ledger has one appender. Whoever wants something of it leaves a file here::

    inbox/requests/<request id>.json        a request, the time of its receipt and its examples, if it has any
    inbox/cancellations/<request id>.json   says that the request of this id is not wanted any more

A file is created whole, under a name that must not exist yet: what is here when `add` returns stays, and of
two requests that use one id at once exactly one gets it. No file is ever changed. The appender removes one
when the ledger says what became of it; killed before that, it finds the file again and the id in the ledger,
so that nothing is recorded twice.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from rayunlearn.errors import BadInput, nearest
from rayunlearn.scheduling.requests import (
    DEFAULT_LINEAGE,
    EXAMPLES_PREFIX,
    Rejected,
    Request,
    check_times,
    differences,
    json_object,
    parse_requests,
    parse_time,
    same_request,
)
from rayunlearn.storage.store import AlreadyExists, NotStored, Store

FOLDER = "inbox"
REQUESTS = f"{FOLDER}/requests"
CANCELLATIONS = f"{FOLDER}/cancellations"

_FILE = re.compile(r"[A-Za-z0-9._-]{1,128}\.json")
_SHOWN = 40
_FIELDS = ("added_at", "request", "examples")
MOST_BYTES = 256 * 2**20
"""Of a file of the inbox, the base64 text of its examples among them."""


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """A file of the inbox.

    Attributes:
        name: under which the store has it.
        request_id: that it is named for.
        entry: what it asks; a file that nobody can read asks nothing, and the reason says why.
        added_at: the time of receipt; None where it cannot be read.
        examples: that were handed over with the request, as bytes.
    """

    name: str
    request_id: str
    entry: Request | Rejected
    added_at: datetime | None = None
    examples: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Cancellation:
    """The wish that a request be not served.

    Attributes:
        name: under which the store has it.
        request_id: of the request.
    """

    name: str
    request_id: str


class IdTaken(BadInput):
    """An id stands for something else already; nothing was changed."""


class Inbox:
    """The inbox of a storage location; a file that one of these has looked at it reads no second time.

    Args:
        store: the storage location.
        with_examples: False forgets the bytes of examples at once, for who only looks where requests stand.
    """

    def __init__(self, store: Store, *, with_examples: bool = True) -> None:
        self.store = store
        self._with_examples = with_examples
        self._seen: dict[str, Waiting | None] = {}

    def add(self, request: Request, *, now: datetime, examples: bytes | None = None) -> str:
        """Leave a request to be taken in; it is durable when this returns.

        Adding a request that waits already changes nothing. An id that the ledger knows is none of the
        inbox's business: whoever takes the request in answers it.

        Args:
            request: with its examples, where it has some, by reference.
            now: the time of its receipt.
            examples: what that reference is to, since a path may lead nowhere where the request is served.

        Returns:
            The name of its file.

        Raises:
            IdTaken: another request waits under the id, or one that is being cancelled.
            BadInput: the examples were not handed over, or it says that it was received after its deadline.
        """
        check_times(request)
        identity = request.request_id
        if (examples is None) != (request.examples is None):
            raise BadInput("examples", request.examples, "a reference to what is handed over with it")
        if self.is_cancelling(identity):
            raise IdTaken("request_id", identity, "another id; the request of this one is being cancelled")
        name = _name(REQUESTS, identity)
        data = _to_json(request, now, examples)
        if len(data) > MOST_BYTES:
            allowed = f"a request of at most {MOST_BYTES} bytes with its examples; give fewer"
            raise BadInput("size of the request in bytes", len(data), allowed)
        while True:
            try:
                self.store.create(name, data)
            except AlreadyExists:
                there = self._read(name)
                if there is not None:
                    _require_same(there, request)
                    try:
                        self.store.settle(name)  # who has created it may not have come so far
                    except NotStored:
                        continue
                    return name
                # taken in between the two: the ledger will answer
            else:
                return name

    def cancel(self, request_id: str, *, now: datetime) -> str:
        """Ask that a request be not served, here or in the ledger; asking again changes nothing.

        Returns:
            The name of the cancellation's file.
        """
        name = _name(CANCELLATIONS, request_id)
        try:
            self.store.create(name, json.dumps({"added_at": now.isoformat()}).encode())
        except AlreadyExists:
            pass  # asked before
        return name

    def entries(self) -> list[Waiting]:
        """What waits, in the order of receipt; what cannot be read comes last."""
        names = [name for name, _ in self._files(REQUESTS)]
        self._seen = {name: there for name, there in self._seen.items() if name in names}
        for name in names:
            if name not in self._seen:
                there = self._read(name)
                if there is not None and not self._with_examples:
                    there = replace(there, examples=None)
                self._seen[name] = there
        found = [there for there in self._seen.values() if there is not None]
        return sorted(found, key=lambda w: (w.added_at or datetime.max.replace(tzinfo=UTC), w.request_id))

    def find(self, request_id: str) -> Waiting | None:
        """What waits under an id."""
        name = _name(REQUESTS, request_id)
        return self._seen[name] if name in self._seen else self._read(name)

    def cancellations(self) -> list[Cancellation]:
        """The requests to cancel. That there is a file says it all, so none is read."""
        return [Cancellation(name=name, request_id=identity) for name, identity in self._files(CANCELLATIONS)]

    def is_cancelling(self, request_id: str) -> bool:
        """Whether somebody asked that the request of this id be not served, and nobody has done so yet."""
        return self.store.exists(_name(CANCELLATIONS, request_id))

    def strays(self) -> list[str]:
        """Files that no call has left here; nobody looks at them."""
        known = {name for folder in (REQUESTS, CANCELLATIONS) for name, _ in self._files(folder)}
        return [name for name in self.store.list(FOLDER) if name not in known]

    def done(self, name: str) -> None:
        """Remove a file, by its name, once the ledger says what became of it."""
        self.store.delete(name)
        self._seen.pop(name, None)

    def _files(self, folder: str) -> Iterator[tuple[str, str]]:
        """Name and request id of each file in a folder."""
        for name in self.store.list(folder):
            file = name.removeprefix(f"{folder}/")
            if _FILE.fullmatch(file):
                yield name, file.removesuffix(".json")

    def _read(self, name: str) -> Waiting | None:
        """A file of requests; None where it is gone, or a link that leads out of the storage location."""
        try:
            there = self.store.exists(name)
        except BadInput:
            return None
        identity = name.removeprefix(f"{REQUESTS}/").removesuffix(".json")
        try:
            return _parsed(name, identity, self.store.get(name, most=MOST_BYTES)) if there else None
        except NotStored:
            return None
        except BadInput as error:
            reason = str(BadInput(error.thing, error.value, error.allowed, where=name))
            unread = Rejected(
                line=0, request_id=identity, lineage=DEFAULT_LINEAGE, kind=None, target=(), reason=reason
            )
            return Waiting(name=name, request_id=identity, entry=unread)


def _name(folder: str, request_id: str) -> str:
    return f"{folder}/{request_id}.json"


def _require_same(there: Waiting, request: Request) -> None:
    """Refuse the id of another request.

    Raises:
        IdTaken: saying what the two ask.
    """
    if isinstance(there.entry, Rejected):
        allowed = f"another id; {there.name} has this one and cannot be read ({there.entry.reason})"
    elif same_request(there.entry, request):
        return
    else:
        said = differences(there.entry, request)
        allowed = f"an id of its own; a request waits under this one already, with {said}"
    raise IdTaken("request_id", request.request_id, allowed)


def _to_json(request: Request, added_at: datetime, examples: bytes | None) -> bytes:
    body = {
        "added_at": added_at.astimezone(UTC).isoformat(),
        "request": request.to_dict(),
        "examples": None if examples is None else base64.b64encode(examples).decode(),
    }
    return json.dumps(body).encode()


def _parsed(name: str, identity: str, data: bytes) -> Waiting:
    """What `_to_json` wrote.

    Raises:
        BadInput: anything but that.
    """
    try:
        body = json_object(data.decode())
    except UnicodeDecodeError as error:
        raise BadInput("content", data[:_SHOWN], f"UTF-8 text (byte {error.start} is not)") from None
    for key in body:
        if key not in _FIELDS:
            raise BadInput("field", key[:_SHOWN], nearest(key[:_SHOWN], _FIELDS))
    added_at = parse_time("added_at", body.get("added_at"))
    if added_at is None:
        raise BadInput("added_at", None, "the time of receipt")
    (entry,) = parse_requests(json.dumps(body.get("request")), name)
    examples = _decoded(body.get("examples"))
    if isinstance(entry, Rejected):
        entry = replace(entry, line=0, request_id=identity)
    elif entry.request_id != identity:
        raise BadInput("request_id", entry.request_id, f"{identity!r}, as the file's name says")
    elif (examples is None) != (entry.examples is None):
        raise BadInput("examples", entry.examples, "a reference to what the file holds")
    elif entry.examples is not None and not entry.examples.startswith(EXAMPLES_PREFIX):
        # a path would be opened by whoever serves the request, wherever it leads there
        allowed = f"{EXAMPLES_PREFIX!r} and the digest of what the file holds; no path"
        raise BadInput("examples", entry.examples, allowed)
    return Waiting(name=name, request_id=identity, entry=entry, added_at=added_at, examples=examples)


def _decoded(text: object) -> bytes | None:
    if text is None:
        return None
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    raise BadInput("examples", repr(text)[:_SHOWN], "base64 text")

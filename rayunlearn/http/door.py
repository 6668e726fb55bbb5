"""What the front door does, without HTTP: the functions behind the commands, and what HTTP adds to a request.

Nothing that is asked here names a path, a module or a host of the server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from rayunlearn.declared import declarations, described
from rayunlearn.errors import BadInput
from rayunlearn.http.looks import Looks
from rayunlearn.http.paging import Page, page_of
from rayunlearn.http.regulations import Regulations, require_regulation
from rayunlearn.http.uploads import reference_of
from rayunlearn.ledger import submission
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.status import Standing, standing_of
from rayunlearn.ledger.submission import Acknowledged, UnknownRequest
from rayunlearn.ledger.under_way import under_way
from rayunlearn.ledger.verification import held_versions
from rayunlearn.reports.certificate import certificate
from rayunlearn.scheduling.requests import Request, check_name, json_object, request_from
from rayunlearn.storage.inbox import IdTaken, Inbox
from rayunlearn.storage.lease import holding
from rayunlearn.storage.store import MARKER, NotStored, Store, StoreFailed

SEALED = ("split", "colocated")
"""Placements whose processes are sealed; a test compares them with `rayunlearn.execution.placement`."""


class Door:
    """The front door of a storage location.

    Args:
        store: the storage location.
        regulations: that a request may name for its deadline.
        default: regulation of a request that says neither a deadline nor a regulation; None leaves it
            without a deadline.
        clock: tells the time of receipt.
    """

    def __init__(
        self,
        store: Store,
        regulations: Regulations,
        default: str | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store, self.looks = store, Looks(store)
        self._regulations = regulations
        self._default = None if default is None else require_regulation(regulations, default)
        self._clock = clock

    def create(self, body: bytes, upload: bytes | None = None) -> dict[str, Any]:
        """Add a request; it is durable when this returns.

        Args:
            body: a JSON object: the fields of a request, and `regulation`.
            upload: its examples.

        Raises:
            IdTaken: its id is that of another.
            BadInput: it can never be served.
        """
        said = _json(body)
        if said.get("examples") is not None:
            allowed = "none in the JSON; examples are uploaded beside it, as multipart/form-data"
            raise BadInput("examples", said["examples"], allowed)
        regulation = said.pop("regulation", None)
        if regulation is not None:
            require_regulation(self._regulations, regulation)
            if said.get("deadline") is not None:
                raise BadInput("regulation", regulation, "none beside a deadline")
        elif said.get("deadline") is None:
            regulation = self._default
        if said.get("kind") == "examples" or upload is not None:
            if upload is None:
                allowed = "examples that are uploaded beside the JSON, as multipart/form-data"
                raise BadInput("examples", None, allowed)
            said["examples"] = "uploaded"  # until their reference is known
        request = request_from(said)
        while True:
            before = self.looks.events(request.request_id)
            asked, now = request, self._clock()
            if regulation is not None:
                first = request.received_at or self._first_received(request.request_id, before) or now
                asked = replace(request, deadline=self._regulations[regulation].after(first))
            try:
                done = self._acknowledged(asked, before, upload, now)
            except IdTaken:
                # two callers gave the same request at once, so that its deadline is counted from the first
                again = regulation is not None and not before and request.received_at is None
                if again and first == now and self._first_received(request.request_id, before) is not None:
                    continue
                raise
            return {
                "status": done.known or "waiting",
                **{k: v for k, v in done.request.to_dict().items() if k != "received_at"},
            }

    def _acknowledged(
        self, asked: Request, before: list[dict[str, Any]], upload: bytes | None, now: datetime
    ) -> Acknowledged:
        def read(of: Request) -> tuple[str, bytes]:
            assert upload is not None, "of a request by examples"
            chain = versions(LedgerReader(self.store), of.lineage)
            model = submission.require_begun(chain, of.lineage).model
            size = model["image_size"]
            sides = size if isinstance(size, list | tuple) else (size, size)
            return reference_of(upload, (model["in_channels"], *sides), of.target), upload

        return submission.acknowledge(
            self.store, asked, before, methods=declarations(), read=read, now=now
        )

    def _first_received(self, request_id: str, before: list[dict[str, Any]]) -> datetime | None:
        """When the request of this id was received first."""
        if before:
            received: datetime = before[0]["received_at"]
            return received
        waiting = Inbox(self.store, with_examples=False).find(request_id)
        if waiting is None or not isinstance(waiting.entry, Request):
            return None
        return waiting.entry.received_at or waiting.added_at

    def request(self, request_id: str) -> Standing:
        """Where a request stands.

        Raises:
            UnknownRequest: there is none of this id.
        """
        _require_id(request_id)
        found = standing_of(self.store, request_id)
        if found is None:
            raise UnknownRequest("request", request_id, "the id of a request; the list names them")
        return found

    def requests(
        self, *, status: str | None, lineage: str | None, limit: int, after: str | None
    ) -> Page:
        """Requests in the order of receipt, a page of them.

        Raises:
            BadInput: `after` is no mark of a page.
        """
        found = [
            s for s in self.looks.standings()
            if status in (None, s.status) and lineage in (None, s.lineage)
        ]  # fmt: skip
        return page_of(found, limit=limit, after=after)

    def cancel(self, request_id: str) -> str:
        """Ask that a request be not served; raises as `submission.cancel`."""
        _require_id(request_id)
        return submission.cancel(self.store, request_id, now=self._clock())

    def certificate(self, request_id: str) -> dict[str, Any]:
        """The certificate of a request, made now.

        Raises:
            UnknownRequest: the ledger has none of this id.
            IntegrityError: as of `certificate`.
        """
        _require_id(request_id)
        methods = {method["name"]: method for method in described()}
        try:
            return certificate(
                self.store, request_id, made_at=self._clock(), methods=methods, sealed=SEALED
            )
        except BadInput as error:
            raise UnknownRequest(error.thing, error.value, error.allowed, where=error.where) from error

    def versions(self, lineage: str | None) -> list[dict[str, Any]]:
        """The versions of every lineage, or of one; none says where its weights are."""
        return [
            {
                "lineage": held.version.lineage,
                "version": held.version.version,
                "parent": held.version.parent,
                "request_ids": list(held.version.request_ids),
                "run_id": held.version.run_id,
                "method": held.method,
                "classes_forgotten": list(held.version.classes_forgotten),
                "samples_forgotten": list(held.version.samples_forgotten),
                "published_at": held.published_at,
                "purged_at": held.purged_at,
            }
            for held in held_versions(LedgerReader(self.store))
            if lineage in (None, held.version.lineage)
        ]

    def status(self) -> dict[str, Any]:
        """What the service is doing now, and how many requests have each status."""
        held = holding(self.store)
        counts = self.looks.counts()
        return {
            "scheduler": None if held is None else {"alive": held.alive, "since": held.since},
            "under_way": [asdict(each) for each in under_way(LedgerReader(self.store))],
            "counts": dict(counts.by_status),
        }

    def require_storage(self) -> None:
        """Look whether the storage location answers.

        Raises:
            StoreFailed: it does not, or is no storage location any more.
        """
        try:
            self.store.get(MARKER)
        except NotStored as error:
            raise StoreFailed(f"{self.store.where} is no storage location any more") from error


def _json(body: bytes) -> dict[str, Any]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadInput("body", body[:40], f"UTF-8 text (byte {error.start} is not)") from None
    return json_object(text)


def _require_id(request_id: str) -> None:
    try:
        check_name("request_id", request_id)
    except BadInput as error:
        raise UnknownRequest(error.thing, error.value, error.allowed) from None

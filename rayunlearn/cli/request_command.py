"""What `rayunlearn request` runs: requests added, listed and cancelled, whoever serves them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from rayunlearn.cli.console import print_json, say_error
from rayunlearn.cli.options.request import AddOptions, CancelOptions, ListOptions
from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.execution.data_warnings import caught
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, versions
from rayunlearn.ledger.status import standings
from rayunlearn.ledger.submission import acknowledge, cancel, require_begun
from rayunlearn.methods.registry import METHODS
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.reports.status_table import described, show_standings
from rayunlearn.reports.terminal import open_console
from rayunlearn.reports.wording import asked, plain
from rayunlearn.scheduling.class_names import numbered_classes
from rayunlearn.scheduling.requests import EXAMPLES_PREFIX, Rejected, Request, parse_time, split_target
from rayunlearn.serving.intake import read_requests
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import NotBegun, Store


def run_request(options: AddOptions | ListOptions | CancelOptions, *, now: datetime | None = None) -> int:
    """Add, list or cancel, as of now; returns the exit code."""
    console, now = open_console(), now or datetime.now(UTC)
    try:
        if isinstance(options, AddOptions):
            return _add(console, options, now)
        store = Store.open(options.storage, create=False)
        if isinstance(options, ListOptions):
            return _list(console, store, options)
        return _cancel(console, store, options, now)
    except RayUnlearnError as error:
        as_json = getattr(options, "json", False)
        return say_error(console, str(error), error.exit_code, as_json=as_json)


def _add(console: Console, options: AddOptions, now: datetime) -> int:
    entries = _asked(options)
    store = _open(console, options.storage)
    added = refused = 0
    known = request_events(LedgerReader(store), {e.request_id for e in entries if isinstance(e, Request)})
    for entry in entries:
        try:
            if isinstance(entry, Rejected):
                said = Text.assemble(("refused: ", "bold red"), plain(entry.reason))
                refused += 1
            else:
                before = known.get(entry.request_id, [])
                said, notes = caught(partial(_acknowledged, store, entry, before, now))
                for note in notes:
                    console.print(Text(plain(note), "yellow"), soft_wrap=True)
                added += 1
        except BadInput as error:
            reason = BadInput(error.thing, error.value, error.allowed, where=f"request {entry.request_id!r}")
            said = Text.assemble(("refused: ", "bold red"), plain(str(reason)))
            refused += 1
        console.print(said, soft_wrap=True)
    if added:
        console.print(
            Text(f"Safe in {store.where}. `rayunlearn request list` shows what becomes of it."),
            soft_wrap=True,
        )
    return ExitCode.BAD_INPUT if refused else ExitCode.OK


def _asked(options: AddOptions) -> Sequence[Request | Rejected]:
    """The requests that the flags say."""
    if options.file is not None:
        if options != AddOptions(file=options.file, storage=options.storage):
            raise BadInput("--file", str(options.file), "none beside the flags of a request")
        return read_requests(options.file, "--file")
    try:
        request = Request(
            request_id=options.id or f"r-{secrets.token_hex(4)}",
            lineage=options.lineage,
            kind=options.kind,
            **split_target(options.target),
            deadline=parse_time("deadline", options.deadline),
            data_access=options.data_access,
            examples=options.examples,
            whole_classes=options.whole_classes,
            priority=options.priority,
            method=options.method,
        )
    except BadInput as error:
        flag = "id" if error.thing == "request_id" else error.thing.replace("_", "-")
        raise BadInput(f"--{flag}", error.value, error.allowed) from error
    return [request]


def _open(console: Console, storage: str) -> Store:
    """The storage location, which is begun where there is none, and then this is said."""
    try:
        return Store.open(storage, create=False)
    except NotBegun:
        store = Store.open(storage)
        said = f"{store.where} was no storage location and is one now; a scheduler has to be given it."
        console.print(Text(said, "yellow"), soft_wrap=True)
        return store


def _acknowledged(store: Store, request: Request, before: Sequence[Mapping[str, Any]], now: datetime) -> Text:
    """Add a request that is not known yet, and say so; raises as `acknowledge`."""
    done = acknowledge(store, request, before, methods=METHODS, read=partial(_taken, store), now=now)
    target: list[int | str] = [*done.request.target, *done.request.names]
    what = f"{request.request_id}: forget {asked(request.kind, target, request.whole_classes)}"
    what += f" of lineage {request.lineage}"
    if done.known is not None:
        return Text.assemble(("known: ", "bold"), plain(f"{what}; it is {done.known}"))
    return Text.assemble(("added: ", "bold green"), plain(what))


def _taken(store: Store, request: Request) -> tuple[str, bytes]:
    """The reference of a request's examples, and what it is to."""
    from rayunlearn.serving.examples import load_examples, read_examples, reference, to_bytes  # here, for Ray

    said = str(request.examples)
    if said.startswith(EXAMPLES_PREFIX):
        examples = load_examples(store, said)
    else:
        reader = LedgerReader(store)
        chain = versions(reader, request.lineage)
        spec = ClassifierSpec.from_dict(require_begun(chain, request.lineage).model)
        request = numbered_classes(request, spec.class_names)
        examples = read_examples(said, spec, request.target)
    return reference(examples), to_bytes(examples)


def _list(console: Console, store: Store, options: ListOptions) -> int:
    found = [s for s in standings(store) if not options.status or s.status in options.status]
    strays = Inbox(store).strays()
    if options.json:
        print_json([described(s) for s in found])
        return ExitCode.OK
    if found:
        show_standings(console, found)
    else:
        console.print(f"No request {'of this status' if options.status else 'was added yet'}.")
    for name in strays:
        console.print(Text(plain(f"{name} is no request: nobody takes it in"), "yellow"), soft_wrap=True)
    return ExitCode.OK


def _cancel(console: Console, store: Store, options: CancelOptions, now: datetime) -> int:
    said = cancel(store, options.request, now=now)
    told = plain(f"{options.request}; {said}")
    console.print(Text.assemble(("cancelled: ", "bold green"), told), soft_wrap=True)
    return ExitCode.OK

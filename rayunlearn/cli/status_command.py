"""What `rayunlearn status` runs: where every request stands, and what the service is doing now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from rayunlearn.cli.console import print_json, say_error
from rayunlearn.cli.options.status import StatusOptions
from rayunlearn.errors import ExitCode, RayUnlearnError
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.status import CLOSED, OPEN, Standing, standings
from rayunlearn.ledger.under_way import UnderWay, under_way
from rayunlearn.reports.status_table import described, moment, show_standings
from rayunlearn.reports.terminal import open_console
from rayunlearn.reports.wording import phase_name, plain
from rayunlearn.storage.lease import Holding, holding
from rayunlearn.storage.store import Store


def run_status(options: StatusOptions) -> int:
    """Show it; returns the exit code."""
    console = open_console()
    try:
        store = Store.open(options.storage, create=False)
        held, found, running = holding(store), standings(store), under_way(LedgerReader(store))
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code, as_json=options.json)
    if options.json:
        print_json(_document(store, held, found, running))
        return ExitCode.OK
    console.print(Text(plain(_scheduler(store, held))), soft_wrap=True)
    for each in running:
        console.print(Text(plain(_said(each, held))), soft_wrap=True)
    counts = Counter(s.status for s in found)
    told = [f"{counts[status]} {status}" for status in (*OPEN, *CLOSED) if counts[status]]
    console.print(f"Requests: {', '.join(told) or 'none was added yet'}.", soft_wrap=True)
    if found:
        show_standings(console, found)
    return ExitCode.OK


def _document(
    store: Store, held: Holding | None, found: Sequence[Standing], running: Sequence[UnderWay]
) -> dict[str, Any]:
    counts = Counter(s.status for s in found)
    return {
        "storage": store.where,
        "scheduler": None if held is None else asdict(held),
        "under_way": [asdict(each) for each in running],
        "counts": {status: counts[status] for status in (*OPEN, *CLOSED)},
        "requests": [described(s) for s in found],
    }


def _scheduler(store: Store, held: Holding | None) -> str:
    if held is None:
        return f"No scheduler is at work in {store.where}."
    said = f"{store.where} is held by {held.who}"
    if held.alive is None:
        return f"{said}, as its lease says; from this machine nobody can see at once whether it is alive."
    return f"{said}, which is {'at work.' if held.alive else 'no more; the next one takes over.'}"


def _said(each: UnderWay, held: Holding | None) -> str:
    of = f" for {', '.join(each.request_ids)}" if each.request_ids else ""
    began = f"{each.kind} {each.id} of lineage {each.lineage} by {each.method}{of}"
    began += f", begun {moment(each.began_at)}"
    reached = [f"{phase_name(each.phase)} done"] if each.phase else []
    reached += [f"at step {each.step}"] if each.step is not None else []
    now = "Now" if held is not None and held.alive is not False else "Waits for a scheduler to go on"
    return f"{now}: {began}; {', '.join([*reached, f'last heard of {moment(each.last_at)}'])} UTC."

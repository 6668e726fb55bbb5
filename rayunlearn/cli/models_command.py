"""What `rayunlearn models` runs: versions listed, verified and exported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rayunlearn.cli.console import print_json, say_error, write_file
from rayunlearn.cli.options.models import ExportOptions, ListOptions, VerifyOptions
from rayunlearn.errors import BadInput, ExitCode, IntegrityError, RayUnlearnError, nearest
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.verification import SHORT, HeldVersion, find_version, findings, held_versions, short
from rayunlearn.lineages.published import load_version
from rayunlearn.models.adapted import INSIDE
from rayunlearn.models.weights import require_weights, version_id, weights_from_bytes, weights_to_bytes
from rayunlearn.reports.terminal import open_console
from rayunlearn.reports.wording import ABSENT, gone, plain
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store


def run_models(options: ListOptions | VerifyOptions | ExportOptions) -> int:
    """List, verify or export; returns the exit code."""
    console = open_console()
    try:
        store = Store.open(options.storage, create=False)
        if isinstance(options, ListOptions):
            return _list(console, store, options)
        if isinstance(options, VerifyOptions):
            return _verify(console, store, options)
        return _export(console, store, options)
    except RayUnlearnError as error:
        as_json = getattr(options, "json", False)
        return say_error(console, str(error), error.exit_code, as_json=as_json)


def _list(console: Console, store: Store, options: ListOptions) -> int:
    held = held_versions(LedgerReader(store))
    if options.lineage is not None:
        lineages = {h.version.lineage for h in held}
        if options.lineage not in lineages:
            raise BadInput("--lineage", options.lineage, nearest(options.lineage, lineages) or "none yet")
        held = [h for h in held if h.version.lineage == options.lineage]
    if options.json:
        print_json([_described(h) for h in held])
    elif held:
        console.print(_table(held))
    else:
        console.print("No version was published yet.")
    return ExitCode.OK


def _described(held: HeldVersion) -> dict[str, Any]:
    version = held.version
    return {
        "lineage": version.lineage,
        "version": version.version,
        "parent": version.parent,
        "request_ids": list(version.request_ids),
        "run_id": version.run_id,
        "method": held.method,
        "classes_forgotten": list(version.classes_forgotten),
        "samples_forgotten": list(version.samples_forgotten),
        "published_at": held.published_at,
        "purged_at": held.purged_at,
        "path": version.path,
        "model": version.model,
    }


def _table(held: Sequence[HeldVersion]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption="Times are UTC.",
        caption_justify="left",
    )  # fmt: skip
    wraps = {"Lineage": 7, "Requests": 10, "Forgotten": 9, "Published": 10, "Weights": 10}
    for name in ("Lineage", "Version", "Parent", "Requests", "Forgotten", "By", "Published", "Weights"):
        table.add_column(name, no_wrap=name not in wraps, min_width=wraps.get(name), overflow="fold")
    lineage = None
    for h in held:
        version = h.version
        if version.lineage != lineage:
            table.add_section()
        table.add_row(
            Text(plain(version.lineage) if version.lineage != lineage else ""),
            short(version),
            version.parent[:SHORT] if version.parent else ABSENT,
            Text(plain(", ".join(version.request_ids)) or "none, the original"),
            gone(version.classes_forgotten, version.samples_forgotten),
            h.method or ABSENT,
            _time(h.published_at),
            "kept" if h.purged_at is None else f"purged {_time(h.purged_at)}",
            style="" if h.purged_at is None else "dim",
        )
        lineage = version.lineage
    return table


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M}"


def _verify(console: Console, store: Store, options: VerifyOptions) -> int:
    found = findings(store, _identify)
    held = held_versions(LedgerReader(store)) if options.json or not found else []
    kept = sum(h.purged_at is None for h in held)
    served = {request_id for h in held for request_id in h.version.request_ids}
    if options.json:
        counts = {"kept": kept, "purged": len(held) - kept, "requests": len(served)}
        print_json({"storage": store.where, "findings": [str(finding) for finding in found], **counts})
        return IntegrityError.exit_code if found else ExitCode.OK
    for finding in found:
        console.print(Text.assemble(("finding: ", "bold red"), plain(str(finding))), soft_wrap=True)
    if found:
        many = "1 finding" if len(found) == 1 else f"{len(found)} findings"
        console.print(Text(f"{many} in {store.where}"), soft_wrap=True)
        return IntegrityError.exit_code
    for said in (
        "No finding: the ledger's chain is whole.",
        f"Versions kept, their weights read and their ids recomputed: {kept}",
        f"Versions purged, their weights gone: {len(held) - kept}",
        f"Requests that versions were published for, each received and served by that run: {len(served)}",
    ):
        console.print(said, soft_wrap=True)
    return ExitCode.OK


def _identify(data: bytes, name: str) -> str:
    """The version id of stored weights, or `BadInput` where they are none."""
    weights = weights_from_bytes(data, name)
    require_weights(weights, name)
    return version_id(weights)


def _export(console: Console, store: Store, options: ExportOptions) -> int:
    require_lasting("--out", options.out)
    held = find_version(held_versions(LedgerReader(store)), options.version, options.lineage)
    version = held.version
    if held.purged_at is not None:
        raise BadInput("version", options.version, f"one that is kept; this one {_end(held)}")
    metadata = {
        "version": version.version,
        "lineage": version.lineage,
        "classifier": json.dumps(version.model),
        "classes_forgotten": json.dumps(version.classes_forgotten),
    }
    weights = load_version(store, version)
    if version.model.get("source"):  # as the network itself names them
        weights = {name.removeprefix(INSIDE): value for name, value in weights.items()}
    data = weights_to_bytes(weights, metadata)
    try:
        write_file("--out", options.out, data, replace=options.force)
    except FileExistsError as error:
        allowed = "a file that is not there yet; --force replaces one"
        raise BadInput("--out", str(options.out), allowed) from error
    forgotten = gone(version.classes_forgotten, version.samples_forgotten)
    said = f"Version {short(version)} of lineage {version.lineage}, forgotten: {forgotten}."
    console.print(Text(f"{said} Written to {options.out}"), soft_wrap=True)
    return ExitCode.OK


def _end(held: HeldVersion) -> str:
    """When a version was purged, and what took its place."""
    assert held.purged_at is not None, "asked of purged ones alone"
    said = f"was purged at {_time(held.purged_at)} UTC"
    if held.successor is None:
        return said
    requests = ", ".join(map(repr, held.successor.request_ids))
    return f"{said}, after version {short(held.successor)} superseded it for request {requests}"

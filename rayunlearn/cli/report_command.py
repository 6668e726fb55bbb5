"""What `rayunlearn report` runs: the certificate of one request, as a page and as JSON."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from rich.text import Text

from rayunlearn.cli.console import make_folder, print_json, say_error, write_file
from rayunlearn.cli.key_command import signing_key
from rayunlearn.cli.options.report import ReportOptions
from rayunlearn.cli.verify_command import EVIDENCE
from rayunlearn.errors import ExitCode, RayUnlearnError
from rayunlearn.execution.placement import Placement
from rayunlearn.methods.catalogue import described
from rayunlearn.reports.attested import attested
from rayunlearn.reports.certificate import certificate, to_html, to_json
from rayunlearn.reports.terminal import STATUS_STYLES, open_console
from rayunlearn.reports.wording import plain
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store


def run_report(options: ReportOptions, *, now: datetime | None = None) -> int:
    """Write the certificate of one request, made now; returns the exit code."""
    console = open_console()
    try:
        store = Store.open(options.storage, create=False)
        if options.out is not None:
            require_lasting("--out", options.out)
        key = None if options.key is None else signing_key(options.key)
        made = certificate(
            store,
            options.request,
            made_at=now or datetime.now(UTC),
            methods={method["name"]: method for method in described()},
            sealed={placement.value for placement in Placement},
        )
        name = "certificate-" + re.sub(r"[^A-Za-z0-9._-]", "_", options.request)
        files = {f"{name}.html": to_html(made).encode(), f"{name}.json": to_json(made).encode()}
        if key is not None:
            files[name + EVIDENCE] = attested(store, made, files, key).to_json()
        places = [_written(store, options.out, name, data) for name, data in files.items()]
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code, as_json=options.json)
    if options.json:
        told = {name: made[name] for name in ("title", "status", "statement", "reason", "warnings")}
        print_json({"request": options.request, **told, "files": places})
        return ExitCode.OK
    console.print(Text(f"{made['title']}. ", STATUS_STYLES.get(made["status"], "bold")), end="")
    console.print(Text(plain(made["statement"])), soft_wrap=True)
    for said in [*([made["reason"]] if made["reason"] else []), *made["warnings"]]:
        console.print(Text(plain(said), "bold red"), soft_wrap=True)
    for place in places:
        console.print(Text(place), soft_wrap=True)
    return ExitCode.OK


def _written(store: Store, folder: Path | None, name: str, data: bytes) -> str:
    """Write a file to a folder, or beside the jobs' reports; returns where it is."""
    if folder is None:
        store.put(f"reports/{name}", data)
        return store.address(f"reports/{name}")
    make_folder("--out", folder)
    write_file("--out", folder / name, data)
    return str(folder / name)

"""What `python -m rayunlearn methods` runs: which methods there are, and what each must be handed."""

from __future__ import annotations

import json
from dataclasses import dataclass

from rich import box
from rich.table import Table

from rayunlearn.errors import ExitCode
from rayunlearn.methods.catalogue import described
from rayunlearn.results.terminal import open_console


@dataclass(frozen=True, kw_only=True)
class MethodsOptions:
    """List every method with what it is handed and what it can forget."""

    json: bool = False
    """As JSON, for programs."""


def run_methods(options: MethodsOptions) -> int:
    """Print the methods; returns the exit code."""
    methods = described()
    if options.json:
        print(json.dumps(methods, indent=1))
        return ExitCode.OK
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in ("method", "is handed", "forgets", "what it does"):
        table.add_column(column, no_wrap=column == "method")
    for method in methods:
        access, granularity = (", ".join(method[key]) for key in ("data_access", "granularity"))
        table.add_row(method["name"], access, granularity, method["summary"])
    open_console().print(table)
    return ExitCode.OK

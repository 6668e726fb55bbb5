"""What `rayunlearn methods` runs: which methods there are, and what each must be handed."""

from __future__ import annotations

from rich import box
from rich.table import Table

from rayunlearn.cli.console import print_json
from rayunlearn.cli.options.methods import MethodsOptions
from rayunlearn.errors import ExitCode
from rayunlearn.methods.catalogue import described, table_three
from rayunlearn.reports.terminal import open_console


def run_methods(options: MethodsOptions) -> int:
    """Print the methods; returns the exit code."""
    if options.json:
        print_json(table_three() if options.table_three else described())
    else:
        open_console().print(_table_three() if options.table_three else _table_of_methods())
    return ExitCode.OK


def _table_of_methods() -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in ("method", "is handed", "forgets", "what it does"):
        table.add_column(column, no_wrap=column == "method")
    for method in described():
        access, granularity = (", ".join(method[key]) for key in ("data_access", "granularity"))
        table.add_row(method["name"], access, granularity, method["summary"])
    return table


def _table_three() -> Table:
    columns = table_three()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="center")
    for row in next(iter(columns.values())):
        table.add_row(row, *("yes" if has[row] else "no" for has in columns.values()))
    return table

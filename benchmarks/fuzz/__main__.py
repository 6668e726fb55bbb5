"""Judge thousands of malformed inputs of every kind: `python -m benchmarks.fuzz`.

Every case has to end in an error that says what is wrong, or in the acceptance of what is valid after all. A
traceback, a wrong acceptance or an error that says nothing is told with its case, and the exit code is 1.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from time import perf_counter
from typing import Any

import hypothesis
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.fuzz import data, requests, settings, stored
from benchmarks.fuzz.kinds import Ending, Tally, tally
from rayunlearn.execution.machine import machine_facts

KINDS = (*requests.KINDS, *settings.KINDS, *stored.KINDS, *data.KINDS)


def main(cases: int = 10_000, seed: int = 0, out: Path = Path("docs/results/fuzz.json")) -> int:
    """Run it, print the figures, store them; the exit code.

    Args:
        cases: over all kinds, in equal shares.
        seed: of the cases.
        out: where the figures are stored.
    """
    warnings.simplefilter("ignore")  # torch warns of what it is given; what it makes of it is judged
    console = Console(width=110, highlight=False)
    began = perf_counter()
    found: dict[str, Tally] = {}
    seconds: dict[str, float] = {}
    for kind in KINDS:
        before = perf_counter()
        found[kind.name] = tally(kind, -(-cases // len(KINDS)), seed)
        seconds[kind.name] = perf_counter() - before
    console.print(_table(found))
    for name, tallied in found.items():
        for ending, case, text in tallied.findings:
            console.print(f"{name}, {ending}: {case}\n{text}\n", markup=False, soft_wrap=True)
    checks = checked(found, cases)
    for claim, holds in checks.items():
        console.print(f"{'yes' if holds else 'no ':3} {claim}")
    told = {
        "benchmark": "fuzz", "seed": seed, "cases": sum(t.cases for t in found.values()),
        "kinds": {name: _plain(t) | {"seconds": seconds[name]} for name, t in found.items()},
        "checks": checks, "seconds": perf_counter() - began,
        "machine": machine_facts() | {"hypothesis": hypothesis.__version__},
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(told, indent=1) + "\n")
    return 0 if all(checks.values()) else 1


def checked(found: dict[str, Tally], cases: int) -> dict[str, bool]:
    """What is asked of the run."""

    def none(ending: Ending) -> bool:
        return not any(t.endings[ending] for t in found.values())

    return {
        f"at least {cases} cases": sum(t.cases for t in found.values()) >= cases,
        "no traceback": none(Ending.TRACEBACK),
        "no wrong acceptance": none(Ending.WRONG),
        "every refusal says what is wrong": none(Ending.UNCLEAR),
        "of every kind some cases are accepted, and some refused": all(
            t.endings[Ending.ACCEPTED] and t.endings[Ending.REFUSED] for t in found.values()
        ),
    }


def _table(found: dict[str, Tally]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("kind of input")
    columns = {
        Ending.REFUSED: "refused\nclearly", Ending.ACCEPTED: "accepted\nrightly",
        Ending.TRACEBACK: "\ntracebacks", Ending.WRONG: "wrong\nacceptances",
        Ending.UNCLEAR: "unclear\nrefusals",
    }  # fmt: skip
    for header in ("\ncases", *columns.values()):
        table.add_column(header, justify="right")
    total = Tally()
    for tallied in found.values():
        total.endings.update(tallied.endings)
    for name, tallied in (*found.items(), ("all", total)):
        table.add_row(name, str(tallied.cases), *(str(tallied.endings[ending]) for ending in columns))
    return table


def _plain(tallied: Tally) -> dict[str, Any]:
    """A tally as plain data."""
    return {
        "cases": tallied.cases,
        "endings": {str(ending): tallied.endings[ending] for ending in Ending},
        "findings": [
            {"ending": ending, "case": case, "said": text} for ending, case, text in tallied.findings
        ],
    }


if __name__ == "__main__":
    sys.exit(tyro.cli(main))

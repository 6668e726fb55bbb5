"""What the scheduler itself costs: `python -m benchmarks.scheduler`.

Planning, a large ledger read by lineage, requests added, the overhead of a request, and memory beside the
number of closed requests. Every part that is about time or memory is measured in a process of its own.
The large ledger is written a hundred rows an entry, which the scheduler writes one by one: what is read, the
segments, holds the same rows either way.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from rayunlearn.execution.cluster import Placement, connect
from rayunlearn.execution.machine import machine_facts
from rayunlearn.ledger.history import History
from rayunlearn.ledger.ledger import Ledger, LedgerReader, verify
from rayunlearn.ledger.lineage import OpenRequests
from rayunlearn.lineages.context import Context
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import load_recipe
from rayunlearn.scheduling.plan import PlanSettings, plan
from rayunlearn.scheduling.queue import Lineage, Pending
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.service import Place, Service
from rayunlearn.settings import override, to_json
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.progress import Quiet

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

PENDING, LINEAGES = 10_000, 100
ROWS, PER_ENTRY, ROWS_OF_LINEAGE = 1_000_000, 100, 1_000
SINGLE = 2_000
ADDED = 1_000
CLOSED = (2_000, 20_000)
SERVED = 4

MOST_PLAN_S, MOST_READ_S, MOST_READ_MIB = 1.0, 1.0, 1024
MOST_ADD_S, MOST_OVERHEAD_S, MOST_GROWTH_MIB = 10.0, 3.0, 16

SETTINGS = (
    "model.width=0.125", "train.epochs=8", "inversion.iterations=5", "inversion.min_confidence=0",
    "validation.per_retain_class=6", "validation.per_forget_class=8", "gkt.cycles=20",
    "gkt.schedule_cycles=20", "gkt.batch_size=32", "gkt.student_steps=2", "gkt.generator_width=0.1",
    "stopping.min_retain=0", "stopping.leak=1", "stopping.forget_tolerance=0.99", "gate.max_forget=1",
    "gate.max_loss=1", "gate.max_retain_drop=1", "gate.max_position=9", "gate.max_forgotten_share=1",
    "stand_ins.number=1", "stand_ins.steps=1",
    "audit.enabled=false",
)  # fmt: skip
"""Of the requests whose overhead is measured: a method that takes a second or two, and never a refusal."""

Figures = dict[str, Any]


def alone(part: Callable[..., Figures], *given: Any) -> Figures:
    """A part in a process of its own, with its peak resident memory."""
    receiver, sender = multiprocessing.get_context("spawn").Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_told, args=(sender, part, given))
    process.start()
    sender.close()
    try:
        found: Figures = receiver.recv()
    finally:
        process.join()
    return found


def _told(sender: Any, part: Callable[..., Figures], given: tuple[Any, ...]) -> None:
    before = peak_mib()
    found = part(*given)
    sender.send({**found, "imports_mib": before, "peak_mib": peak_mib()})


def peak_mib() -> float:
    """The most resident memory that this process has had; `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


# ---- planning


def planning() -> Figures:
    """Decide on all pending requests at once; the first start of each lineage comes of it."""
    pending = [
        Pending.of(
            Request(
                request_id=f"r{n}", lineage=f"l{n % LINEAGES}", target=(n // LINEAGES % 9,),
                received_at=NOON, deadline=NOON + timedelta(days=1 + n % 60),
            )
        )
        for n in range(PENDING)
    ]  # fmt: skip
    lineages = [Lineage(name=f"l{n}", version="v", recipe="r", num_classes=10) for n in range(LINEAGES)]
    times = []
    for _ in range(3):
        began = perf_counter()
        made = plan(
            pending, lineages=lineages, methods=METHODS, history=(), refusals=(), slots=LINEAGES,
            settings=PlanSettings(order=("gkt",), max_classes=4), now=NOON,
        )  # fmt: skip
        times.append(perf_counter() - began)
    return {"seconds": min(times), "starts": len(made.starts)}


# ---- a large ledger


def checkpoint(run: int, step: int, lineage: str) -> dict[str, Any]:
    """A checkpoint's row, with figures that differ from row to row."""
    share = (run * 7919 + step * 104_729) % 10_007 / 10_007
    return {
        "run_id": f"run-{run}", "lineage": lineage, "phase": "unlearn", "step": step,
        "retain_correct": int(900 * share), "retain_count": 900, "forget_correct": int(100 * (1 - share)),
        "forget_count": 100, "retain_loss": 1 - share, "forget_mass": share / 3,
        "forgotten_share": [share / 7], "pass_rate": share, "generator_loss": share * 2,
        "student_loss": share * 3, "student_steps": 10 * step, "stalled": False, "recoveries": 0,
        "at": NOON + timedelta(seconds=step),
    }  # fmt: skip


def write_checkpoints(folder: Path, rows: int, per_entry: int, *, folded: bool = True) -> Figures:
    """Append checkpoints, the lineages taking turns; what an append costs."""
    ledger = Ledger(Store.open(folder, sync=False), **({} if folded else {"compact_at": 10**9}))
    lineages, began = max(1, rows // ROWS_OF_LINEAGE), perf_counter()
    for run in range(rows // per_entry):
        lineage = f"lineage-{run % lineages}"
        ledger.append("checkpoints", [checkpoint(run, step, lineage) for step in range(per_entry)])
    return {"seconds": perf_counter() - began, "entries": rows // per_entry}


def read_lineage(folder: Path) -> Figures:
    """The rows of one lineage, by filter, by a reader that has read nothing before."""
    store = Store.open(folder, create=False)
    began = perf_counter()
    rows = LedgerReader(store).read("checkpoints", lineage="lineage-1").num_rows
    return {"seconds": perf_counter() - began, "rows": rows, "files": len(store.list("ledger"))}


def verified(folder: Path) -> Figures:
    """The whole chain."""
    began = perf_counter()
    return {"entries": verify(Store.open(folder, create=False)), "seconds": perf_counter() - began}


# ---- requests


def adding(folder: Path) -> Figures:
    """`python -m rayunlearn request add --file` with many lines, start of the interpreter included."""
    lines = folder / "requests.jsonl"
    lines.parent.mkdir(parents=True, exist_ok=True)
    asked = ({"request_id": f"r{n}", "lineage": f"l{n}", "target": [n % 9]} for n in range(ADDED))
    lines.write_text("".join(json.dumps(line) + "\n" for line in asked))
    command = [sys.executable, "-m", "rayunlearn", "request", "add", "--file", str(lines)]
    began = perf_counter()
    done = subprocess.run(
        [*command, "--storage", str(folder / "storage")], capture_output=True, text=True, check=False
    )
    seconds = perf_counter() - began
    assert done.returncode == 0, done.stdout + done.stderr
    listing = [sys.executable, "-m", "rayunlearn", "request", "list", "--json"]
    listed = subprocess.run(
        [*listing, "--storage", str(folder / "storage")], capture_output=True, text=True, check=True
    )
    return {"seconds": seconds, "listed": len(json.loads(listed.stdout))}


class Timed:
    """Counts the seconds in which actors start."""

    seconds = 0.0

    def __init__(self, begin: Callable[[], Executor]) -> None:
        self.begin = begin

    def __call__(self) -> Executor:
        """Start them."""
        began = perf_counter()
        try:
            return self.begin()
        finally:
            Timed.seconds += perf_counter() - began


def overhead(folder: Path) -> Figures:
    """Wall time of requests beside what their methods' phases and the start of their actors took."""
    connect()
    store = Store.open(folder)
    context = Context(
        store=store, ledger=Ledger(store), recipe=override(load_recipe("digits_gkt"), list(SETTINGS)), seed=0,
        clock=lambda: datetime.now(UTC), progress=Quiet(),
    )  # fmt: skip
    service = Service(context, Place(placement=Placement.COLOCATED))
    service.scheduler.open_executor = Timed(service.scheduler.open_executor)
    service.begin_lineage("default")
    requests = [Request(request_id=f"forget-{n}", target=(n,)) for n in range(SERVED)]
    intake = service.take_in(requests)
    began = perf_counter()
    outcomes = service.serve(intake)
    wall = perf_counter() - began
    assert all(outcome.version for outcome in outcomes.values()), outcomes
    phases: dict[str, float] = {}
    for row in service.reader.read("runs", event="phase").to_pylist():
        phases[row["phase"]] = phases.get(row["phase"], 0.0) + row["seconds"]
    method = sum(seconds for name, seconds in phases.items() if name != "publish")
    return {
        "seconds": (wall - method - Timed.seconds) / SERVED,
        "wall_s": wall / SERVED,
        "method_s": method / SERVED,
        "actors_s": Timed.seconds / SERVED,
    }


# ---- closed requests


def write_closed(folder: Path, closed: int) -> Figures:
    """A ledger of requests for single samples that were served long ago, over a hundred lineages."""
    ledger = Ledger(Store.open(folder, sync=False))
    config = to_json(load_recipe("digits_gkt"))
    began = perf_counter()
    for lineage in range(LINEAGES):
        _close(ledger, f"l{lineage}", closed // LINEAGES, config)
    return {"seconds": perf_counter() - began, "entries": ledger.tail.seq}


def _close(ledger: Ledger, lineage: str, requests: int, config: str) -> None:
    model = json.dumps({"num_classes": 10})
    for begin in range(0, requests, 10):
        ids = [f"{lineage}-{n}" for n in range(begin, begin + 10)]
        asked = [
            {
                "request_id": i, "lineage": lineage, "kind": "samples", "target": [n], "received_at": NOON,
                "data_access": ["weights", "forget"], "whole_classes": False, "priority": 0, "at": NOON,
                "run_id": None,
            }
            for n, i in enumerate(ids, start=begin)
        ]  # fmt: skip
        run = {
            "lineage": lineage, "method": "amnesiac", "placement": "colocated", "parent_version": "v",
            "config": config, "config_hash": "c", "seed": 0, "attempt": 1, "at": NOON,
        }  # fmt: skip
        figures = {
            "lineage": lineage, "version": "v", "subject": "unlearned", "dataset": "d", "dataset_hash": "h",
            "split": "synthetic", "classes": [0], "parameters": "{}", "value": 0.9, "seed": 0,
            "censored": False, "at": NOON,
        }  # fmt: skip
        version = {
            "lineage": lineage, "parent": "v", "path": "p", "request_ids": [], "classes_forgotten": [],
            "model": model, "event": "published", "created_at": NOON, "at": NOON,
        }  # fmt: skip
        for event in ("received", "planned", "served"):
            ledger.append("requests", [{**row, "event": event} for row in asked])
        for event, phase in (("started", None), ("phase", "unlearn"), ("phase", "gate"), ("published", None)):
            more = {"event": event, "phase": phase, "seconds": 1.0 if phase else None, "version": "v"}
            ledger.append("runs", [{**run, **more, "run_id": i, "request_ids": [i]} for i in ids])
        for measure in ("retain_accuracy", "parent_retain_accuracy"):
            ledger.append("evaluations", [{**figures, "measure": measure, "run_id": i} for i in ids])
        ledger.append("checkpoints", [checkpoint(0, step, lineage) for step in range(10)])
        ledger.append("versions", [{**version, "version": i, "run_id": i} for i in ids])


def turn(folder: Path) -> Figures:
    """What the scheduler reads to decide: at its start, and again when ten requests more have come."""
    store = Store.open(folder, sync=False)
    reader = LedgerReader(store)
    history, opened = History(reader), OpenRequests(reader)
    times = []
    for waiting in (0, 10):
        if waiting:
            rows = [
                {
                    "request_id": f"new-{n}", "lineage": f"l{n}", "kind": "classes", "target": [n],
                    "received_at": NOON, "data_access": ["weights"], "whole_classes": False, "priority": 0,
                    "event": "received", "at": NOON,
                }
                for n in range(waiting)
            ]  # fmt: skip
            Ledger(store).append("requests", rows)
        began = perf_counter()
        events = opened.events()
        known = history.known("{}", waiting=tuple(events), under_way={}, config_hash=lambda method: "c")
        times.append(perf_counter() - began)
        assert len(events) == waiting and len(known.lineages) == LINEAGES
    return {"first_s": times[0], "again_s": times[1]}


# ---- all of it


def measured(folder: Path, rows: int, closed: tuple[int, int], console: Console) -> dict[str, Figures]:
    """Every part, one after another."""
    found: dict[str, Figures] = {}

    def note(name: str, figures: Figures) -> None:
        found[name] = figures
        told = ", ".join(f"{key} {value:,.3g}" for key, value in figures.items())
        console.print(f"{name}: {told}", highlight=False, soft_wrap=True)

    note("planning", alone(planning))
    note("overhead", alone(overhead, folder / "served"))
    note("adding", adding(folder / "added"))
    for count in closed:
        write_closed(folder / f"closed-{count}", count)
        note(f"closed {count}", alone(turn, folder / f"closed-{count}"))
    note("single written", write_checkpoints(folder / "single", SINGLE, 1, folded=False))
    note("single read", alone(read_lineage, folder / "single"))
    note("folded written", write_checkpoints(folder / "folded", SINGLE, 1))
    note("folded read", alone(read_lineage, folder / "folded"))
    note("large written", write_checkpoints(folder / "large", rows, PER_ENTRY))
    note("large read", alone(read_lineage, folder / "large"))
    note("large verified", alone(verified, folder / "large"))
    return found


def verdicts(found: dict[str, Figures], rows: int, closed: tuple[int, int]) -> dict[str, bool]:
    """What must hold."""
    read, (few, many) = found["large read"], (found[f"closed {count}"] for count in closed)
    return {
        f"{PENDING:,} pending requests over {LINEAGES} lineages are planned in under {MOST_PLAN_S:g} s": (
            found["planning"]["seconds"] < MOST_PLAN_S
        ),
        f"{rows:,} checkpoint rows: a lineage's rows are read in under {MOST_READ_S:g} s": (
            read["seconds"] < MOST_READ_S and read["rows"] == ROWS_OF_LINEAGE
        ),
        f"... and under {MOST_READ_MIB / 1024:g} GiB": read["peak_mib"] < MOST_READ_MIB,
        f"{ADDED:,} requests are added in under {MOST_ADD_S:g} s": (
            found["adding"]["seconds"] < MOST_ADD_S and found["adding"]["listed"] == ADDED
        ),
        f"a request takes under {MOST_OVERHEAD_S:g} s beside its method and the start of its actors": (
            found["overhead"]["seconds"] < MOST_OVERHEAD_S
        ),
        f"{closed[1]:,} closed requests take at most {MOST_GROWTH_MIB} MiB more than {closed[0]:,}": (
            many["peak_mib"] - few["peak_mib"] <= MOST_GROWTH_MIB
        ),
    }


def figures_table(found: dict[str, Figures], rows: int, closed: tuple[int, int]) -> Table:
    """The figures beside their bounds."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("", "figure", "asked"):
        table.add_column(column, justify="left" if not column else "right")
    read, more = found["large read"], found["overhead"]
    few, many = (found[f"closed {count}"] for count in closed)
    folding = found["single read"]["seconds"] / found["folded read"]["seconds"]
    lines = (
        (f"planning {PENDING:,} pending requests, s", f"{found['planning']['seconds']:.2f}", MOST_PLAN_S),
        (f"a lineage's rows of {rows:,}, s", f"{read['seconds']:.2f}", MOST_READ_S),
        ("... peak memory, MiB", f"{read['peak_mib']:.0f}", MOST_READ_MIB),
        (f"adding {ADDED:,} requests, s", f"{found['adding']['seconds']:.1f}", MOST_ADD_S),
        ("overhead of a request, s", f"{more['seconds']:.2f}", MOST_OVERHEAD_S),
        ("... beside method and actors, s", f"{more['method_s']:.1f} + {more['actors_s']:.1f}", ""),
        (f"peak memory with {closed[0]:,} closed requests, MiB", f"{few['peak_mib']:.0f}", ""),
        (f"... more with {closed[1]:,}", f"{many['peak_mib'] - few['peak_mib']:.1f}", MOST_GROWTH_MIB),
        (f"reading at the start with {closed[1]:,} closed, s", f"{many['first_s']:.2f}", ""),
        ("... and again, s", f"{many['again_s']:.3f}", ""),
        (f"reading {SINGLE:,} entries single / folded", f"{folding:.0f}", ""),
        ("verifying the large ledger, s", f"{found['large verified']['seconds']:.1f}", ""),
    )
    for name, figure, asked in lines:
        table.add_row(name, figure, str(asked) if isinstance(asked, str) else f"{asked:g}")
    return table


def main(
    out: Path = Path("docs/results/scheduler.json"), rows: int = ROWS, closed: tuple[int, int] = CLOSED
) -> None:
    """Run the benchmark.

    Args:
        out: where the figures are stored.
        rows: of the large ledger; fewer are for a quick look, not for figures.
        closed: numbers of closed requests, few and many.
    """
    console, began = Console(width=110), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), rows, closed, console)
    console.print(figures_table(found, rows, closed))
    checks = verdicts(found, rows, closed)
    for claim, holds in checks.items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}", highlight=False)
    result = {
        "benchmark": "scheduler", "rows": rows, "closed": list(closed), "figures": found, "checks": checks,
        "seconds": time.perf_counter() - began, "machine": machine_facts(),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(0 if all(checks.values()) else 1)


if __name__ == "__main__":
    tyro.cli(main)

"""Kills without loss: `python -m benchmarks.chaos --kills 50`.

A cluster of three nodes on this machine serves four requests of two lineages, side by side, on digits; one of
them is added while the job runs. Three more are of tenants whose requests never succeed: one raises, one
diverges, one runs out of memory; they are due before all others. The undisturbed round gives the versions to
compare with and the list of failpoints: every moment before and after a durable write. Then rounds on fresh
storage locations, with SIGKILLs until there were enough: over actors of runs, workers at a task, whole worker
nodes (started anew once the work went on without them) and the driver (given the same command again). Half
come at random moments, half where the driver is at a failpoint. At last the head node is lost with all that
is on it.

- A kill that found nothing to hit is not counted.
- Recovery: from a kill until each lineage with work left has written a checkpoint, a measure, the end of a
  phase or a version, after it has begun its run again where it had to.
- Work repeated: cycles that runs were told to take more than once, those cut short by a kill in full, over
  the cycles of an undisturbed round; per kill.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.chaos_job import counted
from benchmarks.chaos_round import (
    ADDED,
    FAILING,
    IN_FILE,
    KINDS,
    Disturber,
    Kill,
    Round,
    draw,
    hits_by_kind,
    steps_taken,
)
from benchmarks.local_cluster import LocalCluster
from rayunlearn.errors import IntegrityError
from rayunlearn.execution.machine import code_version, machine_facts
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.ledger.verification import findings
from rayunlearn.models.weights import version_id, weights_from_bytes

HEAD_CPUS, WORKER_CPUS = 2, [4, 4]
"""Two runs of three actors are placed on the workers, and fit on what is left when one of these is lost."""

PER_ROUND = 16
PATIENCE_S = 120.0
LINEAGES = ("default", "other")

Progress = Mapping[str, Sequence[tuple[float, str]]]


def of_campaign(
    cluster: LocalCluster, folder: Path, kills: int, seed: int, console: Console
) -> tuple[Round, list[Round]]:
    """The undisturbed round, and rounds until so many kills have hit."""
    draws = random.Random(f"chaos victims {seed}")
    calm = Disturber(cluster, folder / "undisturbed", [], "split", draws).run()
    console.print(f"undisturbed: {calm.seconds:.0f} s, {steps_taken(calm.log)} cycles", *calm.ended)
    failpoints = counted(moment for _, moment in calm.log)
    waiting = draw(seed, kills, failpoints)
    rounds: list[Round] = []
    while waiting:
        points = [kill for kill in waiting if kill.failpoint]
        moments = [kill for kill in waiting if not kill.failpoint]
        planned = points[: PER_ROUND // 2] + moments[: PER_ROUND // 2]
        placement = "colocated" if len(rounds) % 2 else "split"
        disturber = Disturber(cluster, folder / f"round-{len(rounds) + 1}", planned, placement, draws)
        made = disturber.run()
        rounds.append(made)
        waiting = still_waiting(waiting, planned, disturber.points + disturber.moments)
        failed = faults(made, calm)
        told = f"round {len(rounds)}, {placement}: {made.seconds:.0f} s, {len(made.hits)} kills"
        told += f", {len(waiting)} to come"
        console.print(told, *failed, sep="\n  ")
        if failed or not made.hits:
            break
    return calm, rounds


def still_waiting(waiting: Sequence[Kill], planned: Sequence[Kill], left: Sequence[Kill]) -> list[Kill]:
    """What a campaign still has to do; what hit nothing comes last, as soon as there is such a moment.

    Args:
        waiting: before the round; a kill may be there more than once.
        planned: of these, for the round.
        left: of the planned, those that found nothing to hit.
    """
    rest = list(waiting)
    for kill in planned:
        rest.remove(kill)  # one of its like
    return rest + [_sooner(kill) for kill in left]


def _sooner(kill: Kill) -> Kill:
    return Kill(kind=kill.kind, failpoint=kill.failpoint, count=min(kill.count, 1), after_s=kill.after_s)


def head_loss(folder: Path, console: Console) -> tuple[Round, dict[str, Any]]:
    """Everything on the head is killed in mid-run; then a new cluster, and the same command."""
    draws = random.Random(0)
    with LocalCluster(HEAD_CPUS, WORKER_CPUS) as cluster:
        disturber = Disturber(cluster, folder / "head-lost", [], "split", draws)
        with disturber.driver() as job:
            while not disturber.begun(runs=2):
                assert job.poll() is None, "the job ended before the head was lost"
                time.sleep(0.1)
            cluster.nodes[0].kill()
            lost = time.time()
            while job.poll() is None and time.time() < lost + PATIENCE_S:
                time.sleep(0.1)
            alone, waited = job.poll(), time.time() - lost
    with LocalCluster(HEAD_CPUS, WORKER_CPUS) as cluster:
        disturber.cluster = cluster
        made = disturber.run()
    made.hits.append((Kill(kind="head"), lost))
    ended = f"ended by itself with code {alone} after {waited:.0f} s"
    if alone is None:
        ended = f"did not end within {PATIENCE_S:g} s and was killed"
    console.print(f"head lost: the driver {ended}; on a new cluster {made.seconds:.0f} s to the end")
    return made, {"driver": ended, "to_the_end_s": made.seconds}


# ---- what is asked of a round


def faults(made: Round, calm: Round) -> list[str]:
    """All that is wrong after a round, in words."""
    found = [f"the driver ended by itself: {said}" for said in made.ended]
    store = made.store
    try:
        verify(store)
        reader, expected = LedgerReader(store), LedgerReader(calm.store)
    except IntegrityError as error:
        return [*found, f"ledger: {error}"]
    events = request_events(reader)
    chains = {lineage: versions(reader, lineage) for lineage in LINEAGES}
    runs = Counter(row["run_id"] for row in reader.read("runs", event="published").to_pylist())
    for name, lineage, _ in (*IN_FILE, ADDED):
        rows = events.get(name, [])
        if not rows or status(rows) != "served":
            found.append(f"lost: request {name} is {status(rows) if rows else 'not in the ledger'}")
        served = sum(row["event"] == "served" for row in rows)
        published = sum(name in version.request_ids for version in chains[lineage])
        if max(served, published) > 1:
            found.append(f"served twice: request {name}, {served} times, in {published} versions")
        late = [row["at"] - row["deadline"] for row in rows if row["event"] == "served"]
        if any(by > timedelta() for by in late):
            found.append(f"late: request {name} by {max(late)}")
    for name, lineage, _ in FAILING:
        rows = events.get(name, [])
        ends = [row["event"] for row in rows if row["event"] in ("served", "failed", "cancelled")]
        if ends != ["failed"] or not rows[-1]["reason"] or len(versions(reader, lineage)) != 1:
            found.append(f"failing tenants: request {name} of {lineage} ended as {ends or 'nothing'}")
    found += [f"served twice: run {run} was published {n} times" for run, n in runs.items() if n > 1]
    for lineage, chain in chains.items():
        ids, wanted = ([v.version for v in c] for c in (chain, versions(expected, lineage)))
        if ids != wanted:
            found.append(f"versions: of {lineage} {ids}, undisturbed {wanted}")
    names = store.list("models")
    if names != calm.store.list("models") or any(store.get(n) != calm.store.get(n) for n in names):
        found.append("weights: the files are not those of the undisturbed round")
    named = findings(store, lambda data, name: version_id(weights_from_bytes(data, name)))
    return found + [f"models verify: {f.thing} is {f.value}, expected {f.expected}" for f in named]


def progress_of(made: Round) -> dict[str, list[tuple[float, str]]]:
    """What each lineage wrote that it could not have written without its work, and where it began again."""
    reader = LedgerReader(made.store)
    found: dict[str, list[tuple[float, str]]] = {lineage: [] for lineage in LINEAGES}

    def add(row: Mapping[str, Any], event: str) -> None:
        at: datetime = row["at"]
        if row["lineage"] in found:
            found[row["lineage"]].append((at.timestamp(), event))

    for table in ("checkpoints", "evaluations"):
        for row in reader.read(table).to_pylist():
            add(row, table)
    for table, counted_as in (("runs", ("phase", "published", "resumed")), ("versions", ("published",))):
        for row in reader.read(table).to_pylist():
            if row["event"] in counted_as:
                add(row, row["event"])
    return {lineage: sorted(rows) for lineage, rows in found.items()}


def recovery_s(at: float, until: float, progress: Progress) -> float | None:
    """Seconds from a kill until every lineage with work left went on; None where none had any.

    Args:
        at: the kill.
        until: the next one. A lineage that begins its run again between the two has gone on when something
            follows that; what was written just before is no sign of it.
        progress: by lineage, times and events in order.

    >>> recovery_s(10, 20, {"a": [(9, "phase"), (10.1, "checkpoints"), (12, "resumed"), (15, "phase")]})
    5
    >>> recovery_s(10, 20, {"a": [(11, "phase")], "b": [(9, "phase"), (13, "checkpoints")], "c": []})
    3
    """
    waits = []
    for rows in progress.values():
        resumed = [when for when, event in rows if at < when <= until and event == "resumed"]
        since = resumed[0] if resumed else at
        after = [when for when, event in rows if when > since and event != "resumed"]
        if after:
            waits.append(after[0] - at)
    return max(waits, default=None)


def recoveries(made: Round) -> list[float | None]:
    """Of each kill; None for those that came when all was served."""
    progress = progress_of(made)
    times = [at for _, at in made.hits]
    return [recovery_s(a, b, progress) for a, b in zip(times, [*times[1:], float("inf")], strict=True)]


# ---- the figures


def figures(calm: Round, rounds: Sequence[Round]) -> dict[str, Any]:
    """Of a campaign."""
    kinds = hits_by_kind(rounds)
    kills = sum(kinds.values())
    each = [
        {"round": n, "kind": kill.kind, "failpoint": kill.failpoint, "recovery_s": seconds}
        for n, made in enumerate(rounds, start=1)
        for (kill, _), seconds in zip(made.hits, recoveries(made), strict=True)
    ]
    times = [seconds for made in rounds for seconds in recoveries(made) if seconds is not None]
    cycles = steps_taken(calm.log)
    repeated = sum(steps_taken(made.log) - cycles for made in rounds)
    known = counted(moment for _, moment in calm.log)
    hit = {kill.failpoint for made in rounds for kill, _ in made.hits if kill.failpoint}
    return {
        "kills": kills,
        "rounds": len(rounds),
        "kinds": {kind: {how: kinds[kind, how] for how in ("random", "failpoint")} for kind in KINDS},
        "failpoints_known": len(known),
        "failpoints_hit": sorted(hit),
        "recovery_s": {"measured": len(times), "median": median(times), "max": max(times)} if times else None,
        "undisturbed_s": calm.seconds,
        "undisturbed_cycles": cycles,
        "cycles_repeated": repeated,
        "repeated_share_of_work": repeated / (cycles * max(len(rounds), 1)),
        "repeated_share_per_kill": repeated / cycles / max(kills, 1),
        "hits": each,
    }


def checked(found: Sequence[str], kills: int, wanted: int) -> dict[str, bool]:
    """What is asked, and whether it is so."""

    def none_of(start: str) -> bool:
        return not any(fault.startswith(start) for fault in found)

    return {
        "requests lost: 0": none_of("lost"),
        "requests served twice: 0": none_of("served twice"),
        "no request was served after its deadline": none_of("late"),
        "each request of a failing tenant failed once, for a reason on record": none_of("failing tenants"),
        "versions and weights bit-identical to the undisturbed round's": none_of("versions")
        and none_of("weights"),
        "the ledger verifies": none_of("ledger"),
        "models verify passes": none_of("models verify"),
        "the driver outlived every kill but its own": none_of("the driver"),
        f"{wanted} kills hit": kills >= wanted,
    }


def main(
    kills: int = 50,
    seed: int = 0,
    head: bool = True,
    out: Path = Path("docs/results/chaos.json"),
    keep: Path | None = None,
) -> int:
    """Run a campaign, print the figures, store them; returns the exit code.

    Args:
        kills: that have to hit.
        seed: of the campaign's draws.
        head: lose the head node at the end.
        out: where the figures are stored.
        keep: folder for the storage locations and logs, which else go.
    """
    console = Console(width=110, highlight=False)
    folder = keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    began = time.time()
    try:
        with LocalCluster(HEAD_CPUS, WORKER_CPUS) as cluster:
            calm, rounds = of_campaign(cluster, folder, kills, seed, console)
        found = [fault for made in [calm, *rounds] for fault in faults(made, calm)]
        result = {"benchmark": "chaos", "seed": seed, **figures(calm, rounds)}
        result["checks"] = checks = checked(found, result["kills"], kills)
        result |= {"faults": found, "machine": machine_facts(), "code": code_version()}
        _store(out, result | {"wall_s": time.time() - began})
        if head:
            made, result["head_loss"] = head_loss(folder, console)
            lost = faults(made, calm)
            found += lost
            checks["the head node lost: a new cluster and the same command, the same bits"] = not lost
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    _store(out, result | {"wall_s": time.time() - began})
    _show(console, result)
    return 0 if all(checks.values()) else 1


def _store(out: Path, result: Mapping[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")


def _show(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in ("kills of", "at random moments", "at failpoints"):
        table.add_column(header, justify="left" if header == "kills of" else "right")
    for kind, how in result["kinds"].items():
        table.add_row(kind, str(how["random"]), str(how["failpoint"]))
    console.print(table)
    say = console.print
    say(f"failpoints hit: {len(result['failpoints_hit'])} of {result['failpoints_known']}")
    times = result["recovery_s"]
    if times:
        measured = f"{times['measured']} of {result['kills']} kills, with work left"
        say(f"recovery: median {times['median']:.1f} s, max {times['max']:.1f} s ({measured})")
    say(
        f"work repeated: {result['cycles_repeated']} cycles in {result['rounds']} rounds of "
        f"{result['undisturbed_cycles']}: {result['repeated_share_of_work']:.0%} of the work, "
        f"{result['repeated_share_per_kill']:.1%} of a round per kill"
    )
    for name, passed in result["checks"].items():
        say(f"{'yes' if passed else 'no ':3} {name}")
    for fault in result["faults"]:
        say(f"    {fault}", markup=False)


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))

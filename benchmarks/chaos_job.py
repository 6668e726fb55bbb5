"""The job with its durable writes logged, and a SIGKILL of its own before or after one of them where asked.

`RAYUNLEARN_CHAOS` names a folder::

    log     a line for each moment, in order: the time and `before put runs/r-1/state.pt`, or `advance 3 4`
            when a run is told to take steps 3 to 4
    armed   JSON, failpoint -> how often it must have come up in the log for the job to end there

A failpoint is the same moment for all files of a kind: `before put runs/state`. Nothing in the package knows
of any of this: the store's three writes and the executors' `advance` are wrapped here. The ledger compacts
its entries sooner than it would.

Three lineages are of tenants whose requests never succeed. Of `raises` every step raises; the original of
`diverges` has weights that no synthesis outlives; the processes of `memory` are killed at every step, as the
kernel kills what takes too much memory. That ends its run after fewer losses than it would, for each costs
new processes; the pauses between losses are shortened.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partialmethod
from pathlib import Path
from typing import Any

import ray
import tyro

from jobs.sequential_unlearn import Options
from rayunlearn.cli.console import leave
from rayunlearn.cli.job import run_job
from rayunlearn.execution import recovery
from rayunlearn.execution.executor import ColocatedExecutor, SplitExecutor
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.serving import unlearning_run
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.storage.store import Store

FOLDER = "RAYUNLEARN_CHAOS"


SOONER = 20
"""By so much pauses are shorter."""

MEMORY_LOSSES = 3
"""Losses in a row that end a run of `memory`."""

FOLDED_AT = 16
"""Entries of the ledger that are compacted: few, so that compaction is disturbed as well."""


def failpoint(moment: str) -> str:
    """The failpoint of a moment: which of the numbered files it is about is left out.

    >>> failpoint("after create ledger/runs/000000000007.parquet")
    'after create ledger/runs'
    >>> failpoint("after create ledger/runs/000000000001-000000000016.0123456789abcdef.parquet")
    'after create ledger/segment'
    >>> failpoint("before put runs/a-6f1c/students/00000004.safetensors")
    'before put runs/students'
    >>> failpoint("before put runs/a-6f1c/state.pt"), failpoint("after put ledger/HEAD")
    ('before put runs/state', 'after put ledger/HEAD')
    >>> failpoint("before put claims/000000000001.heartbeat.json")
    'before put claims/heartbeat'
    """
    when, action, name = moment.split(" ")
    first, *rest = name.split("/")
    if first == "runs":
        area = f"runs/{rest[1].partition('.')[0]}"
    elif first == "ledger" and "-" in rest[-1]:
        area = "ledger/segment"
    elif first in ("ledger", "inbox"):
        area = f"{first}/{rest[0]}"
    elif first == "claims":
        area = "claims/heartbeat" if name.endswith(".heartbeat.json") else "claims"
    else:
        area = first
    return f"{when} {action} {area}"


def read_log(folder: Path) -> list[tuple[float, str]]:
    """Time and moment of each line; one that a kill cut short is left out."""
    path = folder / "log"
    lines = re.findall(r"(.*)\n", path.read_text()) if path.exists() else []
    return [(float(at), moment) for at, _, moment in (line.partition(" ") for line in lines)]


def counted(moments: Iterable[str]) -> Counter[str]:
    """How often each failpoint came up."""
    return Counter(failpoint(moment) for moment in moments if not moment.startswith("advance"))


def arm(folder: Path, failpoints: dict[str, int]) -> None:
    """Say where the job is to end, from now on."""
    draft = folder / "armed.draft"
    draft.write_text(json.dumps(failpoints))
    draft.replace(folder / "armed")


class Watched:
    """The log of this process, and its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = counted(moment for _, moment in read_log(folder))
        self.log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.lock = threading.Lock()

    def note(self, moment: str) -> None:
        """Log a moment."""
        os.write(self.log, f"{time.time():.6f} {moment}\n".encode())

    def come_to(self, moment: str) -> None:
        """Log a moment before or after a write; this is the end where the failpoint is armed."""
        with self.lock:
            self.note(moment)
            name = failpoint(moment)
            self.seen[name] += 1
            armed = json.loads((self.folder / "armed").read_text())
            if self.seen[name] >= armed.get(name, float("inf")):
                os.kill(os.getpid(), signal.SIGKILL)

    def write(self, action: str, method: Callable[..., None]) -> Callable[..., None]:
        """A method of `Store` that writes, between two moments."""

        def watched(store: Store, name: str, *data: bytes) -> None:
            self.come_to(f"before {action} {name}")
            method(store, name, *data)
            self.come_to(f"after {action} {name}")

        return watched

    def advance(self, method: Callable[..., None]) -> Callable[..., None]:
        """An executor's method that takes steps."""

        def watched(executor: Any, first: int, last: int) -> None:
            lineage = lineage_here()
            if lineage == "raises":
                raise ArithmeticError("a fault of this tenant's own")
            if lineage == "memory":
                for actor in executor.actors:
                    ray.kill(actor)
                method(executor, first, last)
            self.note(f"advance {first} {last}")
            method(executor, first, last)

        return watched

    def wrap(self) -> None:
        """Wrap what is watched, for good."""
        for action, method in (("create", "_create"), ("put", "put"), ("delete", "delete")):
            setattr(Store, method, self.write(action, getattr(Store, method)))
        for kind in (SplitExecutor, ColocatedExecutor):
            kind.advance = self.advance(kind.advance)  # type: ignore[method-assign]


def lineage_here() -> str:
    """Of the run that this thread carries out."""
    return threading.current_thread().name.removeprefix("run of ")


def ending_sooner(outlasting: Callable[..., Any]) -> Callable[..., Any]:
    """`outlasting`, but of `memory` fewer losses in a row end a run; other lineages may meet more."""

    def outlasted(work: Callable[[], Any], **given: Any) -> Any:
        fewer = {"most": MEMORY_LOSSES} if lineage_here() == "memory" else {}
        return outlasting(work, **given, **fewer)

    return outlasted


def diverging(publish: Callable[..., Any]) -> Callable[..., Any]:
    """`Scheduler.publish`, but the original of the lineage `diverges` answers nothing finite."""

    def published(scheduler: Any, **given: Any) -> Any:
        if given["lineage"] == "diverges" and given["parent"] is None:
            weights = {k: v * 1e30 if v.dim() > 1 else v for k, v in given["weights"].items()}
            given = {**given, "weights": weights}
        return publish(scheduler, **given)

    return published


def disturb_tenants() -> None:
    """Have the tenants' requests fail, and a lost run be begun again sooner."""
    Scheduler.publish = diverging(Scheduler.publish)  # type: ignore[method-assign]
    assert recovery.outlasting.__kwdefaults__ is not None
    recovery.outlasting.__kwdefaults__["sleep"] = lambda seconds: time.sleep(seconds / SOONER)
    setattr(unlearning_run, "outlasting", ending_sooner(recovery.outlasting))  # noqa: B010


def fold_often() -> None:
    """Have the ledger compact its entries at once where there are a few."""
    setattr(Ledger, "__init__", partialmethod(Ledger.__init__, compact_at=FOLDED_AT))  # noqa: B010


if __name__ == "__main__":
    fold_often()
    disturb_tenants()
    Watched(Path(os.environ[FOLDER])).wrap()
    options = tyro.cli(Options, config=(tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff))
    leave(run_job(**vars(options)))

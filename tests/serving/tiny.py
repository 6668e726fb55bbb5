"""A service small enough to be tested whole: recipes, an original, schedulers without Ray, the job."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import torch
from obstore.store import MemoryStore
from torch import Tensor

from rayunlearn.auditing.training import TrainingJob, classifier_spec, fit, training_job
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import without_volatile
from rayunlearn.lineages.context import Context
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.scheduling.requests import Request
from rayunlearn.serving.scheduler import Scheduler
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import Executor, InlineExecutor
from tests.stored.models import TINY, stored
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[2]
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)

SMALL = (
    "model.width=0.125", "train.epochs=8", "inversion.iterations=40", "inversion.min_confidence=0",
    "validation.per_retain_class=6", "validation.per_forget_class=8", "validation.checkpoint_every=2",
    *(
        f"{method}.{setting}"
        for method in ("gkt", "gated_inversion")
        for setting in (
            "cycles=6", "schedule_cycles=6", "batch_size=32", "student_steps=4", "generator_width=0.1"
        )
    ),
    "partial_restart.cycles=6", "partial_restart.student_steps=4", "partial_restart.batch_size=32",
    "partial_restart.pictures=200",
    "stopping.min_retain=0", "stopping.leak=1",
    "stopping.forget_tolerance=0.99", "gate.max_forget=1", "gate.max_loss=1", "gate.max_retain_drop=1",
    "gate.max_position=9", "gate.max_forgotten_share=1", "stand_ins.number=1", "stand_ins.steps=1",
    "audit.probe_draws=1",
    "audit.relearn.max_steps=5", "audit.fixed_step=4",
)  # fmt: skip
"""Settings under which a request takes a second or two and whatever comes out is published."""

BANK = (*SMALL, "gated_inversion.inverted_per_class=8")


def tiny_recipe(name: str = "digits", *more: str) -> Recipe:
    """`digits` (a bank, one-cycle, cut images) or `digits_gkt` (none of these), made small."""
    return override(load_recipe(name), [*(BANK if name == "digits" else SMALL), *more])


@functools.cache
def original() -> tuple[ClassifierSpec, dict[str, Tensor]]:
    """The tiny original, trained in this process: to the bits to which a job trains it on this machine."""
    return original_job().spec, dict(fit(original_job()).state_dict())


@functools.cache
def stored_original() -> tuple[ClassifierSpec, dict[str, Tensor]]:
    """The tiny original as one machine trained it: for tests of what hangs on its weights."""
    model = stored(TINY)
    return model.spec, dict(model.state_dict())


def original_job(seed: int = 0) -> TrainingJob:
    """What a job with this seed trains first."""
    recipe = tiny_recipe()
    return training_job(recipe, classifier_spec(recipe.data, recipe.model.name, recipe.model.width), seed)


class Quiet:
    """Progress that nobody sees, unless `on_advance` looks."""

    def __init__(self, on_advance: Callable[[], None] | None = None) -> None:
        self.on_advance = on_advance
        self.phases: list[str] = []

    def phase(self, title: str, phase: str, *, total: int | None = None) -> None:
        """A phase begins."""
        self.phases.append(phase)

    def advance(self, n: int = 1, **figures: float) -> None:
        """The phase went on; figures come with a new checkpoint only."""
        if self.on_advance and figures:
            self.on_advance()

    def done(self, note: str = "") -> None:
        """The phase is over."""

    def say(self, text: str) -> None:
        """Something was said."""


class Ticking:
    """A clock that gives a new time whenever it is asked."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        """A second later than before."""
        self.now += timedelta(seconds=1)
        return self.now


def memory_store(files: dict[str, bytes] | None = None) -> Store:
    """A storage location in memory that holds these files."""
    store = Store(MemoryStore(), "memory")
    for name, data in (files or {}).items():
        store.put(name, data)
    return store


def files_of(store: Store) -> dict[str, bytes]:
    """Everything that a storage location holds."""
    return {name: store.get(name) for name in store.list()}


class Recording(Store):
    """A store in memory that keeps what it held before every change, with the change's name."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(), "memory")
        self.before: list[tuple[str, dict[str, bytes]]] = []

    def create(self, name: str, data: bytes) -> None:
        """Store under a new name."""
        self.before.append((f"create {name}", files_of(self)))
        super().create(name, data)

    def put(self, name: str, data: bytes) -> None:
        """Store under a name."""
        self.before.append((f"put {name}", files_of(self)))
        super().put(name, data)


def tiny_context(
    store: Store, recipe: Recipe, *, seed: int = 0, progress: Quiet | None = None
) -> Context:
    """A context with a clock of its own."""
    return Context(
        store=store,
        ledger=Ledger(store),
        recipe=recipe,
        seed=seed,
        clock=Ticking(),
        progress=progress or Quiet(),
    )


def tiny_scheduler(
    store: Store,
    recipe: Recipe,
    *,
    seed: int = 0,
    open_executor: Callable[[], Executor] = InlineExecutor,
    placement: str = "inline",
    progress: Quiet | None = None,
    of: tuple[ClassifierSpec, dict[str, Tensor]] | None = None,
) -> Scheduler:
    """A scheduler over a store whose lineage `default` has the tiny original, or the one given."""
    scheduler = Scheduler(
        tiny_context(store, recipe, seed=seed, progress=progress),
        open_executor=open_executor,
        placement=placement,
    )
    spec, weights = of or original()
    scheduler.publish(
        lineage="default", weights=weights, spec=spec, parent=None, request_ids=[], classes_forgotten=(),
        run=None,
    )  # fmt: skip
    return scheduler


def forget(*target: int, name: str | None = None) -> Request:
    """A request, received at noon."""
    name = name or "forget-" + "-".join(map(str, target))
    return Request(request_id=name, target=target, received_at=NOON)


def rows(store: Store, table: str, **equals: Any) -> list[dict[str, Any]]:
    """Rows of a table without the columns that time and placement may change."""
    return without_volatile(table, LedgerReader(store, [table]).read(table, **equals)).to_pylist()


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Whether two state dicts, both made in this environment, hold the same names and bits."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    code: int
    out: str
    err: str
    seconds: float


def environment(**more: str) -> dict[str, str]:
    """This process's environment without a cluster's address, at one thread."""
    return {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"} | {"OMP_NUM_THREADS": "1"} | more


def start_job(*arguments: str | Path, settings: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """`python jobs/sequential_unlearn.py` with these arguments, from the repository's root."""
    command = [sys.executable, "jobs/sequential_unlearn.py", *map(str, arguments)]
    for setting in settings:
        command += ["--set", setting]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run_job(*arguments: str | Path, settings: tuple[str, ...] = (), timeout_s: float = HANG_S) -> Ended:
    """The same, to its end."""
    began = time.monotonic()
    with start_job(*arguments, settings=settings) as job:
        try:
            out, err = job.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            job.send_signal(signal.SIGKILL)
            raise
    return Ended(job.returncode, out, err, time.monotonic() - began)

"""What `rayunlearn serve` runs: from flags to versions, a table and a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from rich.console import Console

from rayunlearn.auditing.operator_code import code_found_by_workers
from rayunlearn.cli.cluster_errors import EXPECTED, say_ended
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.errors import ExitCode
from rayunlearn.execution.cluster import connect
from rayunlearn.execution.machine import report_facts
from rayunlearn.execution.placement import Placement
from rayunlearn.execution.recovery import is_of_the_service
from rayunlearn.execution.remote import sentence
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.ledger.sweeps import winning_settings
from rayunlearn.lineages.context import Context
from rayunlearn.methods.registry import method_named
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.reports.summary import RequestSummary, summarise
from rayunlearn.reports.terminal import JobProgress, open_console, result_table
from rayunlearn.reports.wording import asked
from rayunlearn.scheduling.space import assignments
from rayunlearn.serving.intake import Intake, name_of, read_requests
from rayunlearn.serving.retention import retain_images
from rayunlearn.serving.service import Place, Service, exit_code, interruptible
from rayunlearn.settings import override, to_json
from rayunlearn.storage.folder import Memory
from rayunlearn.storage.lease import Lease, held
from rayunlearn.storage.store import NotBegun, Store
from rayunlearn.unlearning.progress import Progress

LOOK_EVERY_S = 2.0
"""Between two looks into the inbox by a job that stays."""
HELD_FOR_S = 60.0
"""After which it tries again what it could not go on with."""


def run_job(
    *,
    recipe: str,
    requests: Path | None,
    storage: str,
    wait: float,
    placement: str,
    seed: int,
    address: str | None,
    model: ModelFlags,
    generator: Path | None,
    set: Sequence[str],
    tuned: str | None,
    cpus_per_role: float | None,
    gpus_per_role: float | None,
    workers: int,
    together: int,
    node_wait: float | None,
    dry_run: bool,
    watch: bool,
    keep: bool,
    inbox_only: bool = False,
) -> int:
    """Serve a file of requests and what else waits; the flags are those of the job. Returns the exit code."""
    console = open_console()
    try:
        settings = override(load_recipe(recipe), [*model.assignments(), *set])
        entries = [] if inbox_only or requests is None else read_requests(requests)
        store = _dry_store(storage) if dry_run else Store.open(storage)
        if tuned is not None:
            settings = override(tuned_settings(store, settings, tuned), [*model.assignments(), *set])
        place = Place(
            placement=Placement(placement), cpus_per_role=cpus_per_role, gpus_per_role=gpus_per_role,
            workers=workers, together=together, node_wait_s=node_wait,
        )  # fmt: skip
        with JobProgress(console) as progress, leased(store, wait, progress, dry_run=dry_run) as lease:
            progress.phase("Ray", "connect")
            connect(address, **code_found_by_workers(settings, address))
            progress.done()
            with interruptible():
                context = Context(
                    store=store,
                    ledger=Ledger(store),
                    recipe=settings,
                    seed=seed,
                    clock=lambda: datetime.now(UTC),
                    progress=progress,
                    sweep=tuned,
                    lease=lease,
                )
                service = Service(
                    context, place, checkpoint=model.checkpoint, checkpoint_key=model.checkpoint_key,
                    generator=generator,
                )  # fmt: skip
                while True:
                    taken = Taken(progress)
                    taken.add(service.take_in_inbox(entries, record=not dry_run))
                    if dry_run:
                        _show_plan(console, service, taken.intake)
                        return ExitCode.BAD_INPUT if taken.intake.rejected else ExitCode.OK
                    outcomes = service.serve(taken.intake, taken.add)
                    unaudited = _audited(service, progress)
                    code = exit_code(taken.intake, outcomes)
                    # what was not audited is kept, so that the next job can audit it
                    _finish(console, service, settings, taken.intake, keep=keep or bool(unaudited))
                    if not watch:
                        for error in (*service.held.values(), *unaudited):
                            raise error
                        return code
                    entries = []
                    _until_something_waits(service)
    except EXPECTED as error:
        return say_ended(console, error)


def _audited(service: Service, progress: JobProgress) -> list[Exception]:
    """Audit what was published, where it is to be; what is in the way stops nothing else."""
    try:
        if service.audits:
            service.audit()
    except Exception as error:
        if is_of_the_service(error):
            raise
        progress.say(f"the audit failed: {sentence(error)}")
        return [error]
    return []


class Taken:
    """What a job has taken in, at its start and while it serves; a rejection is said when it is found.

    Attributes:
        intake: all of it.
    """

    def __init__(self, progress: Progress) -> None:
        self.intake = Intake(pending=(), done=(), rejected=())
        self._progress = progress

    def add(self, later: Intake) -> None:
        """Take in more."""
        for bad in later.rejected:
            if bad not in self.intake.rejected:
                self._progress.say(f"rejected: {bad.reason}")
        self.intake = self.intake.joined(later)


def _until_something_waits(service: Service) -> None:
    """Look into the inbox again and again until a signal; after a while what is held is tried again."""
    inbox, began = service.inbox, time.monotonic()
    while not (inbox.entries() or inbox.cancellations()):
        if service.held and time.monotonic() - began > HELD_FOR_S:
            return
        service.context.check_lease()
        time.sleep(LOOK_EVERY_S)


def tuned_settings(store: Store, recipe: Recipe, sweep: str) -> Recipe:
    """A recipe with what a sweep of the storage location found best.

    Raises:
        BadInput: there is no such sweep of the recipe and its method, or it found nothing.
    """
    found = winning_settings(LedgerReader(store), sweep, recipe=recipe.name, method=recipe.method)
    return override(recipe, assignments(found))


def _dry_store(storage: str) -> Store:
    """The storage as it stands, for looking at; one in memory where there is none yet."""
    try:
        return Store.open(storage, create=False)
    except NotBegun:
        return Store(Memory(), storage)


@contextmanager
def leased(
    store: Store, wait_s: float, progress: JobProgress, *, dry_run: bool = False
) -> Iterator[Lease | None]:
    """Hold the storage location, unless nothing is to be written; waiting for it can be interrupted."""
    with ExitStack() as until_the_end:
        lease = None
        if not dry_run:
            with interruptible():
                lease = until_the_end.enter_context(held(store, wait_s=wait_s, tell=progress.say))
        yield lease


def _finish(console: Console, service: Service, recipe: Recipe, intake: Intake, *, keep: bool) -> None:
    """Report, throw away what must go, print the table."""
    accepted = {r.request_id: r for r in (*intake.done, *intake.pending, *intake.cancelled)}
    ids = [*accepted, *(name_of(r) for r in intake.rejected)]
    summaries = summarise(LedgerReader(service.context.store, ALL_TABLES), ids)
    path = _report(service, recipe, summaries) if ids else None
    if not keep:
        service.purge()
    if path is None:
        console.print("No request waits: nothing was done.")
        return
    console.print(result_table(summaries))
    console.print(f"Report: {path}", soft_wrap=True, highlight=False)


def _report(service: Service, recipe: Recipe, summaries: Sequence[RequestSummary]) -> str:
    images: dict[str, np.ndarray] = {}
    labels: dict[str, np.ndarray] = {}
    for summary in summaries:
        run = summary.run_id
        made = retain_images(service.context.store, service.reader, run) if run else None
        if made is not None:
            low, high = service.spec_of(str(summary.lineage)).pixel_range
            pixels = (made.images - low) / (high - low)
            images[summary.request_id] = pixels.clamp(0, 1).numpy()
            labels[summary.request_id] = made.labels.numpy()
    from rayunlearn.reports.report import write_report  # here, for matplotlib: a refusal needs none

    tail = service.context.ledger.verify()
    facts = report_facts(service.context.seed, service.context.store.where)
    facts["placement"] = service.scheduler.placement
    html = write_report(summaries, images, labels, to_json(recipe), facts, tail)
    name = f"reports/report-{tail:012d}.html"
    service.context.store.put(name, html.encode())
    return service.context.store.address(name)


def _show_plan(console: Console, service: Service, intake: Intake) -> None:
    """What a run would do, without doing any of it."""
    method = method_named(service.context.recipe.method)
    for request in intake.done:
        console.print(f"{request.request_id}: served or failed before", highlight=False)
    for request in intake.cancelled:
        console.print(f"{request.request_id}: cancelled", highlight=False)
    for position, request in enumerate(intake.pending, start=1):
        what = asked(request.kind, request.target, request.whole_classes)
        console.print(
            f"{position}. {request.request_id}: forget {what} of lineage "
            f"{request.lineage} by {method.name} ({', '.join(sorted(method.data_access))} only), "
            f"{service.scheduler.placement}",
            highlight=False,
        )

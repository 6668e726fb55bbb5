"""What `rayunlearn tune` runs: from flags to a sweep, its table and its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rayunlearn.auditing.operator_code import code_found_by_workers
from rayunlearn.cli.cluster_errors import EXPECTED, say_ended
from rayunlearn.cli.job import leased
from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.cli.options.tune import TuneOptions
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.execution.cluster import connect
from rayunlearn.execution.machine import report_facts
from rayunlearn.execution.placement import Placement
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.ledger.sweeps import SweepView
from rayunlearn.lineages.context import Context
from rayunlearn.recipes import load_recipe
from rayunlearn.reports.sweep_report import write_sweep_report
from rayunlearn.reports.sweep_tables import sweep_table
from rayunlearn.reports.terminal import JobProgress, open_console
from rayunlearn.scheduling.budget import parse_budget
from rayunlearn.scheduling.requests import Rejected, Request
from rayunlearn.serving.intake import read_requests
from rayunlearn.serving.service import Place, Service, interruptible
from rayunlearn.settings import override, paths
from rayunlearn.storage.store import Store
from rayunlearn.tuning.search_space import space_of
from rayunlearn.tuning.sweep import Sweep, Where, where_for
from rayunlearn.tuning.sweep_audit import audit_sweep
from rayunlearn.tuning.sweep_record import SweepSettings
from rayunlearn.tuning.trackers import trackers


def run_tune(options: TuneOptions) -> int:
    """Search settings; returns the exit code."""
    return run_sweep(**vars(options))


def run_sweep(
    *,
    recipe: str,
    requests: Path,
    request: str | None,
    storage: str,
    wait: float,
    name: str | None,
    space: Sequence[str],
    sampler: str,
    scheduler: str,
    budget: str,
    grace: int | None,
    placement: str,
    cpus_per_role: float | None,
    gpus_per_role: float | None,
    seed: int,
    address: str | None,
    model: ModelFlags,
    set: Sequence[str],
    log: Sequence[str],
    audit: bool,
) -> int:
    """Search the settings of a recipe's method; the flags are those of the job. Returns the exit code."""
    console = open_console()
    try:
        settings = override(load_recipe(recipe), [*model.assignments(), *set])
        searched = SweepSettings(
            space=space_of(settings, space), budget=parse_budget(budget), budget_text=budget.strip(),
            sampler=sampler, scheduler=scheduler, grace=grace,
        )  # fmt: skip
        told = trackers(log)
        practised = chosen_request(read_requests(requests), request, requests)
        if audit and practised.kind != "classes" and not practised.whole_classes:
            allowed = "a request that forgets whole classes: of a behaviour nobody knows the test images"
            raise BadInput("--audit", f"of {practised.request_id}, {practised.kind}", allowed)
        store = Store.open(storage)
        with JobProgress(console) as progress, leased(store, wait, progress) as lease:
            progress.phase("Ray", "connect")
            connect(address, **code_found_by_workers(settings, address))
            progress.done()
            with interruptible():
                context = Context(
                    store=store, ledger=Ledger(store), recipe=settings, seed=seed,
                    clock=lambda: datetime.now(UTC), progress=progress, lease=lease,
                )  # fmt: skip
                service = Service(
                    context, Place(placement=Placement.COLOCATED), checkpoint=model.checkpoint,
                    checkpoint_key=model.checkpoint_key,
                )  # fmt: skip
                where = where_for(
                    settings, Placement(placement), cpus_per_role=cpus_per_role, gpus_per_role=gpus_per_role
                )
                lineage = practised.lineage
                service.original.require_given({lineage})
                service.require_fitting(lineage)
                practised = service.with_examples(_numbered(service, practised))
                if not versions(service.reader, lineage):
                    service.begin_lineage(lineage)
                parent = versions(service.reader, lineage)[-1]
                sweep = Sweep(context, parent, practised, searched, where, name=name, told=told)
                view = sweep.run()
                real = _audited(sweep, view) if audit else {}
        return _finish(console, context, view, where, real)
    except EXPECTED as error:
        return say_ended(console, error)


def chosen_request(entries: Sequence[Request | Rejected], wanted: str | None, source: Path) -> Request:
    """The request that trials practise on: the one of that id, else the file's first.

    Raises:
        BadInput: there is none, or it is malformed.
    """
    found = [e for e in entries if wanted is None or e.request_id == wanted]
    if not found:
        ids = ", ".join(repr(e.request_id) for e in entries) or "none: it has no request"
        raise BadInput("--request", wanted, f"the id of a request in {source}: {ids}")
    if isinstance(found[0], Rejected):
        raise BadInput("request to practise on", found[0].reason, f"a request that is well formed ({source})")
    return found[0]


def _numbered(service: Service, request: Request) -> Request:
    """The request with numbers for the classes that it names.

    Raises:
        BadInput: a name is none of the lineage's.
    """
    entry = service.numbered(request)
    if isinstance(entry, Rejected):
        raise BadInput("--request", request.request_id, f"one that can be served ({entry.reason})")
    return entry


def _audited(sweep: Sweep, view: SweepView) -> dict[str, tuple[float, float]]:
    """Real figures of the chosen checkpoints; the search is over."""
    sweep.context.progress.phase(view.sweep, "audit on real data")
    real = audit_sweep(sweep.context, view, sweep.parent, sweep.request.classes)
    sweep.context.progress.done()
    return real


def _finish(
    console: Console, context: Context, view: SweepView, where: Where,
    real: Mapping[str, tuple[float, float]],
) -> ExitCode:  # fmt: skip
    """Write the report, print the table, say what to do with the winner."""
    report = _report(context, view, where, real)
    console.print(sweep_table(view, real))
    console.print(f"Report: {report}", soft_wrap=True, highlight=False)
    best = view.best()
    if best is None:
        said = Text.assemble(("nothing admissible: ", "bold red"), str(view.reason))
        console.print(said, soft_wrap=True)
        return ExitCode.NOTHING_ADMISSIBLE
    console.print(
        f"Serve with it: rayunlearn serve --recipe {view.recipe} --tuned {view.sweep} "
        f"--storage {context.store.where}",
        soft_wrap=True, highlight=False,
    )  # fmt: skip
    return ExitCode.OK


def _report(
    context: Context, view: SweepView, where: Where, real: Mapping[str, tuple[float, float]]
) -> str:
    """Where the report was written."""
    checkpoints = LedgerReader(context.store).read("checkpoints", run_id=view.sweep).to_pylist()
    recipe = paths(context.recipe)
    own = {key: recipe[key][1] for key in view.space}
    facts = report_facts(context.seed, context.store.where) | {
        "a trial": ", ".join(f"{where.total(k):g} {k}" for k in ("CPU", "GPU")),
        "placement": where.placement,
        "ledger": f"{context.ledger.verify()} entries, hash chain verified",
    }
    name = f"reports/{view.sweep}.html"
    context.store.put(name, write_sweep_report(view, checkpoints, own, facts, real or None).encode())
    return context.store.address(name)

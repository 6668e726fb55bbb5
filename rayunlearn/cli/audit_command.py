"""What `rayunlearn audit` runs: measures of one version, stored and shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from rayunlearn.auditing.auditor import Auditor, VersionAudit
from rayunlearn.auditing.operator_code import code_found_by_workers
from rayunlearn.cli.cluster_errors import EXPECTED, say_ended
from rayunlearn.cli.console import make_folder, write_file
from rayunlearn.cli.job import leased
from rayunlearn.cli.options.audit import AuditOptions
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.evaluation.measures import MEASURES, check_measures
from rayunlearn.execution.cluster import connect
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.lineages.context import Context
from rayunlearn.lineages.requested import require_same_seed
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.reports.audit_figures import audit_figures
from rayunlearn.reports.comparison import compare, comparison_table, returned_classes
from rayunlearn.reports.terminal import JobProgress, open_console
from rayunlearn.reports.wording import came_back
from rayunlearn.serving.service import interruptible
from rayunlearn.settings import override
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store

DRAWN = ("anamnesis", "relearning", "likelihood_ratio", "inversion")
"""Measures that have a figure."""


def run_audit(options: AuditOptions) -> int:
    """Audit one version; returns the exit code."""
    console = open_console()
    try:
        measures = None if options.measures is None else _named(options.measures)
        recipe = _recipe(options)
        store = Store.open(options.storage, create=False)
        if options.figures is not None:
            _check_figures(options.figures, measures or tuple(MEASURES))
        with JobProgress(console) as progress, leased(store, 0.0, progress) as lease:
            progress.phase("Ray", "connect")
            connect(options.address, **code_found_by_workers(recipe, options.address))
            progress.done()
            with interruptible():
                require_same_seed(LedgerReader(store), options.seed, store.where)
                context = Context(
                    store=store,
                    ledger=Ledger(store),
                    recipe=recipe,
                    seed=options.seed,
                    clock=lambda: datetime.now(UTC),
                    progress=progress,
                    lease=lease,
                )
                invert = options.figures is not None and "inversion" in (measures or MEASURES)
                by_hand = {assignment.partition("=")[0].strip() for assignment in options.set}
                audited = Auditor(context, threads=1).audit_version(
                    options.version, measures, invert=invert, by_hand=by_hand
                )
        _show(console, audited)
        if options.figures is not None:
            for name, png in audit_figures(audited.rows, audited.inverted).items():
                path = options.figures / f"{audited.version[:12]}-{name}"
                write_file("--figures", path, png)
                console.print(f"Figure: {path}", soft_wrap=True, highlight=False)
        return ExitCode.OK
    except EXPECTED as error:
        return say_ended(console, error)


def _named(measures: str) -> tuple[str, ...]:
    return check_measures([name.strip() for name in measures.split(",") if name.strip()])


def _recipe(options: AuditOptions) -> Recipe:
    named = [f"data.dataset={options.data}", f"audit.golds={options.golds}"]
    recipe = override(load_recipe(options.recipe), [*named, *options.set])
    if recipe.data.dataset != options.data or recipe.audit.golds != options.golds:
        raise BadInput("--set", list(options.set), "--data and --golds for these two")
    return recipe


def _check_figures(folder: Path, measures: Sequence[str]) -> None:
    """Make the folder before any work is done for what goes there."""
    require_lasting("--figures", folder)
    if not set(DRAWN) & set(measures):
        raise BadInput("--figures", str(folder), f"with one of the measures {', '.join(DRAWN)}")
    make_folder("--figures", folder)


def _show(console: Console, audited: VersionAudit) -> None:
    """Each measure's figure for every subject, and what came back."""
    shown = [c for c in compare(audited.rows) if c.measure != "class_accuracy"]
    console.print(comparison_table(shown, forget=audited.forget))
    console.print(f"Recorded: {len(audited.rows)} rows of the ledger's audits.", highlight=False)
    if said := came_back(returned_classes(audited.rows)):
        console.print(f"[bold red]{said}[/]", highlight=False)

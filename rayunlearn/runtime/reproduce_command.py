"""What `jobs/reproduce.py` runs: from flags to a page with the paper's figures and ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.reproduction.markdown import render
from rayunlearn.reproduction.plots import draw
from rayunlearn.reproduction.zero_shot import Page, Row, page
from rayunlearn.results.terminal import JobProgress, open_console
from rayunlearn.runtime.cluster import connect
from rayunlearn.runtime.job import plain
from rayunlearn.runtime.machine import machine_facts
from rayunlearn.runtime.reproduce import results_of, run_rows, seeds_of_row
from rayunlearn.runtime.service import interruptible


def run_reproduction(
    *,
    paper: str,
    table: str | None,
    figure: str | None,
    rows: Sequence[str],
    scale: str,
    seeds: Sequence[int],
    storage: Path,
    out: Path | None,
    address: str | None,
    cpus_per_row: float,
    gpus_per_row: float,
    render_only: bool,
) -> int:
    """Run rows and write their page; the flags are those of the job. Returns the exit code."""
    console = open_console()
    try:
        name, wanted = _page(table, figure, scale)
        chosen = _matching(wanted, rows)
        if not seeds or len(set(seeds)) != len(seeds):
            raise BadInput("--seeds", list(seeds), "at least one, each once")
        root = storage.absolute()
        failed: dict[str, str] = {}
        if not render_only:
            with JobProgress(console) as progress:
                progress.phase("Ray", "connect")
                connect(address)
                progress.done()
                with interruptible():
                    failed = run_rows(
                        root, chosen, seeds, cpus=cpus_per_row, gpus=gpus_per_row, progress=progress
                    )
        for what, why in failed.items():
            console.print(f"[bold red]failed:[/] {what}: {why}", soft_wrap=True, highlight=False)
        written = _write(out or root, f"{paper}-{name}-{scale}", wanted, root, seeds)
        console.print(f"Page: {written}", soft_wrap=True, highlight=False)
        return ExitCode.PARTIAL if failed else ExitCode.OK
    except RayUnlearnError as error:
        console.print(f"[bold red]error:[/] {plain(error)}", soft_wrap=True, highlight=False)
        return error.exit_code


def _page(table: str | None, figure: str | None, scale: str) -> tuple[str, Page]:
    if (table is None) == (figure is None):
        raise BadInput("--table and --figure", [table, figure], "one of the two")
    if table is not None:
        return f"table-{table}", page("table", table, scale)
    return f"figure-{figure}", page("figure", str(figure), scale)


def _matching(wanted: Page, patterns: Sequence[str]) -> list[Row]:
    chosen = [row for row in wanted.rows if any(fnmatchcase(row.name, p) for p in patterns)]
    if not chosen:
        raise BadInput("--rows", list(patterns), "one of " + ", ".join(row.name for row in wanted.rows))
    return chosen


def _write(out: Path, name: str, wanted: Page, root: Path, seeds: Sequence[int]) -> Path:
    """The page, and what it shows as JSON; rows that were never run are left out."""
    done = [(row, seeds_of_row(root, row, seeds)) for row in wanted.rows]
    rows = [row for row, of in done if of]
    results = [result for row, of in done for seed in of for result in results_of(root, row, seed)]
    facts = machine_facts()
    out.mkdir(parents=True, exist_ok=True)
    stored = {"page": wanted.title, "machine": facts, "results": results}
    (out / f"{name}.json").write_text(json.dumps(stored, indent=1) + "\n")
    done_page = replace(wanted, rows=tuple(rows))
    text = render(done_page, results, facts) if rows else f"# {wanted.title}\n\nNo row has been run yet.\n"
    picture = draw(done_page, results)
    if picture is not None:
        (out / f"{name}.png").write_bytes(picture)
        text += f"\n![{wanted.title}]({name}.png)\n"
    path = out / f"{name}.md"
    path.write_text(text)
    return path

"""What `jobs/reproduce.py` runs: from flags to a page with the paper's figures and ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.reproduction import few_shot_plots
from rayunlearn.reproduction.markdown import render
from rayunlearn.reproduction.papers import page
from rayunlearn.reproduction.plots import draw
from rayunlearn.reproduction.rows import Page, Row
from rayunlearn.results.audit_figures import InvertedImages
from rayunlearn.results.store import Store
from rayunlearn.results.terminal import JobProgress, open_console
from rayunlearn.runtime.cluster import connect
from rayunlearn.runtime.job import plain
from rayunlearn.runtime.machine import machine_facts
from rayunlearn.runtime.reproduce import draw_inverted, ended, galleries, results_of, run_rows, seeds_of_row
from rayunlearn.runtime.reproduce_moons import moons_picture, moons_results, moons_tasks
from rayunlearn.runtime.service import interruptible
from rayunlearn.variational.moons import require_gpytorch


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
        wanted = _page(paper, table, figure, scale)
        chosen = _matching(wanted, rows)
        if not seeds or len(set(seeds)) != len(seeds):
            raise BadInput("--seeds", list(seeds), "at least one, each once")
        root = storage.absolute()
        if out is None:
            Store.open(root)  # before a page lies there, which nobody takes for a storage location
        failed: dict[str, str] = {}
        inverted = None
        if wanted.form == "moons" and not render_only:
            require_gpytorch()
        if (chosen or wanted.form == "moons") and not render_only:
            with JobProgress(console) as progress:
                progress.phase("Ray", "connect")
                connect(address)
                progress.done()
                cpus, gpus = cpus_per_row, gpus_per_row
                with interruptible():
                    if wanted.form == "moons":
                        failed = ended(moons_tasks(root, seeds, wanted.name, cpus=cpus, gpus=gpus), progress)
                    else:
                        failed = run_rows(root, chosen, seeds, cpus=cpus, gpus=gpus, progress=progress)
                    if wanted.form == "inversion":
                        inverted = draw_inverted(root, wanted.rows, seeds, cpus=cpus, gpus=gpus)
        for what, why in failed.items():
            console.print(f"[bold red]failed:[/] {what}: {why}", soft_wrap=True, highlight=False)
        written = _write(out or root, f"{paper}-{wanted.name}-{scale}", wanted, root, seeds, inverted)
        console.print(f"Page: {written}", soft_wrap=True, highlight=False)
        return ExitCode.PARTIAL if failed else ExitCode.OK
    except RayUnlearnError as error:
        console.print(f"[bold red]error:[/] {plain(error)}", soft_wrap=True, highlight=False)
        return error.exit_code


def _page(paper: str, table: str | None, figure: str | None, scale: str) -> Page:
    if (table is None) == (figure is None):
        raise BadInput("--table and --figure", [table, figure], "one of the two")
    kind, number = ("figure", str(figure)) if table is None else ("table", table)
    return page(paper, kind, number, scale)


def _matching(wanted: Page, patterns: Sequence[str]) -> list[Row]:
    chosen = [row for row in wanted.rows if any(fnmatchcase(row.name, p) for p in patterns)]
    if wanted.rows and not chosen:
        raise BadInput("--rows", list(patterns), "one of " + ", ".join(row.name for row in wanted.rows))
    return chosen


def _write(
    out: Path, name: str, wanted: Page, root: Path, seeds: Sequence[int], inverted: InvertedImages | None
) -> Path:
    """The page, its figure, and what it shows as JSON; rows that were never run are named alone."""
    done = [(row, seeds_of_row(root, row, seeds)) for row in wanted.rows]
    shown = replace(wanted, rows=tuple(row for row, of in done if of))
    if wanted.form == "moons":
        results = moons_results(root, seeds)
        drawn = moons_picture(root, seeds, wanted.name)
    else:
        results = [result for row, of in done for seed in of for result in results_of(root, row, seed)]
        if wanted.paper == "few-shot":
            first = [(row, of[0]) for row, of in done if of and row.kind == "examples"]
            drawn = few_shot_plots.draw(shown, results, galleries(root, first))
        else:
            drawn = draw(shown, results, inverted)
    facts = machine_facts()
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"{name}.png"
    if drawn is not None:
        picture.write_bytes(drawn)
    # images of an inversion attack that are not drawn again: those that are there
    there = drawn is not None or wanted.form == "inversion" and picture.exists()
    if results:
        (out / f"{name}.json").write_text(_as_json(wanted.title, facts, results))
    text = render(
        shown, results, facts,
        missing=[row.name for row, of in done if not of], picture=picture.name if there else None,
    )  # fmt: skip
    path = out / f"{name}.md"
    path.write_text(text)
    return path


def _as_json(title: str, facts: Mapping[str, str], results: Sequence[Mapping[str, Any]]) -> str:
    """What a page shows: a line for each result, its figures as columns and rows."""
    lines = [json.dumps({**result, **_in_columns(result.get("figures", []))}) for result in results]
    head = json.dumps({"page": title, "machine": facts})[:-1]
    return f'{head}, "results": [\n' + ",\n".join(lines) + "\n]}\n"


def _in_columns(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not figures:
        return {}
    columns = list(dict.fromkeys(key for figure in figures for key in figure))
    rows = [[figure.get(column) for column in columns] for figure in figures]
    return {"figures": {"columns": columns, "rows": rows}}

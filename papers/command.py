"""What `jobs/reproduce.py` runs: from flags to a page with the paper's figures and ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from papers import few_shot_plots
from papers.catalogue import page
from papers.markdown import render
from papers.moons import require_gpytorch
from papers.moons_run import moons_key, moons_picture, moons_results, moons_tasks
from papers.plots import draw
from papers.results import Result, by_arithmetic, of_row
from papers.rows import Page, Row
from papers.run import (
    draw_inverted,
    ended,
    galleries,
    results_of,
    run_rows,
    seeds_of_row,
)
from papers.stored_page import from_json, of_other_settings, run_of, to_json, together
from rayunlearn.cli.cluster_errors import EXPECTED, say_ended
from rayunlearn.cli.console import make_folder, write_file
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.execution.cluster import connect
from rayunlearn.execution.machine import machine_facts
from rayunlearn.execution.user_code import found_by_workers
from rayunlearn.reports.inverted_images import InvertedImages
from rayunlearn.reports.terminal import JobProgress, open_console
from rayunlearn.serving.service import interruptible
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store

FOLDERS = "--out (or --storage)"
"""What names the folder of the pages."""
OF_IMAGES = ("inversion", "samples")
"""Forms of pages whose pictures need a row's storage, not its results alone."""


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
        require_lasting("--storage", storage)
        if out is not None:
            require_lasting("--out", out)
            make_folder("--out", out)
        else:
            Store.open(root)  # before a page lies there, which nobody takes for a storage location
        written = (out or root) / f"{paper}-{wanted.name}-{scale}"
        stored = _stored(written, wanted, scale)
        write = partial(_write, written, wanted, scale, root, seeds)
        failed: dict[str, str] = {}
        inverted = None
        if wanted.form == "moons" and not render_only:
            require_gpytorch()
        if (chosen or wanted.form == "moons") and not render_only:
            with JobProgress(console) as progress:
                progress.phase("Ray", "connect")
                connect(address, **found_by_workers("papers:run", address))
                progress.done()
                cpus, gpus, there = cpus_per_row, gpus_per_row, run_of(stored)
                with interruptible():
                    if wanted.form == "moons":
                        tasks = moons_tasks(root, seeds, wanted.name, done=there, cpus=cpus, gpus=gpus)
                        failed = ended(tasks, progress, write)
                    else:
                        failed = run_rows(
                            root, chosen, seeds, done=there, cpus=cpus, gpus=gpus, progress=progress,
                            keep=write,
                        )  # fmt: skip
                    if wanted.form == "inversion":
                        inverted = draw_inverted(root, wanted.rows, seeds, cpus=cpus, gpus=gpus)
        for what in of_other_settings(stored, _keys(wanted)):
            console.print(f"left out: {what}, run with other settings", soft_wrap=True, highlight=False)
        page_file = write(inverted)
        console.print(f"Page: {page_file}", soft_wrap=True, highlight=False)
        return ExitCode.PARTIAL if failed else ExitCode.OK
    except EXPECTED as error:
        return say_ended(console, error)


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


def _keys(wanted: Page) -> list[str]:
    return [moons_key()] if wanted.form == "moons" else [row.key for row in wanted.rows]


def _stored(written: Path, wanted: Page, scale: str) -> list[Result]:
    """What earlier runs left of the page, and of its rows on the paper's other pages in the folder.

    Args:
        written: the page's files without their suffix.
        wanted: the page.
        scale: of the page.
    """
    own, keys = written.with_suffix(".json"), _keys(wanted)
    found: list[Result] = _read(own)
    if wanted.form not in OF_IMAGES:  # no other page has the images of its rows
        for path in sorted({*written.parent.glob(f"{wanted.paper}-*-{scale}.json")} - {own}):
            there, also = run_of(found), _read(path)
            found += [r for r in also if r["key"] in keys and (r["key"], r["seed"]) not in there]
    return found


def _write(
    written: Path, wanted: Page, scale: str, root: Path, seeds: Sequence[int],
    inverted: InvertedImages | None = None,
) -> Path:  # fmt: skip
    """The page, its figure, and what it shows as JSON; rows that were never run are named alone.

    Args:
        written: the files' path without their suffix.
        wanted: the page.
        scale: of the page.
        root: the reproduction's folder.
        seeds: that are looked for there.
        inverted: the images of a page that shows some.
    """
    if wanted.form == "moons":
        fresh = moons_results(root, seeds)
    else:
        here = [(row, seed) for row in wanted.rows for seed in seeds_of_row(root, row, seeds)]
        fresh = [result for row, seed in here for result in results_of(root, row, seed)]
    # read at the last moment: another run may have written the page meanwhile
    every = together(_stored(written, wanted, scale), fresh, _keys(wanted))
    results = [result for result in every if "failed" not in result]
    shown = replace(wanted, rows=tuple(row for row in wanted.rows if of_row(results, row.name)))
    measured = run_of([result for result in fresh if "failed" not in result])
    first = {row.key: [seed for seed in seeds if (row.key, seed) in measured][:1] for row in wanted.rows}
    pictured = [(row, seed) for row in wanted.rows for seed in first[row.key]]
    averaged, _ = by_arithmetic(results)
    if wanted.form == "moons":
        drawn = moons_picture(root, seeds, wanted.name, averaged)
    elif wanted.paper == "few-shot":
        examples = [(row, seed) for row, seed in pictured if row.kind == "examples"]
        drawn = few_shot_plots.draw(shown, averaged, galleries(root, examples))
    else:
        drawn = draw(shown, averaged, inverted)
    facts = machine_facts()
    picture = written.with_suffix(".png")
    # images come from a row's storage, or are drawn again from its weights: where that is not at hand for
    # every row, the picture that is there shows more
    partly = wanted.form in OF_IMAGES and len(pictured) < len(shown.rows)
    keeps = picture.exists() and (drawn is None or partly)
    if drawn is not None and not keeps:
        write_file(FOLDERS, picture, drawn)
    if every:
        write_file(FOLDERS, written.with_suffix(".json"), to_json(wanted.title, facts, every).encode())
    text = render(
        shown, results, facts,
        missing=[row.name for row in wanted.rows if not of_row(every, row.name)],
        failed={f"{r['row']}, seed {r['seed']}": r["failed"] for r in every if "failed" in r},
        picture=picture.name if drawn is not None or keeps else None,
    )  # fmt: skip
    path = written.with_suffix(".md")
    write_file(FOLDERS, path, text.encode())
    return path


def _read(path: Path) -> list[Result]:
    """The results in a page's JSON; none where there is no such file."""
    try:
        return [*from_json(path.read_bytes(), str(path))]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BadInput("file of a page", str(path), f"a readable file ({error.strerror})") from error

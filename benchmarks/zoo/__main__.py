"""Build what is missing of the zoo: `python -m benchmarks.zoo`."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Annotated

import pyarrow.parquet as pq
import tyro
from rich.console import Console

from benchmarks.zoo.cache import default_folder
from benchmarks.zoo.rows import build, collected, tasks
from benchmarks.zoo.setups import SETUPS

STORED = Path(__file__).parents[2] / "docs" / "results" / "zoo.parquet"


def main(
    setups: Annotated[tuple[str, ...], tyro.conf.arg(help="which (default: all)")] = tuple(SETUPS),
    folder: Annotated[Path | None, tyro.conf.arg(help="where weights are kept")] = None,
    processes: Annotated[int, tyro.conf.arg(help="side by side, of one thread each")] = os.cpu_count() or 1,
    out: Annotated[Path, tyro.conf.arg(help="where the table of measured rows goes")] = STORED,
) -> None:
    """Build the models of some setups, measure them on real data, and store the table."""
    console = Console()
    where = (folder or default_folder()).absolute()
    chosen = tasks(setups)
    groups = [list(g) for _, g in groupby(chosen, key=lambda task: (task.setup.name, task.seed))]
    groups.reverse()  # the longest are declared last
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        for end in [pool.submit(build, group, where) for group in groups]:
            end.result()
    table = collected(where, chosen)
    pq.write_table(table, out, compression="zstd")
    console.print(f"{table.num_rows} models of {len(chosen)} tasks: {out}")


if __name__ == "__main__":
    tyro.cli(main)

"""Run a paper's tables and figures again and set ours beside theirs.

`python jobs/reproduce.py --table II --rows "mnist-lenet*"`, `--paper few-shot --table 1`, or by
`ray job submit`. A run that was stopped goes on where it was: rows that are done are read, a row under way
continues from its last checkpoint.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `papers` is no part of the installed package

from papers.command import run_reproduction  # noqa: E402
from rayunlearn.cli.console import carry_out  # noqa: E402


@dataclass(frozen=True, kw_only=True)
class Options:
    """Run a paper's tables and figures again."""

    paper: Literal["zero-shot", "few-shot"] = "zero-shot"
    """Which paper."""

    table: str | None = None
    """I, II, III, IV, VI or VII; 1 to 7 of the few-shot paper. Table III needs no run."""

    figure: str | None = None
    """3 to 9; 4 and 7 are one page, and so are 6 and 8. 2 to 10 of the few-shot paper."""

    rows: tuple[str, ...] = ("*",)
    """Names of rows, * and ? stand for anything; a name that matches nothing lists them all."""

    scale: Literal["cpu", "paper"] = "cpu"
    """The paper's settings, or smaller ones; the page says what is smaller."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each row is run with each."""

    storage: Path = Path("reproduction")
    """Folder for models and ledgers; the same folder goes on where a run was stopped."""

    out: Path | None = None
    """Folder for the page and its figures; the storage folder where it is not given."""

    address: str | None = None
    """Ray cluster to run on; else RAY_ADDRESS, else one is started on this machine."""

    cpus_per_row: float = 1.0
    """CPUs reserved for each row that is under way."""

    gpus_per_row: float = 0.0
    """GPUs reserved for each row that is under way."""

    render_only: bool = False
    """Write the page from what is done; run nothing, and draw no image from weights (Fig. 3) anew."""


if __name__ == "__main__":
    sys.exit(carry_out(lambda: run_reproduction(**vars(tyro.cli(Options)))))

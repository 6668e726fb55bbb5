"""Search the settings of a method without real data: `python jobs/tune_sweep.py`, or by `ray job submit`.

The same as `rayunlearn tune`, which practises on the first of three digits where no other file of requests is
given.

Each trial unlearns the same request from the same version under settings of its own; synthetic images made
from the version's weights judge it, so nobody needs training data to tune. The same command goes on with a
sweep that was stopped. `jobs/sequential_unlearn.py --tuned SWEEP` serves requests with the winner.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from rayunlearn.cli.commands import CONFIG, run
from rayunlearn.cli.console import carry_out, leave
from rayunlearn.cli.options.tune import TuneOptions

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Options(TuneOptions):
    """Search the settings of a method without real data."""

    requests: Path = HERE / "requests" / "digits.jsonl"
    """JSON Lines, as jobs/sequential_unlearn.py takes them."""


if __name__ == "__main__":
    leave(carry_out(lambda: run("tune", tyro.cli(Options, config=CONFIG))))

"""Serve erasure requests one after another: `python jobs/sequential_unlearn.py`, or by `ray job submit`.

The same as `rayunlearn serve`, with three digits to forget where no other file of requests is given.

Each request starts from the version that the one before published. Without any training data a student
learns from the version's weights what is to be retained, synthetic data alone decides where to stop and
whether to publish, and only then real data measures the result against a retrained model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from rayunlearn.cli.commands import CONFIG, run
from rayunlearn.cli.console import carry_out, leave
from rayunlearn.cli.options.serve import ServeOptions

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, kw_only=True)
class Options(ServeOptions):
    """Serve erasure requests one after another."""

    requests: Path = HERE / "requests" / "digits.jsonl"
    """JSON Lines, one request a line: {"request_id": "r1", "target": [0]}. What else waits follows."""

    inbox_only: bool = False
    """Read no file: serve what waits in the storage, added by `rayunlearn request add`."""


if __name__ == "__main__":
    leave(carry_out(lambda: run("serve", tyro.cli(Options, config=CONFIG))))

"""What `rayunlearn serve` and `jobs/sequential_unlearn.py` run."""

from __future__ import annotations

from rayunlearn.cli.job import run_job
from rayunlearn.cli.options.serve import ServeOptions


def run_serve(options: ServeOptions) -> int:
    """Serve requests; returns the exit code."""
    return run_job(**vars(options))

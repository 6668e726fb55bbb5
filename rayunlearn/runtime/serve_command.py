"""What `rayunlearn serve` and `jobs/sequential_unlearn.py` run."""

from __future__ import annotations

from rayunlearn.runtime.job import run_job
from rayunlearn.runtime.options.serve import ServeOptions


def run_serve(options: ServeOptions) -> int:
    """Serve requests; returns the exit code."""
    return run_job(**vars(options))

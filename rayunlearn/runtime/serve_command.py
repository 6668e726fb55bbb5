"""What `rayunlearn serve` and `jobs/sequential_unlearn.py` run."""

from __future__ import annotations

from rayunlearn.extras import require
from rayunlearn.runtime.job import run_job
from rayunlearn.runtime.options.serve import ServeOptions

AT_THE_END = ("jinja2", "matplotlib")
"""Packages that a job needs for its report, when all requests are served."""


def run_serve(options: ServeOptions) -> int:
    """Serve requests; returns the exit code.

    Raises:
        NotInstalled: a package that the job would need at its end.
    """
    require(*AT_THE_END)
    return run_job(**vars(options))

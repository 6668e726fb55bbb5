"""A progress bar where somebody sees it: in a terminal or a notebook."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from rayunlearn.errors import BadInput
from rayunlearn.unlearning.progress import Progress, Quiet


@contextmanager
def shown(progress: bool | Progress | None) -> Iterator[Progress]:
    """Progress for a run, ended with it.

    Args:
        progress: whether to show it; None: in a terminal or a notebook. An object of the caller's own is told
            instead.

    Raises:
        BadInput: it is none of these.
    """
    if not isinstance(progress, bool | None):
        if not all(callable(getattr(progress, name, None)) for name in ("phase", "advance", "done", "say")):
            raise BadInput("progress", progress, "True, False, None, or a rayunlearn Progress")
        yield progress
        return
    console = Console(file=sys.stderr, highlight=False)
    if progress is False or progress is None and not console.is_terminal:
        yield Quiet()
        return
    from rayunlearn.reports.terminal import (
        JobProgress,  # it brings Arrow and more, which a quiet run does without
    )

    with JobProgress(console) as bar:
        yield bar

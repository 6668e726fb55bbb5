"""Standard output and error of a command."""

from __future__ import annotations

import io
import sys


def escape_unprintable() -> None:
    """Have this process's output and errors escape what their encoding lacks, where Python would raise."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

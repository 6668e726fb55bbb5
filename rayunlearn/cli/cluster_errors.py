"""How a command that works on a cluster ends: a sentence for what is expected, a traceback for the rest."""

from __future__ import annotations

from rich.console import Console

from rayunlearn.cli.console import say_error
from rayunlearn.errors import ExitCode, RayUnlearnError
from rayunlearn.execution.recovery import CLUSTER_ERRORS
from rayunlearn.execution.remote import LOSSES, sentence

EXPECTED = (RayUnlearnError, *CLUSTER_ERRORS, *LOSSES)
"""Errors that are no fault of the program."""


def say_ended(console: Console, error: Exception) -> int:
    """Print what an error of `EXPECTED` says; the exit code of the command."""
    return say_error(console, sentence(error), getattr(error, "exit_code", ExitCode.INTERNAL))

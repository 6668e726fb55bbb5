"""The commands of `rayunlearn`: their names, their flags, and how one is carried out.

What a command does is imported when it runs: torch and Ray take seconds. Its flags are in modules of their
own, so that the help of all commands together imports neither.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import tyro
from rich.console import Console

from rayunlearn.cli.console import at_work, say_error
from rayunlearn.errors import ExitCode, NotInstalled
from rayunlearn.extras import require

NAMES = (
    "serve", "http", "tune", "request", "status", "models", "methods", "audit", "report", "check",
    "key", "log", "verify", "replay",
)  # fmt: skip
"""Command -> `<Command>Options` in `rayunlearn.cli.options.<command>`, and `run_<command>` in
`rayunlearn.cli.<command>_command`."""

NEEDS = {
    "serve": ("ray", "jinja2", "matplotlib"),
    "http": ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "jinja2", "matplotlib"),
    "tune": ("ray", "jinja2", "matplotlib"),
    "audit": ("ray", "matplotlib"),
    "report": ("jinja2", "matplotlib"),
    "replay": ("ray",),
}
"""Command -> packages of extras that it needs in any case; some it would need at its end alone."""

ABOUT = "Schedule machine unlearning of image classifiers.\n\nExit codes:\n" + "\n".join(
    f"  {code.value}  {code.meaning}" for code in ExitCode
)
"""What the help says above the list of commands."""

CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
"""How flags are named."""


def options_of(command: str) -> Any:
    """The class of a command's flags."""
    module = import_module(f"rayunlearn.cli.options.{command}")
    return getattr(module, f"{command.capitalize()}Options")


def run(command: str, options: Any) -> int:
    """Carry out a command with its flags; returns the exit code."""
    options = getattr(options, "command", options)
    with at_work(f"rayunlearn {command}"):
        try:
            require(*NEEDS.get(command, ()))
            module = import_module(f"rayunlearn.cli.{command}_command")
            return int(getattr(module, f"run_{command}")(options))
        except NotInstalled as error:
            as_json = getattr(options, "json", False)
            return say_error(Console(highlight=False), str(error), error.exit_code, as_json=as_json)

"""`python -m rayunlearn COMMAND`: what is done with a storage location besides serving requests."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import tyro

from rayunlearn.runtime.console import carry_out

NAMES = ("audit", "check", "key", "log", "methods", "models", "replay", "report", "request", "verify")
COMMANDS = {name: f"rayunlearn.runtime.{name}_command" for name in NAMES}
"""Command -> its module, with `<Command>Options` and `run_<command>`."""


def main() -> int:
    """Run one command; returns its exit code."""
    config = (
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.OmitArgPrefixes,
        tyro.conf.OmitSubcommandPrefixes,
    )
    named, prog = next(iter(sys.argv[1:]), ""), "python -m rayunlearn"
    if named in COMMANDS:  # alone: the others' imports take seconds
        options = tyro.cli(_options(named), args=sys.argv[2:], prog=f"{prog} {named}", config=config)
        run = getattr(import_module(COMMANDS[named]), f"run_{named}")
        return int(run(getattr(options, "command", options)))
    tyro.extras.subcommand_cli_from_dict(
        {name: _options(name) for name in COMMANDS}, config=config, prog=prog
    )  # ends with the help, or with what is wrong
    raise AssertionError(f"{named!r} is a command that has no module")


def _options(command: str) -> Any:
    return getattr(import_module(COMMANDS[command]), f"{command.capitalize()}Options")


if __name__ == "__main__":
    sys.exit(carry_out(main))

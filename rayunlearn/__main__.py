"""`rayunlearn COMMAND`, or `python -m rayunlearn COMMAND`."""

from __future__ import annotations

import sys
from typing import NoReturn

import tyro

from rayunlearn.cli.commands import ABOUT, CONFIG, NAMES, options_of, run
from rayunlearn.cli.console import carry_out, leave


def main() -> int:
    """Run one command; returns its exit code."""
    named, prog = next(iter(sys.argv[1:]), ""), "rayunlearn"
    if named in NAMES:  # alone: the parser of one command is made sooner than that of all
        options = tyro.cli(options_of(named), args=sys.argv[2:], prog=f"{prog} {named}", config=CONFIG)
        return run(named, options)
    tyro.extras.subcommand_cli_from_dict(
        {name: options_of(name) for name in NAMES}, config=CONFIG, prog=prog, description=ABOUT
    )  # ends with the help, with a script for the shell, or with what is wrong
    raise AssertionError(f"{named!r} is a command that has no module")


def enter() -> NoReturn:
    """What the script `rayunlearn` calls."""
    leave(carry_out(main))


if __name__ == "__main__":
    enter()

"""What `rayunlearn http` runs: the front door of a storage location. It imports neither Ray nor torch."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import PositiveFloat
from rich.text import Text

from rayunlearn.cli.console import say_error
from rayunlearn.cli.options.http import HttpOptions
from rayunlearn.errors import ExitCode, RayUnlearnError
from rayunlearn.fields import check_value
from rayunlearn.http.app import Limits
from rayunlearn.http.door import Door
from rayunlearn.http.regulations import parse_regulations
from rayunlearn.http.serving import parse_place, run, tokens_for
from rayunlearn.reports.terminal import open_console
from rayunlearn.reports.wording import plain
from rayunlearn.storage.store import NotBegun, Store

UploadMb = Annotated[int, Ge(1), Le(180)]
"""The inbox takes 256 MiB, in base64."""


def run_http(options: HttpOptions) -> int:
    """Take requests until a signal; returns the exit code."""
    console = open_console()

    def ready(address: str) -> None:
        console.print(Text(plain(f"Requests are taken at {address}, for {options.storage}.")), soft_wrap=True)

    try:
        place = parse_place(options.place)
        tokens, names = tokens_for(place[0], options.tokens)
        check_value("--rate", options.rate, PositiveFloat)
        check_value("--burst", options.burst, PositiveFloat)
        check_value("--upload-mb", options.upload_mb, UploadMb)
        limits = Limits(per_s=options.rate, burst=options.burst, upload=options.upload_mb * 2**20)
        try:
            store = Store.open(options.storage, create=False)
        except NotBegun:
            store = Store.open(options.storage)
        door = Door(store, parse_regulations(options.regulations), options.regulation)
        run(door, place, tokens, names, limits, ready)
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code)
    return ExitCode.OK

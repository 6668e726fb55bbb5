"""The front door as a process: one uvicorn over one storage location, until a signal ends it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path

import uvicorn

from rayunlearn.errors import BadInput
from rayunlearn.http.app import Limits, is_loopback, make_app
from rayunlearn.http.door import Door
from rayunlearn.http.tokens import Tokens

_PLACE = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9.-]{1,253})):(?P<port>[0-9]{1,5})")
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
BACKLOG = 1024
"""Connections that wait to be taken."""
GRACE_S = 10
"""So long an end waits for answers that are under way."""


def parse_place(place: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`; an IPv6 address stands in brackets.

    >>> parse_place("127.0.0.1:8080"), parse_place("[::1]:0")
    (('127.0.0.1', 8080), ('::1', 0))

    Raises:
        BadInput: it is none.
    """
    match = _PLACE.fullmatch(place)
    if match is None or int(match["port"]) > 65535:
        raise BadInput("HOST:PORT", place, "a host and a port up to 65535, as in 127.0.0.1:8080")
    return match["six"] or match["name"], int(match["port"])


def tokens_for(host: str, path: Path | None) -> tuple[Tokens | None, frozenset[str]]:
    """Whose tokens are taken, and the names of the host that a request may name; any where these are none.

    Raises:
        BadInput: there are no tokens, and others than this machine reach the host.
    """
    if path is not None:
        return Tokens.read(path), frozenset()
    if not is_loopback(host):
        allowed = f"a file of tokens; without one only this machine may call, and {host!r} is no loopback"
        raise BadInput("--tokens", None, allowed)
    return None, _LOCAL | {host}


def run(
    door: Door,
    place: tuple[str, int],
    tokens: Tokens | None,
    names: frozenset[str],
    limits: Limits,
    ready: Callable[[str], None],
) -> None:
    """Answer until SIGTERM or SIGINT; `ready` is given the address once requests are taken.

    Raises:
        BadInput: the place cannot be had.
    """
    host, port = place
    logging.basicConfig(format="%(levelname)s: %(message)s")
    config = uvicorn.Config(
        make_app(door, tokens, limits, names), host=host, port=port, access_log=False, log_level="warning",
        lifespan="off", server_header=False, proxy_headers=False, timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_S, h11_max_incomplete_event_size=32 * 1024, backlog=BACKLOG,
    )  # fmt: skip
    try:
        listening = config.bind_socket()
    except SystemExit:  # uvicorn has said why
        raise BadInput("HOST:PORT", f"{host}:{port}", "an address of this machine that is free") from None
    listening.listen(BACKLOG)  # before anybody is told to come
    shown = f"[{host}]" if ":" in host else host
    ready(f"http://{shown}:{listening.getsockname()[1]}")
    uvicorn.Server(config).run(sockets=[listening])

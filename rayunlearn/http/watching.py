"""The page to watch, and the events that it shows: server-sent, each with all that is shown."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from importlib import resources
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response, StreamingResponse

from rayunlearn.http.door import Door
from rayunlearn.http.refusals import Refused

SHOWN = 200
"""Requests on the page: the newest."""
LOOKS_S = 2.0
"""Between two looks at the storage location; all pages share them."""
QUIET_S = 15.0
"""After so long without news a comment is sent, so that nobody on the way closes the connection."""
MOST_PAGES = 16
"""Pages that watch at once."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The page asks nobody but the front door, and holds no script in itself."""

FILES = {
    "/": ("watch.html", "text/html; charset=utf-8"),
    "/watch.css": ("watch.css", "text/css; charset=utf-8"),
    "/watch.js": ("watch.js", "text/javascript; charset=utf-8"),
}
"""Address -> the file that is there, and what it is."""


def watched(door: Door) -> dict[str, Any]:
    """What the page shows: requests by status, and the newest."""
    found = door.looks.standings()
    return {
        "counts": {status: number for status, number in door.looks.counts().by_status.items() if number},
        "requests": [asdict(standing) for standing in reversed(found[-SHOWN:])],
    }


class Events:
    """What pages are sent; where none watches, nothing is looked at.

    Args:
        look: gives what is shown, as text.
    """

    def __init__(self, look: Callable[[], Awaitable[str]]) -> None:
        self._look, self._pages = look, 0
        self._last: tuple[float, str] | None = None
        self._lock = asyncio.Lock()

    def stream(self) -> StreamingResponse:
        """An answer that goes on until the page is closed.

        Raises:
            Refused: too many pages watch.
        """
        if self._pages >= MOST_PAGES:
            raise Refused("busy", f"more pages watch than allowed: {MOST_PAGES}; ask again")
        return StreamingResponse(self._sent(), media_type="text/event-stream")

    async def _sent(self) -> AsyncIterator[str]:
        self._pages += 1
        clock = asyncio.get_running_loop().time
        before, told = "", clock()
        try:
            while True:
                now = await self._newest()
                if now != before:
                    yield f"data: {now}\n\n"
                    before, told = now, clock()
                elif clock() - told >= QUIET_S:
                    yield ": nothing new\n\n"
                    told = clock()
                await asyncio.sleep(LOOKS_S)
        finally:
            self._pages -= 1

    async def _newest(self) -> str:
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._last is None or now - self._last[0] >= LOOKS_S / 2:
                self._last = now, await self._look()
            return self._last[1]


def page_routes() -> APIRouter:
    """The page and what belongs to it; neither says anything of a request, so that no token is wanted."""
    router = APIRouter(include_in_schema=False)
    for address, (name, kind) in FILES.items():
        router.add_api_route(address, _file(name, kind), methods=["GET"])
    return router


def _file(name: str, kind: str) -> Callable[[], Awaitable[Response]]:
    content = resources.files(__package__).joinpath(name).read_bytes()

    async def answer() -> Response:
        return Response(content, headers={"content-type": kind, "content-security-policy": POLICY})

    return answer


def as_text(state: dict[str, Any], plain: Callable[[Any], Any]) -> str:
    """One line of JSON, as an event's data must be."""
    return json.dumps(state, default=plain, allow_nan=False)

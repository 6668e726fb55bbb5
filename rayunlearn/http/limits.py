"""How much anybody may send: requests a second, bytes of a body, and seconds that a body may take."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import monotonic

from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from rayunlearn.http.refusals import Refused

BODY_S = 30.0
"""So long the bytes of a body without examples may take."""


class Rate:
    """A bucket for each name that fills at a rate and holds a burst.

    Args:
        per_s: requests a second in the long run.
        burst: requests at once.
        clock: gives seconds.
    """

    def __init__(self, per_s: float, burst: float, clock: Callable[[], float] = monotonic) -> None:
        self.per_s, self.burst = per_s, max(1.0, burst)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Let one request of this name through.

        Raises:
            Refused: there were more than allowed; says after how many seconds there is room again.
        """
        now = self._clock()
        left, at = self._left.get(name, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.per_s)
        if left < 1.0:
            wait = (1.0 - left) / self.per_s
            said = f"too many requests; allowed: {self.per_s:g} a second and {self.burst:g} at once"
            raise Refused("rate", said, headers={"Retry-After": str(int(wait) + 1)})
        self._left[name] = left - 1.0, now


class Body:
    """A body that is counted while it is received, so that never more of it is kept than allowed.

    Args:
        request: whose body it is; nothing of it has been read.
        most: bytes.
        seconds: that all of it may take.

    Raises:
        Refused: the header says already that there are more.
    """

    def __init__(self, request: Request, most: int, seconds: float = BODY_S) -> None:
        self._request, self._most, self._seen = request, most, 0
        self._deadline = asyncio.get_running_loop().time() + seconds
        self._seconds = seconds
        said = request.headers.get("content-length", "0")
        if said.isascii() and said.isdigit() and (len(said) > 18 or int(said) > most):
            raise self._too_large()

    async def receive(self) -> Message:
        """The next piece, as ASGI has it.

        Raises:
            Refused: there are more bytes than allowed, or they take too long.
        """
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._request.receive()
        except TimeoutError:
            said = f"the body took longer than allowed: {self._seconds:g} seconds"
            raise Refused("slow_body", said) from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._most:
            raise self._too_large()
        return message

    async def read(self) -> bytes:
        """All of it."""
        pieces = []
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(pieces)

    def _too_large(self) -> Refused:
        said = f"the body has more bytes than allowed: {self._most}"
        return Refused("body_size", said, headers={"Connection": "close"})

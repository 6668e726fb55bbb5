"""The routes of the front door: who may call each, what it calls, and how its answer looks."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from time import perf_counter
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rayunlearn import __version__
from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.http import schema
from rayunlearn.http.door import Door
from rayunlearn.http.limits import Body, Rate
from rayunlearn.http.metrics import CONTENT_TYPE, Metrics
from rayunlearn.http.refusals import Refused, problem, refused
from rayunlearn.http.tokens import ANYBODY, Caller, Tokens
from rayunlearn.http.watching import Events, as_text, page_routes, watched
from rayunlearn.reports.certificate import to_html, to_json
from rayunlearn.scheduling.requests import MOST_LINE
from rayunlearn.storage.store import StoreFailed

T = TypeVar("T")
LOG = logging.getLogger("rayunlearn.http")

MOST_IN_FLIGHT = 512
"""Requests that are worked on at once; more are told to come again."""
WRITERS, READERS = 4, 2
"""Threads that add requests, and threads that read."""
MOST_UPLOADS = 16
"""Uploads that come in at once, to files of the system's; one at a time is checked, in memory."""
HEALTH, STRANGERS = " health", " strangers"
"""Buckets of those who give no token; no token has such a name."""
UPLOAD_S = 600.0
"""So long an upload may take."""

SECURITY = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
"""Headers of every answer; a page of ours needs nothing from anywhere."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a caller may send.

    Attributes:
        per_s: requests a second, for each token.
        burst: requests at once, for each token.
        body: bytes of a request in JSON.
        upload: bytes of a request with its examples.
    """

    per_s: float = 100.0
    burst: float = 200.0
    body: int = MOST_LINE
    upload: int = 64 * 2**20


def make_app(
    door: Door, tokens: Tokens | None, limits: Limits, names: frozenset[str] = frozenset()
) -> ASGIApp:
    """The front door as an ASGI application.

    Args:
        door: what is called.
        tokens: who may call; None lets anybody do everything.
        limits: for each caller.
        names: of the host that a request may name; any where this is empty.
    """
    app = FastAPI(
        title="rayunlearn", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json",
        description=schema.ABOUT,
    )  # fmt: skip
    metrics = Metrics(door.looks)
    rate = Rate(limits.per_s, limits.burst)
    writers, readers = ThreadPoolExecutor(WRITERS), ThreadPoolExecutor(READERS)
    uploads = _Uploads()

    async def write(call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(writers, call)

    async def read(call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(readers, call)

    def needs(role: str) -> Any:
        async def check(request: Request) -> Caller:
            caller = _caller(request.headers, tokens, rate)
            rate.take(caller.name)
            if not caller.may(role):
                has = ", ".join(sorted(caller.roles))
                raise Refused("role", f"role of the token is {has!r}; allowed: {role!r} or 'admin'")
            return caller

        return Depends(check)

    @app.post(
        "/v1/requests", status_code=201, dependencies=[needs("submit")], openapi_extra=schema.CREATE,
        responses=schema.answers(200, 400, 401, 403, 408, 409, 413, 415, 429, 503),
    )  # fmt: skip
    async def create(request: Request) -> Response:
        """Add an erasure request; the answer is sent when the request is on disk."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "application/json":
            body = await Body(request, limits.body).read()
            made = await write(lambda: door.create(body))
        elif kind == "multipart/form-data":
            made = await uploads.taken(request, limits, lambda *parts: write(lambda: door.create(*parts)))
        else:
            allowed = "'application/json', or 'multipart/form-data' with examples"
            raise Refused("media_type", str(BadInput("Content-Type", kind, allowed)))
        status = 201 if made["status"] == "waiting" else 200
        return _json(made, status, {"Location": f"/v1/requests/{made['request_id']}"})

    @app.get("/v1/requests", dependencies=[needs("read")], responses=schema.answers(400, 401, 403, 429, 503))
    async def requests(
        status: schema.Status = None, lineage: schema.Name = None, limit: schema.Limit = 100,
        after: schema.Mark = None,
    ) -> Response:  # fmt: skip
        """Every request and where it stands, in the order of receipt, page by page."""
        page = await read(lambda: door.requests(status=status, lineage=lineage, limit=limit, after=after))
        return _json({"requests": [asdict(s) for s in page.entries], "next": page.next})

    @app.get(
        "/v1/requests/{request_id}", dependencies=[needs("read")],
        responses=schema.answers(401, 403, 404, 429, 503),
    )  # fmt: skip
    async def one(request_id: str) -> Response:
        """Where a request stands."""
        return _json(asdict(await read(lambda: door.request(request_id))))

    @app.delete(
        "/v1/requests/{request_id}", status_code=202, dependencies=[needs("admin")],
        responses=schema.answers(401, 403, 404, 409, 429, 503),
    )  # fmt: skip
    async def cancel(request_id: str) -> Response:
        """Ask that a request be not served; the next scheduler carries that out."""
        said = await read(lambda: door.cancel(request_id))
        return _json({"request_id": request_id, "said": said}, 202)

    @app.get(
        "/v1/requests/{request_id}/certificate", dependencies=[needs("read")],
        responses=schema.answers(401, 403, 404, 429, 503),
    )  # fmt: skip
    async def certificate(request_id: str, request: Request) -> Response:
        """The erasure certificate: JSON, or a page where `Accept` begins with text/html."""
        made = await read(lambda: door.certificate(request_id))
        if request.headers.get("accept", "").strip().lower().startswith("text/html"):
            return HTMLResponse(await read(lambda: to_html(made)))
        return Response(await read(lambda: to_json(made)), media_type="application/json")

    @app.get("/v1/versions", dependencies=[needs("read")], responses=schema.answers(400, 401, 403, 429, 503))
    async def versions(lineage: schema.Name = None) -> Response:
        """Every version of every lineage, or of one."""
        return _json({"versions": await read(lambda: door.versions(lineage))})

    @app.get("/v1/status", dependencies=[needs("read")], responses=schema.answers(401, 403, 429, 503))
    async def status() -> Response:
        """What the service is doing now, and how many requests have each status."""
        return _json(await read(door.status))

    events = Events(lambda: read(lambda: as_text(watched(door), _as_json)))

    @app.get("/v1/events", dependencies=[needs("read")], responses=schema.answers(401, 403, 429, 503))
    async def watch() -> Response:
        """Server-sent events: requests by status and the newest, whenever something changes."""
        return events.stream()

    app.include_router(page_routes())

    @app.get("/metrics", dependencies=[needs("read")], responses=schema.answers(401, 403, 429, 503))
    async def figures() -> Response:
        """Figures for Prometheus, as text."""
        return Response(await read(metrics.text), headers={"content-type": CONTENT_TYPE})

    @app.get("/health", responses=schema.answers(429, 503))
    async def health() -> Response:
        """Whether the front door reaches its storage location; nothing is said of a scheduler."""
        rate.take(HEALTH)
        await read(door.require_storage)
        return _json({"status": "ok"})

    @app.exception_handler(Refused)
    async def _refused(request: Request, error: Refused) -> Response:
        metrics.refused(error.reason)
        return problem(error)

    @app.exception_handler(BadInput)
    async def _bad_input(request: Request, error: BadInput) -> Response:
        return await _refused(request, refused(error))

    @app.exception_handler(RequestValidationError)
    async def _bad_query(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return await _bad_input(request, BadInput(str(first["loc"][-1]), first.get("input"), first["msg"]))

    @app.exception_handler(StoreFailed)
    async def _no_storage(request: Request, error: StoreFailed) -> Response:
        LOG.error("%s", error)  # it may name a place, which is none of the caller's business
        said = "the storage could not do what it was asked; nothing was accepted. Ask again"
        return await _refused(request, Refused("storage", said))

    @app.exception_handler(IntegrityError)
    async def _broken(request: Request, error: IntegrityError) -> Response:
        LOG.error("%s", error)
        return await _refused(request, Refused("fault", "the ledger is not what was appended to it"))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        reason = {404: "not_found", 405: "method", 413: "body_size"}.get(error.status_code, "bad_input")
        named = {"method": str(BadInput("method", request.method, "another one at this address"))}
        named["not_found"] = str(BadInput("path", request.url.path, "an address of /openapi.json"))
        headers = dict(error.headers or {})
        return await _refused(request, Refused(reason, named.get(reason, str(error.detail)), headers=headers))

    @app.exception_handler(Exception)
    async def _fault(request: Request, error: Exception) -> Response:
        # it goes on to `_Outside`, which writes it to the log
        return await _refused(request, Refused("fault", "a fault of the front door; its log says more"))

    return _Outside(app, metrics, names)


def _caller(headers: Headers, tokens: Tokens | None, rate: Rate) -> Caller:
    """Who calls.

    Raises:
        Refused: no token, or one that nobody has; many of these are refused for their number.
    """
    if tokens is None:
        return ANYBODY
    scheme, _, token = headers.get("authorization", "").partition(" ")
    caller = tokens.caller(token.strip()) if scheme.lower() == "bearer" else None
    if caller is None:
        rate.take(STRANGERS)
        if scheme.lower() != "bearer":
            raise Refused("no_token", "the header Authorization is missing; allowed: 'Bearer TOKEN'")
        raise Refused("wrong_token", "the token is not known; allowed: a token of the server's file")
    return caller


class _Uploads:
    """Forms with examples, which are streamed to files of the system's while they come."""

    def __init__(self) -> None:
        self._coming, self._one = 0, asyncio.Semaphore(1)

    async def taken(
        self, request: Request, limits: Limits, work: Callable[[bytes, bytes], Awaitable[T]]
    ) -> T:
        """What comes of the JSON and the examples of a form.

        Raises:
            Refused: too many uploads come at once, or this one is too large or too slow.
            BadInput: the form has other parts.
        """
        if self._coming >= MOST_UPLOADS:
            raise Refused("busy", f"more uploads at once than allowed: {MOST_UPLOADS}; ask again")
        self._coming += 1
        try:
            streamed = Request(request.scope, Body(request, limits.upload, UPLOAD_S).receive)
            async with streamed.form(max_files=1, max_fields=1, max_part_size=limits.body) as form:
                said, examples = form.get("request"), form.get("examples")
                if not isinstance(said, str) or not isinstance(examples, UploadFile) or len(form) != 2:
                    allowed = "'request', a field with JSON, and 'examples', a file"
                    raise BadInput("parts of the form", sorted(form), allowed)
                async with self._one:  # a slow caller keeps nobody waiting: this one is there whole
                    return await work(said.encode(errors="surrogatepass"), await examples.read())
        finally:
            self._coming -= 1


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    text = json.dumps(content, default=_as_json, allow_nan=False)
    return Response(text, status, headers, "application/json")


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")


class _Outside:
    """What holds for every request: the host it names, how many there are at once, headers, and the count."""

    def __init__(self, app: ASGIApp, metrics: Metrics, names: frozenset[str]) -> None:
        self._app, self._metrics, self._names, self._in_flight = app, metrics, names, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, seen = perf_counter(), {"status": 0}

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        self._in_flight += 1
        try:
            refusal = self._refusal(Headers(scope=scope))
            if refusal is not None:
                self._metrics.refused(refusal.reason)
                await problem(refusal)(scope, receive, sent)
            else:
                await self._app(scope, receive, sent)
        except ClientDisconnect:
            pass  # nobody waits for an answer
        except Exception:
            LOG.exception("a fault of the front door")
        finally:
            self._in_flight -= 1
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.answered(route, seen["status"], perf_counter() - began)

    def _refusal(self, headers: Headers) -> Refused | None:
        if self._in_flight > MOST_IN_FLIGHT:
            said = f"more requests at once than allowed: {MOST_IN_FLIGHT}; ask again"
            return Refused("busy", said)
        host = _host_of(headers.get("host", ""))
        if self._names and host not in self._names:
            # a page of another site reaches an address of this machine by a name of its own
            return Refused("host", str(BadInput("Host", host, " or ".join(sorted(self._names)))))
        origin = headers.get("origin")
        if self._names and origin is not None and _host_of(origin.partition("://")[2]) not in self._names:
            # or sends a form to the address itself, which browsers ask nobody about
            return Refused("host", str(BadInput("Origin", origin, "a page of this machine, or none")))
        return None


def _host_of(header: str) -> str:
    """The name in a Host header, without the port.

    >>> _host_of("localhost:8000"), _host_of("[::1]:8000"), _host_of("::1")
    ('localhost', '::1', '::1')
    """
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0].lower() if header.count(":") < 2 else header


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a host.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("example.org")
    (True, True, False, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

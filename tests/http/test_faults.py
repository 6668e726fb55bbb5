"""What goes wrong inside: the answer says that it did, and nothing of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from tests.http.test_answers import asks, is_refused
from tests.ledger.ledgers import in_memory

for package in ("fastapi", "httpx", "prometheus_client", "python_multipart", "jinja2"):
    pytest.importorskip(package, reason="needs the extra http, and httpx of the extra dev")

import httpx  # noqa: E402

from rayunlearn.errors import IntegrityError  # noqa: E402
from rayunlearn.http import app as app_module  # noqa: E402
from rayunlearn.http import limits as limits_module  # noqa: E402
from rayunlearn.http import watching  # noqa: E402
from rayunlearn.http.app import Limits, make_app  # noqa: E402
from rayunlearn.http.door import Door  # noqa: E402
from rayunlearn.http.refusals import Refused  # noqa: E402
from rayunlearn.http.regulations import parse_regulations  # noqa: E402
from rayunlearn.http.watching import Events  # noqa: E402
from rayunlearn.storage.store import StoreFailed  # noqa: E402

if TYPE_CHECKING:
    from starlette.types import ASGIApp

SECRET = "/srv/secret/place"


def application() -> tuple[ASGIApp, Door]:
    """A front door in this process, over a storage location in memory."""
    door = Door(in_memory(), parse_regulations(["gdpr=1m"]))
    return make_app(door, None, Limits(per_s=1e6, burst=1e6)), door


def answers(app: ASGIApp, *calls: Callable[[httpx.AsyncClient], Any], at_once: bool = False) -> list[Any]:
    """The answers to some calls, one after another or side by side."""

    async def ask() -> list[Any]:
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            if at_once:
                return list(await asyncio.gather(*(call(client) for call in calls)))
            return [await call(client) for call in calls]

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("error", "status", "reason", "said"),
    [
        (RuntimeError(SECRET), 500, "fault", "a fault of the front door; its log says more"),
        (IntegrityError(f"{SECRET} was edited"), 500, "fault", "the ledger is not what was appended to it"),
        (StoreFailed(f"{SECRET}: no space"), 503, "storage", "nothing was accepted. Ask again"),
    ],
)
def test_a_fault_is_told_without_its_place(
    error: Exception, status: int, reason: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, and the metrics count it; negative control: without the fault all is well."""
    app, door = application()

    def fails(*given: object) -> None:
        raise error

    (well,) = answers(app, lambda c: c.post("/v1/requests", json=asks("r1")))
    assert well.status_code == 201
    door.create = fails  # type: ignore[method-assign, assignment]
    broken, counted = answers(
        app, lambda c: c.post("/v1/requests", json=asks("r2")), lambda c: c.get("/metrics")
    )
    assert is_refused(broken, status, reason, said) and SECRET not in broken.text
    assert SECRET in caplog.text
    assert f'rayunlearn_http_refusals_total{{reason="{reason}"}} 1.0' in counted.text


def test_more_at_once_than_allowed_are_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound, and only then."""
    app, _ = application()
    calls = [lambda c, n=n: c.post("/v1/requests", json=asks(f"r{n}")) for n in range(4)]
    assert [a.status_code for a in answers(app, *calls, at_once=True)] == [201] * 4
    monkeypatch.setattr(app_module, "MOST_IN_FLIGHT", 2)
    found = answers(app, *calls, at_once=True)
    refused = [a for a in found if a.status_code != 201]
    assert len(refused) == 2
    for answer in refused:
        assert is_refused(answer, 503, "busy", "more requests at once than allowed: 2; ask again")
        assert answer.headers["retry-after"] == "1"


def test_a_slow_body_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never ends is given up; negative control: one that comes in pieces is read."""
    app, _ = application()

    def sent(stops: bool) -> Callable[[httpx.AsyncClient], Any]:
        async def pieces() -> Any:
            text = json.dumps(asks("slow")).encode()
            yield text[:9]
            if stops:
                await asyncio.sleep(60)
            yield text[9:]

        headers = {"Content-Type": "application/json"}
        return lambda c: c.post("/v1/requests", content=pieces(), headers=headers)

    (well,) = answers(app, sent(stops=False))
    assert well.status_code == 201
    monkeypatch.setattr(limits_module.Body.__init__, "__defaults__", (0.2,))
    (slow,) = answers(app, sent(stops=True))
    assert is_refused(slow, 408, "slow_body", "the body took longer than allowed: 0.2 seconds")


def test_uploads_and_pages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than allowed is told to come again; negative control: with room it is looked at."""
    app, _ = application()
    parts = {"request": (None, json.dumps(asks("up", kind="examples"))), "examples": ("x", b"x")}
    (looked,) = answers(app, lambda c: c.post("/v1/requests", files=parts))
    assert is_refused(looked, 400, "bad_input", "lineage is 'default'; allowed: a lineage with a version")
    monkeypatch.setattr(app_module, "MOST_UPLOADS", 0)
    (refused,) = answers(app, lambda c: c.post("/v1/requests", files=parts))
    assert is_refused(refused, 503, "busy", "more uploads at once than allowed: 0")

    async def nothing() -> str:
        return "{}"

    async def streamed() -> None:
        Events(nothing).stream()

    asyncio.run(streamed())
    monkeypatch.setattr(watching, "MOST_PAGES", 0)
    with pytest.raises(Refused, match="more pages watch than allowed: 0"):
        asyncio.run(streamed())

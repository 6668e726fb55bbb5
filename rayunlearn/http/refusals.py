"""What the front door refuses, and the problem details (RFC 9457) that say so."""

from __future__ import annotations

import json
from http import HTTPStatus

from starlette.responses import Response

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.ledger.submission import NotOpen, UnknownRequest
from rayunlearn.storage.inbox import IdTaken

PROBLEM = "application/problem+json"

REASONS: dict[str, HTTPStatus] = {
    "bad_input": HTTPStatus.BAD_REQUEST,
    "no_token": HTTPStatus.UNAUTHORIZED,
    "wrong_token": HTTPStatus.UNAUTHORIZED,
    "role": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "method": HTTPStatus.METHOD_NOT_ALLOWED,
    "slow_body": HTTPStatus.REQUEST_TIMEOUT,
    "id_taken": HTTPStatus.CONFLICT,
    "not_open": HTTPStatus.CONFLICT,
    "body_size": HTTPStatus(413),  # its name differs between versions of Python
    "media_type": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "host": HTTPStatus.MISDIRECTED_REQUEST,
    "rate": HTTPStatus.TOO_MANY_REQUESTS,
    "fault": HTTPStatus.INTERNAL_SERVER_ERROR,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "storage": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Why the front door refuses -> the status of its answer. The reasons are labels of a metric."""

HEADERS: dict[str, dict[str, str]] = {
    "no_token": {"WWW-Authenticate": "Bearer"},
    "wrong_token": {"WWW-Authenticate": 'Bearer error="invalid_token"'},
    "busy": {"Retry-After": "1"},
    "storage": {"Retry-After": "5"},
}
"""Headers that such an answer has besides."""


class Refused(RayUnlearnError):
    """A request that the front door does not carry out.

    Attributes:
        reason: one of `REASONS`.
        headers: of the answer, besides those of the reason.
    """

    def __init__(self, reason: str, said: str, *, headers: dict[str, str] | None = None) -> None:
        self.reason = reason
        self.headers = HEADERS.get(reason, {}) | (headers or {})
        super().__init__(said)


def refused(error: BadInput) -> Refused:
    """The answer to what the functions behind the commands refuse; the sentence is theirs."""
    if isinstance(error, IdTaken):
        return Refused("id_taken", str(error))
    if isinstance(error, NotOpen):
        return Refused("not_open", str(error))
    return Refused("not_found" if isinstance(error, UnknownRequest) else "bad_input", str(error))


def problem(refusal: Refused) -> Response:
    """Problem details: the sentence is the detail, and the extension `reason` is for programs."""
    status = REASONS[refusal.reason]
    body = {
        "type": "about:blank", "title": status.phrase, "status": int(status), "detail": str(refusal),
        "reason": refusal.reason,
    }  # fmt: skip
    return Response(json.dumps(body), int(status), refusal.headers, PROBLEM)

"""What the OpenAPI document says beyond the routes, and what a query may hold."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any, Literal

from fastapi import Query

from rayunlearn.http.paging import MOST
from rayunlearn.scheduling.requests import DATA_ACCESS, DEFAULT_LINEAGE, KINDS, MOST_PRIORITY, MOST_TARGET

ABOUT = (
    "Erasure requests. A request is acknowledged when it is on disk, whether a scheduler runs or not. Errors "
    "are problem details (RFC 9457). Every route but /health and /openapi.json wants a bearer token."
)

NAME = "[A-Za-z0-9._-]{1,128}"
Status = Annotated[
    Literal["waiting", "received", "planned", "served", "failed", "rejected", "cancelled"] | None,
    Query(description="Of these alone."),
]
Name = Annotated[str | None, Query(pattern=f"^{NAME}$", description="Of this lineage alone.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Entries of a page.")]
Mark = Annotated[str | None, Query(max_length=4000, description="The `next` of the page before.")]

_FIELDS: dict[str, dict[str, Any]] = {
    "request_id": {"type": "string", "pattern": f"^{NAME}$"},
    "target": {
        "type": "array", "minItems": 1, "maxItems": MOST_TARGET, "uniqueItems": True,
        "items": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string"}]},
        "description": "Ids, or names of classes.",
    },
    "lineage": {"type": "string", "pattern": f"^{NAME}$", "default": DEFAULT_LINEAGE},
    "kind": {"enum": list(KINDS), "default": KINDS[0]},
    "received_at": {"type": ["string", "null"], "format": "date-time"},
    "deadline": {"type": ["string", "null"], "format": "date-time"},
    "regulation": {
        "type": ["string", "null"],
        "description": "Sets the deadline, counted from the receipt. None beside a deadline.",
    },
    "data_access": {
        "type": "array", "items": {"enum": list(DATA_ACCESS)}, "minItems": 1, "uniqueItems": True,
    },
    "whole_classes": {"type": "boolean", "default": False},
    "priority": {"type": "integer", "minimum": -MOST_PRIORITY, "maximum": MOST_PRIORITY, "default": 0},
    "method": {"type": ["string", "null"]},
}  # fmt: skip

REQUEST = {
    "type": "object", "properties": _FIELDS, "required": ["request_id", "target"],
    "additionalProperties": False,
}  # fmt: skip

CREATE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": REQUEST},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "request": {"type": "string", "description": "The request as JSON."},
                        "examples": {
                            "type": "string", "format": "binary",
                            "description": "safetensors: images, labels and ids.",
                        },
                    },
                    "required": ["request", "examples"],
                }
            },
        },
    }
}  # fmt: skip

PROBLEM = {
    "type": "object",
    "properties": {
        "type": {"const": "about:blank"}, "title": {"type": "string"}, "status": {"type": "integer"},
        "detail": {"type": "string"}, "reason": {"type": "string"},
    },
    "required": ["type", "title", "status", "detail", "reason"],
}  # fmt: skip


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Further answers of a route: problem details, or for 200 the same as for 201."""
    return {
        status: {"description": HTTPStatus(status).phrase}
        | ({} if status < 400 else {"content": {"application/problem+json": {"schema": PROBLEM}}})
        for status in statuses
    }

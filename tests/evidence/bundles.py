"""Certificates with evidence to test with: two served requests, and what an auditor was given of them."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rayunlearn.evidence.envelope import Envelope
from rayunlearn.evidence.history import KeyHistory
from rayunlearn.evidence.keys import COSIGNS, SIGNS, SigningKey
from rayunlearn.evidence.statement import Evidence
from rayunlearn.evidence.verification import Given, verify
from rayunlearn.reports.attested import attested
from rayunlearn.reports.certificate import certificate, to_html, to_json
from rayunlearn.storage.store import Store
from tests.ledger.ledgers import in_memory
from tests.reports.two_requests import Rows, tell

MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)
METHODS = {"gkt": {"data_access": ["weights"], "summary": "gated transfer", "source": "section IV.C"}}
ORIGIN = "log.example.org/ledger"


def key_of(seed: int, name: str = ORIGIN, kind: int = SIGNS) -> SigningKey:
    """A key that is always the same."""
    return SigningKey(name, Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32), kind)


KEY, OTHER, NEXT = key_of(1), key_of(2), key_of(3)
WITNESS = key_of(4, "witness.example.org", COSIGNS)
PINNED = KeyHistory(keys=((KEY.verifier, None),))


def told(rows: Rows | None = None) -> Store:
    """A storage location with two served requests, or with other rows."""
    return tell(in_memory(), rows)


def made(
    store: Store, request_id: str = "r0", key: SigningKey = KEY, made_at: datetime = MADE_AT
) -> tuple[Evidence, dict[str, bytes]]:
    """The evidence of a request's certificate, and the certificate's files."""
    plain = certificate(store, request_id, made_at=made_at, methods=METHODS, sealed={"split"})
    name = f"certificate-{request_id}"
    files = {f"{name}.html": to_html(plain).encode(), f"{name}.json": to_json(plain).encode()}
    return attested(store, plain, files, key), files


@cache
def served(request_id: str = "r0") -> tuple[Evidence, dict[str, bytes]]:
    """The evidence of a served request's certificate, and the certificate's files; made once."""
    return made(told(), request_id)


def given(files: dict[str, bytes] | None = None, **more: Any) -> Given:
    """What an auditor holds: the log's key, the certificate's files, and more."""
    return replace(Given(keys=PINNED, files=files or {}), **more)


def shown(evidence: Evidence | bytes, held: Given) -> list[str]:
    """The lines that say what was shown."""
    data = evidence if isinstance(evidence, bytes) else evidence.to_json()
    return [said for is_shown, said in verify(data, held) if is_shown]


def restated(evidence: Evidence, change: Any, key: SigningKey = KEY) -> Evidence:
    """What an operator who lies would sign: the statement after a change, with a good signature."""
    body = json.loads(evidence.envelope.payload)
    change(body)
    envelope = Envelope.signed(evidence.envelope.payload_type, json.dumps(body).encode(), [key])
    return replace(evidence, envelope=envelope)

"""Signed JSON: DSSE envelopes (secure-systems-lab/dsse, protocol and envelope, version 1)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.evidence.keys import SigningKey, VerifierKey

_ALLOWED = "a DSSE envelope: payload, payloadType, and signatures with keyid and sig"


def pae(payload_type: str, payload: bytes) -> bytes:
    """What is signed: the pre-authentication encoding of DSSE.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """A payload with signatures.

    Attributes:
        payload_type: what the payload is; it is signed, too.
        payload: as it is signed.
        signatures: key id and signature of each. The id is a hint and not signed: it picks the key to try.
    """

    payload_type: str
    payload: bytes
    signatures: tuple[tuple[str, bytes], ...]

    @classmethod
    def signed(cls, payload_type: str, payload: bytes, keys: Sequence[SigningKey]) -> Envelope:
        """An envelope that these keys have signed."""
        message = pae(payload_type, payload)
        signatures = tuple((key.verifier.id, key.sign(message)) for key in keys)
        return cls(payload_type=payload_type, payload=payload, signatures=signatures)

    @classmethod
    def from_json(cls, value: Any) -> Envelope:
        """Read an envelope; no signature is checked.

        Raises:
            BadInput: it is none.
        """
        try:
            body = dict(value)
            signatures = tuple((str(s["keyid"]), _decoded(s["sig"])) for s in body["signatures"])
            kind, payload = body["payloadType"], _decoded(body["payload"])
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput("envelope", value, _ALLOWED) from error
        if not isinstance(kind, str) or not signatures:
            raise BadInput("envelope", value, _ALLOWED)
        return cls(payload_type=kind, payload=payload, signatures=signatures)

    def to_json(self) -> dict[str, Any]:
        """The envelope as JSON has it."""
        return {
            "payloadType": self.payload_type,
            "payload": base64.b64encode(self.payload).decode(),
            "signatures": [
                {"keyid": key, "sig": base64.b64encode(data).decode()} for key, data in self.signatures
            ],
        }

    def is_signed_by(self, key: VerifierKey) -> bool:
        """Whether a key signed this payload as one of this type."""
        message = pae(self.payload_type, self.payload)
        return any(key.verifies(data, message) for told, data in self.signatures if told == key.id)


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(text) from error


def read_json(data: bytes, thing: str) -> Mapping[str, Any]:
    """The JSON object in some bytes; a key that is there twice is refused, for readers differ in it.

    Raises:
        BadInput: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key is there twice")
        return found

    try:
        value = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise BadInput(thing, data[:80], f"JSON ({error})") from error
    if not isinstance(value, dict):
        raise BadInput(thing, data[:80], "a JSON object")
    return value

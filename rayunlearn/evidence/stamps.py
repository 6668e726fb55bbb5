"""Time stamps of an authority outside (RFC 3161) on a checkpoint's text.

Made and checked by `rfc3161-client`, of the extra `evidence`.
"""

from __future__ import annotations

import hashlib
import urllib.error
import urllib.request
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from rayunlearn.errors import BadInput, NotVerified

TIMEOUT_S = 30
"""So long an authority may take."""

_MOST_BYTES = 1_000_000


def stamp(text: bytes, url: str) -> bytes:
    """Ask an authority for a stamp on a text; its response, DER.

    Its signature is not checked here: `stamped_at` does that with the authority's certificate.

    Raises:
        BadInput: the address is none, or the authority does not answer, or refuses, or stamps something else.
    """
    import rfc3161_client as client  # of the extra `evidence`

    if urlsplit(url).scheme not in ("http", "https"):
        raise BadInput("--url", url, "an address that begins with http:// or https://")
    builder = client.TimestampRequestBuilder().data(text).hash_algorithm(client.HashAlgorithm.SHA256)
    asked = builder.build()
    request = urllib.request.Request(
        url, data=asked.as_bytes(), headers={"Content-Type": "application/timestamp-query"}
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            data: bytes = answer.read(_MOST_BYTES)
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise BadInput("--url", url, f"a time stamping authority that answers ({error})") from error
    try:
        response = client.decode_timestamp_response(data)
        told = response.tst_info.message_imprint.message, response.tst_info.nonce
    except ValueError as error:
        raise BadInput("answer of the authority", data[:80], f"a time stamp ({error})") from error
    if told != (hashlib.sha256(text).digest(), asked.nonce):
        raise BadInput("answer of the authority", told[0].hex(), "a stamp on what was asked, with its nonce")
    return data


def stamped_at(response: bytes, text: bytes, authority: bytes) -> datetime:
    """When an authority stamped a text.

    Args:
        response: the authority's, DER.
        text: that was stamped.
        authority: certificates as PEM: the root, and those between it and the authority where its response
            has them not.

    Raises:
        NotVerified: it is no stamp of this authority on this text.
        BadInput: these are no certificates, or no root is among them.
    """
    import rfc3161_client as client  # of the extra `evidence`

    try:
        certificates = x509.load_pem_x509_certificates(authority)
    except ValueError as error:
        raise BadInput("--tsa", authority[:80], f"certificates as PEM ({error})") from error
    roots = [certificate for certificate in certificates if _signs_itself(certificate)]
    if not roots:
        raise BadInput("--tsa", [c.subject.rfc4514_string() for c in certificates], "a root among them")
    between = [certificate for certificate in certificates if certificate not in roots]
    verifier = client.VerifierBuilder(roots=roots, intermediates=between).build()
    try:
        read = client.decode_timestamp_response(response)
        verifier.verify_message(read, text)
        at: datetime = read.tst_info.gen_time
    except (client.VerificationError, ValueError) as error:
        raise NotVerified("stamp", f"no stamp of this authority on this checkpoint ({error})") from error
    return at.astimezone(UTC)


def _signs_itself(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True

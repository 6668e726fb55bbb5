"""Addresses of storage locations in S3-compatible stores: `s3://bucket/prefix`.

Region, endpoint and credentials come from the environment, by the names that AWS's own tools use:
AWS_REGION, AWS_ENDPOINT_URL for another server than AWS's, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY,
AWS_SESSION_TOKEN; without a key, the machine's role is asked for one. Each process takes them from its own
environment: an address holds none, and neither does a store that is handed to an actor.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rayunlearn.errors import BadInput

if TYPE_CHECKING:
    from obstore.store import S3Store

ALLOWED = (
    "the path of a folder, or s3://BUCKET/PREFIX with a prefix of parts joined by '/', each of A-Z a-z 0-9 "
    ". _ = - and neither '.' nor '..'"
)
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9._=/-]*))?")
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._/-]*)?")
_STATUS = re.compile(r"status code: (\d{3} [A-Za-z ]*[A-Za-z])")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_NOT_SENT = re.compile(r"HTTP error: ([a-z ]+)")


def is_address(root: str | Path) -> bool:
    """Whether this is meant as the address of a store rather than as the path of a folder.

    >>> is_address("s3://bucket/prefix"), is_address("gs://bucket"), is_address("./storage")
    (True, True, False)
    """
    # a Path has lost a slash; taken for a folder it would begin a location called "s3:" right here
    return "://" in str(root) or str(root).startswith("s3:")


def parse_address(address: str) -> tuple[str, str]:
    """Bucket and prefix; the prefix is '' for the whole bucket.

    >>> parse_address("s3://models/team/a/")
    ('models', 'team/a')

    Raises:
        BadInput: no address of this form. One that seems to hold credentials is not repeated.
    """
    if "@" in address or "?" in address:
        allowed = "s3://BUCKET/PREFIX; credentials are taken from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        raise BadInput("storage", "an address with '@' or '?'", allowed)
    match = _ADDRESS.fullmatch(address)
    prefix = match["prefix"] or "" if match else ""
    parts = prefix.removesuffix("/").split("/") if prefix else []
    if match is None or not all(part not in ("", ".", "..") and len(part) <= 200 for part in parts):
        raise BadInput("storage", address, ALLOWED)
    return match["bucket"], "/".join(parts)


def connect(address: str, *, retries: int = 10) -> S3Store:
    """An address as obstore's store; nothing is asked of the server yet.

    Args:
        address: as `parse_address` takes it.
        retries: of a request that the server did not answer, or answered with a fault of its own.

    Raises:
        BadInput: of the address, or an endpoint in the environment that is no URL.
        NotInstalled: obstore, of the extra `s3`.
    """
    from obstore.store import S3Store  # of the extra `s3`: a folder needs none

    bucket, prefix = parse_address(address)
    config: Any = {  # obstore's type lacks the keys of its HTTP client
        "disable_bulk_delete": "true",  # which other servers than AWS's often lack; we delete one by one
        "timeout": "120s",  # for a whole file; obstore's 30 s are short for a large model
    }
    for name in _ENDPOINTS:
        endpoint = os.environ.get(name, "")
        if endpoint and not _URL.fullmatch(endpoint):
            allowed = "http://HOST:PORT or https://HOST:PORT, perhaps with a path, without user and password"
            raise BadInput(name, "(not shown)", allowed)  # lest there is a password in it
        if endpoint.startswith("http://"):
            config["allow_http"] = "true"  # only whoever names such an endpoint gets it
    return S3Store(bucket, prefix=prefix or None, config=config, retry_config={"max_retries": retries})


def is_bucket(backend: object) -> bool:
    """Whether this is a connection to a bucket."""
    return "obstore" in sys.modules and isinstance(backend, sys.modules["obstore.store"].S3Store)


def failures() -> tuple[type[Exception], ...]:
    """What a store fails with: obstore's errors where that is imported, and the system's."""
    if "obstore" not in sys.modules:
        return (OSError,)
    from obstore.exceptions import BaseError

    return (OSError, BaseError)


def is_taken(error: Exception) -> bool:
    """Whether a name was to be created that is there."""
    if isinstance(error, FileExistsError):
        return True
    if isinstance(error, OSError):
        return False
    from obstore.exceptions import AlreadyExistsError, PreconditionError

    return isinstance(error, (AlreadyExistsError, PreconditionError))


def no_bucket(error: Exception) -> bool:
    """Whether a request failed because the bucket itself is missing."""
    return "<Code>NoSuchBucket</Code>" in str(error)


def reason(error: Exception) -> str:
    """Why a request failed, in a few words that hold nothing secret.

    The message itself repeats the server's answer, and that may repeat the signed request with its token.

    >>> reason(OSError("PUT http://a/b - status code: 403 Forbidden: <Code>AccessDenied</Code> secret"))
    '403 Forbidden, AccessDenied'
    """
    found = [part.search(str(error)) for part in (_STATUS, _CODE, _NOT_SENT)]
    return ", ".join(match[1] for match in found if match) or type(error).__name__

"""Who may do what: bearer tokens from a file that holds only their digests."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rayunlearn.errors import BadInput

ROLES = ("submit", "read", "admin")
"""submit: create. read: everything that is read. admin: both, and cancel."""

_LINE = re.compile(r"([A-Za-z0-9._-]{1,64})[ \t]+([a-z,]+)[ \t]+([0-9a-f]{64})")
_ALLOWED = (
    "NAME ROLES DIGEST: a name of 1 to 64 characters of A-Z a-z 0-9 . _ -, roles of submit, read, admin "
    "joined by commas, and the SHA-256 of the token as 64 hex digits"
)
_MOST_BYTES = 2**20
OPEN = "anybody"
"""The name of whoever calls where there are no tokens."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who calls.

    Attributes:
        name: of the token.
        roles: that it has.
    """

    name: str
    roles: frozenset[str]

    def may(self, role: str) -> bool:
        """Whether this caller has a role; an admin has every one."""
        return role in self.roles or "admin" in self.roles


ANYBODY = Caller(name=OPEN, roles=frozenset(ROLES))


class Tokens:
    """Tokens by their digests.

    Args:
        callers: digest of each token, and who has it.
    """

    def __init__(self, callers: Iterable[tuple[bytes, Caller]]) -> None:
        self._callers = tuple(callers)

    @classmethod
    def read(cls, path: Path) -> Tokens:
        """The tokens of a file: one line each, `NAME ROLES DIGEST`; blank lines and those with # say nothing.

        Raises:
            BadInput: it cannot be read, others than its owner may write to it, a line is not of this form, a
                name or a digest is there twice, or there is no token.
        """
        flag, where = "--tokens", str(path)
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                data = file.read(_MOST_BYTES + 1)
        except (OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise BadInput(flag, where, f"a readable file ({said})") from error
        if mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadInput(flag, where, "a file that only its owner may write to: chmod go-w")
        if len(data) > _MOST_BYTES:
            raise BadInput(flag, where, f"a file of at most {_MOST_BYTES} bytes")
        found: dict[bytes, Caller] = {}
        for number, line in enumerate(data.decode(errors="replace").splitlines(), start=1):
            text = line.strip()
            if not text or text.startswith("#"):
                continue
            digest, caller = _parsed(text, f"{path}:{number}")
            if digest in found or caller.name in {known.name for known in found.values()}:
                allowed = "each name and each token once"
                raise BadInput("token", caller.name, allowed, where=f"{path}:{number}")
            found[digest] = caller
        if not found:
            raise BadInput(flag, where, f"a file with at least one line {_ALLOWED}")
        return cls(found.items())

    def caller(self, token: str) -> Caller | None:
        """Whose token it is; every digest is compared, each in constant time."""
        digest, found = hashlib.sha256(token.encode(errors="surrogatepass")).digest(), None
        for known, caller in self._callers:
            if hmac.compare_digest(known, digest):
                found = caller
        return found


def _parsed(line: str, where: str) -> tuple[bytes, Caller]:
    match = _LINE.fullmatch(line)
    roles = frozenset(match[2].split(",")) if match else frozenset()
    if match is None or not roles <= set(ROLES):
        # the line is not repeated: somebody may have put the token itself there
        raise BadInput("line", f"{len(line)} characters", _ALLOWED, where=where)
    return bytes.fromhex(match[3]), Caller(name=match[1], roles=roles)

"""Checkpoints: what a log's tree is at one size, as a signed note that others can cosign.

A note is a text, an empty line, and signature lines (c2sp.org/signed-note). A checkpoint's text is the log's
name, the size of its tree and the base64 of its root, each on a line (c2sp.org/tlog-checkpoint). A witness
signs the same text after `cosignature/v1` and its time (c2sp.org/tlog-cosignature).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from rayunlearn.errors import BadInput
from rayunlearn.evidence.keys import COSIGNS, SIGNS, SigningKey, VerifierKey
from rayunlearn.evidence.tree import HASH_BYTES

_DASH = "— "
_ALLOWED = "a signed note: its text, an empty line, and signatures"
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_MOST_SIGNATURES = 100
_TIME_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Signature:
    """One signature line of a note.

    Attributes:
        name: of the key.
        hash: of the key, four bytes.
        data: the signature; a witness's begins with its time.
    """

    name: str
    hash: bytes
    data: bytes

    def __str__(self) -> str:
        return f"{_DASH}{self.name} {base64.b64encode(self.hash + self.data).decode()}\n"


@dataclass(frozen=True, kw_only=True)
class Note:
    """A text with signatures.

    Attributes:
        text: ends with a newline.
        signatures: as they stand in the note, whoever's they are.
    """

    text: str
    signatures: tuple[Signature, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a text that would be read as another one."""
        text = self.text
        sound = text.endswith("\n") and all(c == "\n" or ord(c) >= 0x20 for c in text)
        if not sound:
            raise BadInput("text of a note", text, "lines of text without control characters")

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    @classmethod
    def parse(cls, note: str) -> Note:
        """Read a note; no signature is checked.

        Raises:
            BadInput: it is no signed note.
        """
        text, found, lines = note.rpartition("\n\n")
        if not found or not lines.endswith("\n"):
            raise BadInput("note", note, _ALLOWED)
        signatures = [_signature(line) for line in lines.removesuffix("\n").split("\n")]
        if len(signatures) > _MOST_SIGNATURES:
            raise BadInput("signatures of a note", len(signatures), f"at most {_MOST_SIGNATURES}")
        return cls(text=text + "\n", signatures=tuple(signatures))

    def signed(self, key: SigningKey) -> Note:
        """The note with the signature of a key that signs notes."""
        return self._with(key, key.sign(self.text.encode()))

    def cosigned(self, key: SigningKey, time_s: int) -> Note:
        """The checkpoint with the cosignature of a witness.

        Args:
            key: the witness's.
            time_s: when it last saw the log be consistent with what it had seen: seconds of POSIX.
        """
        return self._with(key, time_s.to_bytes(_TIME_BYTES) + key.sign(_cosigned(self.text, time_s)))

    def _with(self, key: SigningKey, data: bytes) -> Note:
        own = Signature(name=key.verifier.name, hash=key.verifier.hash, data=data)
        others = [s for s in self.signatures if (s.name, s.hash) != (own.name, own.hash)]
        return replace(self, signatures=(*others, own))

    def is_signed_by(self, key: VerifierKey) -> bool:
        """Whether a key signed this text; of signatures that name it, every one must be its."""
        found = self._of(key, SIGNS)
        return bool(found) and all(key.verifies(data, self.text.encode()) for data in found)

    def cosigned_at(self, key: VerifierKey) -> int | None:
        """When a witness cosigned this text, in seconds of POSIX; None where it did not."""
        found = self._of(key, COSIGNS)
        times = [int.from_bytes(data[:_TIME_BYTES]) for data in found]
        true = [
            key.verifies(data[_TIME_BYTES:], _cosigned(self.text, time))
            for data, time in zip(found, times, strict=True)
        ]
        return max(times) if found and all(true) else None

    def _of(self, key: VerifierKey, kind: int) -> list[bytes]:
        if key.kind != kind:
            return []
        return [s.data for s in self.signatures if (s.name, s.hash) == (key.name, key.hash)]


def _cosigned(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def _signature(line: str) -> Signature:
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    data = _decoded(encoded)
    if not line.startswith(_DASH) or not name or "+" in name or data is None or len(data) < 5:
        raise BadInput("signature of a note", line, f"{_DASH}NAME BASE64")
    return Signature(name=name, hash=data[:4], data=data[4:])


def _decoded(encoded: str) -> bytes | None:
    """The bytes of base64 in its one form (RFC 4648, section 4), or None."""
    try:
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == encoded else None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A log's tree at one size.

    Attributes:
        origin: the log's name, which is its key's.
        size: leaves of the tree.
        root: of the tree, 32 bytes.
    """

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        """Refuse what no log has."""
        if not self.origin or "\n" in self.origin:
            raise BadInput("origin of a checkpoint", self.origin, "one line of text")
        if self.size < 0 or len(self.root) != HASH_BYTES:
            told = f"size {self.size}, root of {len(self.root)} bytes"
            raise BadInput("checkpoint", told, f"a size of at least 0 and a root of {HASH_BYTES} bytes")

    @property
    def text(self) -> str:
        """What is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def of(cls, note: Note) -> Checkpoint:
        """What a note's text says; lines after the third are extensions, which are passed over.

        Raises:
            BadInput: it is no checkpoint's.
        """
        lines: Sequence[str] = note.text.split("\n")
        root = _decoded(lines[2]) if len(lines) > 3 else None
        if root is None or len(root) != HASH_BYTES or not lines[0] or not _SIZE.fullmatch(lines[1]):
            raise BadInput("checkpoint", note.text, "three lines: origin, size, base64 of the root")
        return cls(origin=lines[0], size=int(lines[1]), root=root)

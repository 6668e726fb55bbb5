"""Ed25519 keys with a name: made, kept in a file that only its owner reads, and told to others.

A key that verifies is told as C2SP signed-note has it (c2sp.org/signed-note, "Verifier keys"):
`<name>+<key id, 8 hex digits>+<base64 of a type byte and the 32 bytes of the key>`. The type is 1 for a key
that signs notes and statements and 4 for a witness's (c2sp.org/tlog-cosignature).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from rayunlearn.errors import BadInput

SIGNS = 1
"""The type of a key that signs notes (c2sp.org/signed-note, "Signatures")."""
COSIGNS = 4
"""The type of a witness's key (c2sp.org/tlog-cosignature, "Format")."""

_ALLOWED = "a verifier key: NAME+HASH+BASE64 of an Ed25519 key, as `key new` writes it"
_NAME = b"# rayunlearn key "
_PRIVATE = 0o600


def require_name(name: str) -> str:
    """A key's name: not empty, without white space, plus sign and control characters (signed-note).

    Raises:
        BadInput: it is no such name.
    """
    if not name or "+" in name or not name.isprintable() or any(c.isspace() for c in name):
        raise BadInput("name of a key", name, "text without spaces and +, such as erasure.example.org/ledger")
    return name


def key_hash(name: str, kind: int, public: bytes) -> bytes:
    """The first four bytes of SHA-256(name || 0x0A || type || key) (signed-note, "Signatures")."""
    return hashlib.sha256(name.encode() + b"\n" + bytes([kind]) + public).digest()[:4]


@dataclass(frozen=True, kw_only=True)
class VerifierKey:
    """The public half of a key, with its name.

    Attributes:
        name: of the log or witness whose key it is.
        kind: `SIGNS` or `COSIGNS`.
        public: the 32 bytes of the Ed25519 key (RFC 8032, section 5.1.5).
    """

    name: str
    kind: int
    public: bytes

    def __post_init__(self) -> None:
        """Refuse what no signature can be checked with."""
        require_name(self.name)
        if self.kind not in (SIGNS, COSIGNS):
            raise BadInput("type of a key", self.kind, f"{SIGNS} (signs) or {COSIGNS} (cosigns)")
        if len(self.public) != 32:
            raise BadInput("length of a key in bytes", len(self.public), "32, as of Ed25519")

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Read a verifier key.

        Raises:
            BadInput: it is none, or its hash is another key's.
        """
        name, _, rest = text.strip().partition("+")
        told, _, encoded = rest.partition("+")
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInput("key", text, _ALLOWED) from error
        if len(data) != 33 or base64.b64encode(data).decode() != encoded:
            raise BadInput("key", text, _ALLOWED)
        key = cls(name=name, kind=data[0], public=data[1:])
        if key.hash.hex() != told:
            raise BadInput("hash of a key", told, f"{key.hash.hex()}, that of its name and bytes")
        return key

    def __str__(self) -> str:
        encoded = base64.b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.hash.hex()}+{encoded}"

    @property
    def hash(self) -> bytes:
        """By which a signature names its key."""
        return key_hash(self.name, self.kind, self.public)

    @property
    def id(self) -> str:
        """SHA-256, hex, of the key as SubjectPublicKeyInfo, as a log's id is (RFC 6962, section 3.2)."""
        spki = Ed25519PublicKey.from_public_bytes(self.public).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        return hashlib.sha256(spki).hexdigest()

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether this key made a signature of a message (RFC 8032, section 5.1.7)."""
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """A key that signs; what it was made of never leaves it but to its file."""

    def __init__(self, name: str, private: Ed25519PrivateKey, kind: int = SIGNS) -> None:
        self._private = private
        public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.verifier = VerifierKey(name=name, kind=kind, public=public)

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"

    def __reduce__(self) -> str | tuple[object, ...]:
        """A key crosses no process boundary: no task or actor can be handed it."""
        raise TypeError("a signing key stays in its process")

    @classmethod
    def new(cls, name: str, kind: int = SIGNS) -> SigningKey:
        """A new key, from the operating system's randomness."""
        return cls(require_name(name), Ed25519PrivateKey.generate(), kind)

    def sign(self, message: bytes) -> bytes:
        """The signature of a message: 64 bytes (RFC 8032, section 5.1.6)."""
        return self._private.sign(message)

    def write(self, path: Path) -> None:
        """Write the key to a new file that only its owner can read: its name, then PKCS #8 as PEM.

        Raises:
            BadInput: something is there already, or the file cannot be written.
        """
        pem = self._private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        head = _NAME + f"{self.verifier.kind} {self.verifier.name}\n".encode()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, _PRIVATE)  # whatever the umask leaves of it
                file.write(head + pem)
                file.flush()
                os.fsync(descriptor)
        except FileExistsError as error:
            allowed = "a file that is not there yet: no key is replaced"
            raise BadInput("key file", str(path), allowed) from error
        except OSError as error:
            raise BadInput("key file", str(path), f"a file that can be written ({error.strerror})") from error

    @classmethod
    def read(cls, path: Path) -> SigningKey:
        """Read a key from its file.

        Raises:
            BadInput: it cannot be read, others than its owner can read it, or it holds no key.
        """
        try:
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
                data = file.read(10_000)
        except OSError as error:
            raise BadInput("key file", str(path), f"a file that can be read ({error.strerror})") from error
        if mode & 0o077:
            raise BadInput("mode of the key file", f"{mode:o}", f"600: its owner's alone; {path}")
        head, _, pem = data.partition(b"\n")
        kind, _, name = head.removeprefix(_NAME).decode(errors="replace").partition(" ")
        try:
            private = load_pem_private_key(pem, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise BadInput("key file", str(path), "one that `key new` wrote") from error
        if not head.startswith(_NAME) or not kind.isdigit() or not isinstance(private, Ed25519PrivateKey):
            raise BadInput("key file", str(path), "one that `key new` wrote")
        return cls(name, private, int(kind))

"""A certificate as a signed statement, with what shows that the log has what it rests on.

The statement is in-toto's, version 1 (in-toto/attestation, spec/v1/statement.md), in a DSSE envelope. Its
predicate holds the certificate whole, the checkpoint of the log, and for each entry that the certificate
rests on its rows and an inclusion proof. The envelope lies in a file with what may come later: cosignatures
and time stamps of the checkpoint, hand-overs of the key. `docs/reference/evidence.md` has every key.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.evidence.canonical import entry_bytes, row_digest
from rayunlearn.evidence.claims import is_about
from rayunlearn.evidence.envelope import Envelope, read_json
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.tree import Tree, leaf_hash, verify_inclusion

STATEMENT = "https://in-toto.io/Statement/v1"
PAYLOAD = "application/vnd.in-toto+json"
PREDICATE = "urn:rayunlearn:erasure-certificate:v1"
"""The type of the predicate; its version goes up when a key changes its meaning or goes."""

FORMAT = 1
"""Of the file around the envelope."""

EARLIER = 32
"""So many earlier checkpoints a statement has consistency proofs from: the latest."""

WEIGHTS_DIGEST = "rayunlearnWeightsV1"
"""The name of a version's id in a digest set: SHA-256 over its tensors, whatever file they are in."""


@dataclass(frozen=True, kw_only=True)
class ShownEntry:
    """An entry of the log of which some rows are shown.

    Attributes:
        seq: its number; it is leaf `seq - 1`.
        table: that its rows belong to.
        digests: of all its rows.
        rows: those that are shown, by their place in the entry.
        proof: that it is in the tree.
    """

    seq: int
    table: str
    digests: tuple[str, ...]
    rows: Mapping[int, Mapping[str, Any]]
    proof: tuple[bytes, ...]

    @classmethod
    def of(
        cls, seq: int, table: str, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any], tree: Tree
    ) -> ShownEntry:
        """An entry with those of its rows that a certificate is about.

        Args:
            seq: of the entry.
            table: of the entry.
            rows: all of them, as canonical JSON has them.
            about: the certificate.
            tree: of the whole log.
        """
        return cls(
            seq=seq,
            table=table,
            digests=tuple(row_digest(row) for row in rows),
            rows={place: row for place, row in enumerate(rows) if is_about(about, table, row)},
            proof=tuple(tree.inclusion(seq - 1)),
        )

    @classmethod
    def from_json(cls, value: Any) -> ShownEntry:
        """Read one; anything that is none raises KeyError, TypeError or ValueError."""
        return cls(
            seq=int(value["seq"]),
            table=str(value["table"]),
            digests=tuple(str(digest) for digest in value["rows"]),
            rows={int(place): dict(row) for place, row in value["shown"].items()},
            proof=tuple(_bytes(item) for item in value["proof"]),
        )

    def to_json(self) -> dict[str, Any]:
        """As the predicate has it."""
        return {
            "seq": self.seq,
            "table": self.table,
            "rows": list(self.digests),
            "shown": {str(place): dict(row) for place, row in self.rows.items()},
            "proof": [_text(item) for item in self.proof],
        }

    def is_in(self, checkpoint: Checkpoint) -> bool:
        """Whether rows, entry and proof lead to the root of a checkpoint."""
        for place, row in self.rows.items():
            if not 0 <= place < len(self.digests) or row_digest(row) != self.digests[place]:
                return False
        leaf = leaf_hash(entry_bytes(self.seq, self.table, self.digests))
        return verify_inclusion(checkpoint.root, checkpoint.size, leaf, self.seq - 1, self.proof)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is signed.

    Attributes:
        certificate: whole, as its JSON file has it.
        subjects: name -> algorithm -> digest, hex, of the versions and of the certificate's files.
        roles: name -> what the subject is: `certificate`, `version before` or `version after`.
        checkpoint: of the log, signed by it.
        entries: those that the certificate rests on.
        earlier: size of an earlier tree -> proof that the log only grew since.
    """

    certificate: Mapping[str, Any]
    subjects: Mapping[str, Mapping[str, str]]
    roles: Mapping[str, str]
    checkpoint: Note
    entries: tuple[ShownEntry, ...]
    earlier: Mapping[int, tuple[bytes, ...]]

    def to_json(self) -> dict[str, Any]:
        """The statement as in-toto has it."""
        return {
            "_type": STATEMENT,
            "subject": [
                {"name": name, "digest": dict(digest), "annotations": {"role": self.roles[name]}}
                for name, digest in self.subjects.items()
            ],
            "predicateType": PREDICATE,
            "predicate": {
                "certificate": dict(self.certificate),
                "log": {
                    "checkpoint": str(self.checkpoint),
                    "entries": [entry.to_json() for entry in self.entries],
                    "earlier": {str(s): [_text(item) for item in p] for s, p in self.earlier.items()},
                },
            },
        }

    @classmethod
    def from_payload(cls, payload: bytes) -> Statement:
        """Read a statement; nothing that it says is checked.

        Raises:
            BadInput: it is none, or one of another type.
        """
        body = read_json(payload, "statement")
        for key, wanted in (("_type", STATEMENT), ("predicateType", PREDICATE)):
            if body.get(key) != wanted:
                raise BadInput(f"{key} of the statement", body.get(key), wanted)
        try:
            log = body["predicate"]["log"]
            return cls(
                certificate=dict(body["predicate"]["certificate"]),
                subjects={s["name"]: dict(s["digest"]) for s in body["subject"]},
                roles={s["name"]: str(s["annotations"]["role"]) for s in body["subject"]},
                checkpoint=Note.parse(log["checkpoint"]),
                entries=tuple(ShownEntry.from_json(entry) for entry in log["entries"]),
                earlier={int(s): tuple(_bytes(item) for item in p) for s, p in log["earlier"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput("statement", payload[:80], f"an erasure certificate's ({error!r})") from error

    def signed(self, key: SigningKey) -> Envelope:
        """The statement in an envelope."""
        payload = json.dumps(self.to_json(), allow_nan=False).encode()
        return Envelope.signed(PAYLOAD, payload, [key])


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The file beside a certificate.

    Attributes:
        envelope: with the statement.
        checkpoint: the statement's, with whatever cosignatures have come since; None without any.
        stamps: RFC 3161 responses over the checkpoint's text.
        rotations: hand-overs of the log's key, the oldest first.
    """

    envelope: Envelope
    checkpoint: Note | None = None
    stamps: tuple[bytes, ...] = ()
    rotations: tuple[Envelope, ...] = field(default=())

    def to_json(self) -> bytes:
        """The file."""
        body = {
            "format": FORMAT,
            "envelope": self.envelope.to_json(),
            "checkpoint": None if self.checkpoint is None else str(self.checkpoint),
            "stamps": [_text(stamp) for stamp in self.stamps],
            "rotations": [rotation.to_json() for rotation in self.rotations],
        }
        return json.dumps(body, indent=1).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Evidence:
        """Read the file; nothing is checked.

        Raises:
            BadInput: it is none, or a newer rayunlearn wrote it.
        """
        body = read_json(data, "evidence")
        if body.get("format") != FORMAT:
            allowed = f"{FORMAT}, as `report --key` writes it"
            raise BadInput("format of the evidence", body.get("format"), allowed)
        try:
            note = body["checkpoint"]
            return cls(
                envelope=Envelope.from_json(body["envelope"]),
                checkpoint=None if note is None else Note.parse(note),
                stamps=tuple(_bytes(stamp) for stamp in body["stamps"]),
                rotations=tuple(Envelope.from_json(rotation) for rotation in body["rotations"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BadInput("evidence", data[:80], f"as `report --key` writes it ({error!r})") from error


def subjects_of(
    certificate: Mapping[str, Any], files: Mapping[str, bytes], kept: Mapping[str, str]
) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Subjects and their roles: the certificate's files, the versions before and after.

    Args:
        certificate: as its JSON has it.
        files: name -> content of the certificate's files.
        kept: name in the storage location -> SHA-256 of the files of versions that are kept.
    """
    subjects = {name: {"sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    roles = dict.fromkeys(files, "certificate")
    for when, version in certificate["versions"].items():
        if version:
            path = version["path"]
            file = {"sha256": kept[path]} if path in kept else {}
            subjects[path] = {WEIGHTS_DIGEST: version["version"], **file}
            roles[path] = f"version {when}"
    return subjects, roles


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _bytes(text: Any) -> bytes:
    return base64.b64decode(text, validate=True)

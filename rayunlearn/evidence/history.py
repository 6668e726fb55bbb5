"""The keys of one log, one after another: each hands over to the next by a statement that both sign.

An auditor pins the first key that he was given. What came later is taken from hand-overs, each signed by the
key before; the key that took over signs as well, which shows that somebody holds it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.evidence.canonical import canonical_json, written
from rayunlearn.evidence.envelope import Envelope, read_json
from rayunlearn.evidence.keys import SIGNS, SigningKey, VerifierKey

ROTATION = "application/vnd.rayunlearn.key-rotation+json"
"""The payload type of a hand-over."""


def hand_over(old: SigningKey, new: SigningKey, at: datetime) -> Envelope:
    """The statement by which a key hands over to the next one.

    Raises:
        BadInput: the keys are of two logs, are the same, or are a witness's.
    """
    told = {"from": str(old.verifier), "to": str(new.verifier), "at": written(at)}
    envelope = Envelope.signed(ROTATION, canonical_json(told), [old, new])
    KeyHistory(keys=((old.verifier, None),)).extended(envelope)
    return envelope


@dataclass(frozen=True, kw_only=True)
class KeyHistory:
    """Keys with the time from which each one is in force; the first one's is not known.

    Attributes:
        keys: the oldest first.
    """

    keys: tuple[tuple[VerifierKey, datetime | None], ...]

    @classmethod
    def parse(cls, text: str) -> KeyHistory:
        """Read a file of public keys: a verifier key, then a hand-over on each line.

        Raises:
            BadInput: a line is neither, or a hand-over does not follow from the line before.
        """
        first, *others = [line for line in text.splitlines() if line.strip()] or [""]
        key = VerifierKey.parse(first)
        if key.kind != SIGNS:
            raise BadInput("key", first, "a key that signs; this is a witness's")
        history = cls(keys=((key, None),))
        for line in others:
            history = history.extended(Envelope.from_json(read_json(line.encode(), "hand-over of a key")))
        return history

    @property
    def name(self) -> str:
        """Of the log whose keys these are."""
        return self.keys[0][0].name

    @property
    def current(self) -> VerifierKey:
        """The key in force."""
        return self.keys[-1][0]

    def extended(self, envelope: Envelope) -> KeyHistory:
        """The history with a hand-over from the key in force.

        Raises:
            BadInput: it is from another key, is not signed by both, or goes back in time.
        """
        old, new, at = _read(envelope)
        since = self.keys[-1][1]
        problem = None
        if old != self.current:
            problem = f"a hand-over from {self.current}, the key in force"
        elif (new.name, new.kind) != (old.name, old.kind) or new == old:
            problem = f"a hand-over to another key of {old.name}"
        elif not envelope.is_signed_by(old):
            problem = f"signed by {old}, which hands over"
        elif not envelope.is_signed_by(new):
            problem = f"signed by {new}, which takes over"
        elif since is not None and at <= since:
            problem = f"later than {since.isoformat()}, when the key took over itself"
        if problem:
            raise BadInput("hand-over of a key", f"from {old} to {new} at {at.isoformat()}", problem)
        return KeyHistory(keys=(*self.keys, (new, at)))

    def followed(self, envelopes: Sequence[Envelope]) -> KeyHistory:
        """The history with what a certificate tells of later hand-overs; earlier ones are passed over.

        Raises:
            BadInput: a hand-over contradicts the history: one key would have two successors.
        """
        history = self
        for envelope in envelopes:
            old, new, _ = _read(envelope)
            successors = {a: b for (a, _), (b, _) in zip(history.keys, history.keys[1:], strict=False)}
            if old == history.current:
                history = history.extended(envelope)
            elif old in successors and successors[old] != new:
                allowed = f"to {successors[old]}, as pinned"
                raise BadInput("hand-over of a key", f"from {old} to {new}", allowed)
        return history

    def signer(self, envelope: Envelope) -> tuple[VerifierKey, datetime | None, datetime | None] | None:
        """The key that signed an envelope, since when and until when it is in force; None if none did."""
        ends = [since for _, since in self.keys[1:]] + [None]
        for (key, since), until in zip(self.keys, ends, strict=True):
            if envelope.is_signed_by(key):
                return key, since, until
        return None


def _read(envelope: Envelope) -> tuple[VerifierKey, VerifierKey, datetime]:
    if envelope.payload_type != ROTATION:
        raise BadInput("type of a hand-over", envelope.payload_type, ROTATION)
    told: Any = read_json(envelope.payload, "hand-over of a key")
    try:
        at = datetime.fromisoformat(told["at"])
        if at.utcoffset() is None:
            raise ValueError("no time zone")
        return VerifierKey.parse(told["from"]), VerifierKey.parse(told["to"]), at.astimezone(UTC)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInput("hand-over of a key", told, f"from, to and at ({error})") from error


def one_line(envelope: Envelope) -> str:
    """An envelope as a line of a file of public keys."""
    return json.dumps(envelope.to_json(), sort_keys=True) + "\n"

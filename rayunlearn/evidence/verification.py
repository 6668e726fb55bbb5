"""Is a certificate what it says it is? Checked offline, from its file and what the auditor holds.

Each check either adds a line to what was shown or ends with `NotVerified`, which names its kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import BufferedIOBase

from rayunlearn.errors import BadInput, NotVerified
from rayunlearn.evidence.claims import contradictions
from rayunlearn.evidence.envelope import read_json
from rayunlearn.evidence.history import KeyHistory
from rayunlearn.evidence.keys import VerifierKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.statement import PAYLOAD, WEIGHTS_DIGEST, Evidence, Statement
from rayunlearn.evidence.tree import verify_consistency
from rayunlearn.evidence.weights_digest import weights_digest

KINDS = {
    "format": "the file is no evidence of a certificate",
    "signature": "the statement is not signed by the key, or by one that it handed over to",
    "key": "hand-overs of keys contradict each other, or the key was not in force",
    "file": "a file of the certificate is not the one that was signed",
    "checkpoint": "the checkpoint is not the log's",
    "inclusion": "an entry is not in the log",
    "claims": "the certificate says otherwise than the log's entries",
    "consistency": "the log was rewritten, cut off or forked since an earlier checkpoint",
    "witness": "a witness has not cosigned the checkpoint",
    "stamp": "the time stamp is not one of the authority over this checkpoint",
    "model": "a model file is not the version that the certificate names",
}
"""What can be found false; every sentence of an error begins with one of these."""

LIMITS = (
    "That nothing of what was to be forgotten is left in the weights. That an algorithm ran is auditable; "
    "that nothing is left in the weights is not: the same weights can come from data with it and without it "
    "(A. Thudi, H. Jia, I. Shumailov, N. Papernot, On the Necessity of Auditable Algorithmic Definitions for "
    "Machine Unlearning, USENIX Security 2022). The measures are evidence of another kind.",
    "That the entries were true when they were written: that is the operator's word. From the checkpoint on "
    "nobody can change them unseen.",
    "That no other entry speaks of this request: a proof shows what is in the log, not what is not.",
)
"""What no check here shows."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """What an auditor holds besides the certificate; what is left out is not checked.

    Attributes:
        keys: pinned keys of the log.
        files: name -> content of the certificate's files.
        earlier: a checkpoint that the auditor has kept.
        proof: of consistency between it and the certificate's, where the certificate has none of it.
        witnesses: keys of those who must have cosigned.
        authority: certificate of the time stamping authority, or of who certified it, as PEM.
        models: `before` or `after` -> the file of that version.
    """

    keys: KeyHistory
    files: Mapping[str, bytes] = field(default_factory=dict)
    earlier: Note | None = None
    proof: Sequence[bytes] | None = None
    witnesses: Sequence[VerifierKey] = ()
    authority: bytes | None = None
    models: Mapping[str, BufferedIOBase] = field(default_factory=dict)


def verify(data: bytes, given: Given) -> Iterator[tuple[bool, str]]:
    """Check a certificate's evidence; what was shown (True) and what was not (False), a line for each.

    Raises:
        NotVerified: something is false; its kind is one of `KINDS`.
        BadInput: the auditor's own checkpoint or certificates are none.
    """
    try:
        yield from _checked(data, given)
    except (RecursionError, OverflowError) as error:  # of what is nested too deeply, of numbers too large
        raise NotVerified("format", f"the evidence cannot be read ({error})") from error


def _checked(data: bytes, given: Given) -> Iterator[tuple[bool, str]]:
    try:
        evidence = Evidence.from_json(data)
    except BadInput as error:
        raise NotVerified("format", str(error)) from error
    keys, signed = _signed(evidence, given.keys)
    statement = _statement(evidence)
    yield from signed
    yield from _in_force(keys, evidence, statement)
    yield from _files(statement, given.files)
    checkpoint, note = _checkpoint(evidence, statement, keys)
    told = f"checkpoint of {checkpoint.origin}: {checkpoint.size} entries, root {checkpoint.root.hex()}"
    yield True, f"{told}, signed by the log"
    yield True, _included(statement, checkpoint)
    yield True, _borne_out(statement)
    yield False, "what the certificate says beside these rows (what methods declare, what is still stored)"
    yield _consistent(statement, checkpoint, keys, given)
    yield from _cosigned(note, given.witnesses)
    yield from _stamped(evidence, note, keys, given.authority)
    yield from _models(statement, given.models)


def _signed(evidence: Evidence, pinned: KeyHistory) -> tuple[KeyHistory, list[tuple[bool, str]]]:
    envelope = evidence.envelope
    if envelope.payload_type != PAYLOAD:
        raise NotVerified("format", f"the payload is {envelope.payload_type!r}, allowed: {PAYLOAD!r}")
    try:
        keys = pinned.followed(evidence.rotations)
    except BadInput as error:
        raise NotVerified("key", str(error)) from error
    found = keys.signer(envelope)
    if found is None:
        told = ", ".join(key for key, _ in envelope.signatures)
        wanted = ", ".join(key.id for key, _ in keys.keys)
        raise NotVerified("signature", f"signed by key {told}, or changed since; allowed: {wanted}")
    key, _, _ = found
    later = "" if key == pinned.keys[0][0] else ", which the pinned key handed over to"
    return keys, [(True, f"signature of {key.name}, key id {key.id}{later}")]


def _statement(evidence: Evidence) -> Statement:
    try:
        return Statement.from_payload(evidence.envelope.payload)
    except BadInput as error:
        raise NotVerified("format", str(error)) from error


def _in_force(keys: KeyHistory, evidence: Evidence, statement: Statement) -> Iterator[tuple[bool, str]]:
    """The key was in force when the certificate was made, by the signer's own clock."""
    found = keys.signer(evidence.envelope)
    assert found is not None, "asked of signed ones alone"
    _, since, until = found
    try:
        made = datetime.fromisoformat(statement.certificate["made"]["at"])
        early, late = since is not None and made < since, until is not None and made >= until
    except (KeyError, TypeError, ValueError) as error:
        raise NotVerified("format", f"the certificate does not say when it was made ({error!r})") from error
    if early or late:
        ends = f"taken over at {since}" if early else f"handed over at {until}"
        raise NotVerified("key", f"the certificate was made at {made}; its key was {ends}")
    if until is not None:
        yield False, f"that it was signed before the key was handed over at {until}: the signer says so"


def _files(statement: Statement, files: Mapping[str, bytes]) -> Iterator[tuple[bool, str]]:
    for name, content in files.items():
        wanted = statement.subjects.get(name, {}).get("sha256")
        if wanted is None:
            raise NotVerified("file", f"{name} is not among what was signed")
        if hashlib.sha256(content).hexdigest() != wanted:
            raise NotVerified("file", f"{name} has another SHA-256 than the one that was signed, {wanted}")
        if name.endswith(".json") and not _says_the_same(content, statement):
            raise NotVerified("file", f"{name} says otherwise than the statement that was signed")
        yield True, f"file {name}: SHA-256 {wanted}"
    for name, role in statement.roles.items():
        if role == "certificate" and name not in files:
            yield False, f"file {name}: not given"


def _says_the_same(content: bytes, statement: Statement) -> bool:
    try:
        return read_json(content, "certificate") == statement.certificate
    except BadInput:
        return False


def _checkpoint(evidence: Evidence, statement: Statement, keys: KeyHistory) -> tuple[Checkpoint, Note]:
    note = statement.checkpoint
    try:
        checkpoint = Checkpoint.of(note)
    except BadInput as error:
        raise NotVerified("checkpoint", str(error)) from error
    if checkpoint.origin != keys.name:
        raise NotVerified("checkpoint", f"it is of log {checkpoint.origin!r}; the key is of {keys.name!r}")
    if not any(note.is_signed_by(key) for key, _ in keys.keys):
        raise NotVerified("checkpoint", f"no key of {keys.name} has signed it")
    later = evidence.checkpoint
    if later is not None and later.text != note.text:
        raise NotVerified("checkpoint", "the cosigned checkpoint is another than the statement's")
    return checkpoint, later or note


def _included(statement: Statement, checkpoint: Checkpoint) -> str:
    entries = statement.entries
    for entry in entries:
        try:
            found = entry.is_in(checkpoint)
        except BadInput:  # rows that have no canonical form
            found = False
        if not found:
            told = f"entry {entry.seq} ({entry.table})"
            raise NotVerified("inclusion", f"{told} is not in the log as it is shown")
    if _told(statement) != sorted((entry.seq, entry.table) for entry in entries):
        raise NotVerified("inclusion", "the entries that are shown are not those that the certificate names")
    return f"{len(entries)} entries that the certificate rests on are in the log, each with its own proof"


def _told(statement: Statement) -> list[tuple[int, str]]:
    """Number and table of the entries that the certificate names."""
    try:
        named = statement.certificate["ledger"]["entries"]
        return sorted((entry["number"], entry["table"]) for entry in named)
    except (KeyError, TypeError) as error:
        raise NotVerified("format", f"the certificate names no entries ({error!r})") from error


def _borne_out(statement: Statement) -> str:
    rows: dict[str, list[Mapping[str, object]]] = {}
    for entry in sorted(statement.entries, key=lambda entry: entry.seq):
        rows.setdefault(entry.table, []).extend(entry.rows[place] for place in sorted(entry.rows))
    try:
        found = [*contradictions(statement.certificate, rows), *_misnamed(statement)]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotVerified("claims", f"certificate or entries cannot be compared ({error!r})") from error
    if found:
        raise NotVerified("claims", "; ".join(found))
    many = sum(map(len, rows.values()))
    return f"request, run, versions, purges and figures are those of {many} rows of these entries"


def _misnamed(statement: Statement) -> list[str]:
    """Subjects that are not the versions which the certificate names."""
    found = []
    for when, version in statement.certificate["versions"].items():
        named = [name for name, role in statement.roles.items() if role == f"version {when}"]
        expected = [version["path"]] if version else []
        told = [statement.subjects[name].get(WEIGHTS_DIGEST) for name in named]
        if named != expected or told != ([version["version"]] if version else []):
            found.append(f"the subject of the version {when} is not the one that the certificate names")
    return found


def _consistent(
    statement: Statement, checkpoint: Checkpoint, keys: KeyHistory, given: Given
) -> tuple[bool, str]:
    note = given.earlier
    if note is None:
        return False, "that the log was not rewritten since an earlier checkpoint: none was given"
    other = Checkpoint.of(note)
    if other.origin != checkpoint.origin or not any(note.is_signed_by(key) for key, _ in keys.keys):
        raise NotVerified("consistency", f"no key of {keys.name} has signed the checkpoint that was given")
    first, second = sorted((other, checkpoint), key=lambda c: c.size)
    proof = given.proof
    if proof is None and first.size in (0, second.size):
        proof = ()
    if proof is None and other.size < checkpoint.size:
        proof = statement.earlier.get(other.size)
    if proof is None:
        told = f"`log prove --first {first.size} --second {second.size}` makes one for --proof"
        raise NotVerified("consistency", f"there is no proof between the two checkpoints; {told}")
    if not verify_consistency(first.size, first.root, second.size, second.root, proof):
        told = f"of {first.size} and {second.size} entries"
        raise NotVerified("consistency", f"the log was rewritten or forked between its checkpoints {told}")
    relation = "begins with" if other.size <= checkpoint.size else "is the beginning of"
    return True, f"the log {relation} that of the checkpoint that was given, of {other.size} entries"


def _cosigned(note: Note, witnesses: Sequence[VerifierKey]) -> Iterator[tuple[bool, str]]:
    if not witnesses:
        yield False, "that others see the same log: no witness's key was given"
    for key in witnesses:
        time_s = note.cosigned_at(key)
        if time_s is None:
            raise NotVerified("witness", f"{key.name} has not cosigned this checkpoint")
        yield True, f"cosigned by {key.name}, at {_moment(time_s)}"


def _moment(time_s: int) -> str:
    try:
        return str(datetime.fromtimestamp(time_s, UTC))
    except (ValueError, OSError, OverflowError):  # beyond what a calendar has
        return f"{time_s} s after the beginning of 1970"


def _stamped(
    evidence: Evidence, note: Note, keys: KeyHistory, authority: bytes | None
) -> Iterator[tuple[bool, str]]:
    if authority is None:
        there = f"{len(evidence.stamps)} stamps are there" if evidence.stamps else "it has no stamp"
        yield False, f"when the checkpoint was made: {there}, and no authority's certificate was given"
        return
    if not evidence.stamps:
        raise NotVerified("stamp", "the certificate has no time stamp")
    from rayunlearn.evidence.stamps import stamped_at  # of the extra `evidence`

    times = [stamped_at(stamp, note.text.encode(), authority) for stamp in evidence.stamps]
    yield True, f"the checkpoint was there at {min(times)}, by the time stamping authority"


def _models(statement: Statement, models: Mapping[str, BufferedIOBase]) -> Iterator[tuple[bool, str]]:
    for when in ("before", "after"):
        file = models.get(when)
        name = next((n for n, role in statement.roles.items() if role == f"version {when}"), None)
        if file is None:
            if name is not None:
                yield False, f"model file of the version {when}: not given"
            continue
        if name is None:
            raise NotVerified("model", f"the certificate names no version {when}")
        wanted, told = statement.subjects[name], statement.certificate["versions"][when]["version"]
        try:
            whole, version = weights_digest(file)
        except BadInput as error:
            raise NotVerified("model", str(error)) from error
        if version != wanted.get(WEIGHTS_DIGEST) or version != told:
            raise NotVerified("model", f"the file holds version {version}; the version {when} is {told}")
        same = "and so is the file, byte for byte" if whole == wanted.get("sha256") else "in another file"
        yield True, f"the weights are those of the version {when}, {version}, {same}"

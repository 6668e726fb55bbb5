"""A certificate's evidence: made of the ledger, signed by the key of the log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.evidence.envelope import Envelope
from rayunlearn.evidence.history import KeyHistory
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.statement import EARLIER, Evidence, ShownEntry, Statement, subjects_of
from rayunlearn.evidence.tree import Tree
from rayunlearn.ledger.ledger import verify
from rayunlearn.ledger.transparency import ROTATIONS, checkpoints, keep_checkpoint, log_of, require_grown
from rayunlearn.storage.store import Store


def rotations(store: Store) -> list[Envelope]:
    """Hand-overs of the log's key, the oldest first.

    Raises:
        BadInput: a file is none.
    """
    return [Envelope.from_json(_json(store.get(name))) for name in store.list(ROTATIONS)]


def keep_rotation(store: Store, envelope: Envelope) -> str:
    """Put a hand-over on record; returns its name."""
    name = f"{ROTATIONS}/{len(store.list(ROTATIONS)) + 1:04d}.json"
    store.create(name, json.dumps(envelope.to_json(), sort_keys=True).encode())
    return name


def _json(data: bytes) -> Any:
    try:
        return json.loads(data)
    except ValueError as error:
        raise BadInput("hand-over of a key", data[:80], "an envelope as JSON") from error


def require_in_force(store: Store, key: SigningKey) -> list[Envelope]:
    """The hand-overs on record, of which none is by this key.

    Raises:
        BadInput: the key was handed over, or does not belong to the log's.
    """
    envelopes = rotations(store)
    own = KeyHistory(keys=((key.verifier, None),))
    if (after := own.followed(envelopes)) != own:
        raise BadInput("key", str(key.verifier), f"{after.current}, to which it was handed over")
    return envelopes


def checkpoint_now(store: Store, key: SigningKey, tree: Tree) -> tuple[Note, list[Checkpoint]]:
    """Sign the log's tree, put the checkpoint on record, and give the earlier ones of this log.

    Args:
        store: the storage location.
        key: the log's.
        tree: of the ledger up to some entry.

    Raises:
        IntegrityError: the ledger is not what earlier checkpoints say, and more.
        BadInput: there is no entry, or the last checkpoint is of another log.
    """
    if not tree.size:
        raise BadInput("entries of the ledger", 0, "at least one")
    known = checkpoints(store)
    before = [note for note in known if Checkpoint.of(note).size <= tree.size]
    if known and (told := Checkpoint.of(known[-1]).origin) != key.verifier.name:
        raise BadInput("name of the key", key.verifier.name, f"{told}, as the checkpoints on record have it")
    if len(before) < len(known):  # somebody else was quicker, or the ledger was cut off
        size, last = Checkpoint.of(known[-1]).size, verify(store)
        if last < size:
            raise IntegrityError(f"entry {last + 1} was removed: a checkpoint on record counts {size}")
    for note in before[-1:]:
        require_grown(tree, note)
    note = Note(text=Checkpoint(origin=key.verifier.name, size=tree.size, root=tree.root()).text).signed(key)
    keep_checkpoint(store, note)
    earlier = [Checkpoint.of(each) for each in before]
    return note, [each for each in earlier if each.size < tree.size]


def attested(
    store: Store, certificate: Mapping[str, Any], files: Mapping[str, bytes], key: SigningKey
) -> Evidence:
    """The evidence of a certificate that was made of a storage location.

    Args:
        store: the storage location; a checkpoint is put on record in it.
        certificate: as `certificate` made it.
        files: name -> content of the certificate's files.
        key: of the log.

    Raises:
        IntegrityError: the ledger is not what earlier checkpoints say, and more.
        BadInput: the key is not the one in force.
    """
    handed_over = require_in_force(store, key)
    numbers = [entry["number"] for entry in certificate["ledger"]["entries"]]
    log = log_of(store, last=certificate["ledger"]["head"]["number"], keep=numbers)
    note, earlier = checkpoint_now(store, key, log.tree)
    kept = [log.kept[number] for number in numbers]
    subjects, roles = subjects_of(certificate, files, _kept_files(store, certificate))
    statement = Statement(
        certificate=certificate,
        subjects=subjects,
        roles=roles,
        checkpoint=note,
        entries=tuple(ShownEntry.of(e.seq, e.table, e.rows, certificate, log.tree) for e in kept),
        earlier={each.size: tuple(log.tree.consistency(each.size)) for each in earlier[-EARLIER:]},
    )
    return Evidence(envelope=statement.signed(key), rotations=tuple(handed_over))


def _kept_files(store: Store, certificate: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the files of the versions before and after, where they are kept."""
    paths = [version["path"] for version in certificate["versions"].values() if version]
    return {path: hashlib.sha256(store.get(path)).hexdigest() for path in paths if store.exists(path)}

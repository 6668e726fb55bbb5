"""A witness: a second party that cosigns a log's checkpoints, each only if the log grew since the last.

By c2sp.org/tlog-witness, without its HTTP interface: the witness keeps the last checkpoint that it cosigned
and asks for a consistency proof from it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayunlearn.errors import NotVerified
from rayunlearn.evidence.history import KeyHistory
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.tree import verify_consistency


def cosign(
    note: Note,
    log: KeyHistory,
    key: SigningKey,
    *,
    last: Note | None,
    proof: Sequence[bytes],
    time_s: int,
) -> Note:
    """The checkpoint with the witness's cosignature.

    Args:
        note: the checkpoint, signed by the log.
        log: keys of the log.
        key: the witness's.
        last: the checkpoint that it cosigned last; None at the first.
        proof: of consistency between the two.
        time_s: now, in seconds of POSIX.

    Raises:
        NotVerified: the log has not signed it, or it is no continuation of what was cosigned last.
        BadInput: the note is no checkpoint.
    """
    checkpoint = Checkpoint.of(note)
    if checkpoint.origin != log.name or not any(note.is_signed_by(each) for each, _ in log.keys):
        raise NotVerified("checkpoint", f"no key of {log.name} has signed this checkpoint")
    if last is not None:
        before = Checkpoint.of(last)
        if last.cosigned_at(key.verifier) is None:
            raise NotVerified("witness", "the state is no checkpoint that this key has cosigned")
        if before.origin != checkpoint.origin:
            raise NotVerified("checkpoint", f"the state is of log {before.origin!r}, this is of {log.name!r}")
        if checkpoint.size < before.size:
            told = f"{before.size} entries were cosigned, this checkpoint has {checkpoint.size}"
            raise NotVerified("consistency", f"the log was cut off: {told}")
        grown = () if before.size in (0, checkpoint.size) else proof
        if not verify_consistency(before.size, before.root, checkpoint.size, checkpoint.root, grown):
            told = f"from {before.size} to {checkpoint.size} entries"
            raise NotVerified("consistency", f"the log was rewritten or forked, or this is no proof {told}")
    return note.cosigned(key, time_s)

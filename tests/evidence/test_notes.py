"""Keys and signed notes: a published example, an independent check of signatures, and what must fail."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from rayunlearn.errors import BadInput
from rayunlearn.evidence.keys import COSIGNS, SIGNS, SigningKey, VerifierKey
from rayunlearn.evidence.notes import Checkpoint, Note

# The example of the reference implementation, golang.org/x/mod/sumdb/note (note_test.go).
PUBLISHED_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PUBLISHED_SEED = "AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PUBLISHED = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FF"
    "YC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
LOG = SigningKey("log.example.org/ledger", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
WITNESS = SigningKey("witness.example.org", Ed25519PrivateKey.from_private_bytes(bytes(32)), COSIGNS)
CHECKPOINT = Checkpoint(origin="log.example.org/ledger", size=8, root=bytes(range(32)))


def test_the_published_note_verifies_and_is_made_anew() -> None:
    """Key, text and signature of the reference, to the byte; Ed25519 is deterministic (RFC 8032)."""
    key, note = VerifierKey.parse(PUBLISHED_KEY), Note.parse(PUBLISHED)
    assert str(key) == PUBLISHED_KEY and str(note) == PUBLISHED
    assert note.is_signed_by(key)
    private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(PUBLISHED_SEED)[1:])
    assert str(Note(text=note.text).signed(SigningKey("PeterNeumann", private))) == PUBLISHED


@pytest.mark.parametrize(
    "changed",
    [
        PUBLISHED.replace("answer", "Answer"),
        PUBLISHED.replace("x08go/ZJ", "x08go/ZK"),
        PUBLISHED.replace("— PeterNeumann ", "— PeterNewmann "),
    ],
)
def test_a_changed_note_does_not_verify(changed: str) -> None:
    """Text, signature and name of the key; negative control of the published note."""
    assert not Note.parse(changed).is_signed_by(VerifierKey.parse(PUBLISHED_KEY))


@pytest.mark.parametrize(
    "malformed",
    [
        "",
        "text\n",
        "text\n\n",
        PUBLISHED.removesuffix("\n"),
        PUBLISHED.replace("\n\n", "\n"),
        PUBLISHED.replace("— ", "- "),
        PUBLISHED.replace("AM=\n", "AN=\n"),  # base64 that decodes to the same bytes
        PUBLISHED + "\n",
        PUBLISHED.replace("If you", "If\tyou"),
    ],
)
def test_what_is_no_note_is_refused(malformed: str) -> None:
    """Each is named as no note; the published one is (above)."""
    with pytest.raises(BadInput, match="note"):
        Note.parse(malformed)


def test_every_part_of_a_verifier_key_is_needed() -> None:
    """No shorter piece of the published key is one, nor is one with a byte changed."""
    for begin in range(len(PUBLISHED_KEY)):
        for end in range(begin, len(PUBLISHED_KEY) + 1):
            if end - begin < len(PUBLISHED_KEY):
                with pytest.raises(BadInput):
                    VerifierKey.parse(PUBLISHED_KEY[begin:end])
    for at in range(len(PUBLISHED_KEY)):
        with pytest.raises(BadInput):
            VerifierKey.parse(PUBLISHED_KEY[:at] + chr(ord(PUBLISHED_KEY[at]) + 1) + PUBLISHED_KEY[at + 1 :])


def test_a_checkpoint_has_three_lines_that_the_log_signs() -> None:
    """Format of c2sp.org/tlog-checkpoint; the signature is checked by `cryptography` alone."""
    note = Note(text=CHECKPOINT.text).signed(LOG)
    root = base64.b64encode(bytes(range(32))).decode()
    assert note.text == f"log.example.org/ledger\n8\n{root}\n"
    read = Note.parse(str(note))
    assert read.is_signed_by(LOG.verifier) and Checkpoint.of(read) == CHECKPOINT
    line = str(note).splitlines()[-1].split(" ")
    data = base64.b64decode(line[2])
    public = Ed25519PublicKey.from_public_bytes(LOG.verifier.public)
    public.verify(data[4:], note.text.encode())
    with pytest.raises(InvalidSignature):
        public.verify(data[4:], note.text.replace("\n8\n", "\n9\n").encode())


@pytest.mark.parametrize(
    "text", ["a\n08\n{}\n", "a\n-1\n{}\n", "a\n8\nAAAA\n", "\n8\n{}\n", "a\n8\n", "a\n\u0668\n{}\n"]
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Sizes have one spelling and roots one length; negative control: the same text with a plain size."""
    root = base64.b64encode(bytes(32)).decode()
    with pytest.raises(BadInput, match="checkpoint"):
        Checkpoint.of(Note(text=text.format(root)))
    assert Checkpoint.of(Note(text=f"a\n8\n{root}\nextension\n")).size == 8


def test_a_cosignature_tells_its_time_and_covers_it() -> None:
    """c2sp.org/tlog-cosignature, checked by `cryptography` alone; with another time or text it fails."""
    note = Note(text=CHECKPOINT.text).signed(LOG).cosigned(WITNESS, 1_700_000_000)
    read = Note.parse(str(note))
    assert read.is_signed_by(LOG.verifier) and read.cosigned_at(WITNESS.verifier) == 1_700_000_000
    data = base64.b64decode(str(note).splitlines()[-1].split(" ")[2])
    assert len(data) == 4 + 8 + 64 and int.from_bytes(data[4:12], "big") == 1_700_000_000
    message = f"cosignature/v1\ntime 1700000000\n{CHECKPOINT.text}".encode()
    Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public).verify(data[12:], message)
    later = data[:4] + (1_700_000_001).to_bytes(8, "big") + data[12:]
    changed = str(note).replace(base64.b64encode(data).decode(), base64.b64encode(later).decode())
    assert Note.parse(changed).cosigned_at(WITNESS.verifier) is None
    assert not read.is_signed_by(WITNESS.verifier) and read.cosigned_at(LOG.verifier) is None
    assert SigningKey(WITNESS.verifier.name, WITNESS._private, SIGNS).verifier.hash != WITNESS.verifier.hash


def test_a_key_is_kept_in_a_file_of_its_owner(tmp_path: Path) -> None:
    """Mode 600 whatever the umask, no file is replaced, and one that others can read is refused."""
    path = tmp_path / "log.key"
    LOG.write(path)
    assert path.stat().st_mode & 0o777 == 0o600
    read = SigningKey.read(path)
    assert read.verifier == LOG.verifier and read.sign(b"m") == LOG.sign(b"m")
    with pytest.raises(BadInput, match="no key is replaced"):
        SigningKey.new("other").write(path)
    path.chmod(0o640)
    with pytest.raises(BadInput, match="600"):
        SigningKey.read(path)
    path.chmod(0o600)
    path.write_text("# rayunlearn key 1 x\nnothing")
    with pytest.raises(BadInput, match="key new"):
        SigningKey.read(path)


def test_a_signing_key_crosses_no_process_boundary() -> None:
    """It cannot be pickled, so no task or actor can be handed it; its public half can."""
    with pytest.raises(TypeError, match="stays in its process"):
        pickle.dumps(LOG)
    assert pickle.loads(pickle.dumps(LOG.verifier)) == LOG.verifier
    assert "PRIVATE" not in repr(LOG) and repr(LOG) == f"SigningKey({LOG.verifier})"


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb", "a\u2003b", "a\x00"])
def test_names_that_a_note_could_not_tell_are_refused(name: str) -> None:
    """White space, plus and control characters; negative control: a host and a path."""
    with pytest.raises(BadInput, match="name of a key"):
        SigningKey.new(name)
    assert SigningKey.new("ledger.example.org/a").verifier.name == "ledger.example.org/a"

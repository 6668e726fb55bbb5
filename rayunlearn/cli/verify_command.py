"""What `rayunlearn verify` runs: a certificate checked offline.

Nothing of this imports Ray or torch or opens a storage location: an auditor needs the files and the key.
"""

from __future__ import annotations

import base64
import binascii
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from io import BufferedIOBase
from pathlib import Path
from typing import Any

from rayunlearn.cli.console import print_json
from rayunlearn.cli.options.verify import VerifyOptions
from rayunlearn.errors import BadInput, ExitCode, NotVerified, RayUnlearnError
from rayunlearn.evidence.envelope import read_json
from rayunlearn.evidence.history import KeyHistory
from rayunlearn.evidence.keys import COSIGNS, VerifierKey
from rayunlearn.evidence.notes import Note
from rayunlearn.evidence.verification import LIMITS, Given, verify

EVIDENCE = ".evidence.json"
"""How the name of the file that is signed ends; those of the certificate's files end otherwise."""

_LARGEST = 1 << 28


def run_verify(options: VerifyOptions) -> int:
    """Check, and say line by line what was shown and what was not; returns the exit code."""
    said: dict[bool, list[str]] = {True: [], False: []}
    say = _say if not options.json else lambda head, text: None
    try:
        with ExitStack() as stack:
            data, given = _given(options, stack)
            for shown, text in verify(data, given):
                said[shown].append(text)
                say("shown:     " if shown else "not shown: ", text)
    except RayUnlearnError as error:
        is_false = error.exit_code == ExitCode.NOT_VERIFIED
        say("FALSE:     " if is_false else "error: ", str(error))
        if options.json:
            _document(False if is_false else None, said, error)
        return error.exit_code
    for text in LIMITS:
        said[False].append(text)
        say("not shown: ", text)
    say("", "True, as far as it is shown above.")
    if options.json:
        _document(True, said, None)
    return ExitCode.OK


def _document(
    is_true: bool | None, said: Mapping[bool, Sequence[str]], error: RayUnlearnError | None
) -> None:
    """What was found as JSON; `true` is null where nothing could be checked."""
    document: dict[str, Any] = {"true": is_true, "shown": said[True], "not_shown": said[False]}
    if error is not None:
        kind = {"kind": error.kind} if isinstance(error, NotVerified) else {}
        document |= {**kind, "error": str(error), "exit_code": int(error.exit_code)}
        print(_plain(f"error: {error}"), file=sys.stderr)
    print_json(document)


def _given(options: VerifyOptions, stack: ExitStack) -> tuple[bytes, Given]:
    path = options.certificate
    if path.name.endswith(EVIDENCE):
        stem = path.name.removesuffix(EVIDENCE)
    elif path.suffix in (".html", ".json"):
        stem, path = path.stem, path.with_name(path.stem + EVIDENCE)
        read(options.certificate, "CERTIFICATE")
    else:
        allowed = f"a file whose name ends in {EVIDENCE}, .json or .html"
        raise BadInput("CERTIFICATE", str(options.certificate), allowed)
    beside = [path.with_name(stem + suffix) for suffix in (".html", ".json")]
    models = {"before": options.before, "after": options.after}
    return read(path, "CERTIFICATE"), Given(
        keys=public_keys("--key", options.key),
        files={file.name: read(file, "CERTIFICATE") for file in beside if file.exists()},
        earlier=None if options.checkpoint is None else read_note("--checkpoint", options.checkpoint),
        proof=None if options.proof is None else read_proof(options.proof),
        witnesses=[witness_key("--witness", file) for file in options.witness],
        authority=None if options.tsa is None else read(options.tsa, "--tsa"),
        models={when: stack.enter_context(_opened(f"--{when}", p)) for when, p in models.items() if p},
    )


def _opened(flag: str, path: Path) -> BufferedIOBase:
    try:
        return path.open("rb")
    except OSError as error:
        raise BadInput(flag, str(path), f"a file that can be read ({error.strerror})") from error


def read(path: Path, flag: str) -> bytes:
    """The bytes of a file that a flag names, `BadInput` where there are none or too many."""
    with _opened(flag, path) as file:
        try:
            data: bytes = file.read(_LARGEST + 1)
        except OSError as error:
            raise BadInput(flag, str(path), f"a file that can be read ({error.strerror})") from error
    if len(data) > _LARGEST:
        raise BadInput(f"size of {flag} in bytes", f"more than {_LARGEST}", f"at most {_LARGEST}")
    return data


def _text(path: Path, flag: str) -> str:
    try:
        return read(path, flag).decode()
    except UnicodeDecodeError as error:
        raise BadInput(flag, str(path), "a file of Unicode text") from error


def public_keys(flag: str, path: Path) -> KeyHistory:
    """The keys in a file of public keys."""
    return KeyHistory.parse(_text(path, flag))


def witness_key(flag: str, path: Path) -> VerifierKey:
    """The key in a witness's public file."""
    key = VerifierKey.parse(_text(path, flag))
    if key.kind != COSIGNS:
        raise BadInput(flag, str(key), "a witness's key, of `key new --witness`")
    return key


def read_note(flag: str, path: Path) -> Note:
    """The note in a file."""
    return Note.parse(_text(path, flag))


def read_proof(path: Path) -> list[bytes]:
    """The hashes in a file that `log prove` wrote."""
    told = read_json(read(path, "--proof"), "--proof")
    try:
        return [base64.b64decode(item, validate=True) for item in told["proof"]]
    except (KeyError, TypeError, binascii.Error) as error:
        raise BadInput("--proof", str(path), "a file that `log prove` wrote") from error


def _say(head: str, said: str) -> None:
    print(head + _plain(said))
    sys.stdout.flush()


def _plain(said: str) -> str:
    """A line without control characters: what a certificate holds must not steer a terminal."""
    spaced = " ".join(said.split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in spaced)

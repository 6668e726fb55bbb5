"""What `rayunlearn log` runs: checkpoints of the ledger, proofs between them, anchors outside."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.text import Text

from rayunlearn.cli.console import print_json, say_error, write_file
from rayunlearn.cli.key_command import signing_key
from rayunlearn.cli.options.log import (
    CheckpointOptions,
    CosignOptions,
    ProveOptions,
    StampOptions,
)
from rayunlearn.cli.verify_command import public_keys, read, read_note, read_proof
from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.evidence.keys import COSIGNS
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.stamps import stamp, stamped_at
from rayunlearn.evidence.statement import Evidence, Statement
from rayunlearn.evidence.witness import cosign
from rayunlearn.ledger.transparency import log_of
from rayunlearn.reports.attested import checkpoint_now, require_in_force
from rayunlearn.reports.terminal import open_console
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store


def run_log(options: CheckpointOptions | ProveOptions | CosignOptions | StampOptions) -> int:
    """Carry out a command on the log; returns the exit code."""
    console = open_console()
    try:
        if isinstance(options, CheckpointOptions):
            said, told = _checkpoint(options)
        elif isinstance(options, ProveOptions):
            said, told = _prove(options)
        elif isinstance(options, CosignOptions):
            said, told = _cosign(options)
        else:
            said, told = _stamp(options)
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code, as_json=options.json)
    if options.json:
        print_json(told)
    else:
        console.print(Text(said), soft_wrap=True)
    return ExitCode.OK


_Told = tuple[str, dict[str, Any]]
"""What is said to people, and the same for programs."""


def _checkpoint(options: CheckpointOptions) -> _Told:
    if options.out is not None:
        require_lasting("--out", options.out)
    store, key = Store.open(options.storage, create=False), signing_key(options.key)
    require_in_force(store, key)
    note, _ = checkpoint_now(store, key, log_of(store).tree)
    if options.out is not None:
        write_file("--out", options.out, str(note).encode())
    return str(note).removesuffix("\n"), {**_of(note), "checkpoint": str(note), "file": options.out}


def _of(note: Note) -> dict[str, Any]:
    """What a checkpoint says of its log."""
    told = Checkpoint.of(note)
    return {"origin": told.origin, "entries": told.size, "root": base64.b64encode(told.root).decode()}


def _prove(options: ProveOptions) -> _Told:
    require_lasting("--out", options.out)
    tree = log_of(Store.open(options.storage, create=False)).tree
    second = tree.size if options.second is None else options.second
    proof = [base64.b64encode(item).decode() for item in tree.consistency(options.first, second)]
    body = {"first": options.first, "second": second, "proof": proof}
    write_file("--out", options.out, json.dumps(body).encode() + b"\n")
    said = f"{options.first} to {second} entries, {len(proof)} hashes: {options.out}"
    return said, {"first": options.first, "second": second, "hashes": len(proof), "file": options.out}


def _cosign(options: CosignOptions) -> _Told:
    key, keys = signing_key(options.key), public_keys("--log", options.log)
    if key.verifier.kind != COSIGNS:
        raise BadInput("--key", str(key.verifier), "a witness's key, of `key new --witness`")
    data = read(options.file, "FILE")
    evidence = Evidence.from_json(data) if data.startswith(b"{") else None
    statement = None if evidence is None else Statement.from_payload(evidence.envelope.payload)
    if evidence is not None and statement is not None:
        note, keys = evidence.checkpoint or statement.checkpoint, keys.followed(evidence.rotations)
    else:
        note = read_note("FILE", options.file)
    with _locked(options.state):
        last = read_note("--state", options.state) if options.state.exists() else None
        proof: list[bytes] | tuple[bytes, ...] = ()
        if options.proof is not None:
            proof = read_proof(options.proof)
        elif last is not None and statement is not None:
            proof = statement.earlier.get(Checkpoint.of(last).size, ())
        cosigned = cosign(note, keys, key, last=last, proof=proof, time_s=int(time.time()))
        # before it is given out: what was given out and is not remembered could be contradicted
        write_file("--state", options.state, str(cosigned).encode())
    content = str(cosigned).encode() if evidence is None else replace(evidence, checkpoint=cosigned).to_json()
    write_file("FILE", options.file, content)
    told = _of(cosigned)
    said = f"Cosigned: {told['origin']}, {told['entries']} entries, in {options.file}"
    return said, {**told, "file": options.file}


@contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One witness at a time has the state."""
    try:
        descriptor = os.open(state.with_name(f"{state.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise BadInput("--state", str(state), f"a file that can be written ({error.strerror})") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _stamp(options: StampOptions) -> _Told:
    evidence = Evidence.from_json(read(options.file, "FILE"))
    note: Note = Statement.from_payload(evidence.envelope.payload).checkpoint
    response = stamp(note.text.encode(), options.url)
    at: datetime | None = None
    if options.tsa is not None:
        at = stamped_at(response, note.text.encode(), read(options.tsa, "--tsa"))
    write_file("FILE", options.file, replace(evidence, stamps=(*evidence.stamps, response)).to_json())
    said = f"Stamped at {at:%Y-%m-%d %H:%M:%S} UTC" if at else "Stamped; unchecked, without --tsa"
    return f"{said}, in {options.file}", {"stamped_at": at, "file": options.file}

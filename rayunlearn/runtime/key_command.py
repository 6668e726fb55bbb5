"""What `python -m rayunlearn key` runs: keys that sign made, and handed over to the next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.text import Text

from rayunlearn.access import readable_when_sealed
from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.evidence.history import hand_over, one_line
from rayunlearn.evidence.keys import COSIGNS, SIGNS, SigningKey
from rayunlearn.results.attested import keep_rotation, require_in_force
from rayunlearn.results.lasting import require_lasting
from rayunlearn.results.store import Store
from rayunlearn.results.terminal import open_console
from rayunlearn.runtime.console import say_error, write_file
from rayunlearn.runtime.verify_command import public_keys


@dataclass(frozen=True, kw_only=True)
class NewOptions:
    """Make an Ed25519 key: FILE, which its owner alone can read, and FILE.pub, which is to be given out."""

    name: str
    """Name of the log or the witness, such as erasure.example.org/ledger; it stays over every hand-over."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write; it must not be there yet."""

    witness: bool = False
    """The key is a witness's, which cosigns checkpoints and signs nothing else."""


@dataclass(frozen=True, kw_only=True)
class RotateOptions:
    """Hand over to a new key: the old one signs the new one, and both are on record in the storage."""

    key: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File of the key in force; it signs no certificate any more."""

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """File to write for the new key; FILE.pub has the old public keys and the hand-over as well."""

    storage: str = "storage"
    """Folder, or s3://bucket/prefix, with versions and ledger."""


@dataclass(frozen=True, kw_only=True)
class KeyOptions:
    """Make the key that signs certificates and checkpoints, or hand over to the next one."""

    command: (
        Annotated[NewOptions, tyro.conf.subcommand("new")]
        | Annotated[RotateOptions, tyro.conf.subcommand("rotate")]
    )


def run_key(options: NewOptions | RotateOptions, *, now: datetime | None = None) -> int:
    """Make a key or hand one over; returns the exit code."""
    console = open_console()
    try:
        if isinstance(options, NewOptions):
            key = SigningKey.new(options.name, COSIGNS if options.witness else SIGNS)
            _write(console, options.out, key, f"{key.verifier}\n")
        else:
            _rotate(console, options, now or datetime.now(UTC))
    except RayUnlearnError as error:
        return say_error(console, str(error), error.exit_code)
    return ExitCode.OK


def signing_key(path: Path) -> SigningKey:
    """The key in a file that no process which runs methods can read.

    Raises:
        BadInput: it can be read there or by others, or holds no key.
    """
    _require_apart(path)
    return SigningKey.read(path)


def public_file(path: Path) -> Path:
    """Where the public half of a key is."""
    return path.with_name(f"{path.name}.pub")


def _require_apart(path: Path) -> None:
    if readable_when_sealed(path):
        allowed = "a file outside of the software's and the operating system's folders"
        raise BadInput("key file", str(path), f"{allowed}: processes that run methods can read those")


def _write(console: Console, path: Path, key: SigningKey, public: str) -> None:
    require_lasting("--out", path)
    _require_apart(path)
    key.write(path)
    write_file("--out", public_file(path), public.encode())
    console.print(Text(f"Private key, for its owner alone: {path}"), soft_wrap=True)
    console.print(Text(f"Public key, to be given out: {public_file(path)}"), soft_wrap=True)
    console.print(Text(f"Key id: {key.verifier.id}"), soft_wrap=True)


def _rotate(console: Console, options: RotateOptions, now: datetime) -> None:
    store = Store.open(options.storage, create=False)
    old = signing_key(options.key)
    require_in_force(store, old)
    known = public_keys("--key", public_file(options.key))
    if known.current != old.verifier:
        raise BadInput(f"{public_file(options.key)}", str(known.current), f"{old.verifier}, of {options.key}")
    new = SigningKey.new(old.verifier.name)
    envelope = hand_over(old, new, now)
    history = public_file(options.key).read_text().rstrip("\n") + "\n" + one_line(envelope)
    known.extended(envelope)
    _write(console, options.out, new, history)
    name = keep_rotation(store, envelope)  # last: what is on record has its key
    console.print(Text(f"On record: {store.address(name)}"), soft_wrap=True)

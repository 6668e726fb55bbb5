"""What `rayunlearn key` runs: keys that sign made, and handed over to the next."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rayunlearn.access import readable_when_sealed
from rayunlearn.cli.console import say_error, write_file
from rayunlearn.cli.options.key import NewOptions, RotateOptions
from rayunlearn.cli.verify_command import public_keys
from rayunlearn.errors import BadInput, ExitCode, RayUnlearnError
from rayunlearn.evidence.history import hand_over, one_line
from rayunlearn.evidence.keys import COSIGNS, SIGNS, SigningKey
from rayunlearn.reports.attested import keep_rotation, require_in_force
from rayunlearn.reports.terminal import open_console
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store


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

"""Errors a user can meet, and the exit code that each one ends a job with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

_SHOWN = 1000
"""Characters of a value that an error shows."""
_LISTED = 60
"""Names that are listed where none is near."""


class ExitCode(IntEnum):
    """The one table of exit codes, shared by every entry point."""

    meaning: str
    """What a user has to know of it; the help and the documents show it."""

    OK = 0, "everything was done; of `serve`: every request was served"
    INTERNAL = 1, "a fault of the program, of the cluster or of what is stored"
    BAD_INPUT = 2, "the command cannot be carried out as asked; nothing was trained"
    NOTHING_ADMISSIBLE = 3, "every request that ran was refused by the stopping rule or the gate"
    PARTIAL = 4, "some requests were served; others were rejected or failed"
    STORAGE_HELD = 5, "another scheduler holds the storage location"
    INTERRUPTED = 6, "stopped by a signal after a checkpoint; the same command goes on"
    OUTPUT_LOST = 7, "everything was done, but not all of the output could be written"
    NOT_VERIFIED = 8, "something about a certificate, a checkpoint or a replay is not true"

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """A number that knows its meaning."""
        code = int.__new__(cls, value)
        code._value_, code.meaning = value, meaning
        return code


class RayUnlearnError(Exception):
    """Base of the errors that are shown as one sentence rather than a traceback.

    >>> str(RayUnlearnError("no field \\udcff"))
    'no field \\\\udcff'
    """

    exit_code = ExitCode.INTERNAL

    def __str__(self) -> str:
        """The sentence; of what it quotes not everything need be printable."""
        return printable(super().__str__())


class BadInput(RayUnlearnError, ValueError):
    """Something given by the user is not allowed.

    The message names the thing, its value and what is allowed.
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, thing: str, value: object, allowed: str, *, where: str = "") -> None:
        self.thing = thing
        self.value = value
        self.allowed = allowed
        self.where = where
        prefix = f"{where}: " if where else ""
        super().__init__(f"{prefix}{_cut(thing)} is {shown(value)}; allowed: {allowed}")

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole."""
        return _bad_input, (self.thing, self.value, self.allowed, self.where)


def _bad_input(thing: str, value: object, allowed: str, where: str) -> BadInput:
    return BadInput(thing, value, allowed, where=where)


def printable(text: str) -> str:
    """A text with what no terminal, file or test runner takes, lone surrogates, escaped."""
    return text.encode(errors="backslashreplace").decode()


def shown(value: object) -> str:
    """A value as an error shows it: its `repr`, or the start of that where it is long.

    >>> shown("x" * 2000)[-4:], shown(10**5000)
    ('xxx…', 'a whole number of too many digits')
    """
    try:
        text = repr(value)
    except ValueError:  # Python turns so many digits into no text
        return "a whole number of too many digits"
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


class DataWarning(UserWarning):
    """What has to be known of given data and stops nothing: what was left out, what is there twice.

    Readers give it by `warnings.warn`; whoever calls them for a user shows it.
    """


class NotInstalled(RayUnlearnError, ModuleNotFoundError):
    """A package is missing that an extra of rayunlearn brings.

    >>> str(NotInstalled("ray", "ray"))
    "the package ray is not installed; pip install 'rayunlearn[ray]' brings it"
    """

    exit_code = ExitCode.BAD_INPUT

    def __init__(self, package: str, extra: str) -> None:
        self.extra = extra
        said = f"the package {package} is not installed; pip install 'rayunlearn[{extra}]' brings it"
        super().__init__(said, name=package)

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole."""
        return NotInstalled, (self.name, self.extra)


class StorageHeld(RayUnlearnError):
    """Another scheduler holds the storage location."""

    exit_code = ExitCode.STORAGE_HELD


class Interrupted(RayUnlearnError):
    """The job was asked to stop and has checkpointed."""

    exit_code = ExitCode.INTERRUPTED


class IntegrityError(RayUnlearnError):
    """Stored bytes are not what their hash, name or chain says."""

    exit_code = ExitCode.INTERNAL


class NotVerified(RayUnlearnError):
    """What a certificate states was checked and is not true.

    >>> str(NotVerified("inclusion", "entry 3 is not in the log"))
    'not verified (inclusion): entry 3 is not in the log'
    """

    exit_code = ExitCode.NOT_VERIFIED

    def __init__(self, kind: str, said: str) -> None:
        self.kind = kind
        self.said = said
        super().__init__(f"not verified ({kind}): {said}")

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process boundary whole."""
        return NotVerified, (self.kind, self.said)


class AccessDenied(RayUnlearnError):
    """Code reached for data that it was not granted.

    No OSError, which libraries catch where a file may be missing: a refusal must not pass for that.
    """

    exit_code = ExitCode.INTERNAL


class ImportDenied(AccessDenied, ImportError):
    """A module that loads data was imported where that is refused; optional imports go on without it."""


def nearest(name: str, valid: Iterable[str], *, n: int = 3) -> str:
    """Say which valid names are nearest to a wrong one.

    >>> nearest("gkt.epsilom", ["gkt.epsilon", "gkt.beta"])
    "'gkt.epsilon' (nearest of 2)"
    >>> nearest("zzz", ["b", "a"])
    "'a', 'b'"
    """
    names = sorted(valid)
    # of many names the nearest are told, however far they are
    cutoff = 0.6 if len(names) <= _LISTED else 0.0
    close = difflib.get_close_matches(name[:_SHOWN], names, n=n, cutoff=cutoff)
    if close:
        return ", ".join(map(repr, close)) + f" (nearest of {len(names)})"
    return ", ".join(map(repr, names))

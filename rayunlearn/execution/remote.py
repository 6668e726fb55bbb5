"""What other processes answer; what they raised is raised here as itself, and told in one sentence."""

from __future__ import annotations

import functools
import re
import traceback
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
    WorkerCrashedError,
)

from rayunlearn.errors import DataWarning, RayUnlearnError, printable
from rayunlearn.execution.data_warnings import caught

T = TypeVar("T")

MOST_RECORDED = 20_000
"""Characters of a traceback that are put on record, the last ones."""
LOSSES = (RayActorError, WorkerCrashedError, NodeDiedError, ObjectLostError, OutOfMemoryError)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def fetch(references: Any) -> Any:
    """`ray.get`, but an error of the other process is raised as what it was there.

    Ray raises one whose text is the other process's whole traceback, whatever its class.
    """
    try:
        return ray.get(references)
    except RayTaskError as error:
        raise original(error) from error


def telling(call: Callable[..., Any]) -> Callable[..., tuple[Any, list[str]]]:
    """A call for another process, where nobody sees a `DataWarning`: gives their texts beside its answer."""

    @functools.wraps(call)
    def tell(*args: Any, **options: Any) -> tuple[Any, list[str]]:
        return caught(lambda: call(*args, **options))

    return tell


def fetch_told(reference: Any, say: Callable[[str], None]) -> Any:
    """`fetch` of a call that is `telling`; what it warned of is said here."""
    answer, texts = fetch(reference)
    for text in texts:
        say(text)
    return answer


def warn_here(text: str) -> None:
    """Give a warning of another process in this one."""
    warnings.warn(DataWarning(text), stacklevel=3)


def original(error: BaseException) -> BaseException:
    """What was raised in the process that it began in."""
    seen = set()
    while isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        if id(error) in seen:
            break
        seen.add(id(error))
        error = error.cause
    return error


def is_loss(error: BaseException) -> bool:
    """Whether a process or a node is gone, rather than that what it was told to do raised."""
    return isinstance(original(error), LOSSES)


def sentence(error: BaseException) -> str:
    """Why something failed, in one sentence: ours as they are, of others the class and the first line.

    >>> sentence(ValueError("no number\\nin it"))
    'ValueError: no number'
    """
    error = original(error)
    said = _ESCAPES.sub("", str(error)).strip()
    if isinstance(error, RayUnlearnError):
        return said
    first = printable(next(iter(said.splitlines()), "")).strip()
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def recorded(error: BaseException) -> str:
    """The traceback for the record, those of other processes in it, without a terminal's escape codes."""
    text = "".join(traceback.format_exception(error))
    return printable(_ESCAPES.sub("", text))[-MOST_RECORDED:]

"""The files in a folder, and how messages name them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rayunlearn.errors import BadInput

SHOWN = 5
"""Files that a message names; of more it tells the number."""


def files_below(folder: Path) -> Iterator[Path]:
    """All files in and below a folder but hidden ones, folder by folder; links are followed.

    Raises:
        OSError: a folder cannot be listed, which `os.walk` would pass over.
    """
    been: set[str] = set()
    for place, folders, files in os.walk(folder, onerror=_raised, followlinks=True):
        if (real := os.path.realpath(place)) in been:  # a link to a folder above itself
            folders.clear()
            continue
        been.add(real)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(place, file) for file in sorted(files) if not file.startswith("."))


def _raised(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):  # the reader says what is missing
        raise error


@contextmanager
def readable(name: str, folder: str) -> Iterator[None]:
    """Say of what the system refuses of a folder's files which dataset it is of.

    Raises:
        BadInput: in the place of an OSError.
    """
    try:
        yield
    except OSError as error:
        said = f"one that can be read whole ({error.strerror or error}: {error.filename})"
        raise BadInput("folder", folder, said, where=name) from error


def listed(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are.

    >>> listed(["a", "b"]), listed(list("abcdefg"))
    ('a, b', 'a, b, c, d, e and 2 more')
    """
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more

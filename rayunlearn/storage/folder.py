"""Files in a folder, or in memory, by the methods of obstore's stores that `Store` calls.

A storage location in a folder needs no obstore, which the extra `s3` brings. What goes wrong is an `OSError`.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

_STAGED = re.compile(r".*#\d+")


@dataclass(frozen=True)
class Found:
    """What is stored under a name, before its bytes are read."""

    source: Path | bytes
    size: int

    @property
    def meta(self) -> dict[str, int]:
        """The size in bytes."""
        return {"size": self.size}

    def bytes(self) -> bytes:
        """All of it."""
        return self.source.read_bytes() if isinstance(self.source, Path) else self.source


class Folder:
    """A folder and all that is below it.

    A file is written under another name beside its own, `NAME#1`, which is not listed, and then takes its own
    at once. A process that is killed before leaves the other. With `sync` its bytes are on disk before, so
    that a power failure leaves no name with a part of them.
    """

    def __init__(self, root: Path, *, sync: bool = False) -> None:
        self.root, self.sync = root, sync

    def put(self, name: str, data: bytes, *, mode: str, attributes: Any = None) -> None:
        """Store under a name: with mode "overwrite" over what is there, with "create" where nothing is."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:  # which would say that the name is taken
            os.stat(path.parent)  # says so, where links go in a circle
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
        staged = _write_beside(path, data, self.sync)
        if mode == "create":
            try:
                os.link(staged, path)
            finally:
                staged.unlink()
            return
        try:
            os.replace(staged, path)  # after which another one may have the staged name
        except OSError:
            staged.unlink()
            raise

    def get(self, name: str) -> Found:
        """What is stored under a name."""
        return Found(self.root / name, self._size(name))

    def head(self, name: str) -> dict[str, int]:
        """Its size, without reading it."""
        return {"size": self._size(name)}

    def delete(self, name: str) -> None:
        """Delete it."""
        os.unlink(self.root / name)

    def list(self, prefix: str | None = None) -> Iterator[list[dict[str, str]]]:
        """Every name below a folder, in one page."""
        folder = f"{self.root}/{prefix}" if prefix else str(self.root)
        start = len(str(self.root)) + 1
        yield [{"path": path[start:]} for path in _files(folder)]

    def _size(self, name: str) -> int:
        found = os.stat(self.root / name)
        if not stat.S_ISREG(found.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file", name)
        return found.st_size


class Memory:
    """What is kept in this process, and gone with it."""

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes, *, mode: str, attributes: Any = None) -> None:
        """As of `Folder`."""
        with self._lock:
            if mode == "create" and name in self._files:
                raise FileExistsError(errno.EEXIST, "taken", name)
            self._files[name] = bytes(data)

    def get(self, name: str) -> Found:
        """As of `Folder`."""
        data = self._files.get(name)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "not stored", name)
        return Found(data, len(data))

    def head(self, name: str) -> dict[str, int]:
        """As of `Folder`."""
        return self.get(name).meta

    def delete(self, name: str) -> None:
        """Delete it, if it is there."""
        with self._lock:
            self._files.pop(name, None)

    def list(self, prefix: str | None = None) -> Iterator[list[dict[str, str]]]:
        """As of `Folder`."""
        with self._lock:
            names = list(self._files)
        yield [{"path": name} for name in names if not prefix or name.startswith(f"{prefix}/")]


def _write_beside(path: Path, data: bytes, sync: bool) -> Path:
    """Write data to a new file in the same folder; with `sync`, to the disk."""
    for number in count(1):
        staged = path.with_name(f"{path.name}#{number}")
        try:
            file = staged.open("xb")
        except FileExistsError:
            continue  # of another process, which may be dead
        try:
            with file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        return staged
    raise AssertionError("there is always another number")


def _files(folder: str) -> Iterator[str]:
    """Paths of the files below a folder, those of links as well; none where there is no folder."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path)
            elif not _STAGED.fullmatch(entry.name):
                yield entry.path

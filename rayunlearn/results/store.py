"""The storage location of a scheduler: named, whole files under one root.

Names are relative, `/`-separated and plain, so that nothing escapes the root. A file is created under a name
that must not exist yet (`create`, the ledger's way) or replaces what was there at once (`put`, for
checkpoints); readers see all of a file or nothing. obstore has both for folders and for S3-compatible stores;
only folders are opened so far.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import LocalStore, ObjectStore

from rayunlearn.errors import BadInput, RayUnlearnError

FORMAT = 1
"""The layout of a storage location that this code writes, and the newest that it reads."""

MARKER = "rayunlearn.json"
"""Says that a folder is a storage location, and in which format."""

_PART = re.compile(r"[A-Za-z0-9._=-]{1,200}")
_ALLOWED_NAME = (
    "a relative name of parts joined by '/', each of 1 to 200 of A-Z a-z 0-9 . _ = - and neither '.' nor '..'"
)
_STAGED_MARKER = re.compile(re.escape(MARKER) + r"#\d+")


class AlreadyExists(RayUnlearnError, FileExistsError):
    """A name that must not exist yet is taken; what it holds was left alone."""


class NotStored(RayUnlearnError, KeyError):
    """Nothing is stored under this name."""

    def __str__(self) -> str:
        """The message itself; `KeyError` would quote it."""
        return str(self.args[0])


class StoreFailed(RayUnlearnError, OSError):
    """The storage did not do what it was asked (no space, no permission, no connection)."""


class Store:
    """Named files in one storage location; picklable, so that actors can be handed it."""

    def __init__(
        self, backend: ObjectStore, where: str, *, folder: Path | None = None, sync: bool = True
    ) -> None:
        """Take an obstore store as it is; `open` is the way in for users.

        Args:
            backend: the obstore store, rooted at the location.
            where: the location in words, for messages.
            folder: the root, where the location is a folder.
            sync: wait for the disk at each write to a folder. Without it a killed process still loses
                nothing, a power failure can; for tests and benchmarks.
        """
        self.where = where
        self._backend = backend
        self._folder = folder
        self._sync = sync
        self._synced_folders: set[Path] = set()

    @classmethod
    def open(cls, root: str | Path, *, create: bool = True, sync: bool = True) -> Store:
        """Open a folder as a storage location.

        Args:
            root: the folder. One that is empty or not there yet is made into a storage location.
            create: False opens only what is a storage location already, and writes nothing.
            sync: see `Store`.

        Raises:
            BadInput: a file, an unwritable folder, a folder that holds something else, or a newer format.
        """
        if not str(root) or "://" in str(root) or "\0" in str(root):
            raise BadInput("storage", str(root), "the path of a folder (other stores are not supported yet)")
        folder = Path(root).absolute()
        if folder.exists() and not folder.is_dir():
            raise BadInput("storage", str(root), "a folder; this is a file")
        if not create and not folder.is_dir():
            raise BadInput("storage", str(root), "a folder used before; this one does not exist")
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            found = sorted(os.listdir(folder))
            if create:
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise BadInput(
                "storage", str(root), f"a folder that can be made, listed and written to ({error.strerror})"
            ) from error
        store = cls(LocalStore(folder), str(root), folder=folder.resolve(), sync=sync)
        if MARKER not in found:
            # a start killed while it wrote the marker leaves obstore's staged file; that is still empty
            foreign = [name for name in found if not _STAGED_MARKER.fullmatch(name)]
            if foreign or not create:
                holds = f"this one holds {', '.join(foreign[:3])}" if foreign else "this one is empty"
                allowed = "an empty folder or one that a run has used before" if create else "one used before"
                raise BadInput("storage", str(root), f"{allowed} (with {MARKER} in it); {holds}")
            try:
                store._create(MARKER, json.dumps({"format": FORMAT, "written_by": "rayunlearn"}).encode())
            except AlreadyExists:
                pass  # another process was quicker; its marker is checked like any other
        _check_marker(store.get(MARKER), str(root))
        return store

    def create(self, name: str, data: bytes) -> None:
        """Store under a name that must not exist yet.

        Raises:
            AlreadyExists: the name is taken; of several at once, exactly one succeeds.
        """
        self._create(self._writable(name), data)

    def put(self, name: str, data: bytes) -> None:
        """Store under a name, replacing at once what was there."""
        with self._failures("write", self._writable(name)):
            obstore.put(self._backend, name, data, mode="overwrite")
            self._to_disk(name)

    def get(self, name: str) -> bytes:
        """The bytes stored under a name.

        Raises:
            NotStored: there is nothing under this name.
        """
        with self._failures("read", self._checked(name)):
            return obstore.get(self._backend, name).bytes().to_bytes()

    def list(self, prefix: str = "") -> list[str]:
        """The names below a folder (whole parts, so `a` does not list `ab/c`), sorted; all names for ''."""
        folder = prefix.removesuffix("/")
        if folder:
            self._checked(folder)
        with self._failures("list", folder or "everything"):
            pages = obstore.list(self._backend, prefix=folder or None)
            return sorted(item["path"] for page in pages for item in page if item["path"] != MARKER)

    def delete(self, name: str) -> None:
        """Delete what is stored under a name, if anything is."""
        try:
            with self._failures("delete", self._writable(name)):
                obstore.delete(self._backend, name)
        except NotStored:
            pass  # S3 does not say whether there was anything; folders are made to behave alike

    def exists(self, name: str) -> bool:
        """Whether something is stored under a name."""
        try:
            with self._failures("look up", self._checked(name)):
                obstore.head(self._backend, name)
        except NotStored:
            return False
        return True

    def local_path(self, name: str) -> Path:
        """The path of a name, for readers that need a file; only where the location is a folder."""
        self._checked(name)
        if self._folder is None:
            raise BadInput("storage", self.where, "a folder, for what needs a path")
        return self._folder / name

    def _create(self, name: str, data: bytes) -> None:
        with self._failures("create", name):
            obstore.put(self._backend, name, data, mode="create")
            self._to_disk(name)

    def _writable(self, name: str) -> str:
        if name == MARKER:
            raise BadInput("name", name, "any other: this one marks the storage location")
        return self._checked(name)

    def _checked(self, name: str) -> str:
        parts = name.split("/") if isinstance(name, str) else [""]
        if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
            raise BadInput("name", name, _ALLOWED_NAME, where=self.where)
        if self._folder is not None:
            real = (self._folder / name).resolve()
            if not real.is_relative_to(self._folder):
                inside = f"one inside the root; a symbolic link leads to {real}"
                raise BadInput("name", name, inside, where=self.where)
        return name

    def _to_disk(self, name: str) -> None:
        """Wait until a file just written and the folders that lead to it would survive a power failure."""
        if self._folder is None or not self._sync:
            return
        path = self._folder / name
        _fsync(path)
        _fsync(path.parent)
        folder = path.parent
        while folder not in self._synced_folders and folder != self._folder:
            self._synced_folders.add(folder)
            folder = folder.parent
            _fsync(folder)

    @contextmanager
    def _failures(self, action: str, name: str) -> Iterator[None]:
        """Turn obstore's errors, whose messages run over several lines, into ours."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError) as error:
            raise AlreadyExists(f"{self.where}: {name} exists already and was left as it is") from error
        except FileNotFoundError as error:
            raise NotStored(f"{self.where}: nothing is stored under {name}") from error
        except (BaseError, OSError) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise StoreFailed(f"{self.where}: could not {action} {name}: {reason}") from error


def _check_marker(data: bytes, root: str) -> None:
    try:
        marker = json.loads(data)
    except (ValueError, RecursionError):
        marker = None
    version = marker.get("format") if isinstance(marker, dict) else None
    if type(version) is not int or version < 1:
        allowed = f"a folder whose {MARKER} names its format; this one's cannot be read"
        raise BadInput("storage", root, allowed)
    if version > FORMAT:
        raise BadInput(
            "format of the storage", version, f"at most {FORMAT}; a newer rayunlearn wrote this", where=root
        )


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

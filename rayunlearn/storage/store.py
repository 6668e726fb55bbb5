"""The storage location of a scheduler: named, whole files under one root.

The root is a folder, or a prefix in an S3-compatible store (`s3://bucket/prefix`, see `s3`). Names are
relative, `/`-separated and plain, so that nothing escapes the root. A file is created under a name that
must not exist yet (`create`, the ledger's way) or replaces what was there at once (`put`, for checkpoints);
readers see all of a file or nothing.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.storage import s3
from rayunlearn.storage.folder import Folder, Memory
from rayunlearn.storage.lasting import require_lasting

FORMAT = 1
"""The layout of a storage location that this code writes, and the newest that it reads."""

MARKER = "rayunlearn.json"
"""Says that a folder or a prefix is a storage location, and in which format."""

_PART = re.compile(r"[A-Za-z0-9._=-]{1,200}")
_LONGEST_NAME = 1000
_ALLOWED_NAME = (
    "a relative name of parts joined by '/', each of 1 to 200 of A-Z a-z 0-9 . _ = - and neither '.' nor "
    f"'..', together at most {_LONGEST_NAME} characters"
)
_STAGED_MARKER = re.compile(re.escape(MARKER) + r"#\d+")
_CREATION = "rayunlearn-creation"


class AlreadyExists(RayUnlearnError, FileExistsError):
    """A name that must not exist yet is taken; what it holds was left alone."""


class NotStored(RayUnlearnError, KeyError):
    """Nothing is stored under this name."""

    def __str__(self) -> str:
        """The message itself; `KeyError` would quote it."""
        return str(self.args[0])


class StoreFailed(RayUnlearnError, OSError):
    """The storage did not do what it was asked (no space, no permission, no connection)."""


class NotBegun(BadInput):
    """No storage location yet, but what could become one: an empty or missing folder, or a free prefix."""


class Store:
    """Named files in one storage location; picklable, so that actors can be handed it.

    Credentials for a bucket are not pickled with it: every process takes them from its own environment.
    """

    def __init__(
        self, backend: Any, where: str, *, folder: Path | None = None, sync: bool = True
    ) -> None:
        """Take what holds the files as it is; `open` is the way in for users.

        Args:
            backend: a `Folder`, a `Memory`, or a store of obstore's, rooted at the location.
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

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection to a bucket."""
        return {**vars(self), "_backend": None if s3.is_bucket(self._backend) else self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Connect to a bucket as the environment of this process says."""
        vars(self).update(state)
        if self._backend is None:
            self._backend = s3.connect(self.where)

    @classmethod
    def open(cls, root: str | Path, *, create: bool = True, sync: bool = True) -> Store:
        """Open a storage location.

        Args:
            root: a folder, or `s3://bucket/prefix` with a bucket that is there. One that is empty or not
                there yet is made into a storage location.
            create: False opens only what is a storage location already, and writes nothing.
            sync: see `Store`.

        Raises:
            NotBegun: there is nothing yet, and it was not to be made.
            BadInput: a file, what cannot be reached or written to, what holds something else, a newer format,
                a folder in Ray's copy of a working directory (`lasting`), or a store that overwrites where it
                was asked to create.
        """
        if s3.is_address(root):
            store, found = cls._in_bucket(str(root))
        else:
            store, found = cls._in_folder(root, create, sync)
        try:
            store._begin(found, create)
        except StoreFailed as error:
            allowed = f"one that can be read{' and written to' if create else ''} ({error})"
            raise BadInput("storage", store.where, allowed) from error
        return store

    @classmethod
    def _in_folder(cls, root: str | Path, create: bool, sync: bool) -> tuple[Store, list[str]]:
        """The store, and the names at its root."""
        if not str(root) or "\0" in str(root):
            raise BadInput("storage", str(root), s3.ALLOWED)
        folder = Path(root).absolute()
        try:
            require_lasting("storage", root, bucket=True)
            if folder.exists() and not folder.is_dir():
                raise BadInput("storage", str(root), "a folder; this is a file")
            if not create and not folder.is_dir():
                raise NotBegun("storage", str(root), "a folder used before; this one does not exist")
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            found = sorted(os.listdir(folder))
            if create:
                tempfile.TemporaryFile(dir=folder).close()
        except OSError as error:
            raise BadInput(
                "storage", str(root), f"a folder that can be made, listed and written to ({error.strerror})"
            ) from error
        except UnicodeEncodeError as error:
            raise BadInput("storage", str(root), s3.ALLOWED) from error
        return cls(Folder(folder, sync=sync), str(root), folder=folder.resolve(), sync=sync), found

    @classmethod
    def _in_bucket(cls, address: str) -> tuple[Store, list[str]]:
        """The store, and some names in it; the marker, if that is there."""
        bucket, prefix = s3.parse_address(address)
        where = f"s3://{bucket}/{prefix}".removesuffix("/")
        try:  # with little patience, so that a wrong address is told soon
            pages = s3.connect(where, retries=2).list(chunk_size=10)
            some = [item["path"] for item in next(iter(pages), [])]
        except s3.failures() as error:
            allowed = "a bucket that is there and that the AWS_* variables of the environment give access to"
            raise BadInput("storage", where, f"{allowed} ({s3.reason(error)})") from None
        store = cls(s3.connect(where), where)
        # a console's "create folder" leaves an empty file under the prefix itself
        return store, [MARKER] if store.exists(MARKER) else [name for name in some if name]

    def _begin(self, found: Sequence[str], create: bool) -> None:
        """Mark the location, where it is new, and check the marker."""
        if MARKER not in found:
            # a start killed while it wrote the marker leaves obstore's staged file; that is still empty
            foreign = [name for name in found if not _STAGED_MARKER.fullmatch(name)]
            kind = "folder" if self._folder else "prefix"
            allowed = f"an empty {kind} or one that a run has used before" if create else "one used before"
            allowed += f" (with {MARKER} in it)"
            if foreign:
                raise BadInput("storage", self.where, f"{allowed}; this one holds {', '.join(foreign[:3])}")
            if not create:
                raise NotBegun("storage", self.where, f"{allowed}; this one is empty")
            try:
                self._create(MARKER, json.dumps({"format": FORMAT, "written_by": "rayunlearn"}).encode())
            except AlreadyExists:
                pass  # another process was quicker; its marker is checked like any other
        marker = self.get(MARKER)
        _check_marker(marker, self.where)
        if create and self._folder is None:
            self._require_creation(marker)

    def _require_creation(self, marker: bytes) -> None:
        """Refuse a server that knows no conditional writes: it would let two appenders have one number."""
        try:
            self._create(MARKER, marker)
        except AlreadyExists:
            return
        allowed = "a store that refuses to create what is there (If-None-Match: *); this one overwrote it"
        raise BadInput("storage", self.where, allowed)

    def create(self, name: str, data: bytes) -> None:
        """Store under a name that must not exist yet.

        Raises:
            AlreadyExists: the name is taken; of several at once, exactly one succeeds.
        """
        self._create(self._writable(name), data)

    def settle(self, name: str) -> None:
        """Wait until what is stored under a name would survive a power failure, whoever has stored it."""
        with self._failures("settle", self._checked(name)):
            self._to_disk(name)

    def put(self, name: str, data: bytes) -> None:
        """Store under a name, replacing at once what was there."""
        with self._failures("write", self._writable(name)):
            self._backend.put(name, data, mode="overwrite")
            self._to_disk(name)

    def get(self, name: str, *, most: int | None = None) -> bytes:
        """The bytes stored under a name.

        Args:
            name: of what is stored.
            most: bytes that are read at most; None reads whatever there is.

        Raises:
            NotStored: there is nothing under this name.
            BadInput: there are more bytes than `most`; none of them was read.
        """
        with self._failures("read", self._checked(name)):
            found = self._backend.get(name)
            size = found.meta["size"]
            if most is None or size <= most:
                return bytes(found.bytes())
        raise BadInput("size of the file in bytes", size, f"at most {most}", where=name)

    def list(self, prefix: str = "") -> list[str]:
        """The names below a folder (whole parts, so `a` does not list `ab/c`), sorted; all names for ''."""
        folder = prefix.removesuffix("/")
        if folder:
            self._checked(folder)
        with self._failures("list", folder or "everything"):
            pages = self._backend.list(prefix=folder or None)
            names = (item["path"] for page in pages for item in page)
            return sorted(name for name in names if name not in (MARKER, folder))

    def delete(self, name: str) -> None:
        """Delete what is stored under a name, if anything is."""
        try:
            with self._failures("delete", self._writable(name)):
                self._backend.delete(name)
        except NotStored:
            pass  # S3 does not say whether there was anything; folders are made to behave alike

    def exists(self, name: str) -> bool:
        """Whether something is stored under a name."""
        try:
            with self._failures("look up", self._checked(name)):
                self._backend.head(name)
        except NotStored:
            return False
        return True

    def local_path(self, name: str) -> Path:
        """The path of a name, for readers that need a file; only where the location is a folder."""
        self._checked(name)
        if self._folder is None:
            raise BadInput("storage", self.where, "a folder, for what needs the path of a file")
        return self._folder / name

    def address(self, name: str) -> str:
        """Where people find what is stored under a name: its path, or its address in the bucket."""
        self._checked(name)
        return f"{self.where}/{name}" if self._folder is None else str(self._folder / name)

    def scratch(self, name: str) -> Path:
        """A folder of this machine for files that do not stay; it need not be there yet.

        Below the root where the location is a folder, else the system's folder for temporary files.
        """
        return Path(tempfile.gettempdir()) if self._folder is None else self.local_path(name)

    def _create(self, name: str, data: bytes) -> None:
        # A server's answer may get lost; the request is then sent again and finds its own file. A mark on
        # the file tells that from another's. Folders take no marks and lose no answers.
        mark = None if isinstance(self._backend, Folder | Memory) else {_CREATION: uuid.uuid4().hex}
        with self._failures("create", name):
            try:
                self._backend.put(name, data, mode="create", attributes=mark)
            except s3.failures() as error:
                if not s3.is_taken(error):
                    raise
                if mark is None or not self._bears(name, mark):
                    raise
            self._to_disk(name)

    def _bears(self, name: str, mark: dict[str, str]) -> bool:
        try:
            found = self._backend.get(name, options={"head": True}).attributes
        except FileNotFoundError:
            return False  # it was another's, who has deleted it since
        return mark.items() <= found.items()

    def _writable(self, name: str) -> str:
        if name == MARKER:
            raise BadInput("name", name, "any other: this one marks the storage location")
        checked = self._checked(name)
        # the folder would be made anew, for entries of a ledger whose beginning is gone
        if self._folder is not None and not self._folder.is_dir():
            raise StoreFailed(f"{self.where}: could not write {name}: the folder is gone")
        return checked

    def _checked(self, name: str) -> str:
        parts = name.split("/") if isinstance(name, str) else [""]
        plain = all(_PART.fullmatch(part) and part not in (".", "..") for part in parts)
        if not plain or len(name) > _LONGEST_NAME:
            raise BadInput("name", name, _ALLOWED_NAME, where=self.where)
        if self._folder is not None:
            real = Path(os.path.realpath(self._folder / name))  # Path.resolve raises at links in a circle
            if not real.is_relative_to(self._folder):
                inside = f"one inside the root; a symbolic link leads to {real}"
                raise BadInput("name", name, inside, where=self.where)
        return name

    def _to_disk(self, name: str) -> None:
        """Wait until a new file's name and its folders' names would survive a power failure."""
        if self._folder is None or not self._sync:
            return
        folder, synced = (self._folder / name).parent, set()
        _fsync(folder)
        while folder not in self._synced_folders and folder != self._folder:
            synced.add(folder)
            folder = folder.parent
            _fsync(folder)
        self._synced_folders |= synced  # at last: another thread relies on what is here

    @contextmanager
    def _failures(self, action: str, name: str) -> Iterator[None]:
        """Turn errors of what holds the files into ours; the messages of obstore's run over several lines.

        A server's answer may repeat the request with its token, so it goes no further, not even as a cause.
        """
        local = self._folder is not None
        try:
            yield
        except s3.failures() as error:
            if s3.is_taken(error):
                taken = AlreadyExists(f"{self.where}: {name} exists already and was left as it is")
                raise taken from (error if local else None)
            if isinstance(error, FileNotFoundError) and not s3.no_bucket(error):
                missing = NotStored(f"{self.where}: nothing is stored under {name}")
                raise missing from (error if local else None)
            reason = getattr(error, "strerror", None) or type(error).__name__ if local else s3.reason(error)
            failed = StoreFailed(f"{self.where}: could not {action} {name}: {reason}")
            raise failed from (error if local else None)


def _check_marker(data: bytes, root: str) -> None:
    try:
        marker = json.loads(data)
    except (ValueError, RecursionError):
        marker = None
    version = marker.get("format") if isinstance(marker, dict) else None
    if type(version) is not int or version < 1:
        allowed = f"one whose {MARKER} names its format; this one's cannot be read"
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

"""What every store promises: in a folder, in memory, and in a bucket of a server that speaks S3."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from rayunlearn.errors import BadInput
from rayunlearn.storage.folder import Memory
from rayunlearn.storage.store import MARKER, AlreadyExists, NotStored, Store


@pytest.fixture(params=["folder", "memory", "obstore", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A new storage location of each kind."""
    if request.param in ("memory", "obstore"):
        return Store(Memory() if request.param == "memory" else MemoryStore(), "memory")
    root = tmp_path / "storage" if request.param == "folder" else request.getfixturevalue("address")
    return Store.open(root, sync=False)


def test_create_never_overwrites(store: Store) -> None:
    """The second create of a name fails and leaves the first one's bytes; put replaces them."""
    store.create("a/b", b"first")
    with pytest.raises(AlreadyExists, match="a/b") as caught:
        store.create("a/b", b"second")
    assert isinstance(caught.value, FileExistsError)
    assert store.get("a/b") == b"first"
    store.put("a/b", b"third")
    assert store.get("a/b") == b"third"


def test_one_of_many_creators_wins(store: Store) -> None:
    """Of eight threads that create the same name at once, exactly one succeeds, and its bytes stay."""
    barrier = threading.Barrier(8)
    winners: list[int] = []

    def contend(number: int) -> None:
        barrier.wait()
        try:
            store.create("contended", bytes([number]) * 10_000)
        except AlreadyExists:
            return
        winners.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(winners) == 1
    assert store.get("contended") == bytes(winners) * 10_000


def test_a_reader_never_sees_half_a_put(store: Store) -> None:
    """While a name is replaced over and over, each read gives one whole value."""
    values = [bytes([number]) * 200_000 for number in range(2)]
    store.put("checkpoint", values[0])
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for value in values:
                store.put("checkpoint", value)

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        assert all(store.get("checkpoint") in values for _ in range(100))
    finally:
        stop.set()
        writer.join()


def test_what_is_not_stored_is_named(store: Store) -> None:
    """Reading a missing name raises a KeyError whose text is one plain sentence; deleting it is no error."""
    with pytest.raises(NotStored) as caught:
        store.get("runs/none")
    assert isinstance(caught.value, KeyError)
    assert str(caught.value) == f"{store.where}: nothing is stored under runs/none"
    assert not store.exists("runs/none")
    store.delete("runs/none")


def test_list_is_sorted_and_by_whole_parts(store: Store) -> None:
    """list("a") gives what is below a/ and not what is below ab/; the marker is not the caller's."""
    for name in ("ab/x", "a/z", "a/b/c", "top"):
        store.create(name, b"")
    assert store.list("a") == store.list("a/") == ["a/b/c", "a/z"]
    assert store.list() == ["a/b/c", "a/z", "ab/x", "top"]
    assert store.list("nothing/here") == []
    store.delete("a/z")
    assert store.list("a") == ["a/b/c"]
    assert not store.exists("a/z")
    assert store.exists("a/b/c")
    assert not store.exists("a/b")


BAD_NAMES = [
    "",
    "/",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    ".",
    "./a",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "a\n",
    "a b",
    "a%2e%2e",
    "a#1",
    "é",
    "x" * 201,
    "x/" * 500 + "x",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_cannot_escape(store: Store, name: str) -> None:
    """Absolute, climbing, empty and odd names are refused by every method, and nothing is written."""
    actions: list[Callable[[str], object]] = [
        store.get, store.exists, store.delete, store.local_path, store.address,
        lambda name: store.create(name, b"x"), lambda name: store.put(name, b"x"),
    ]  # fmt: skip
    if name not in ("", "/", "a/"):  # as folders to list, these are sound or mean everything
        actions.append(store.list)
    for action in actions:
        with pytest.raises(BadInput, match="relative name"):
            action(name)
    assert store.list() == []


def test_the_marker_is_not_for_callers(store: Store) -> None:
    """The marker can be neither replaced nor deleted by name."""
    for action in (lambda: store.put(MARKER, b"{}"), lambda: store.delete(MARKER)):
        with pytest.raises(BadInput, match="marks the storage"):
            action()


@pytest.mark.parametrize("size", [0, 6_000_000])
def test_files_of_any_size_come_back_whole(store: Store, size: int) -> None:
    """An empty file is a file, and one that is sent in several parts is one file."""
    data = bytes(range(256)) * (size // 256)
    store.create("created", data)
    store.put("put", data)
    assert store.get("created") == data and store.get("put") == data
    assert store.exists("created") and store.list() == ["created", "put"]


def test_places_are_named_without_a_path(store: Store, tmp_path: Path) -> None:
    """A file has an address to print everywhere, a path in a folder alone, and scratch space everywhere."""
    in_folder = store.where == str(tmp_path / "storage")
    assert store.address("a/b").endswith("a/b")
    scratch = store.scratch("train")
    if in_folder:
        assert store.address("a/b") == str(store.local_path("a/b"))
        assert scratch == tmp_path / "storage" / "train"
    else:
        assert store.address("a/b") == f"{store.where}/a/b"
        assert scratch == Path(tempfile.gettempdir())
        with pytest.raises(BadInput, match=r"allowed: a folder, for what needs the path of a file") as caught:
            store.local_path("a/b")
        assert store.where in str(caught.value)


@pytest.mark.parametrize(
    "root",
    [
        "", "a\0b", "gs://bucket/prefix", "s3://", "s3://b", "s3:/bucket/prefix", "S3://bucket/x", "s3://Bucket/x",
        "s3://bucket/../other", "s3://bucket/a//b", "s3://bucket//a", "s3://bucket/a b", "s3://bucket/a#b",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, a NUL, another kind of store, addresses that are not plain: refused before anything is asked.

    Among them the address that has been a `Path`, which has lost a slash: no folder `s3:` is begun.
    """
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="path of a folder, or s3://BUCKET/PREFIX"):
        Store.open(root)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("root", ["s3://key:hush@bucket/prefix", "s3://bucket/prefix?secret=hush"])
def test_credentials_in_an_address_are_not_repeated(root: str) -> None:
    """An address that seems to hold a secret is refused without being shown."""
    with pytest.raises(BadInput, match="AWS_SECRET_ACCESS_KEY") as caught:
        Store.open(root)
    assert "hush" not in str(caught.value)

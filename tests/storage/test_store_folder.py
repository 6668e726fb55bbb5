"""The store in a folder: that this is a storage location and nothing else, and that nothing leads out."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.storage.store import FORMAT, MARKER, NotBegun, Store, StoreFailed
from tests.ledger.ledgers import row_of


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A new storage location in a folder."""
    return Store.open(tmp_path / "storage", sync=False)


def files_below(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@given(name=st.text(alphabet=st.sampled_from("ab./\\~%#\0 -"), max_size=8))
def test_every_name_is_refused_or_lands_inside(name: str) -> None:
    """Whatever the name, its path is strictly below the root, or it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(folder, sync=False)
        try:
            path = store.local_path(name)
        except BadInput:
            return
        root = Path(folder).resolve()
        assert root in Path(os.path.normpath(path)).parents
        store.create(name, b"x")
        assert path.read_bytes() == b"x"
        assert store.list() == [name]


def test_symbolic_links_do_not_lead_out(store: Store, tmp_path: Path) -> None:
    """A link planted inside the root is not followed to a file outside of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    root = store.local_path("x").parent
    (root / "link").symlink_to(outside)
    for action in (store.get, store.delete, lambda name: store.put(name, b"x")):
        with pytest.raises(BadInput, match="symbolic link"):
            action("link/secret")
    assert (outside / "secret").read_bytes() == b"secret"


@pytest.mark.parametrize("there", [False, True])
def test_new_and_empty_folders_become_storage(tmp_path: Path, there: bool) -> None:
    """A missing or empty folder gets the marker; opened again, it holds what was stored."""
    root = tmp_path / "deep" / "storage"
    if there:
        root.mkdir(parents=True)
    Store.open(root).create("a/b/c", b"kept")
    assert json.loads((root / MARKER).read_text())["format"] == FORMAT
    assert Store.open(root).get("a/b/c") == b"kept"
    assert Store.open(str(root), create=False).get("a/b/c") == b"kept"
    assert sorted(files_below(root)) == ["a/b/c", MARKER]


def test_a_relative_root_survives_a_change_of_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store opened by a relative path stays where it was when the process moves."""
    monkeypatch.chdir(tmp_path)
    store = Store.open("storage", sync=False)
    store.create("a", b"1")
    monkeypatch.chdir("/")
    assert store.get("a") == b"1"
    assert store.local_path("a") == tmp_path.resolve() / "storage" / "a"


def test_a_start_killed_at_the_marker_can_start_again(tmp_path: Path) -> None:
    """obstore's staged copy of the marker, left by a kill, does not make the folder foreign."""
    (tmp_path / f"{MARKER}#1").write_bytes(b"{")
    Store.open(tmp_path, sync=False).create("a", b"1")
    assert Store.open(tmp_path, sync=False).list() == ["a"]


def test_foreign_folders_are_refused_untouched(tmp_path: Path) -> None:
    """A folder with something else in it is refused, named, and left as it was."""
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(BadInput, match=r"thesis\.tex") as caught:
        Store.open(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert files_below(tmp_path) == {"thesis.tex": b"mine"}


def test_opening_without_create_writes_nothing(tmp_path: Path) -> None:
    """create=False refuses a missing and an empty folder, and makes neither into a storage location."""
    with pytest.raises(NotBegun, match="does not exist"):
        Store.open(tmp_path / "none", create=False)
    with pytest.raises(NotBegun, match="empty"):
        Store.open(tmp_path, create=False)
    assert list(tmp_path.iterdir()) == []


def test_files_and_paths_below_files_are_refused(tmp_path: Path) -> None:
    """A file, or a path through one, cannot be a storage location (this stops root, too)."""
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BadInput, match="this is a file"):
        Store.open(file)
    with pytest.raises(BadInput, match="Not a directory"):
        Store.open(file / "below")
    assert file.read_text() == "x"


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("name", ["a" * 300, "a/" * 3000, "\ud800"], ids=["part", "path", "no text"])
def test_names_that_no_folder_can_have_are_refused(
    name: str, create: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too long for the file system, or no text: told as one sentence, and nothing is begun."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="^storage is .* allowed: "):
        Store.open(name, create=create)
    assert list(tmp_path.iterdir()) == []


def test_read_only_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage location on a read-only file system is refused at opening, but opens with create=False."""
    Store.open(tmp_path, sync=False).create("a", b"1")

    def read_only(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(BadInput, match="Read-only file system"):
        Store.open(tmp_path)
    assert Store.open(tmp_path, create=False).get("a") == b"1"


@pytest.mark.skipif(os.geteuid() == 0, reason="permission bits do not stop root")
def test_folders_without_permission_are_refused(tmp_path: Path) -> None:
    """A folder that this user may not write to is refused at opening."""
    tmp_path.chmod(0o500)
    with pytest.raises(BadInput, match="Permission denied"):
        Store.open(tmp_path)


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        (b'{"format": 2}', "newer rayunlearn"),
        (b"", "cannot be read"),
        (b"[" * 100_000, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"[1]", "cannot be read"),
        (b'{"format": "1"}', "cannot be read"),
        (b'{"format": true}', "cannot be read"),
        (b'{"format": 0}', "cannot be read"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, marker: bytes, message: str) -> None:
    """A marker from a newer version, or one that names no format, is refused."""
    (tmp_path / MARKER).write_bytes(marker)
    with pytest.raises(BadInput, match=message):
        Store.open(tmp_path)


def test_other_failures_are_one_line(store: Store) -> None:
    """What the storage cannot do is said in one line with the name, not in obstore's several."""
    store.create("a", b"")
    with pytest.raises(StoreFailed, match="could not create a/b") as caught:
        store.create("a/b", b"")
    assert "\n" not in str(caught.value)


def test_synced_writes_reach_the_disk_with_their_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes reach the disk before they have their name, and then each folder that leads there; else none."""
    synced: list[str] = []
    before: list[bytes | None] = []
    real = os.fsync

    def record(descriptor: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        synced.append(path)
        if "#" in path:
            name = Path(path.partition("#")[0])
            before.append(name.read_bytes() if name.exists() else None)
        real(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    store = Store.open(tmp_path)
    synced.clear()
    before.clear()
    store.create("a/b/c", b"1")
    root = tmp_path.resolve()
    assert synced[0] == str(root / "a/b/c#1") and before == [None]
    assert set(synced[1:]) == {str(root / "a/b"), str(root / "a"), str(root)}
    synced.clear()
    store.put("a/b/c", b"2")
    assert synced == [str(root / "a/b/c#1"), str(root / "a/b")] and before == [None, b"1"]
    synced.clear()
    Store.open(tmp_path, sync=False).create("d/e", b"1")
    assert synced == []


def test_actors_can_be_handed_a_store(store: Store) -> None:
    """A pickled store is the same location."""
    store.create("a", b"1")
    assert pickle.loads(pickle.dumps(store)).get("a") == b"1"


def test_a_folder_that_is_removed_is_not_begun_again(tmp_path: Path) -> None:
    """A ledger would go on there without its beginning: nothing is written, and the folder stays away."""
    store = Store.open(tmp_path / "s", sync=False)
    store.put("a", b"x")
    shutil.rmtree(tmp_path / "s")
    for write in (store.put, store.create):
        with pytest.raises(StoreFailed, match="could not write ledger/b: the folder is gone"):
            write("ledger/b", b"x")
    assert not (tmp_path / "s").exists()


def test_links_that_go_in_a_circle_are_told(tmp_path: Path) -> None:
    """What cannot be reached through them is a failure of the storage; others are read."""
    store = Store.open(tmp_path, sync=False)
    store.put("other/a", b"x")
    (tmp_path / "models").symlink_to("models")
    for access in (store.get, lambda name: store.put(name, b"x")):
        with pytest.raises(StoreFailed, match="models/a.*symbolic links"):
            access("models/a")
    assert store.get("other/a") == b"x"


def test_a_full_disk_breaks_no_ledger(small_disk: Path) -> None:
    """An entry that does not fit is told and leaves nothing; when there is room again the chain goes on."""
    store = Store.open(small_disk / "s")
    ledger, rows = Ledger(store), [row_of("plans")]
    ledger.append("plans", rows)
    before = store.list()
    with pytest.raises(OSError, match="No space left"):
        (small_disk / "other").write_bytes(b"x" * (64 << 10))
    with pytest.raises(StoreFailed, match="No space left"):
        ledger.append("plans", rows)
    assert store.list() == before and ledger.verify() == 1
    (small_disk / "other").unlink()
    ledger.append("plans", rows)
    assert Ledger(store).verify() == 2


def test_many_who_replace_a_file_do_not_take_each_others_copies(tmp_path: Path) -> None:
    """Each write of eight threads succeeds, one of their values stays, and no staged copy."""
    store = Store.open(tmp_path, sync=False)
    values = [bytes([number]) * 1000 for number in range(8)]
    failed: list[Exception] = []

    def replace(value: bytes) -> None:
        try:
            for _ in range(100):
                store.put("a/b", value)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=replace, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and store.get("a/b") in values
    assert os.listdir(tmp_path / "a") == ["b"]


def test_a_copy_that_a_kill_left_is_no_file(tmp_path: Path) -> None:
    """It is neither listed nor in the way of the next write; a file of any other name is listed."""
    store = Store.open(tmp_path, sync=False)
    store.create("a/b", b"1")
    (tmp_path / "a" / "b#1").write_bytes(b"half")
    (tmp_path / "a" / "b#x").write_bytes(b"another's")
    store.put("a/b", b"2")
    store.create("a/c", b"3")
    assert store.get("a/b") == b"2" and store.list() == ["a/b", "a/b#x", "a/c"]
    assert (tmp_path / "a" / "b#1").read_bytes() == b"half"

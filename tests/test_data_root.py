"""The folder of all datasets, as a node and the driver of a cluster name it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rayunlearn import data_root as module
from rayunlearn.access import _bundled_datasets
from rayunlearn.data.datasets import load_dataset
from rayunlearn.data_root import DATA_VARIABLE, OF_DRIVER, data_root, folders_named, handed_on
from rayunlearn.errors import BadInput


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Sets the node's own and the driver's folder, relative to where this process works; "" for none."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def set_both(own: str, driver: str, *there: str) -> None:
        for variable, value in ((DATA_VARIABLE, own), (OF_DRIVER, driver)):
            monkeypatch.setenv(variable, value.format(tmp_path))
        for folder in there:
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)

    return set_both


@pytest.mark.parametrize(
    ("own", "driver", "there", "found"),
    [
        ("", "", (), None),
        ("{}/a", "", (), "a"),
        ("a", "", (), "work/a"),
        ("", "{}/b", (), "b"),
        ("a", "{}/b", ("work/a/set",), "b"),  # what the node says is not known to be from where it works
        ("{}/a", "{}/b", (), "a"),
        ("{}/a", "{}/b", ("a/set",), "a"),
        ("{}/a", "{}/b", ("b/set",), "b"),
        ("{}/a", "{}/a", ("a/set",), "a"),
        ("{}/a/../a", "{}/a", ("a/set",), "a"),
    ],
)
def test_whose_folder_counts(named, tmp_path: Path, own, driver, there, found) -> None:  # type: ignore[no-untyped-def]
    """The node's own, else the driver's; absolute in any case."""
    named(own, driver, *there)
    assert data_root("set", "set") == (None if found is None else str(tmp_path / found))


def test_two_folders_that_both_have_it_are_refused(named, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Neither is read in silence; negative control: of another dataset only one has the folder."""
    named("{}/a", "{}/b", "a/set", "b/set", "a/other")
    said = f"of this node is '{tmp_path}/a'; allowed: '{tmp_path}/b', which .* set/"
    with pytest.raises(BadInput, match=said):
        load_dataset("parquet:set")
    assert data_root("other", "other") == str(tmp_path / "a")


def test_what_is_handed_on_is_absolute(named, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """From where the driver stands; nothing is handed on where it has no folder."""
    named("../data", "")
    assert handed_on(module.os.environ) == {OF_DRIVER: str(tmp_path / "data")}
    assert handed_on({DATA_VARIABLE: ""}) == handed_on({}) == {}


def test_a_seal_knows_both_folders(named, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """A sealed process may open neither; negative control: without the variables it knows of none."""
    named("{}/a", "{}/b")
    assert folders_named() == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert {str(tmp_path / "a"), str(tmp_path / "b")} <= set(_bundled_datasets())
    named("", "")
    assert folders_named() == []
    assert not {str(tmp_path / "a"), str(tmp_path / "b")} & set(_bundled_datasets())

"""A storage location in Ray's copy of a working directory is refused: it is lost with the job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.storage.lasting import require_lasting
from rayunlearn.storage.store import Store

SAID = "storage is '.*'; allowed: an absolute path outside of Ray's copy of the working directory, .*s3://"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy as Ray makes it, in which this process stands."""
    made = tmp_path / "session_2026-01-01" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    made.mkdir(parents=True)
    monkeypatch.chdir(made)
    return made


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("given", ["storage", "a/../storage", ".", "{copy}/storage", "../_ray_pkg_9/storage"])
def test_a_location_in_the_copy_is_refused(copy: Path, given: str, create: bool) -> None:
    """However it is written, and nothing is made there."""
    with pytest.raises(BadInput, match=SAID):
        Store.open(given.format(copy=copy), create=create)
    assert list(copy.parent.rglob("*")) == [copy]


def test_a_link_into_the_copy_is_refused(copy: Path, tmp_path: Path) -> None:
    """A path that does not look like it; and where Ray's own folder is a link to elsewhere."""
    (tmp_path / "link").symlink_to(copy)
    with pytest.raises(BadInput, match=SAID):
        Store.open(tmp_path / "link" / "storage")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (copy.parent / "_ray_pkg_9").symlink_to(elsewhere)
    with pytest.raises(BadInput, match=SAID):
        Store.open(copy.parent / "_ray_pkg_9" / "storage")


def test_other_locations_are_taken(copy: Path, tmp_path: Path) -> None:
    """Negative control: an absolute folder elsewhere, one outside by `..`, a link out of the copy."""
    for given in (tmp_path / "storage", "../../../../beside", tmp_path / "working_dir_files" / "storage"):
        assert Store.open(given, sync=False).list() == []
    (tmp_path / "lasts").mkdir()
    (copy / "out").symlink_to(tmp_path / "lasts")
    assert Store.open("out/storage", sync=False).list() == []
    assert (tmp_path / "lasts" / "storage" / "rayunlearn.json").exists()


def test_a_copy_is_known_by_its_package_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Ray tells a submitted job counts wherever Ray unpacks; negative control: another package."""
    monkeypatch.chdir(tmp_path)
    told = {"runtime_env": {"working_dir": "gcs://_ray_pkg_0123.zip"}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(told))
    with pytest.raises(BadInput, match="--out is"):
        require_lasting("--out", tmp_path / "_ray_pkg_0123" / "pages")
    require_lasting("--out", tmp_path / "_ray_pkg_4567" / "pages")
    for told_else in ("[]", "null", "{}", '{"working_dir": 1}', "[" * 100_000):
        other = f'{{"runtime_env": {told_else}}}'
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", other)
        require_lasting("--out", tmp_path / "_ray_pkg_0123" / "pages")


def test_links_that_go_in_a_circle(tmp_path: Path) -> None:
    """Are no copy; the store says what is wrong with them."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(BadInput, match="a folder that can be made"):
        Store.open(tmp_path / "a" / "storage")

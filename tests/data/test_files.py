"""Folders that are read whole or refused."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rayunlearn.data.files import files_below, readable
from rayunlearn.errors import BadInput

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without an administrator's right to read everything."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody can list, with one that nobody can."""
    with tempfile.TemporaryDirectory() as name:
        for part in ("open", "closed"):
            (Path(name) / part).mkdir()
            (Path(name) / part / "a").write_bytes(b"")
        os.chmod(name, 0o755)
        os.chmod(Path(name) / "closed", 0)
        yield Path(name)
        os.chmod(Path(name) / "closed", stat.S_IRWXU)


def test_a_folder_that_cannot_be_listed_is_not_passed_over(folder: Path) -> None:
    """It is named with its dataset and the reason; with the right to it, or without it, all is read."""
    said = pytest.raises(BadInput, match=r"^cats: folder is .*Permission denied: .*closed")
    with as_nobody(), said, readable("cats", str(folder)):
        list(files_below(folder))
    os.chmod(folder / "closed", 0o755)
    with as_nobody(), readable("cats", str(folder)):
        assert [file.parent.name for file in files_below(folder)] == ["closed", "open"]


def test_a_folder_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    """Its reader says what is missing; one that cannot even be looked for is refused."""
    assert list(files_below(tmp_path / "none")) == []
    with pytest.raises(BadInput, match="File name too long"), readable("cats", "x"):
        list(files_below(tmp_path / ("x" * 300)))

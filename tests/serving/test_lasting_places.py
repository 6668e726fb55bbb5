"""No job and no command takes a location, or writes a page, in Ray's copy of a working directory."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tyro

from jobs import reproduce, sequential_unlearn, tune_sweep
from papers.command import run_reproduction
from rayunlearn.__main__ import main
from rayunlearn.cli.commands import NAMES
from rayunlearn.cli.job import run_job
from rayunlearn.cli.tune_command import run_sweep
from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.storage.store import Store

APPEND = (tyro.conf.UseAppendAction,)
NO_STORAGE = {"check", "methods", "verify"}
"""Commands that take no storage location."""
COMMANDS = (
    "serve",
    "serve --requests {elsewhere}/requests.jsonl --dry-run",
    "tune --requests {elsewhere}/requests.jsonl",
    "status",
    "http 127.0.0.1:0",
    "request add --target 3",
    "request list",
    "request cancel r1",
    "models list",
    "models verify",
    "models export 3f2a --out {elsewhere}/v.safetensors",
    "report r1",
    "audit --version 3f2a",
    "key rotate --key old.key --out {elsewhere}/new.key",
    "log prove --first 1 --out {elsewhere}/proof.json",
    "replay {elsewhere}/certificate.json",
)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy as Ray makes it, in which this process stands; a storage location was shipped with it."""
    made = tmp_path / "session_2026-01-01" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123"
    Ledger(Store.open(tmp_path / "shipped", sync=False))
    made.mkdir(parents=True)
    (tmp_path / "shipped").rename(made / "shipped")
    monkeypatch.chdir(made)
    return made


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """`python -m rayunlearn` with these words."""
    monkeypatch.setattr(sys, "argv", ["rayunlearn", *shlex.split(line)])
    return main()


def job(line: str) -> int:
    """`jobs/sequential_unlearn.py` with these words."""
    return run_job(**vars(tyro.cli(sequential_unlearn.Options, args=shlex.split(line), config=APPEND)))


def sweep(line: str) -> int:
    """`jobs/tune_sweep.py` with these words."""
    return run_sweep(**vars(tyro.cli(tune_sweep.Options, args=shlex.split(line), config=APPEND)))


def page(line: str) -> int:
    """`jobs/reproduce.py` with these words."""
    return run_reproduction(**vars(tyro.cli(reproduce.Options, args=shlex.split(line))))


@pytest.mark.parametrize("storage", ["", "--storage shipped"])
@pytest.mark.parametrize("line", COMMANDS)
def test_commands(
    copy: Path, line: str, storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Exit code 2 and what to say instead, by default as for a location that lies in the copy."""
    assert {known.split()[0] for known in COMMANDS} == set(NAMES) - NO_STORAGE
    (tmp_path / "certificate.json").write_text("{}")
    (tmp_path / "requests.jsonl").write_text('{"request_id": "r1", "target": [0]}\n')
    before = sorted(copy.rglob("*"))
    assert run(f"{line.format(elsewhere=tmp_path)} {storage}", monkeypatch) == ExitCode.BAD_INPUT
    assert "outside of Ray's copy of the working directory" in capsys.readouterr().out
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize(
    ("start", "line"),
    [
        (job, ""),
        (job, "--dry-run"),
        (job, "--inbox-only --storage shipped"),
        (sweep, ""),
        (page, "--table II --rows mnist-lenet*"),
        (page, "--table II --rows mnist-lenet* --out {elsewhere}"),
        (page, "--table II --storage {elsewhere} --out pages --render-only"),
        (page, "--table III --render-only"),
    ],
)
def test_jobs(
    copy: Path, start: Callable[[str], int], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before Ray is asked for anything, and nothing is written."""
    before = sorted(copy.rglob("*"))
    assert start(line.format(elsewhere=tmp_path / "elsewhere")) == ExitCode.BAD_INPUT
    assert "outside of Ray's copy of the working directory" in capsys.readouterr().out
    assert sorted(copy.rglob("*")) == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("line", ["report r1 --out pages", "models export 3f2a --out v.safetensors"])
def test_files_that_a_command_writes(
    copy: Path, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They would be lost with the job as well, though the location lasts."""
    (copy / "shipped").rename(tmp_path / "lasts")
    assert run(f"{line} --storage {tmp_path / 'lasts'}", monkeypatch) == ExitCode.BAD_INPUT
    assert "--out is " in capsys.readouterr().out


def test_a_location_elsewhere_is_taken(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Negative control: the same commands, in the same copy, with an absolute path."""
    (copy / "shipped").rename(tmp_path / "lasts")
    assert run(f"request add --target 3 --storage {tmp_path / 'lasts'}", monkeypatch) == ExitCode.OK
    assert run(f"models list --storage {tmp_path / 'lasts'}", monkeypatch) == ExitCode.OK
    assert page(f"--table III --render-only --storage {tmp_path / 'new'}") == ExitCode.OK
    assert "Ray's copy" not in capsys.readouterr().out

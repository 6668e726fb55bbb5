"""Standard streams that cannot be written, and files where flags tell a command to write."""

from __future__ import annotations

import io
import json
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from jobs import sequential_unlearn
from rayunlearn.__main__ import main
from rayunlearn.cli.console import carry_out, make_folder, say_error, write_file
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.methods.catalogue import described
from rayunlearn.reports.terminal import open_console

FULL = Path("/dev/full")
JOBS = Path(sequential_unlearn.__file__).parent
SENTENCE = "error: not all of standard output could be written: No space left on device\n"
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture
def over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Carries out a command over a stream as standard output: the exit code, and the standard error."""

    def run(out: TextIO | None, command: Callable[[], int], *arguments: str) -> tuple[int, str]:
        told = tmp_path / "stderr"
        with told.open("w") as err, monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["rayunlearn", *arguments])
            patch.setattr(sys, "stdout", out)
            patch.setattr(sys, "stderr", err)
            try:
                code = carry_out(command)
            finally:
                assert (sys.stdout, sys.stderr) == (out, err)
        return code, told.read_text()

    return run


Over = Callable[..., tuple[int, str]]
COMMANDS = [["methods"], ["methods", "--json"], ["--help"], ["request", "add", "--help"]]


@needs_full
@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_full_disk_is_told_in_a_sentence(arguments: list[str], over: Over, tmp_path: Path) -> None:
    """With an exit code of its own; where there is room the code is 0, and nothing is said."""
    with FULL.open("w") as full:
        assert over(full, main, *arguments) == (ExitCode.OUTPUT_LOST, SENTENCE)
    with (tmp_path / "out").open("w") as out:
        assert over(out, main, *arguments) == (ExitCode.OK, "")
    said = (tmp_path / "out").read_text()
    assert json.loads(said) == described() if "--json" in arguments else said


@needs_full
@pytest.mark.parametrize("job", sorted(JOBS.glob("*.py")), ids=lambda job: job.stem)
def test_every_script_goes_through_it(job: Path, over: Over) -> None:
    """Of each the help cannot be written, and its exit code says so."""
    with FULL.open("w") as full, pytest.raises(SystemExit) as ended:
        over(full, lambda: runpy.run_path(str(job), run_name="__main__"), "--help")
    assert ended.value.code == ExitCode.OUTPUT_LOST


@needs_full
def test_as_a_process() -> None:
    """No traceback, neither of the command nor of Python at its end; nor with a closed stream."""
    command = [sys.executable, "-m", "rayunlearn", "methods"]
    with FULL.open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (ExitCode.OUTPUT_LOST, SENTENCE)
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *command, "--help"], capture_output=True, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (ExitCode.OK, "")


def test_a_reader_that_has_gone_is_no_fault(over: Over) -> None:
    """Its exit code differs from that of output that was read whole, and nothing is said of it."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", closefd=False) as out:
        assert over(out, main, "methods") == (ExitCode.OUTPUT_LOST, "")
    os.close(writer)


@needs_full
def test_work_goes_on_and_its_own_code_counts(over: Over) -> None:
    """What a job says in the midst of its work does not end it; a code that says more is kept."""
    done = []

    def work() -> int:
        print("begun", flush=True)
        done.append(True)
        return ExitCode.PARTIAL

    with FULL.open("w") as full:
        assert over(full, work) == (ExitCode.PARTIAL, SENTENCE)
    assert done


@needs_full
def test_a_fault_of_the_program_shows_its_traceback(over: Over) -> None:
    """It goes its way, whatever became of the output; so does what the parser says is wrong."""
    with FULL.open("w") as full:
        with pytest.raises(ZeroDivisionError):
            over(full, lambda: 1 // 0)
        with pytest.raises(SystemExit) as ended:
            over(full, main, "nonsense")
    assert ended.value.code == ExitCode.BAD_INPUT


def test_an_interrupt_ends_in_a_sentence(over: Over) -> None:
    """Of a command that has no checkpoint to tell of."""

    def stopped() -> int:
        raise KeyboardInterrupt

    assert over(io.StringIO(), stopped) == (ExitCode.INTERRUPTED, "error: stopped by SIGINT\n")


def test_a_pipe_that_does_not_wait_loses_nothing(over: Over) -> None:
    """Who shares it may have set it so; what does not fit is written when there is room again."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text, read = "line\n" * 100_000, bytearray()

    def drain() -> None:
        while data := os.read(reader, 65536):
            read.extend(data)

    def work() -> int:
        sys.stdout.write(text)
        return 0

    draining = threading.Thread(target=drain)
    with open(writer, "w", closefd=False) as out:
        draining.start()
        ended = over(out, work)
    os.close(writer)
    draining.join()
    os.close(reader)
    assert ended == (ExitCode.OK, "") and read.decode() == text


def test_a_disk_may_have_room_again(small_disk: Path, over: Over) -> None:
    """Each line is tried: those that come later are written, and the loss is told all the same."""
    (small_disk / "other").write_bytes(b"x" * (64 << 10))

    def work() -> int:
        print("lost", flush=True)
        (small_disk / "other").unlink()
        print("kept", flush=True)
        return 0

    with (small_disk / "log").open("w") as log:
        assert over(log, work) == (ExitCode.OUTPUT_LOST, SENTENCE)
    assert (small_disk / "log").read_text() == "kept\n"


@pytest.mark.parametrize("said", ["a \\[/] b", "[bold]a[/]", "[/]", "a\\"])
def test_an_error_is_shown_as_it_is(said: str) -> None:
    """Brackets and backslashes are no markup."""
    shown = io.StringIO()
    assert say_error(open_console(shown), said, ExitCode.PARTIAL) == ExitCode.PARTIAL
    assert shown.getvalue() == f"error: {said}\n"


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    """Over one that is there only where that is asked; a link and a device stay what they are."""
    path, link = tmp_path / "a", tmp_path / "link"
    write_file("--out", path, b"new", replace=False)
    with pytest.raises(FileExistsError):
        write_file("--out", path, b"other", replace=False)
    assert path.read_bytes() == b"new"
    link.symlink_to(path)
    write_file("--out", link, b"newer")
    write_file("--out", Path(os.devnull), b"nothing")
    assert path.read_bytes() == b"newer" and link.is_symlink() and Path(os.devnull).is_char_device()
    assert sorted(os.listdir(tmp_path)) == ["a", "link"]


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (".", "Is a directory"), ("file/x", "Not a directory"), ("none/x", "No such file"),
        ("x" * 300, "too long"),
    ],
)
def test_a_file_that_cannot_be_written_is_named(where: str, why: str, tmp_path: Path) -> None:
    """With the flag, the path and why."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BadInput, match=rf"(?s)^--out is .*a file that can be written \(.*{why}"):
        write_file("--out", tmp_path / where, b"x")
    if "x" in where:
        with pytest.raises(BadInput, match="^--out is "):
            make_folder("--out", tmp_path / ("file" if where == "none/x" else where) / "y" / ("x" * 300))


@pytest.mark.parametrize("replace", [True, False])
def test_a_full_disk_leaves_no_part_of_a_file(replace: bool, small_disk: Path) -> None:
    """And what was there before is there still."""
    path = small_disk / "a"
    if replace:
        path.write_bytes(b"before")
    with pytest.raises(BadInput, match="No space left on device"):
        write_file("--out", path, b"x" * (128 << 10), replace=replace)
    assert os.listdir(small_disk) == (["a"] if replace else [])
    assert not replace or path.read_bytes() == b"before"
    write_file("--out", path, b"after", replace=replace)
    assert path.read_bytes() == b"after"

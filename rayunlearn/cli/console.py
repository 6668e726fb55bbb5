"""What a command writes outside of storage: to standard output and error, and where flags tell it to."""

from __future__ import annotations

import io
import json
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.text import Text

from rayunlearn.errors import BadInput, ExitCode


def carry_out(command: Callable[[], int]) -> int:
    """Carry out a command; its exit code, or OUTPUT_LOST in the place of OK.

    What a stream's encoding lacks is escaped. What cannot be written is left out, and that is told at the
    end; not of a pipe whose reader has gone, as `head` goes when it has enough. A job does not end for it:
    what it serves is in the storage location, whoever reads its output.
    """
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = _going_on(sys.stdout), _going_on(sys.stderr)
    try:
        code = command()
    except SystemExit as end:  # of the parser: after the help, or after what is wrong
        if end.code:
            raise
        code = ExitCode.OK
    except KeyboardInterrupt:  # of work that loses nothing by it: else the job has told what goes on
        print("error: stopped by SIGINT", file=sys.stderr)
        code = ExitCode.INTERRUPTED
    finally:
        lost = [_lost(stream) for stream in streams]
        for name, error in zip(("standard output", "standard error"), lost, strict=True):
            if error is not None and not isinstance(error, BrokenPipeError):
                said = f"error: not all of {name} could be written: {error.strerror}"
                print(said, file=sys.stderr, flush=True)
        sys.stdout, sys.stderr = before
    return code or (ExitCode.OUTPUT_LOST if any(lost) else ExitCode.OK)


class _File(io.FileIO):
    """The file below a standard stream, for which everything counts as written.

    Each write is tried, since a disk that was full may have room again.
    """

    lost: OSError | None = None
    """Of the first write that failed."""
    before: Callable[[], None] | None = None
    """Called once, before the next write."""

    def write(self, data: Any, /) -> int:
        """Bytes that were written, or never will be."""
        if self.before is not None:
            call, self.before = self.before, None
            call()
        try:
            while (written := super().write(data)) is None:  # of a full pipe that somebody set not to wait
                select.select([], [self], [])
        except OSError as error:
            self.lost = self.lost or error
            return memoryview(data).nbytes
        return written


def _going_on(stream: TextIO | None) -> TextIO:
    """The same stream, or one in its place, that raises neither for a character nor for a full disk."""
    if stream is None:  # closed by whoever wants nothing to be said; libraries use it all the same
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        descriptor = stream.fileno()
    except OSError:  # in memory
        stream.reconfigure(errors="backslashreplace")
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_File(descriptor, "wb", closefd=False)), encoding=stream.encoding,
        errors="backslashreplace", line_buffering=stream.line_buffering or stream.write_through,
    )  # fmt: skip


def _lost(stream: TextIO) -> OSError | None:
    """Why something of a stream was not written."""
    stream.flush()
    file = getattr(getattr(stream, "buffer", None), "raw", None)
    return file.lost if isinstance(file, _File) else None


WAITS_S = 2.0
"""So long a command may say nothing before a terminal shows that it is at work."""


@contextmanager
def at_work(title: str) -> Iterator[None]:
    """Show on a terminal that a command is at work: from two seconds on, until it says something itself.

    It is shown on standard error, and nothing of it where either stream is no terminal.
    """
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not (isinstance(file, _File) and sys.stdout.isatty() and sys.stderr.isatty()):
        yield
        return
    # here: whoever is not shown anything need not wait for the import
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn(),
        console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False,
    )  # fmt: skip
    shown.add_task(title)
    lock, over = threading.Lock(), threading.Event()

    def begin() -> None:
        with lock:
            if not over.is_set():
                shown.start()

    def end() -> None:
        with lock:
            over.set()
            shown.stop()

    timer = threading.Timer(WAITS_S, begin)
    timer.daemon = True
    file.before = end
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        file.before = None
        end()


def leave(code: int) -> NoReturn:
    """End this process; at once where a signal asked for that.

    What Python and its libraries do at their end takes seconds, of which `ray job stop` gives three; and the
    threads of runs side by side would go on for as long, without the lease.
    """
    if code == ExitCode.INTERRUPTED:
        if (ray := sys.modules.get("ray")) is not None:
            ray.shutdown()  # of a cluster that this process has started all would not end by itself
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def print_json(content: Any) -> None:
    """Write a command's answer as one JSON document: all that `--json` has on standard output.

    Times are in ISO 8601 with their offset from UTC; what is not ASCII is escaped.
    """
    print(json.dumps(content, indent=1, default=_as_json, allow_nan=False))


def _as_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def say_error(console: Console, said: str, code: ExitCode, *, as_json: bool = False) -> ExitCode:
    """Show the sentence that a command ends with; its exit code.

    Args:
        console: on standard output.
        said: the sentence.
        code: the exit code.
        as_json: a program reads standard output: it gets the sentence in a document, people get it on
            standard error.
    """
    from rayunlearn.reports.wording import plain  # it brings Arrow, which `verify` does without

    if as_json:
        print_json({"error": said, "exit_code": int(code)})
        print(f"error: {plain(said)}", file=sys.stderr)
    else:
        console.print(Text.assemble(("error: ", "bold red"), plain(said)), soft_wrap=True)
    return code


def make_folder(flag: str, folder: Path) -> None:
    """Make the folder that a flag names, where there is none."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        allowed = f"a folder, or where one can be made ({error.strerror})"
        raise BadInput(flag, str(folder), allowed) from error


def write_file(flag: str, path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write a file that a flag names, whole or not at all.

    Raises:
        FileExistsError: it is there, and was not to be replaced.
        BadInput: it cannot be written; what was there before is.
    """
    part = path
    try:
        if replace and (path.is_file() or not path.exists()):  # else a device, as /dev/stdout: it stays one
            path = Path(os.path.realpath(path))
            part = path.with_name(f"{path.name}.part")
        with part.open("wb" if replace else "xb") as file:
            try:
                file.write(content)
                file.flush()
            except OSError:
                if part.is_file():
                    part.unlink()
                raise
        if part != path:
            part.replace(path)
    except FileExistsError:
        raise
    except OSError as error:
        raise BadInput(flag, str(path), f"a file that can be written ({error.strerror})") from error

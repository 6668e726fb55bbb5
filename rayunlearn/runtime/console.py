"""What a command writes outside of storage: to standard output and error, and where flags tell it to."""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

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

    def write(self, data: Any, /) -> int:
        """Bytes that were written, or never will be."""
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


def say_error(console: Console, said: str, code: ExitCode) -> ExitCode:
    """Show the sentence that a command ends with; its exit code."""
    from rayunlearn.results.wording import plain  # it brings Arrow, which `verify` does without

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

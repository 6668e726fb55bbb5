"""Folders that outlast a job. Ray's copy of a working directory does not.

`ray job submit --working-dir .` unpacks the directory below Ray's session folder and runs the job there. The
next submission of other files, or the next start of Ray, has another copy. What a job writes there is lost to
everybody.
"""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path, PurePosixPath

from rayunlearn.errors import BadInput

_COPIES = ("runtime_resources", "working_dir_files")
"""Folder and subfolder of Ray's session in which the copies are, each under a name of its own."""

_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""The environment variable by which Ray tells a submitted job its working directory's package."""


def require_lasting(thing: str, path: str | Path, *, bucket: bool = False) -> None:
    """Refuse a path inside Ray's copy of a working directory; symbolic links are followed.

    Args:
        thing: what the path is given as, for the message.
        path: absolute, or from this process's working directory; it need not be there.
        bucket: the message offers a bucket, too.

    Raises:
        BadInput: the path is inside a copy.
    """
    given, own = Path(path).absolute(), _package_of_job()
    real = Path(os.path.realpath(given))  # Path.resolve raises at links that go in a circle
    copies = [copy for each in (real, given) if (copy := _copy_around(each, own)) is not None]
    if any(real.is_relative_to(os.path.realpath(copy)) for copy in copies):
        allowed = "an absolute path outside of Ray's copy of the working directory, such as /data/models "
        allowed += "or s3://BUCKET/PREFIX " if bucket else ""
        raise BadInput(thing, str(path), f"{allowed}(what a job writes to the copy is lost)")


def _copy_around(path: Path, own: str | None) -> Path | None:
    """The copy that a path names as one of its folders."""
    for depth, pair in enumerate(pairwise(path.parts), start=1):
        if pair == _COPIES:
            return Path(*path.parts[: depth + 2])
        if pair[1] == own:
            return Path(*path.parts[: depth + 1])
    return None


def _package_of_job() -> str | None:
    """The name of the folder that the job's working directory was unpacked to; None outside of a job."""
    try:
        address = json.loads(os.environ.get(_JOB, "{}"))["runtime_env"]["working_dir"]
        return PurePosixPath(address).stem or None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None

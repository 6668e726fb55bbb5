"""One Ray for all tests: a head of its own ports and folder, ended by process id.

A plugin of every test. It imports Ray where a test asks for it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.waiting import HANG_S

if TYPE_CHECKING:
    from rayunlearn.recipes import Recipe


@dataclass(frozen=True)
class Head:
    """A `ray start --head`: where drivers connect, and where jobs are submitted."""

    address: str
    dashboard: str
    folder: Path


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """`ray start --head` with 3 logical CPUs beside whatever else runs on the machine."""
    with started_head() as started:
        yield started


@contextmanager
def started_head(cwd: Path | None = None, **variables: str | None) -> Iterator[Head]:
    """A head that works in a folder, this process's own by default.

    Args:
        cwd: the folder, of its workers as well.
        variables: of its environment; None for one that it is not to have.
    """
    from benchmarks.local_cluster import free_ports
    from tests.serving.tiny import environment

    gcs, dashboard, agent, agent_grpc, runtime_env, client, metrics = free_ports(7)
    folder = tempfile.mkdtemp(prefix="ru", dir="/tmp")  # Ray's sockets need a short path
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        "--node-ip-address=127.0.0.1", "--num-cpus=3", f"--temp-dir={folder}", f"--port={gcs}",
        f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={agent_grpc}", f"--runtime-env-agent-port={runtime_env}",
        f"--ray-client-server-port={client}", f"--metrics-export-port={metrics}",
        "--min-worker-port=0", "--max-worker-port=0", "--object-store-memory=300000000",
    ]  # fmt: skip
    # a submitted job's `python` is the one on the head's path: the environment is active where Ray starts
    active = environment(PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    changed = {**active, **variables}
    active = {name: value for name, value in changed.items() if value is not None}
    log = Path(folder) / "head.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, env=active, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            preexec_fn=_end_with_parent, cwd=cwd,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{dashboard}"
        _wait_for(f"{url}/api/version", process, log)
        yield Head(address=f"127.0.0.1:{gcs}", dashboard=url, folder=Path(folder))
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def cluster(head: Head) -> Iterator[None]:
    """This process connected to the head."""
    import ray

    from rayunlearn.execution.cluster import connect

    connect(head.address)
    yield
    ray.shutdown()


@pytest.fixture
def tiny() -> Recipe:
    """The project's recipe, made small."""
    from tests.serving.tiny import tiny_recipe

    return tiny_recipe()


def _end_with_parent() -> None:
    """Have Linux end this process when the tests' own ends, also by a signal that no fixture sees."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, timeout_s: float = HANG_S) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise RuntimeError(f"ray start did not come up:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head and what it started, and nothing else."""
    family = _descendants(process.pid)
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(6)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pid, started in family.items():
        if _start_time(pid) == started:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it ended by itself


def _descendants(root: int) -> dict[int, str]:
    """Process ids below one, with their start times, which tell a process from a later one of its id."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, ValueError):
                continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: _start_time(pid) for pid in found - {root}}


def _start_time(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""

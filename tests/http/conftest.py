"""A front door in a process of its own, with tokens, over a storage location in a folder."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import httpx

ROOT = Path(__file__).resolve().parents[2]
ROLES = {"platform": "submit", "reader": "read", "boss": "admin"}
SECRETS = {name: f"secret-of-{name}" for name in ROLES}


@dataclass
class Running:
    """A front door that runs."""

    storage: Path
    address: str
    process: subprocess.Popen[str]
    open_clients: list[httpx.Client] = field(default_factory=list)

    def client(self, name: str | None = None) -> httpx.Client:
        """Somebody with a token, or with none."""
        import httpx  # here: without it these tests are skipped

        headers = {} if name is None else {"Authorization": f"Bearer {SECRETS[name]}"}
        made = httpx.Client(base_url=self.address, headers=headers, timeout=120)
        self.open_clients.append(made)
        return made

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        for client in self.open_clients:
            client.close()
        if self.process.poll() is None:
            os.kill(self.process.pid, by)
        code = self.process.wait(timeout=120)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def token_file(folder: Path) -> Path:
    """A file with a token for each role."""
    digests = {name: hashlib.sha256(secret.encode()).hexdigest() for name, secret in SECRETS.items()}
    lines = [f"{name} {roles} {digests[name]}" for name, roles in ROLES.items()]
    path = folder / "tokens"
    path.write_text("# who may do what\n\n" + "\n".join(lines) + "\n")
    path.chmod(0o600)
    return path


def start(storage: Path, *flags: str, port: int = 0) -> Running:
    """A front door on a free port of this machine."""
    for package in ("fastapi", "uvicorn", "httpx", "python_multipart", "prometheus_client"):
        pytest.importorskip(package, reason="needs the extra http, and httpx of the extra dev")
    command = [
        sys.executable, "-m", "rayunlearn", "http", f"127.0.0.1:{port}", "--storage", str(storage), *flags,
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://\S+:\d+", line)
    assert found is not None, line + process.stdout.read()
    return Running(storage, found[0], process)


Start = Callable[..., Running]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Start]:
    """Starts front doors; those that still run at the end of the test are ended."""
    made: list[Running] = []

    def run(*flags: str, storage: Path = tmp_path / "storage", **more: Any) -> Running:
        made.append(start(storage, *flags, **more))
        return made[-1]

    yield run
    for running in made:
        running.end()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One front door with tokens for a module's tests; each uses ids of its own."""
    folder = tmp_path_factory.mktemp("http")
    running = start(folder / "storage", "--tokens", str(token_file(folder)), "--rate", "1000")
    yield running
    running.end()

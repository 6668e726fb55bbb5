"""An S3-compatible server for all of these tests, and a prefix in it for each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.storage.s3_server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """The server; without it these tests are skipped."""
    pytest.importorskip("moto.server", reason="needs the extra s3-tests: moto[server]")
    from tests.storage.s3_server import S3Server

    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def address(s3_server: S3Server, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a prefix that nothing is in, and the environment that leads there."""
    from tests.storage.s3_server import BUCKET

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{re.sub('[^A-Za-z0-9_-]', '-', request.node.name)}"

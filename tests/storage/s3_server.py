"""A server that speaks S3, on a free port of this machine, whose answers can be tampered with."""

from __future__ import annotations

import logging
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

BUCKET = "unlearning"
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIAHUSH",
    "AWS_SECRET_ACCESS_KEY": "hush-key",
    "AWS_SESSION_TOKEN": "hush-token",
}

Environ = dict[str, Any]
Answer = Callable[..., Any]
App = Callable[[Environ, Answer], Iterable[bytes]]


class S3Server:
    """moto's S3 in a thread, with one bucket."""

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which logs every request
        self._moto = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self._server = self._moto._server
        self._one_by_one()
        host, port = self._moto.get_host_and_port()
        self.endpoint = f"http://{host}:{port}"
        self.request("PUT", f"/{BUCKET}")

    @property
    def environment(self) -> dict[str, str]:
        """What leads a process to this server."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1", **SECRETS}

    def request(self, method: str, path: str, data: bytes = b"") -> None:
        """Ask the server for something, past every check of ours."""
        headers = {
            "Content-Type": "application/octet-stream",
            "Authorization": "AWS4-HMAC-SHA256 Credential=x/20250101/us-east-1/s3/aws4_request",
        }
        request = urllib.request.Request(self.endpoint + path, method=method, data=data, headers=headers)
        urllib.request.urlopen(request).close()

    @contextmanager
    def tampered(self, tamper: Callable[[App], App]) -> Iterator[None]:
        """Have what stands before the server change requests or answers."""
        before = self._server.app
        self._server.app = tamper(before)
        try:
            yield
        finally:
            self._server.app = before

    def stop(self) -> None:
        """End the thread."""
        self._moto.stop()

    def _one_by_one(self) -> None:
        """Make conditional writes atomic, as S3's are: moto looks first and writes then."""
        app, lock = self._server.app, threading.Lock()

        def locked(environ: Environ, answer: Answer) -> Iterable[bytes]:
            with lock:
                return app(environ, answer)

        self._server.app = locked


def forgetting_conditions(app: App) -> App:
    """A server that does not know `If-None-Match` and overwrites."""

    def tampered(environ: Environ, answer: Answer) -> Iterable[bytes]:
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return app(environ, answer)

    return tampered


def losing_the_first_answer(app: App) -> App:
    """A server that does what the first PUT asks and then says that it failed."""
    lost: list[str] = []

    def tampered(environ: Environ, answer: Answer) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "PUT" or lost:
            return app(environ, answer)
        lost.append(environ["PATH_INFO"])
        list(app(environ, lambda *_: None))
        answer("500 Internal Server Error", [("Content-Length", "0")])
        return [b""]

    return tampered


def refusing(app: App) -> App:
    """A server that refuses everything, and repeats the signed request as AWS does."""

    def tampered(environ: Environ, answer: Answer) -> Iterable[bytes]:
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        said = (
            "<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>AKIAHUSH</AWSAccessKeyId>"
            f"<CanonicalRequest>x-amz-security-token:{environ.get('HTTP_X_AMZ_SECURITY_TOKEN')}"
            "</CanonicalRequest></Error>"
        ).encode()
        answer("403 Forbidden", [("Content-Type", "application/xml"), ("Content-Length", str(len(said)))])
        return [said]

    return tampered

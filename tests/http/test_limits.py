"""What anybody may send: bytes and requests a second; and whom a front door without tokens answers."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

import pytest

from tests.http.conftest import Running, Start, token_file
from tests.http.test_answers import asks, is_refused, waiting

pytest.importorskip("starlette", reason="needs the extra http")

from rayunlearn.errors import BadInput  # noqa: E402
from rayunlearn.http.limits import Rate  # noqa: E402
from rayunlearn.http.refusals import Refused  # noqa: E402
from rayunlearn.http.serving import parse_place, tokens_for  # noqa: E402
from rayunlearn.http.tokens import Tokens  # noqa: E402
from rayunlearn.scheduling.requests import MOST_LINE  # noqa: E402


def raw(running: Running, head: str, body: bytes = b"") -> bytes:
    """The start of an answer to bytes that no client library would send; what of the body is read is its."""
    host, _, port = running.address.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n")
        try:
            connection.sendall(body)
        except OSError:
            pass  # it has answered and closed
        answer = b""
        while True:
            try:
                piece = connection.recv(65536)
            except OSError:
                piece = b""
            answer += piece
            if not piece or b'"reason"' in answer:
                return answer


def head(length: str, token: str = "platform") -> str:
    """The head of a request to add one."""
    return (
        "POST /v1/requests HTTP/1.1\nHost: localhost\nContent-Type: application/json\n"
        f"Authorization: Bearer secret-of-{token}\n{length}\n"
    )


def test_a_body_that_says_it_is_too_large_is_not_read(served: Running) -> None:
    """The answer comes before a byte of it was sent; negative control: as many as allowed are read."""
    answer = raw(served, head(f"Content-Length: {MOST_LINE + 1}"))
    assert answer.startswith(b"HTTP/1.1 413") and f"more bytes than allowed: {MOST_LINE}".encode() in answer
    endless = raw(served, head(f"Content-Length: {'9' * 30}"))
    assert endless.startswith(b"HTTP/1.1 4")
    body = json.dumps(asks("large")).encode()
    fits = body + b" " * (MOST_LINE - len(body))
    with served.client("platform") as platform:
        sent = platform.post("/v1/requests", content=fits, headers={"Content-Type": "application/json"})
    assert sent.status_code == 201


def test_a_body_without_a_length_is_counted(served: Running) -> None:
    """Chunk by chunk, and refused where there is one too many; the rest is not read."""
    chunk = b"%x\r\n" % 2**16 + b" " * 2**16 + b"\r\n"
    answer = raw(served, head("Transfer-Encoding: chunked"), chunk * (MOST_LINE // 2**16 + 2))
    assert answer.startswith(b"HTTP/1.1 413") and b"body_size" in answer


def test_limits_are_checked_after_the_token(served: Running) -> None:
    """Who has no token is not told about sizes, and sends no body."""
    answer = raw(served, head(f"Content-Length: {MOST_LINE + 1}", token="nobody"))
    assert answer.startswith(b"HTTP/1.1 401") and b"wrong_token" in answer


def test_headers_that_are_too_large_end_the_connection(served: Running) -> None:
    """Of a megabyte; negative control: of a kilobyte is answered."""
    start = "GET /health HTTP/1.1\nHost: localhost\nConnection: close\nX: "
    assert not raw(served, f"{start}{'x' * 1_000_000}\n").startswith(b"HTTP/1.1 200")
    assert raw(served, f"{start}{'x' * 1000}\n").startswith(b"HTTP/1.1 200")


def test_each_token_has_a_rate_of_its_own(door: Start, tmp_path: Path) -> None:
    """Beyond the burst a caller is told when to come again; others go on, and so do strangers."""
    running = door("--tokens", str(token_file(tmp_path)), "--rate", "0.01", "--burst", "3")
    with running.client("platform") as platform, running.client("boss") as boss, running.client() as nobody:
        answers = [platform.post("/v1/requests", json=asks(f"r{n}")) for n in range(4)]
        assert [a.status_code for a in answers] == [201, 201, 201, 429]
        assert is_refused(answers[3], 429, "rate", "too many requests; allowed: 0.01 a second and 3 at once")
        assert 1 <= int(answers[3].headers["retry-after"]) <= 101
        strangers = [nobody.get("/v1/status").status_code for _ in range(5)]
        assert strangers == [401, 401, 401, 429, 429]
        assert [nobody.get("/health").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert boss.get("/v1/requests").status_code == 200
    assert waiting(running, "r2") is not None and waiting(running, "r3") is None


def test_a_bucket_fills_again() -> None:
    """At its rate, up to the burst, and each name's by itself."""
    now = [0.0]
    rate = Rate(2.0, 2.0, clock=lambda: now[0])
    rate.take("a")
    rate.take("a")
    rate.take("b")
    with pytest.raises(Refused, match="too many requests"):
        rate.take("a")
    now[0] = 0.5
    rate.take("a")
    with pytest.raises(Refused):
        rate.take("a")
    now[0] = 1000.0
    rate.take("a")
    rate.take("a")
    with pytest.raises(Refused):
        rate.take("a")


def test_without_tokens_only_this_machine_is_answered(door: Start) -> None:
    """By its own names: a page of another site that leads here by a name of its own is refused."""
    running = door()
    with running.client() as local:
        assert local.post("/v1/requests", json=asks("local")).status_code == 201
        for name in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", ""):
            answer = local.get("/v1/requests", headers={"Host": name})
            assert is_refused(answer, 421, "host", "allowed: 127.0.0.1 or ::1 or localhost"), name
        for origin in ("https://evil.example", "http://127.0.0.1.evil.example:80", "null"):
            answer = local.post("/v1/requests", json=asks("forged"), headers={"Origin": origin})
            assert is_refused(answer, 421, "host", f"Origin is '{origin}'; allowed: a page of this machine")
        own = local.post("/v1/requests", json=asks("own"), headers={"Origin": "http://localhost:3000"})
        assert own.status_code == 201 and waiting(running, "forged") is None
        for name in ("localhost", "LOCALHOST:1", "127.0.0.1:80", "[::1]:80"):
            assert local.get("/v1/requests", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", "127.0.0.1.example.org"])
def test_other_hosts_want_tokens(host: str, tmp_path: Path) -> None:
    """Before anything listens; negative controls: with tokens, and on loopback."""
    with pytest.raises(BadInput, match="--tokens is None; allowed: a file of tokens; without one only this"):
        tokens_for(host, None)
    assert tokens_for(host, token_file(tmp_path))[0] is not None
    for own in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        tokens, names = tokens_for(own, None)
        assert tokens is None and own in names


@pytest.mark.parametrize("place", ["", "localhost", "localhost:", ":80", "a:65536", "a b:80", "::1:80"])
def test_a_place_is_a_host_and_a_port(place: str) -> None:
    """Anything else is named; negative controls: an IPv6 address in brackets, and a name."""
    with pytest.raises(BadInput, match="HOST:PORT is .*; allowed: a host and a port"):
        parse_place(place)
    assert parse_place("[::1]:80") == ("::1", 80) and parse_place("door.example:443") == ("door.example", 443)


DIGEST = hashlib.sha256(b"secret").hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a file with at least one line"),
        ("# nobody\n", "a file with at least one line"),
        ("a submit secret\n", "tokens:1: line is '15 characters'; allowed: NAME ROLES DIGEST"),
        (f"a owner {DIGEST}\n", "tokens:1: line is "),
        (f"a b submit {DIGEST}\n", "tokens:1: line is "),
        (f"a submit {DIGEST}\na read {'0' * 64}\n", "tokens:2: token is 'a'; allowed: each name"),
        (f"a submit {DIGEST}\nb read {DIGEST}\n", "tokens:2: token is 'b'; allowed: each name"),
    ],
)
def test_a_file_of_tokens_is_checked_whole(tmp_path: Path, text: str, said: str) -> None:
    """A line that is none is not repeated, since somebody may have put a token there."""
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(BadInput, match=said) as caught:
        Tokens.read(path)
    assert "secret" not in str(caught.value)


def test_tokens_are_known_by_their_digests(tmp_path: Path) -> None:
    """With their roles; not by the digest itself, nor by a part; and nobody else may write to the file."""
    path = tmp_path / "tokens"
    path.write_text(f"a submit,read {DIGEST}\n")
    path.chmod(0o600)
    tokens = Tokens.read(path)
    caller = tokens.caller("secret")
    assert caller is not None and caller.name == "a"
    assert [caller.may(role) for role in ("submit", "read", "admin")] == [True, True, False]
    for wrong in ("", "secre", "secrets", DIGEST, "s\udcffcret"):
        assert tokens.caller(wrong) is None
    path.chmod(0o620)
    with pytest.raises(BadInput, match="a file that only its owner may write to"):
        Tokens.read(path)
    with pytest.raises(BadInput, match="--tokens is .*; allowed: a readable file"):
        Tokens.read(tmp_path / "none")

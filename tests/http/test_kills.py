"""A front door that is killed: what it has acknowledged is there, and asked again nothing stands twice."""

from __future__ import annotations

import random
import signal
import sys
import threading
from pathlib import Path

import pytest

from rayunlearn.__main__ import main
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.http.conftest import Running, Start
from tests.http.test_answers import asks

CLIENTS, KILLS = 4, 3


def inbox(storage: Path) -> dict[str, tuple[int, ...]]:
    """What waits: id and target; a file that cannot be read has no target."""
    found = Inbox(Store.open(storage, create=False)).entries()
    return {w.request_id: w.entry.target if isinstance(w.entry, Request) else () for w in found}


def test_nothing_that_was_acknowledged_is_lost(door: Start) -> None:
    """Killed while clients ask, each of which asks the same again after a break; no file is half there."""
    httpx = pytest.importorskip("httpx", reason="needs httpx of the extra dev")
    running = door("--rate", "100000", "--burst", "100000")
    port = int(running.address.rpartition(":")[2])
    acknowledged: dict[str, int] = {}
    broken: list[str] = []
    over = threading.Event()

    def ask(number: int) -> None:
        count = 0
        while not over.is_set():
            name, target = f"r-{number}-{count}", count % 10
            try:
                answer = httpx.post(f"{running.address}/v1/requests", json=asks(name, target), timeout=60)
            except httpx.HTTPError:
                broken.append(name)
                over.wait(0.05)
                continue
            assert answer.status_code == 201
            acknowledged[name] = target
            count += 1

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    drawn, last = random.Random(0), running
    for _ in range(KILLS):
        before = len(acknowledged)
        while len(acknowledged) < before + 20:
            over.wait(0.01)
        over.wait(drawn.uniform(0, 0.1))
        assert last.end(signal.SIGKILL) == -signal.SIGKILL
        last = door("--rate", "100000", "--burst", "100000", port=port)
    over.wait(0.5)
    over.set()
    for thread in threads:
        thread.join(timeout=120)
    there = inbox(running.storage)
    assert broken, "the kills broke connections"
    assert {name: there.get(name) for name in acknowledged} == {n: (t,) for n, t in acknowledged.items()}
    assert () not in there.values() and len(there) <= len(acknowledged) + CLIENTS
    assert "r-0-9999999" not in there, "negative control"


def test_a_signal_ends_it_in_order(door: Start) -> None:
    """SIGTERM, after which the port is free and what was acknowledged is there."""
    running = door()
    with running.client() as client:
        assert client.post("/v1/requests", json=asks("r1")).status_code == 201
    assert running.end() in (0, -signal.SIGTERM)
    assert inbox(running.storage) == {"r1": (3,)}


def answer_of(running: Running, name: str, *target: int) -> tuple[int, str]:
    """Status of the answer, and of the request."""
    with running.client() as client:
        answer = client.post("/v1/requests", json=asks(name, *target))
    return answer.status_code, answer.json().get("reason") or answer.json()["status"]


def test_what_a_scheduler_has_taken_in_is_known(door: Start) -> None:
    """Taken in while the front door runs: the same is answered as known, another body refused."""
    from rayunlearn.lineages.requested import request_row

    running = door()
    assert answer_of(running, "r1") == (201, "waiting")
    store = Store.open(running.storage)
    (there,) = Inbox(store).entries()
    assert isinstance(there.entry, Request) and there.added_at is not None
    ledger = Ledger(store)
    ledger.append("requests", [request_row(there.entry, "received", there.added_at)])
    Inbox(store).done(there.name)
    assert answer_of(running, "r1") == (200, "received")
    assert answer_of(running, "r1", 4) == (409, "id_taken")
    assert answer_of(running, "r2") == (201, "waiting"), "negative control: another id"
    assert inbox(running.storage) == {"r2": (3,)}
    ledger.append("requests", [request_row(there.entry, "cancelled", there.added_at)])
    assert answer_of(running, "r1") == (409, "id_taken")
    with running.client() as client:
        again = client.delete("/v1/requests/r1")
        assert again.json()["said"] == "it was cancelled before"
    ledger.append("requests", [request_row(Request(request_id="r3", target=(3,)), "served", there.added_at)])
    with running.client() as client:
        closed = client.delete("/v1/requests/r3")
    assert (closed.status_code, closed.json()["reason"]) == (409, "not_open")
    assert closed.json()["detail"] == "request is 'r3'; allowed: one that waits; this one was served"


def test_a_storage_that_is_gone_is_told(door: Start, tmp_path: Path) -> None:
    """Nothing is acknowledged then, and no path is told; back again, it goes on."""
    running = door()
    away = tmp_path / "away"
    running.storage.rename(away)
    with running.client() as client:
        for answer in (client.post("/v1/requests", json=asks("r1")), client.get("/health")):
            assert (answer.status_code, answer.json()["reason"]) == (503, "storage")
            assert str(tmp_path) not in answer.text and "nothing was accepted" in answer.text
        away.rename(running.storage)
        assert client.get("/health").status_code == 200
        assert client.post("/v1/requests", json=asks("r1")).status_code == 201


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tokens", "nowhere"), "--tokens is 'nowhere'; allowed: a readable file"),
        (("--regulations", "gdpr"), "--regulations is 'gdpr'; allowed: NAME=NUMBERd or NAME=NUMBERm"),
        (("--regulation", "lgpd"), "regulation is 'lgpd'; allowed: 'ccpa', 'gdpr'"),
        (("--rate", "0"), "--rate is 0.0"),
        (("--upload-mb", "181"), "--upload-mb is 181"),
    ],
)
def test_wrong_flags_end_it_at_once(
    flags: tuple[str, ...],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With exit code 2 and the sentence."""
    pytest.importorskip("uvicorn", reason="needs the extra http")
    command = ["rayunlearn", "http", "127.0.0.1:0", "--storage", str(tmp_path / "storage"), *flags]
    monkeypatch.setattr(sys, "argv", command)
    assert main() == 2
    assert said in " ".join(capsys.readouterr().out.split())

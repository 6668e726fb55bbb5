"""Requests over HTTP: `python -m benchmarks.front_door_http`.

Two figures, on a folder with fsync. How many requests a second the front door acknowledges to 64 clients,
each of which asks again once it has its answer, and how long an answer takes. And how many acknowledged
requests are lost when the front door is killed again and again (SIGKILL) while clients ask: none may be.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter

import numpy as np
import tyro
from rich.console import Console

from rayunlearn.execution.machine import machine_facts
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store

LEAST_PER_S, MOST_P99_S = 300.0, 0.25
LIVES_S = (0.2, 1.0)
"""So long the front door lives between two kills, at least and at most."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Load the front door, and kill it."""

    out: Path = Path("docs/results/front-door-http.json")
    """Where the figures are written."""

    seconds: float = 60.0
    """So long the load lasts."""

    clients: int = 64
    """Clients at once."""

    kills: int = 20
    """How often the front door is killed."""

    seed: int = 0
    """Of the moments of the kills."""

    folder: Path | None = None
    """On the disk to measure; else the system's folder for temporary files."""


@dataclass
class Door:
    """The front door as a process of its own, on a port of its own."""

    storage: Path
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it, on the port that it had before; returns when it takes requests."""
        command = [
            sys.executable, "-m", "rayunlearn", "http", f"127.0.0.1:{self.port}",
            "--storage", str(self.storage), "--rate", "1e9", "--burst", "1e9",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if found is None:
            raise RuntimeError(f"the front door did not start: {line}")
        self.port = int(found[1])

    def end(self, by: signal.Signals) -> None:
        """End it by a signal."""
        assert self.process is not None
        os.kill(self.process.pid, by)
        self.process.wait()


@dataclass
class Told:
    """What the clients were told.

    Attributes:
        acknowledged: request id -> the class that it names, of every 201.
        seconds: of each of these answers.
        errors: answers of other statuses.
        broken: connections that broke, or could not be made.
    """

    acknowledged: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    broken: int = 0


async def client(number: int, port: int, over: asyncio.Event, told: Told) -> None:
    """Ask again and again until it is over; after a broken connection the same request again."""
    count, streams = 0, None
    while not over.is_set():
        name, target = f"r-{number}-{count}", count % 10
        body = json.dumps({"request_id": name, "target": [target], "regulation": "gdpr"}).encode()
        head = (
            f"POST /v1/requests HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        began = perf_counter()
        try:
            if streams is None:
                streams = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = streams
            writer.write(head + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", answer)
            assert length is not None
            said = await reader.readexactly(int(length[1]))
        except (OSError, asyncio.IncompleteReadError):
            told.broken += 1
            streams = None
            await asyncio.sleep(0.05)
            continue
        if answer.startswith(b"HTTP/1.1 201"):
            told.seconds.append(perf_counter() - began)
            told.acknowledged[name] = target
        else:
            told.errors.append(said.decode())
        count += 1
    if streams is not None:
        streams[1].close()


async def load(door: Door, clients: int, seconds: float, told: Told) -> None:
    """All clients side by side for some seconds."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, over.set)
    await asyncio.gather(*(client(n, door.port, over, told) for n in range(clients)))


async def killed(door: Door, options: Options, told: Told) -> None:
    """Kill the front door and start it again, while all clients go on."""
    drawn, over = random.Random(options.seed), asyncio.Event()
    work = [asyncio.create_task(client(n, door.port, over, told)) for n in range(options.clients)]
    for _ in range(options.kills):
        await asyncio.sleep(drawn.uniform(*LIVES_S))
        await asyncio.to_thread(door.end, signal.SIGKILL)
        await asyncio.to_thread(door.start)
    await asyncio.sleep(LIVES_S[1])
    over.set()
    await asyncio.gather(*work)


def lost(storage: Path, acknowledged: dict[str, int]) -> list[str]:
    """Ids of acknowledged requests that are not in the inbox as they were asked."""
    there = {w.request_id: w.entry for w in Inbox(Store.open(storage, create=False)).entries()}
    found = []
    for name, target in acknowledged.items():
        entry = there.get(name)
        if not isinstance(entry, Request) or entry.target != (target,):
            found.append(name)
    return found


def main(options: Options) -> int:
    """Measure, show and store; the exit code is 1 where a claim does not hold."""
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        door, loaded = Door(Path(folder) / "loaded"), Told()
        door.start()
        began = perf_counter()
        asyncio.run(load(door, options.clients, options.seconds, loaded))
        took = perf_counter() - began
        door.end(signal.SIGTERM)
        missing = lost(door.storage, loaded.acknowledged)
        door, hurt = Door(Path(folder) / "killed"), Told()
        door.start()
        asyncio.run(killed(door, options, hurt))
        door.end(signal.SIGTERM)
        missing += lost(door.storage, hurt.acknowledged)
        forged = {**hurt.acknowledged, "never-asked": 0}
        seen = lost(door.storage, forged) == ["never-asked"] or bool(missing)
    per_s = len(loaded.acknowledged) / took
    p50, p99 = (float(np.quantile(loaded.seconds, q)) for q in (0.5, 0.99))
    claims = {
        f"at least {LEAST_PER_S:g} requests a second": per_s >= LEAST_PER_S,
        f"99 % of the answers within {MOST_P99_S * 1000:g} ms": p99 < MOST_P99_S,
        "no other answer than 201": not loaded.errors and not hurt.errors,
        f"none lost over {options.kills} kills": not missing and bool(hurt.acknowledged) and hurt.broken > 0,
        "a lost request would be seen": seen,
    }
    result = {
        "benchmark": "front_door, http",
        "clients": options.clients,
        "seconds": took,
        "acknowledged": len(loaded.acknowledged),
        "per_s": per_s,
        "p50_s": p50,
        "p99_s": p99,
        "longest_s": max(loaded.seconds),
        "kills": options.kills,
        "acknowledged_around_kills": len(hurt.acknowledged),
        "broken_connections": hurt.broken,
        "lost": missing,
        "other_answers": (loaded.errors + hurt.errors)[:10],
        "claims": claims,
        "machine": machine_facts(),
    }
    for claim, holds in claims.items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    shown = ("per_s", "p50_s", "p99_s", "longest_s", "kills", "acknowledged_around_kills", "lost")
    print(json.dumps({name: result[name] for name in shown}))
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

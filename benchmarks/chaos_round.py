"""One round of chaos: the same requests on a fresh storage location, while parts of a cluster are killed."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from benchmarks.chaos_job import FOLDER, arm, counted, failpoint, read_log
from benchmarks.local_cluster import LocalCluster, environment, titles
from rayunlearn.errors import ExitCode
from rayunlearn.scheduling.requests import Request
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("actor", "worker", "raylet", "driver")
CYCLES = 40
"""Of each request."""
SETTINGS = (
    "model.width=0.125", "train.epochs=8", "inversion.iterations=5", "inversion.min_confidence=0",
    "validation.per_retain_class=6", "validation.per_forget_class=8", "validation.checkpoint_every=2",
    "gated_inversion.batch_size=32", "gated_inversion.student_steps=4", "gated_inversion.generator_width=0.1",
    "gated_inversion.inverted_per_class=8", "stopping.min_retain=0", "stopping.leak=1",
    "stopping.forget_tolerance=0.99", "gate.max_forget=1", "gate.max_loss=1", "gate.max_retain_drop=1",
    "gate.max_position=9", "stand_ins.number=1", "stand_ins.steps=1", "gate.max_forgotten_share=1",
    "audit.enabled=false",
)  # fmt: skip
"""The digits recipe so small that a request takes seconds, and that whatever comes out is published."""

IN_FILE = (("a", "default", 0), ("b", "default", 2), ("x", "other", 5))
ADDED = ("c", "default", 4)
"""Request, lineage and class; the last one is added while the job runs."""

FAILING = (("r", "raises", 1), ("d", "diverges", 3), ("m", "memory", 6))
"""The same, of tenants whose requests never succeed (`benchmarks.chaos_job`), and which are due first."""
DUE_S, FAILING_DUE_S = 900.0, 60.0
"""Seconds from the beginning of a round to the deadlines."""

GAP_S = 6.0
"""The most that a random kill waits since there was work to disturb."""


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One that is planned.

    Attributes:
        kind: what is killed.
        failpoint: the driver's own, where the kill is at one.
        count: how often that must have come up in the round.
        after_s: a random kill's wait.
        patient: a random kill waits until the one before was recovered from.
    """

    kind: str
    failpoint: str | None = None
    count: int = 0
    after_s: float = 0.0
    patient: bool = True


def draw(seed: int, kills: int, failpoints: Mapping[str, int]) -> list[Kill]:
    """A campaign: half at random moments, the kinds in turn, and half at failpoints, going round these.

    Args:
        seed: of the draws.
        kills: in all.
        failpoints: failpoint -> how often it comes up in an undisturbed round.
    """
    draws = random.Random(f"chaos {seed}")
    names = sorted(failpoints)
    draws.shuffle(names)
    points = [
        Kill(kind="driver", failpoint=name, count=draws.randint(1, failpoints[name]))
        for name in itertools.islice(itertools.cycle(names), kills // 2)
    ]
    moments = [
        Kill(kind=kind, after_s=draws.uniform(0, GAP_S), patient=draws.random() < 0.75)
        for kind in itertools.islice(itertools.cycle(KINDS), kills - kills // 2)
    ]
    return points + moments


def steps_taken(log: Sequence[tuple[float, str]]) -> int:
    """Steps that runs were told to take, those among them that a kill cut short.

    >>> steps_taken([(0.0, "advance 1 2"), (0.5, "before put ledger/HEAD"), (1.0, "advance 1 2")])
    4
    """
    spans = (moment.split() for _, moment in log if moment.startswith("advance"))
    return sum(int(last) - int(first) + 1 for _, first, last in spans)


@dataclass
class Round:
    """What happened in a round.

    Attributes:
        folder: with the storage location and the log.
        hits: kills that hit, with their times.
        ended: drivers that ended otherwise than by a kill or with their work done, and what they said.
        log: times and moments of all drivers.
        seconds: that it took.
    """

    folder: Path
    hits: list[tuple[Kill, float]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    log: list[tuple[float, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def store(self) -> Store:
        """Its storage location."""
        return Store.open(self.folder / "storage", create=False)


class Disturber:
    """Runs a round.

    Args:
        cluster: the cluster.
        folder: empty, of this round.
        kills: that are planned; those that found nothing to hit are left in `points` and `moments`.
        placement: of the job.
        draws: choose among victims.
        cycles: of each request, with a checkpoint after every second.
    """

    def __init__(
        self, cluster: LocalCluster, folder: Path, kills: Sequence[Kill], placement: str,
        draws: random.Random, *, cycles: int = CYCLES,
    ) -> None:  # fmt: skip
        self.cycles = cycles
        self.cluster, self.placement, self.draws = cluster, placement, draws
        self.points = [kill for kill in kills if kill.failpoint]
        self.moments = [kill for kill in kills if not kill.failpoint]
        self.round = Round(folder)
        self.down: dict[int, float] = {}
        self.last = 0.0
        folder.mkdir(parents=True)
        now = datetime.now(UTC)
        asked = [
            {
                "request_id": name, "lineage": of, "target": [target],
                "deadline": (now + timedelta(seconds=due)).isoformat(),
            }
            for requests, due in ((FAILING, FAILING_DUE_S), (IN_FILE, DUE_S))
            for name, of, target in requests
        ]  # fmt: skip
        (folder / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
        self._arm()

    def run(self) -> Round:
        """The job until all is served, then once more: that changes nothing, and meets what is armed."""
        began = time.time()
        done = added = False
        while True:
            with self.driver() as job:
                while job.poll() is None:
                    time.sleep(0.05)
                    self._read()
                    added = added or self._add()
                    self._restart(done)
                    if self.moments and not done and time.time() >= self._due():
                        self._strike(self.moments[0], job)
            self._read()
            if job.returncode == ExitCode.PARTIAL and done:  # some fail in each round
                break
            if job.returncode == ExitCode.PARTIAL:
                done = True
            elif job.returncode == -signal.SIGKILL:
                self._at_failpoint()
            else:
                said = (self.round.folder / "said").read_text()[-2000:]
                self.round.ended.append(f"exit code {job.returncode}: {said}")
                if len(self.round.ended) > 3:
                    break
        self._restart(True)
        self.cluster.wait()
        self.round.seconds = time.time() - began
        return self.round

    @contextmanager
    def driver(self) -> Iterator[subprocess.Popen[bytes]]:
        """The job, by the same command each time."""
        folder = self.round.folder
        command = [
            sys.executable, "-m", "benchmarks.chaos_job", "--requests", folder / "requests.jsonl",
            "--storage", folder / "storage", "--placement", self.placement, "--cpus-per-role", "1",
        ]  # fmt: skip
        cycles = [f"gated_inversion.{name}={self.cycles}" for name in ("cycles", "schedule_cycles")]
        for setting in (*SETTINGS, *cycles):
            command += ["--set", setting]
        where = {"RAY_ADDRESS": self.cluster.address, FOLDER: str(folder)}
        with (folder / "said").open("ab") as said:
            job = subprocess.Popen(
                list(map(str, command)), cwd=ROOT, env=environment(**where), stdout=said, stderr=said
            )
        try:
            yield job
        finally:
            job.kill()
            job.wait()

    def begun(self, runs: int) -> bool:
        """Whether so many runs have been at their second checkpoint."""
        self._read()
        return sum(moment.endswith("/00000004.safetensors") for _, moment in self.round.log) >= 2 * runs

    def _read(self) -> None:
        self.round.log = read_log(self.round.folder)

    def _arm(self) -> None:
        armed: dict[str, int] = {}
        for point in self.points:
            assert point.failpoint is not None
            armed[point.failpoint] = min(point.count, armed.get(point.failpoint, point.count))
        arm(self.round.folder, armed)

    def _worked_since(self, at: float) -> bool:
        return any(when > at and "/students/" in moment for when, moment in reversed(self.round.log))

    def _add(self) -> bool:
        """Add the request that comes while the job runs, at the first checkpoint."""
        if not self._worked_since(0):
            return False
        name, lineage, target = ADDED
        due = datetime.now(UTC) + timedelta(seconds=DUE_S)
        request = Request(request_id=name, lineage=lineage, target=(target,), deadline=due)
        Inbox(self.round.store).add(request, now=datetime.now(UTC))
        return True

    def _due(self) -> float:
        """When the next random kill is to come."""
        kill = self.moments[0]
        if kill.patient and not self._worked_since(self.last):
            return float("inf")
        return max(self.last, self.round.log[0][0] if self.round.log else float("inf")) + kill.after_s

    def _strike(self, kill: Kill, job: subprocess.Popen[bytes]) -> None:
        """Kill, if there is what is to be killed."""
        if kill.kind == "driver":
            hit = job.poll() is None
            job.kill()
            hit = job.wait() == -signal.SIGKILL and hit
        elif kill.kind == "raylet":
            hit = self._kill_node()
        else:
            hit = self._kill_process(kill.kind)
        if hit:
            self._record(self.moments.pop(0))

    def _kill_process(self, kind: str) -> bool:
        """An actor of a run; or a worker that is at a task, or that synthesises or judges."""
        found = []
        for process, title in titles(self.cluster.processes()).items():
            name = title.removeprefix("ray::")
            at_task = name[0] == "_" or name == "SealedProcess.run"
            if at_task if kind == "worker" else name.startswith("SealedProcess"):
                found.append(process)
        if not found:
            return False
        try:
            self.draws.choice(found).kill()
        except psutil.NoSuchProcess:
            return False
        return True

    def _kill_node(self) -> bool:
        """A worker node on which there is a run."""
        found = [
            index
            for index, node in enumerate(self.cluster.nodes)
            if index and any("SealedProcess" in title for title in titles(node.processes()).values())
        ]
        if not found or self.down or not all(node.is_up() for node in self.cluster.nodes):
            return False
        index = self.draws.choice(found)
        self.down[index] = time.time()
        return self.cluster.nodes[index].kill() > 0

    def _restart(self, now: bool) -> None:
        """Bring a node back once the work went on without it."""
        for index, at in list(self.down.items()):
            if now or self._worked_since(at) or time.time() > at + 60:
                self.cluster.restart(index)
                del self.down[index]

    def _at_failpoint(self) -> None:
        """Note which failpoint it was that the driver has ended at."""
        if not self.round.log or self.round.log[-1][1].startswith("advance"):
            return
        name = failpoint(self.round.log[-1][1])
        count = counted(moment for _, moment in self.round.log)[name]
        for point in self.points:
            if point.failpoint == name and count >= point.count:
                self.points.remove(point)
                self._record(point)
                self._arm()
                return

    def _record(self, kill: Kill) -> None:
        self.last = time.time()
        self.round.hits.append((kill, self.last))


def hits_by_kind(rounds: Sequence[Round]) -> Counter[tuple[str, str]]:
    """Kills that hit, by kind and by how their moment was chosen."""
    return Counter(
        (kill.kind, "failpoint" if kill.failpoint else "random") for r in rounds for kill, _ in r.hits
    )

"""The chaos benchmark: its arithmetic, and a kill of each kind once."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import (
    HEAD_CPUS,
    LINEAGES,
    WORKER_CPUS,
    checked,
    faults,
    figures,
    recovery_s,
    still_waiting,
)
from benchmarks.chaos_job import Watched, arm, counted, failpoint, read_log
from benchmarks.chaos_round import KINDS, Disturber, Kill, Round, draw, steps_taken
from benchmarks.local_cluster import LocalCluster
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.storage.store import Store
from tests.serving.tiny import memory_store

POINTS = {"before put ledger/HEAD": 80, "after put ledger/HEAD": 80, "before create models": 5}


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        ("before create rayunlearn.json", "before create rayunlearn.json"),
        ("after create ledger/runs/000000000007.parquet", "after create ledger/runs"),
        ("before create ledger/chain/000000000007.json", "before create ledger/chain"),
        ("after put ledger/HEAD", "after put ledger/HEAD"),
        ("after create ledger/runs/000000000001-000000000016.01ab.parquet", "after create ledger/segment"),
        ("before create models/default/0a1b.safetensors", "before create models"),
        ("before put runs/run-a-a1-cf81/students/00000004.safetensors", "before put runs/students"),
        ("after put runs/run-b.c-a1-cf81/state.pt", "after put runs/state"),
        ("before delete inbox/requests/c.json", "before delete inbox/requests"),
        ("before create claims/000000000001.json", "before create claims"),
        ("before put claims/000000000001.heartbeat.json", "before put claims/heartbeat"),
    ],
)
def test_a_failpoint_is_the_same_for_all_files_of_a_kind(moment: str, name: str) -> None:
    """When, what and of which kind; numbers, ids, runs and lineages are left out."""
    assert failpoint(moment) == name


def test_the_job_ends_at_the_moment_that_is_armed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the second write of a kind, counted over processes, nothing of that write is there."""
    killed: list[str] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(read_log(tmp_path)[-1][1]))
    store = memory_store()
    arm(tmp_path, {"before put ledger/HEAD": 2, "after create models": 1})
    for name in ("runs/r/state.pt", "ledger/HEAD"):
        Watched(tmp_path).write("put", Store.put)(store, name, b"")
    assert killed == []
    arm(tmp_path, {"before put ledger/HEAD": 2})
    watched = Watched(tmp_path)  # another process

    def write(of: Store, name: str, data: bytes) -> None:
        assert killed == [f"before put {name}"]

    watched.write("put", write)(store, "ledger/HEAD", b"")
    assert counted(moment for _, moment in read_log(tmp_path)) == {
        f"{when} put {name}": 1 + (name == "ledger/HEAD")
        for when in ("before", "after")
        for name in ("runs/state", "ledger/HEAD")
    }


def test_a_line_cut_short_is_no_moment(tmp_path: Path) -> None:
    """What a kill left of the log's last line is not read."""
    (tmp_path / "log").write_text("1.5 advance 1 2\n2.5 before put ledg")
    assert read_log(tmp_path) == [(1.5, "advance 1 2")]
    assert read_log(tmp_path / "none") == []


def test_a_campaign_comes_from_its_seed() -> None:
    """Half at failpoints, all of them before any again; half at random moments, the kinds in turn."""
    drawn = draw(3, 17, POINTS)
    assert drawn == draw(3, 17, POINTS) != draw(4, 17, POINTS)
    points, moments = drawn[:8], drawn[8:]
    assert all(p.kind == "driver" and 1 <= p.count <= POINTS[str(p.failpoint)] for p in points)
    assert sorted(Counter(p.failpoint for p in points).values()) == [2, 3, 3]
    assert {p.failpoint for p in points[:3]} == set(POINTS)
    assert [m.kind for m in moments] == [*KINDS, *KINDS, KINDS[0]]
    assert all(m.failpoint is None for m in moments)


def test_no_kill_of_a_campaign_is_left_out() -> None:
    """Of kills that are alike one is taken for each that is planned; what hit nothing waits again."""
    point = Kill(kind="driver", failpoint="after put runs", count=1)
    late, moment = replace(point, count=9), Kill(kind="actor", after_s=2.0)
    rest = still_waiting([point, moment, point, late], [point, late], [late])
    assert rest == [moment, point, point]


def test_repeated_steps_are_those_taken_beyond_the_undisturbed() -> None:
    """Of six steps, two were begun again after a kill: two repeated, a third of the work."""
    calm = Round(Path("none"), log=[(0.0, "advance 1 2"), (1.0, "advance 3 4"), (2.0, "advance 5 6")])
    spans = ["advance 1 2", "before put ledger/HEAD", "advance 3 4", "advance 3 4", "advance 5 6"]
    taken = steps_taken([(0.0, span) for span in spans])
    assert (steps_taken(calm.log), taken) == (6, 8)


@pytest.mark.parametrize(
    ("progress", "seconds"),
    [
        ({"a": [(9.0, "phase"), (13.0, "phase")]}, 3.0),
        ({"a": [(10.1, "checkpoints"), (12.0, "resumed"), (15.0, "phase")]}, 5.0),
        ({"a": [(12.0, "phase"), (25.0, "resumed")]}, 2.0),  # begun again for another kill
        ({"a": [(11.0, "phase")], "b": [(17.0, "versions")], "done": [(3.0, "versions")]}, 7.0),
        ({"a": [(9.0, "versions")]}, None),
    ],
)
def test_recovery_lasts_until_every_lineage_went_on(
    progress: dict[str, list[tuple[float, str]]], seconds: float | None
) -> None:
    """From the kill at 10 to the next sign of work, after the run was begun again where it was, before 20."""
    assert recovery_s(10.0, 20.0, progress) == seconds


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    """A round that served nothing has lost every request; that too few kills hit is told as well."""
    rounds = [Round(tmp_path / name) for name in ("calm", "made")]
    for made in rounds:
        Ledger(Store.open(made.folder / "storage", sync=False))
    found = faults(rounds[1], rounds[0])
    assert [re.findall(r"request (\w+)", fault)[0] for fault in found] == list("abxcrdm")
    assert [name for name, passed in checked(found, 3, 4).items() if not passed] == [
        "requests lost: 0",
        "each request of a failing tenant failed once, for a reason on record",
        "4 kills hit",
    ]


# ---- on Ray


@pytest.mark.ray
@pytest.mark.slow
def test_a_kill_of_each_kind(tmp_path: Path) -> None:
    """An actor, a worker at a task, a node and the driver, and the driver before and after a write.

    All four requests are served once, by the weights of an undisturbed round that was placed otherwise, and
    the driver outlives every kill but its own. A round whose weights are others is found out.
    """
    kills = [
        *(Kill(kind=kind, after_s=0.5) for kind in KINDS),
        Kill(kind="driver", failpoint="before put runs/state", count=10),
        Kill(kind="driver", failpoint="after create models", count=3),
    ]
    with LocalCluster(HEAD_CPUS, WORKER_CPUS) as cluster:
        calm = Disturber(cluster, tmp_path / "calm", [], "colocated", random.Random(0), cycles=16).run()
        made = Disturber(cluster, tmp_path / "made", kills, "split", random.Random(0), cycles=16).run()
    assert calm.ended == [] and faults(calm, calm) == []
    assert faults(made, calm) == []
    assert Counter(kill.kind for kill, _ in made.hits) == {"actor": 1, "worker": 1, "raylet": 1, "driver": 3}
    told = figures(calm, [made])
    assert told["kills"] == 6 and len(told["failpoints_hit"]) == 2
    assert 0 <= told["cycles_repeated"] <= 6 * 2 * 2  # a checkpoint's two cycles of two runs, at each kill

    name = next(name for name in made.store.list("models") if LINEAGES[1] in name)
    made.store.put(name, made.store.get(name) + b" ")
    assert any(fault.startswith("weights") for fault in faults(made, calm))

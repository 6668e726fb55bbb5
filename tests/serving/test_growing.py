"""Clusters that grow and shrink: slots follow, pending runs ask for nodes, and wait for them."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.local_cluster import LocalCluster, Node
from rayunlearn.errors import BadInput
from rayunlearn.execution import autoscaling
from rayunlearn.execution.autoscaling import CONFIG_VARIABLE, most_of
from rayunlearn.execution.cluster import NoRoom, Placement, bundles
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.test_dispatch import dispatcher, received, statuses
from tests.serving.tiny import ROOT, SMALL, forget, memory_store, rows, start_job
from tests.waiting import HANG_S

OURS, THEIRS = (replace(forget(n), lineage=name) for n, name in ((1, "ours"), (2, "theirs")))


class Meeting(InlineExecutor):
    """Goes on with its first steps only when so many runs have come as far."""

    barrier: threading.Barrier

    def begin(self, inputs: Any) -> int:
        """Wait for the others."""
        self.barrier.wait(timeout=HANG_S)
        return super().begin(inputs)


def test_a_slot_that_comes_later_is_used_while_others_are_busy() -> None:
    """The first run ends only if the second is begun beside it, once the cluster has grown."""
    store = memory_store()
    received(store, OURS, THEIRS)
    begun = threading.Event()
    made = dispatcher(store, slots=lambda: 2 if begun.is_set() else 1)
    meeting = type("Two", (Meeting,), {"barrier": threading.Barrier(2)})

    def opened() -> InlineExecutor:
        begun.set()
        return meeting()

    made.scheduler_for("gkt").open_executor = opened
    outcomes = made.drain([OURS, THEIRS])
    assert all(outcome.version for outcome in outcomes.values())
    first = [row["event"] for row in rows(store, "plans")][:3]
    assert first == ["start", "wait", "start"], "there was one slot at first"


def test_no_slot_is_no_error() -> None:
    """A cluster that shrank below one run begins nothing new, and goes on when it is back."""
    store = memory_store()
    received(store, OURS, THEIRS)
    sizes = iter([2, 0, 0, 0])
    made = dispatcher(store, slots=lambda: next(sizes, 2))
    assert all(outcome.version for outcome in made.drain([OURS, THEIRS]).values())


def test_a_run_without_a_place_is_parked_and_not_failed() -> None:
    """Its lineage is held, which is on record with why; others are served; the next job goes on with it."""
    store = memory_store()
    received(store, OURS, THEIRS)
    made = dispatcher(store)

    def opened() -> InlineExecutor:
        if rows(store, "runs")[-1]["lineage"] == "ours":
            raise NoRoom("resources", "3 x 1 GPU", "what is free within 600 s")
        return InlineExecutor()

    made.scheduler_for("gkt").open_executor = opened
    made.drain([OURS, THEIRS])
    assert statuses(store) == {"forget-1": "planned", "forget-2": "served"}
    (parked,) = LedgerReader(store).read("plans", event="park").to_pylist()
    assert parked["request_ids"] == ["forget-1"] and "free within 600 s" in parked["why"]
    assert isinstance(made.held["ours"], NoRoom)
    assert dispatcher(store).drain([OURS])["forget-1"].version is not None


def test_more_than_there_is_is_refused_unless_nodes_are_to_come() -> None:
    """With nobody to bring nodes it is told at once; else it is asked for, and waited for."""
    asked: dict[str, Any] = {"cpus_per_role": 2.0, "gpus_per_role": 1.0}
    with pytest.raises(NoRoom, match="at most the 4 CPU that the cluster has"):
        bundles(Placement.SPLIT, {"CPU": 4.0}, **asked)
    wanted = bundles(Placement.SPLIT, {"CPU": 4.0}, **asked, bounded=False)
    assert wanted == [{"CPU": 2.0, "GPU": 1.0}] * 3


def test_the_cluster_that_comes_with_the_project_can_have_gpus() -> None:
    """`cluster.yaml` begins without a GPU: 2 nodes of 4 and 6 of 1 are the most that 8 workers have."""
    most = most_of(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    assert most == {"CPU": 8 + 2 * 48 + 6 * 4, "GPU": 2 * 4 + 6}
    shared = bundles(Placement.SPLIT, most)
    assert shared == [{"CPU": 1.0, "GPU": 1.0}] * 3
    here = bundles(Placement.SPLIT, {"CPU": 8.0})
    assert here == [{"CPU": 1.0}] * 3, "by what is there alone it settles for the head's CPUs"
    assert most_of({}) == {}


@pytest.mark.parametrize("content", [None, "- 1", "a: [", "\0"])
def test_a_configuration_that_cannot_be_read_is_named(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable, the path, and what it should be."""
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    with pytest.raises(BadInput, match=rf"{CONFIG_VARIABLE} is '{path}'; allowed: .*configuration"):
        autoscaling._configuration()


# ---- on nodes that are added, and on Ray's own autoscaler

SETTINGS = (*SMALL, "method=gkt", "audit.enabled=false")


def asking(storage: Path, address: str, *flags: str, lineages: tuple[str, ...] = ("default",)) -> Any:
    """A job with one request a lineage."""
    requests = storage.with_suffix(".jsonl")
    asked = ({"request_id": f"r-{name}", "lineage": name, "target": [1]} for name in lineages)
    requests.write_text("".join(json.dumps(line) + "\n" for line in asked))
    return start_job(
        "--requests", requests, "--storage", storage, "--address", address, *flags, settings=SETTINGS
    )


def events(storage: Path) -> list[tuple[str, str]]:
    """Of the runs, with their lineages."""
    try:
        found = LedgerReader(Store.open(storage, create=False)).read("runs").to_pylist()
    except BadInput:
        return []
    return [(row["lineage"], row["event"]) for row in found]


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_waits_for_nodes_that_a_person_adds(tmp_path: Path) -> None:
    """More than the cluster has is refused at once; with --node-wait it goes on when the node is there."""
    large = ("--placement", "colocated", "--cpus-per-role", "2")
    with LocalCluster(1, []) as grown:
        with asking(tmp_path / "s", grown.address, *large) as job:
            out, _ = job.communicate(timeout=HANG_S)
        assert job.returncode == 2 and "at most the 1 CPU that the cluster has" in out
        flags = (*large, "--node-wait", "240")
        with asking(tmp_path / "s", grown.address, *flags, lineages=("a", "b")) as job:
            end = time.monotonic() + HANG_S
            while len(events(tmp_path / "s")) < 1 and time.monotonic() < end:
                time.sleep(0.5)
            time.sleep(3)
            assert [event for _, event in events(tmp_path / "s")] == ["started"], "it waits for its place"
            grown.nodes.append(Node(grown.folder, 6, grown.address))
            out, _ = job.communicate(timeout=HANG_S)
        assert job.returncode == 0, out
    found = events(tmp_path / "s")
    ends = [i for i, (_, event) in enumerate(found) if event == "published"]
    assert {name for name, event in found[: ends[0]] if event == "started"} == {"a", "b"}, "side by side"


@pytest.mark.ray
@pytest.mark.slow
def test_the_default_asks_the_autoscaler_for_nodes(tmp_path: Path) -> None:
    """By its own flags alone: three roles of a whole CPU each, of which the head has one."""
    with LocalCluster(1, [], autoscaling={"worker": {"CPU": 2}}) as grown:
        more = {CONFIG_VARIABLE: str(grown.autoscaling)}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in more.items():
                patch.setenv(name, value)
            with asking(tmp_path / "s", grown.address) as job:
                out, _ = job.communicate(timeout=HANG_S)
        assert job.returncode == 0, out
        nodes = [process for process in grown.processes() if process.name() == "raylet"]
    assert len(nodes) > 1, "no node was brought"


@pytest.mark.parametrize(
    "text", ["available_node_types: [1]", "max_workers: many", "[" * 100_000], ids=["list", "text", "nested"]
)
def test_a_configuration_of_other_types_is_refused(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a sentence that names the variable; negative control: a right one is read."""
    path = tmp_path / "cluster.yaml"
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))
    monkeypatch.setattr(autoscaling.state, "get_max_resources_from_cluster_config", lambda: None)
    path.write_text(text)
    with pytest.raises(BadInput, match=f"^{CONFIG_VARIABLE} is "):
        autoscaling._can_have()
    path.write_text("available_node_types: {}")
    assert autoscaling._can_have() == {}

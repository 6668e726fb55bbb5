from __future__ import annotations

import functools
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rayunlearn.errors import ExitCode, Interrupted
from rayunlearn.ledger.ledger import LedgerReader, verify
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import InlineExecutor
from tests.local_ray import Head
from tests.serving.tiny import (
    BANK,
    Quiet,
    Recording,
    forget,
    memory_store,
    rows,
    run_job,
    start_job,
    tiny_recipe,
    tiny_scheduler,
)
from tests.waiting import HANG_S

pytestmark = pytest.mark.usefixtures("few_draws")

FAST = "inversion.iterations=5"  # most resumed runs synthesise again
STEPS = [2, 4, 6]


@functools.cache
def undisturbed(recipe: str) -> tuple[Recording, str, int]:
    """A run that nobody disturbs: its store, its version, and how many changes came before the run."""
    store = Recording()
    scheduler = tiny_scheduler(store, tiny_recipe(recipe, FAST))
    begun = len(store.before)
    version = scheduler.serve(forget(0)).version
    assert version is not None
    return store, version, begun


def check_ended_as_undisturbed(store: Store, recipe: str) -> None:
    """The store holds what the undisturbed run's holds, each checkpoint once, and its chain is whole."""
    expected, version, _ = undisturbed(recipe)
    assert [v.version for v in versions(LedgerReader(store), "default")][1:] == [version]
    assert rows(store, "checkpoints") == rows(expected, "checkpoints")
    assert [row["step"] for row in rows(store, "checkpoints")] == STEPS
    assert rows(store, "evaluations") == rows(expected, "evaluations")
    assert rows(store, "versions") == rows(expected, "versions")
    assert store.get(f"models/default/{version}.safetensors") == expected.get(
        f"models/default/{version}.safetensors"
    )
    verify(store)


def events(store: Store, table: str) -> Counter[str]:
    """How often each event stands in a table."""
    return Counter(row["event"] for row in rows(store, table) if row["event"] not in ("phase", "resumed"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["digits", "digits_gkt"])
def test_killed_before_any_write(recipe: str) -> None:
    """A driver killed before any one of its writes, started again, ends as if it had not been killed.

    A kill leaves a prefix of the writes (each is whole or not there), so every prefix of an undisturbed
    run's is tried: same version and weights, same checkpoints and evaluations, each once, a chain that
    verifies, one end of the request. Between the parts of a ledger entry, before and after each
    checkpoint's files and between publication and its events are all among them.
    """
    expected, _, begun = undisturbed(recipe)
    names = [name for name, _ in expected.before[begun:]]
    assert len(names) > 40 and sum("state.pt" in name for name in names) == len(STEPS)
    every = 1 if recipe == "digits" else 3  # the paper's kind has another state, but the same writes
    for name, files in expected.before[begun::every]:
        store = memory_store(files)
        tiny_scheduler(store, tiny_recipe(recipe, FAST)).serve(forget(0))
        check_ended_as_undisturbed(store, recipe)
        assert events(store, "requests") == {"planned": 1, "served": 1}, name
        assert events(store, "runs") == {"started": 1, "published": 1}, name
        assert {row["parent_version"] for row in rows(store, "runs")} == {
            versions(LedgerReader(store), "default")[0].version
        }, name


@pytest.mark.parametrize("recipe", ["digits", "digits_gkt"])
@pytest.mark.parametrize("stops", [[1], [2], [3], [1, 1, 1]])
def test_stopped_at_any_checkpoint(recipe: str, stops: list[int]) -> None:
    """A run interrupted after its n-th checkpoint, or after each, goes on to the undisturbed run's bits."""
    store = memory_store()
    for stop in stops:
        left = iter(range(stop - 1))

        def interrupt(left: Any = left) -> None:
            if next(left, None) is None:
                raise Interrupted("stopped by the test")

        scheduler = tiny_scheduler(store, tiny_recipe(recipe, FAST), progress=Quiet(interrupt))
        with pytest.raises(Interrupted):
            scheduler.serve(forget(0))
    quiet = Quiet()
    tiny_scheduler(store, tiny_recipe(recipe, FAST), progress=quiet).serve(forget(0))
    check_ended_as_undisturbed(store, recipe)


def test_an_interrupted_run_lets_go_of_its_place() -> None:
    """An executor is closed also when its run is interrupted."""
    closed = []

    class Watched(InlineExecutor):
        def close(self) -> None:
            closed.append(self)

    def interrupt() -> None:
        raise Interrupted("stopped by the test")

    scheduler = tiny_scheduler(
        memory_store(), tiny_recipe("digits", FAST), open_executor=Watched, progress=Quiet(interrupt)
    )
    with pytest.raises(Interrupted):
        scheduler.serve(forget(0))
    assert len(closed) == 1


def test_nothing_is_computed_again() -> None:
    """What a checkpoint holds is not computed again: the resumed run advances the cycles after it alone."""
    advanced: list[tuple[int, int]] = []

    class Watched(InlineExecutor):
        def advance(self, first: int, last: int) -> None:
            advanced.append((first, last))
            super().advance(first, last)

    expected, _, begun = undisturbed("digits")
    names = [name for name, _ in expected.before]
    second = [i for i, name in enumerate(names) if "state.pt" in name][1]
    store = memory_store(expected.before[second + 1][1])
    tiny_scheduler(store, tiny_recipe("digits", FAST), open_executor=Watched).serve(forget(0))
    assert advanced == [(5, 6)]


REQUESTS = '{"request_id": "a", "target": [0]}\n{"request_id": "b", "target": [2]}\n'
LONG = (*BANK, "gated_inversion.cycles=24", "gated_inversion.schedule_cycles=24", "audit.enabled=false", FAST)


def expected_chain() -> list[str]:
    """The versions that an undisturbed job publishes, without Ray."""
    store = memory_store()
    recipe = tiny_recipe("digits", *LONG)
    scheduler = tiny_scheduler(store, recipe)
    for name, target in (("a", 0), ("b", 2)):
        scheduler.serve(forget(target, name=name))
    return [v.version for v in versions(LedgerReader(store), "default")]


def wait_for_states(storage: Path, job: subprocess.Popen[str], runs: int) -> None:
    """Wait until so many runs are in the middle of their transfer."""
    end = time.monotonic() + HANG_S
    while len(list(storage.glob("runs/*/state.pt"))) < runs:
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.ray
@pytest.mark.slow
def test_a_driver_killed_and_stopped_in_mid_transfer(head: Head, tmp_path: Path) -> None:
    """SIGKILL in the first run's transfer, SIGTERM in the second's: the same command ends the same.

    The killed driver leaves no word; the terminated one says how to go on and exits with 6 (INTERRUPTED).
    The second start has another placement, which makes no difference. What the third publishes are the
    versions of an undisturbed job in one process without Ray.
    """
    (tmp_path / "requests.jsonl").write_text(REQUESTS)
    storage = tmp_path / "storage"
    command = ("--requests", tmp_path / "requests.jsonl", "--storage", storage, "--address", head.address)

    with start_job(*command, settings=LONG) as job:
        wait_for_states(storage, job, 1)
        job.send_signal(signal.SIGKILL)
        job.communicate(timeout=HANG_S)
    assert job.returncode == -signal.SIGKILL

    with start_job(*command, "--placement", "colocated", settings=LONG) as job:
        wait_for_states(storage, job, 2)
        job.send_signal(signal.SIGTERM)
        out, err = job.communicate(timeout=HANG_S)
    assert job.returncode == ExitCode.INTERRUPTED, out + err
    assert "SIGTERM" in out and "the same command goes on" in out and "Traceback" not in out + err

    ended = run_job(*command, settings=LONG)
    assert ended.code == ExitCode.OK, ended.out + ended.err
    store = Store.open(storage, create=False)
    reader = LedgerReader(store)
    assert [v.version for v in versions(reader, "default")] == expected_chain()
    assert {k: status(v) for k, v in request_events(reader).items()} == {"a": "served", "b": "served"}
    steps = Counter((row["run_id"], row["step"]) for row in rows(store, "checkpoints"))
    assert set(steps.values()) == {1} and len(steps) == 2 * 12
    assert events(store, "runs") == {"started": 2, "published": 2}
    verify(store)

"""A Ray Train run as a call: what it gives back, how it fails, and that Ctrl-C stays ours."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.execution.train_run import train_run
from tests.waiting import HANG_S


def run(work: Callable[..., Any], given: Any, scratch: Path, workers: int = 1) -> Any:
    """A run of workers of one CPU."""
    return train_run(
        "doubling", work, given, scratch,
        workers=workers, cpus_per_worker=1, gpus_per_worker=0, threads=1,
    )  # fmt: skip


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_run_gives_what_the_first_worker_returns(tmp_path: Path) -> None:
    """Tensors come back as tensors with their bits; both workers met in one process group; nothing stays."""

    def work(given: dict[str, torch.Tensor], shard: tuple[int, int]) -> tuple[torch.Tensor, Any, int]:
        ranks = torch.tensor([1 + shard[0]])
        torch.distributed.all_reduce(ranks)
        return 2 * given["w"], shard, int(ranks)

    doubled, shard, ranks = run(work, {"w": torch.tensor([0.1, -0.0])}, tmp_path, workers=2)
    assert torch.equal(doubled, torch.tensor([0.2, 0.0])) and torch.signbit(doubled).tolist() == [False, True]
    assert (shard, ranks) == ((0, 2), 3)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_failure_names_the_run_and_a_refusal_is_itself(tmp_path: Path) -> None:
    """A worker's own error names the run and says why; a `BadInput` arrives as it was; nothing stays."""

    def fails(given: int, shard: tuple[int, int]) -> None:
        raise ZeroDivisionError("no model has 0 classes")

    def refuses(given: int, shard: tuple[int, int]) -> None:
        raise BadInput("samples", given, "at least 2", where="doubling")

    with pytest.raises(RayUnlearnError, match="(?s)doubling failed: .*no model has 0 classes"):
        run(fails, 1, tmp_path)
    with pytest.raises(BadInput, match="doubling: samples is 1; allowed: at least 2"):
        run(refuses, 1, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ctrl_c_is_ours_during_a_run_and_after_it(tmp_path: Path) -> None:
    """SIGINT in a run ends in `KeyboardInterrupt`, for which Train exits with 0; then the handler is back."""
    started, over = tmp_path / "started", threading.Event()

    def waits(given: str, shard: tuple[int, int]) -> None:
        Path(given).touch()
        time.sleep(HANG_S)

    def interrupt() -> None:
        while not started.exists():
            time.sleep(0.1)
        while not over.is_set():  # one that comes while a library finalises something is lost in Python
            os.kill(os.getpid(), signal.SIGINT)
            over.wait(10)

    # Tune, which other tests of this process may have run, sets a handler that gives way at the first signal.
    found, before = signal.getsignal(signal.SIGINT), signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(waits, str(started), tmp_path)
    over.set()
    thread.join(HANG_S)
    left = signal.signal(signal.SIGINT, found)
    assert left is before
    assert list(tmp_path.iterdir()) == [started]


def test_a_run_needs_a_worker(tmp_path: Path) -> None:
    """None is refused before anything is started or written."""
    with pytest.raises(BadInput, match="doubling: workers is 0; allowed: a whole number > 0"):
        run(lambda given, shard: given, 1, tmp_path, workers=0)
    assert list(tmp_path.iterdir()) == []

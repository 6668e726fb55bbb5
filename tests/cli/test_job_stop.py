"""A job that is stopped by `ray job stop` goes on by the same command."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path

import pytest
from ray.job_submission import JobStatus, JobSubmissionClient

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.storage.store import Store
from tests.local_ray import Head
from tests.serving.tiny import BANK, ROOT, forget, memory_store, tiny_recipe, tiny_scheduler
from tests.waiting import HANG_S

pytestmark = [pytest.mark.ray, pytest.mark.slow]

LONG = (
    *BANK, "gated_inversion.cycles=60", "gated_inversion.schedule_cycles=60", "audit.enabled=false",
    "validation.checkpoint_every=5",
)  # fmt: skip
STOPPED_AT = 2


class Jobs:
    """What `ray job` asks of a head, asked from this process: the command takes seconds to start."""

    def __init__(self, head: Head) -> None:
        self.client = JobSubmissionClient(head.dashboard)

    def submit(self, name: str, command: list[str]) -> None:
        """`ray job submit --no-wait --working-dir .` from the repository."""
        place = {"working_dir": str(ROOT)}
        self.client.submit_job(entrypoint=shlex.join(command), submission_id=name, runtime_env=place)

    def ended(self, name: str) -> JobStatus:
        """How a job ended, once it has."""
        end = time.monotonic() + HANG_S
        while not (status := self.client.get_job_status(name)).is_terminal():
            assert time.monotonic() < end, self.said(name)
            time.sleep(0.2)
        return status

    def said(self, name: str) -> str:
        """`ray job logs`."""
        return str(self.client.get_job_logs(name))


def test_a_job_that_is_stopped_goes_on(head: Head, tmp_path: Path) -> None:
    """`ray job stop` in mid-run: the job has said its last line before Ray's patience is over.

    The same command goes on from the last checkpoint to the weights of a run that nobody stopped.
    """
    storage = tmp_path / "storage"
    (tmp_path / "requests.jsonl").write_text('{"request_id": "forget-0", "target": [0]}\n')
    command = ["python", "jobs/sequential_unlearn.py", "--requests", str(tmp_path / "requests.jsonl")]
    command += ["--storage", str(storage), "--placement", "colocated"]
    for setting in LONG:
        command += ["--set", setting]
    jobs = Jobs(head)
    jobs.submit("first", command)
    end = time.monotonic() + HANG_S
    while len(list(storage.glob("runs/*/students/*"))) < STOPPED_AT:
        assert time.monotonic() < end, jobs.said("first")
        time.sleep(0.05)
    jobs.client.stop_job("first")
    assert jobs.ended("first") == JobStatus.STOPPED
    said = jobs.said("first")
    assert "stopped by SIGTERM; the same command goes on from the last checkpoint" in said
    heartbeat = max(storage.glob("claims/*.heartbeat.json"))
    assert json.loads(heartbeat.read_text())["released"]

    jobs.submit("second", command)
    assert jobs.ended("second") == JobStatus.SUCCEEDED, jobs.said("second")
    reader = LedgerReader(Store.open(storage, create=False))
    assert [row["event"] for row in reader.read("runs").to_pylist()].count("resumed") == 1
    expected = memory_store()
    tiny_scheduler(expected, tiny_recipe("digits", *LONG)).serve(forget(0))
    ids = [v.version for v in versions(reader, "default")]
    assert ids == [v.version for v in versions(LedgerReader(expected), "default")]

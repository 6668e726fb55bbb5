from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import request_events, status, versions
from rayunlearn.storage.store import Store
from tests.local_ray import Head
from tests.serving.tiny import BANK, ROOT, environment, forget, memory_store, tiny_recipe, tiny_scheduler
from tests.waiting import HANG_S


def submit(head: Head, *entry: str | Path) -> subprocess.CompletedProcess[str]:
    """`ray job submit --working-dir . -- ...` from the repository."""
    ray = Path(sys.executable).parent / "ray"
    command = [ray, "job", "submit", "--address", head.dashboard, "--working-dir", ".", "--", *entry]
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=HANG_S
    )


@pytest.mark.ray
@pytest.mark.slow
def test_ray_job_submit(head: Head, tmp_path: Path) -> None:
    """The same file, submitted to a `ray start --head`, serves its requests there and publishes the same.

    What is shipped is the code: neither the environment nor the repository's history goes along.
    """
    requests, storage = tmp_path / "requests.jsonl", tmp_path / "storage"
    arguments: list[str | Path] = ["python", "jobs/sequential_unlearn.py"]
    arguments += ["--requests", requests, "--storage", storage, "--placement", "colocated"]
    requests.write_text('{"request_id": "forget-0", "target": [0]}\n')
    for setting in (*BANK, "audit.enabled=false"):
        arguments += ["--set", setting]
    ended = submit(head, *arguments)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Report:" in ended.stdout and "succeeded" in ended.stdout

    reader = LedgerReader(Store.open(storage, create=False))
    assert {k: status(v) for k, v in request_events(reader).items()} == {"forget-0": "served"}
    expected = memory_store()
    tiny_scheduler(expected, tiny_recipe()).serve(forget(0))
    ids = [v.version for v in versions(reader, "default")]
    assert ids == [v.version for v in versions(LedgerReader(expected), "default")]

    (shipped,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/jobs")
    names = {path.name for path in shipped.parent.iterdir()}
    assert {"jobs", "rayunlearn", "pyproject.toml"} <= names
    assert names.isdisjoint({".venv", ".git", "storage", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_keeps_nothing_in_its_working_directory(head: Head) -> None:
    """With the default location it ends at once and says what to give instead; so do the commands.

    Negative control: above, the same with an absolute path.
    """
    lines = "python jobs/sequential_unlearn.py ; python -m rayunlearn request add --target 3 ; pwd ; "
    lines += "echo told $RAY_JOB_CONFIG_JSON_ENV_VAR ; test ! -e storage"
    ended = submit(head, "sh", "-c", lines)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = re.sub(r"\s+", " ", ended.stdout)
    refused = "storage is 'storage'; allowed: an absolute path outside of Ray's copy of the working directory"
    assert said.count(refused) == 2
    where = re.search(r"/runtime_resources/working_dir_files/(_ray_pkg_\w+) ", said)
    assert where is not None, "Ray unpacks elsewhere: rayunlearn.storage.lasting has to know where"
    assert re.search(rf'told .*"working_dir": "gcs://{where[1]}\.zip"', said)

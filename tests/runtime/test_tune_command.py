"""`jobs/tune_sweep.py` by its flags: what cannot be searched is refused before anything is begun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rayunlearn.errors import ExitCode
from tests.runtime.tiny import ROOT, environment

BEHAVIOUR = {"request_id": "b", "kind": "examples", "target": [9], "examples": "e",
             "data_access": ["few_examples", "weights"]}  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--audit",), "--audit is 'of b, examples'; allowed: a request that forgets whole classes"),
        (("--request", "c"), "--request is 'c'; allowed: the id of a request in "),
        (("--recipe", "digits_gtk"), "--recipe is 'digits_gtk'; allowed: 'digits_gkt'"),
        (("--budget", "16 trails"), "--budget is '16 trails'"),
        (("--log", "tensorbord"), "--log is 'tensorbord'; allowed: 'tensorboard'"),
        (("--space", "gkt.bета=uniform(0,1)"), "gkt.bета"),
    ],
)
def test_what_cannot_be_searched_is_refused_at_once(
    flags: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """One sentence, exit code 2, and not even a storage location."""
    requests = tmp_path / "requests.jsonl"
    requests.write_text(json.dumps(BEHAVIOUR) + "\n")
    done = subprocess.run(
        [sys.executable, "jobs/tune_sweep.py", "--requests", str(requests),
         "--storage", str(tmp_path / "storage"), *flags],
        cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert said in done.stdout + done.stderr
    assert not (tmp_path / "storage").exists()

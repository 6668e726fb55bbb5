"""`jobs/tune_sweep.py` by its flags: what cannot be searched is refused before anything is begun."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from jobs.tune_sweep import Options
from rayunlearn.cli.tune_command import run_sweep
from rayunlearn.errors import ExitCode
from tests.serving.tiny import ROOT, environment
from tests.waiting import HANG_S

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
    flags: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence, exit code 2, and not even a storage location."""
    options = tyro.cli(Options, args=[*command(tmp_path), *flags], config=(tyro.conf.UseAppendAction,))
    assert run_sweep(**vars(options)) == ExitCode.BAD_INPUT
    assert said in capsys.readouterr().out
    assert not (tmp_path / "storage").exists()


def test_a_refusal_ends_the_process(tmp_path: Path) -> None:
    """With exit code 2, the sentence and no traceback."""
    done = subprocess.run(
        [sys.executable, "jobs/tune_sweep.py", *command(tmp_path), "--budget", "16 trails"],
        cwd=ROOT, env=environment(), text=True, capture_output=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == ExitCode.BAD_INPUT, done.stderr
    assert "--budget is '16 trails'" in done.stdout and done.stderr == ""


def command(folder: Path) -> list[str]:
    """Flags for a file with one request, of a behaviour, and a storage location that is not there."""
    requests = folder / "requests.jsonl"
    requests.write_text(json.dumps(BEHAVIOUR) + "\n")
    return ["--requests", str(requests), "--storage", str(folder / "storage")]

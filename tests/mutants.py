"""Faults planted in methods, which their learned tests find on every arithmetic: `python -m tests.mutants`.

The control of bounds that are wide enough for every CPU: they are not so wide that a method may be wrong.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests import arithmetic

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Mutant:
    """One fault: in a file of the package `old` becomes `new`, and tests of a file are to fail."""

    name: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant(
        "noise of the wrong sign", "methods/error_noise.py",
        "    if not maximise:\n", "    if maximise:\n", "tests/methods/test_min_max.py",
    ),
    Mutant(
        "no post-filter", "methods/ispf.py",
        "seen = forgotten & (", "seen = ~forgotten & forgotten & (", "tests/methods/test_ispf.py",
    ),
    Mutant(
        "relabelled with the own label", "methods/amnesiac_relabel.py",
        "labels = torch.cat([others.flatten(), retain.labels])",
        "labels = torch.cat([forget.labels.repeat_interleave(settings.copies), retain.labels])",
        "tests/methods/test_amnesiac_relabel.py",
    ),
    Mutant(
        "no class masked in the targets", "methods/delete.py",
        "mask_classes(", "(lambda logits, classes: logits)(", "tests/methods/test_delete.py",
    ),
    Mutant(
        "D' keeps its labels", "inversion/unlearning_set.py",
        "relabel(soft_labels, erased)", "soft_labels", "tests/methods/test_few_shot.py",
    ),
)  # fmt: skip


def found(mutant: Mutant, setting: str) -> tuple[bool, str]:
    """Whether a learned test failed, and pytest's last line."""
    with tempfile.TemporaryDirectory() as name:
        for part in ("rayunlearn", "papers", "tests", "jobs", "benchmarks"):
            shutil.copytree(ROOT / part, Path(name) / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", name)
        path = Path(name) / "rayunlearn" / mutant.file
        source = path.read_text()
        assert source.count(mutant.old) >= 1, f"{mutant.file} has no {mutant.old!r}"
        path.write_text(source.replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=no", "-m", "learned", mutant.tests]
        environment = {**os.environ, arithmetic.SETTING: setting, "PYTHONPATH": name}
        ended = subprocess.run(
            command, cwd=name, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
    if ended.returncode not in (0, 1):
        sys.exit(ended.stdout[-3000:] + ended.stderr[-3000:])
    return ended.returncode == 1, ended.stdout.strip().splitlines()[-1]


def main() -> None:
    """Run each mutant under each setting, and end with 1 where one was not found."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    choices = list(arithmetic.SETTINGS)
    parser.add_argument("--settings", nargs="+", default=choices, choices=choices, help="arithmetic")
    asked = parser.parse_args()
    missed = 0
    cores = os.cpu_count() or 1
    for setting in asked.settings:
        # Side by side on cores of their own: threads that share a core wait for one another.
        with ThreadPoolExecutor(max(1, cores // arithmetic.SETTINGS[setting].threads)) as pool:
            ends = pool.map(partial(found, setting=setting), MUTANTS)
            for mutant, (caught, said) in zip(MUTANTS, ends, strict=True):
                missed += not caught
                print(f"{'found ' if caught else 'MISSED'} {mutant.name}, {setting}: {said}", flush=True)
    tried = len(MUTANTS) * len(asked.settings)
    print(f"{tried - missed} of {tried} found")
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()

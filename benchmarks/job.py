"""Wall time and memory of the default job: `python -m benchmarks.job`.

Starts `jobs/sequential_unlearn.py` as a user would and samples the proportional set size of all its
processes, Ray's included. Shares by phase come from the job's own ledger, so they hold on any machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import tyro

from rayunlearn.execution.machine import machine_facts
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.storage.store import Store

JOB = Path(__file__).resolve().parents[1] / "jobs" / "sequential_unlearn.py"
MOST_SECONDS = 8 * 60
MOST_BYTES = 6 * 1024**3


def tree_pss(root: psutil.Process) -> int:
    """Proportional set size of a process and all below it, bytes."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended between the listing and the look
    return total


def main(placement: str = "split", out: Path = Path("docs/results/job.json")) -> None:
    """Run the job once and print its figures.

    Args:
        placement: as the job takes it.
        out: where the figures are stored.
    """
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder) / "storage"
        command = [sys.executable, str(JOB), "--storage", str(storage), "--placement", placement]
        began = time.perf_counter()
        process = subprocess.Popen(command)
        root, peak = psutil.Process(process.pid), 0
        while process.poll() is None:
            try:
                peak = max(peak, tree_pss(root))
            except psutil.NoSuchProcess:
                break
            time.sleep(2)
        wall, code = time.perf_counter() - began, process.wait()
        runs = LedgerReader(Store.open(storage, create=False)).read("runs", event="phase").to_pylist()
    phases: dict[str, float] = {}
    for row in runs:
        phases[row["phase"]] = phases.get(row["phase"], 0.0) + row["seconds"]
    result = {
        "benchmark": "job",
        "placement": placement,
        "exit_code": code,
        "wall_s": wall,
        "peak_pss_gib": peak / 1024**3,
        "phase_share_of_wall": {name: s / wall for name, s in phases.items()},
        "checks": {
            "exit code 0": code == 0,
            "at most 8 minutes": wall <= MOST_SECONDS,
            "under 6 GiB": peak < MOST_BYTES,
        },
        "machine": machine_facts(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{wall:.0f} s, peak {peak / 1024**3:.2f} GiB, exit code {code}")
    print(json.dumps(result, separators=(",", ":")))


if __name__ == "__main__":
    tyro.cli(main)

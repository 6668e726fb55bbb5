"""Evidence that a third party believes: `python -m benchmarks.front_door`.

Two figures. The CPU time of `python -m rayunlearn verify`, in a process of its own, for a certificate in a
log of a million entries. And a generated list of tamperings with certificates, files, keys, models and logs,
by people with and without the log's key: every one must be found, and nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import tyro
from rich.console import Console

from benchmarks.tamperings import CONTROL, ORIGIN, Made, made, tamperings
from rayunlearn.evidence.keys import SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.execution.machine import machine_facts

MOST_VERIFY_S, LEAST_TAMPERINGS = 1.0, 200
SMALL_LOG = 64
"""Entries of the logs that are tampered with, of which many are made."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Time `verify` in a large log, and tamper with certificates."""

    out: Path = Path("docs/results/front-door-evidence.json")
    """Where the figures are written."""

    entries: int = 1_000_000
    """Entries of the log."""

    repeats: int = 5
    """How often `verify` is timed."""


def timed(log: Made, key: SigningKey, entries: int, repeats: int) -> list[dict[str, float]]:
    """Seconds of CPU and by the clock of `verify`, each in a process of its own."""
    half = entries // 2
    old = Note(text=Checkpoint(origin=ORIGIN, size=half, root=log.tree.root(half)).text).signed(key)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name, content in log.files["r2"].items():
            (place / name).write_bytes(content)
        (place / "certificate-r2.evidence.json").write_bytes(log.evidence["r2"].to_json())
        (place / "log.pub").write_text(f"{key.verifier}\n")
        (place / "old.note").write_text(str(old))
        command = [
            sys.executable, "-m", "rayunlearn", "verify", str(place / "certificate-r2.json"),
            "--key", str(place / "log.pub"), "--checkpoint", str(place / "old.note"),
        ]  # fmt: skip
        for _ in range(repeats):
            began = perf_counter()
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = perf_counter() - began
            assert os.waitstatus_to_exitcode(status) == 0, "a true certificate"
            found.append({"cpu_s": usage.ru_utime + usage.ru_stime, "s": seconds})
    return found


def main(options: Options) -> int:
    """Measure, show and store; the exit code is 1 where a claim does not hold."""
    console, key = Console(highlight=False, soft_wrap=True), SigningKey.new(ORIGIN)
    began = perf_counter()
    log = made(key, options.entries, earlier=(options.entries // 2,))
    made_s = perf_counter() - began
    evidence_bytes = len(log.evidence["r2"].to_json())
    times = timed(log, key, options.entries, options.repeats)
    del log
    found: dict[str, str | None] = {}
    for tampering in tamperings(key, SMALL_LOG):
        assert tampering.name not in found, f"two of the name {tampering.name}"
        found[tampering.name] = tampering.found()
    controls = {name: kind for name, kind in found.items() if name.startswith(CONTROL)}
    tampered = {name: kind for name, kind in found.items() if name not in controls}
    missed = [name for name, kind in tampered.items() if kind is None]
    kinds = dict(Counter(kind for kind in tampered.values() if kind))
    most = max(time["cpu_s"] for time in times)
    timely = f"verify in a log of {options.entries:,} entries: under {MOST_VERIFY_S:g} s of CPU"
    claims = {
        timely: most < MOST_VERIFY_S,
        f"at least {LEAST_TAMPERINGS} tamperings": len(tampered) >= LEAST_TAMPERINGS,
        "every tampering found": not missed,
        "what was not tampered with is true": bool(controls) and not any(controls.values()),
    }
    result = {
        "benchmark": "front_door, evidence",
        "entries": options.entries,
        "tree_made_s": made_s,
        "evidence_bytes": evidence_bytes,
        "verify": times,
        "tamperings": len(tampered),
        "found": len(tampered) - len(missed),
        "missed": missed,
        "kinds": kinds,
        "controls": len(controls),
        "claims": claims,
        "machine": machine_facts(),
        "list": tampered,
    }
    for claim, holds in claims.items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    told = {"verify_cpu_s": most, "tamperings": len(tampered), "missed": len(missed), "kinds": kinds}
    print(json.dumps(told))
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))

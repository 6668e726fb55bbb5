"""What a command costs before it does anything: `python -m benchmarks.startup`.

Processes take turns: `python -c pass`, `import rayunlearn`, and the help of `rayunlearn`, of all commands and
of one. Compared are CPU seconds of the processes, so that other work on the machine counts little, as a ratio
to those of `python -c pass`, and the largest resident memory. A first turn writes the bytecode and is not
counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from statistics import median

import tyro

from rayunlearn.execution.machine import machine_facts

PASS = "python -c pass"
CALLS = {
    PASS: ("-c", "pass"),
    "import rayunlearn": ("-c", "import rayunlearn"),
    "rayunlearn --help": ("-m", "rayunlearn", "--help"),
    "rayunlearn serve --help": ("-m", "rayunlearn", "serve", "--help"),
    "rayunlearn status --help": ("-m", "rayunlearn", "status", "--help"),
}
"""Name -> what Python is called with."""
STARTER = """
import json, os, subprocess, sys
_, status, usage = os.wait4(subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL).pid, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss]))
"""
"""A small process that starts another: what the starter holds counts as a peak of the one that it starts."""
MOST_IMPORT_S, MOST_IMPORT_MB, MOST_HELP_S = 0.2, 60.0, 0.5


def call(arguments: tuple[str, ...]) -> dict[str, float]:
    """CPU seconds and peak resident memory, MB, of Python with these arguments."""
    command = [sys.executable, "-c", STARTER, sys.executable, *arguments]
    code, cpu_s, peak_kib = json.loads(subprocess.check_output(command, text=True))
    assert code == 0, arguments
    return {"cpu_s": cpu_s, "peak_mb": peak_kib * 1024 / 1e6}


def main(turns: int = 9, out: Path = Path("docs/results/startup.json")) -> int:
    """Let them take turns, show medians and ratios; the exit code is 1 where a claim does not hold.

    Args:
        turns: of each that are counted.
        out: where the figures are stored.
    """
    taken = [{name: call(arguments) for name, arguments in CALLS.items()} for _ in range(turns + 1)][1:]
    middle = {
        name: {figure: median(turn[name][figure] for turn in taken) for figure in ("cpu_s", "peak_mb")}
        for name in CALLS
    }
    ratios = {
        name: median(turn[name]["cpu_s"] / turn[PASS]["cpu_s"] for turn in taken)
        for name in CALLS
        if name != PASS
    }
    imported, helped = middle["import rayunlearn"], middle["rayunlearn --help"]
    claims = {
        f"import rayunlearn: under {MOST_IMPORT_S:g} s of CPU": imported["cpu_s"] < MOST_IMPORT_S,
        f"import rayunlearn: under {MOST_IMPORT_MB:g} MB": imported["peak_mb"] < MOST_IMPORT_MB,
        f"rayunlearn --help: under {MOST_HELP_S:g} s of CPU": helped["cpu_s"] < MOST_HELP_S,
    }
    result = {
        "benchmark": "startup",
        "median": middle,
        "cpu_ratio": ratios,
        "turns": taken,
        "claims": claims,
        "machine": machine_facts(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    for name, figures in middle.items():
        print(f"{name}: {figures['cpu_s']:.3f} s of CPU, {figures['peak_mb']:.0f} MB")
    for claim, holds in claims.items():
        print(f"{'yes' if holds else 'NO '} {claim}")
    print(json.dumps({"cpu_ratio": {name: round(ratio, 2) for name, ratio in ratios.items()}}))
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(tyro.cli(main))

"""What keeping freed memory saves on CPUs: `python -m benchmarks.allocator`.

Cycles of gated knowledge transfer at the size of an MNIST row, in processes that take turns: with malloc as
it is, and as `connect` sets it for the workers of a local Ray. Compared are CPU seconds of the cycles alone,
so that other work on the machine counts little, and the largest resident memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import torch
import tyro

from rayunlearn.execution.cluster import KEEP_FREED_MEMORY
from rayunlearn.execution.machine import machine_facts
from rayunlearn.methods.gkt.run import METHOD
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.roles import Roles

CYCLES = 8
CHILD = "from benchmarks.allocator import cycles; cycles()"
AT_MOST = 0.95
"""Of the CPU seconds with malloc as it is."""


def cycles() -> None:
    """Run them in this process and print CPU seconds and peak resident memory, MiB."""
    torch.set_num_threads(1)
    spec = ClassifierSpec(
        name="allcnn", width=0.125, in_channels=1, image_size=28, num_classes=10, mean=(0.13,), std=(0.31,)
    )
    weights = dict(build_classifier(spec, 0).state_dict())
    roles = Roles(retain=tuple(range(1, 10)), target=(0,))
    handed = Handed(spec=spec, weights=weights, roles=roles, seed=0)
    # an untrained teacher gives every class a tenth: let all images pass
    run = METHOD.begin(handed, GKTSettings(batch_size=128, generator_width=0.125, epsilon=1.0), "cpu")
    run.advance(1, 2)
    began = _cpu_seconds()
    run.advance(3, 2 + CYCLES)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu_s": _cpu_seconds() - began, "peak_mib": usage.ru_maxrss / 1024}))


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(pairs: int = 5, out: Path = Path("docs/results/allocator.json")) -> None:
    """Let both take turns and print the ratios.

    Args:
        pairs: turns of each.
        out: where the figures are stored.
    """
    plain = {k: v for k, v in os.environ.items() if k not in KEEP_FREED_MEMORY}
    turns = []
    for _ in range(pairs):
        as_is, kept = (
            json.loads(subprocess.check_output([sys.executable, "-c", CHILD], env=environment, text=True))
            for environment in (plain, plain | KEEP_FREED_MEMORY)
        )
        turns.append({name: kept[name] / as_is[name] for name in as_is} | {"as_is": as_is, "kept": kept})
    ratio = {name: median(turn[name] for turn in turns) for name in ("cpu_s", "peak_mib")}
    checks = {f"CPU seconds at most {AT_MOST} of those with malloc as it is": ratio["cpu_s"] <= AT_MOST}
    result = {
        "benchmark": "allocator",
        "cycles": CYCLES,
        "median_ratio": ratio,
        "turns": turns,
        "checks": checks,
        "machine": machine_facts(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(f"CPU seconds {ratio['cpu_s']:.2f}, peak memory {ratio['peak_mib']:.2f} of malloc as it is")
    for claim, holds in checks.items():
        print(f"{'yes' if holds else 'NO '} {claim}")


if __name__ == "__main__":
    tyro.cli(main)

"""What the judge costs a request: `python -m benchmarks.judge_cost`, about two minutes on one core.

A request of the default method is served in this process on one thread, as the service would serve it, and
its parts are timed: the images that the method learns from, its steps with checkpoints, and of the judge
the three synthetic sets and the gate. The share of one in the other is taken within one run.
"""

from __future__ import annotations

import json
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import torch
import tyro

from benchmarks.zoo.cache import Cache, default_folder
from benchmarks.zoo.members import Workshop
from benchmarks.zoo.rows import tasks
from rayunlearn.execution.machine import machine_facts
from rayunlearn.methods.unlearning import Handed
from rayunlearn.unlearning.executor import InlineExecutor, RunInputs
from rayunlearn.unlearning.judging import compared, gate_jobs, synthesis_jobs

STORED = Path(__file__).parents[1] / "docs" / "results" / "judge-cost.json"
SETS = ("stop", "check", "keep")


def seconds_of(setup: str, folder: Path) -> dict[str, float]:
    """Seconds of each part of the first request of a setup of the zoo."""
    task = tasks((setup,))[0]
    shop = Workshop(task, Cache(folder))
    recipe, roles, version = shop.recipe, task.roles(shop.spec.num_classes), shop.original
    took: dict[str, float] = {}
    sets: dict[str, Any] = {}
    for name, (make, arguments) in synthesis_jobs(shop.spec, version, roles, recipe, task.seed).items():
        began = perf_counter()
        sets[name] = make(*arguments)
        took[name] = perf_counter() - began
    executor = InlineExecutor()
    handed = Handed(
        spec=shop.spec, weights=version, roles=roles, seed=task.seed, inverted=sets.get("bank")
    )
    inputs = RunInputs(
        method=recipe.method, settings=recipe.method_settings, handed=handed, stop_set=sets["stop"],
        compared=compared(recipe),
    )  # fmt: skip
    began = perf_counter()
    steps, done = executor.begin(inputs), 0
    while done < steps:
        until = min(done + recipe.validation.checkpoint_every, steps)
        executor.advance(done + 1, until)
        _, student = executor.checkpoint()
        done = until
    took["unlearn"] = perf_counter() - began
    began = perf_counter()
    executor.map(gate_jobs(shop.spec, student, version, sets, roles, recipe, task.seed))
    took["gate"] = perf_counter() - began
    return took


def share(took: dict[str, float]) -> float:
    """Of the three sets and the gate in all of a request.

    >>> share({"bank": 4, "stop": 1, "check": 1, "keep": 1, "unlearn": 2, "gate": 1})
    0.4
    """
    return sum(took[part] for part in (*SETS, "gate")) / sum(took.values())


def main(
    setups: Annotated[tuple[str, ...], tyro.conf.arg(help="of the zoo")] = ("digits-allcnn", "mnist-lenet"),
    out: Annotated[Path, tyro.conf.arg(help="where the figures go")] = STORED,
) -> None:
    """Time a request of each setup and store what share of it is the judge's."""
    torch.set_num_threads(1)
    found = {}
    for setup in setups:
        took = seconds_of(setup, default_folder())
        found[setup] = {"share": round(share(took), 3), **{k: round(v, 2) for k, v in took.items()}}
        print(f"{setup}: {found[setup]}", flush=True)
    out.write_text(json.dumps({"seconds": found, "machine": machine_facts()}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)

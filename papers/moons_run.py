"""The moons example as Ray tasks: a file a seed in the reproduction's storage, and Fig. 2 as a picture."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import ray

from papers.moons import LAMBDAS, RHOS, MoonsSettings, run_moons
from papers.moons_plots import draw_divergences, draw_moons
from papers.results import Result
from papers.side_files import read_json
from rayunlearn.execution import torch_process
from rayunlearn.execution.machine import machine_facts
from rayunlearn.settings import config_hash, paths
from rayunlearn.storage.store import Store

SETTINGS = MoonsSettings()


def moons_key() -> str:
    """By which a seed's results are found again: changes with any setting."""
    return f"moons-{config_hash(SETTINGS)[:10]}"


def run_seed(root: str, seed: int, threads: int) -> None:
    """Every system of a seed, at every share and lambda; kept when all are done."""
    torch_process.set_up(threads)
    began = perf_counter()
    rows = run_moons(seed, RHOS, LAMBDAS, SETTINGS)
    result = {
        "seed": seed,
        "settings": {f"moons.{path}": value for path, (_, value) in paths(SETTINGS).items()},
        "seconds": round(perf_counter() - began, 1),
        "machine": machine_facts() | {"gpytorch": version("gpytorch")},
        "rows": rows,
    }
    Store.open(root).put(_name(seed, "json"), json.dumps(result, indent=1).encode())


def draw_seed(root: str, seed: int, threads: int) -> None:
    """Fig. 2 of a seed, kept beside its figures."""
    torch_process.set_up(threads)
    Store.open(root).put(_name(seed, "png"), draw_moons(seed, settings=SETTINGS))


def moons_tasks(
    root: Path, seeds: Sequence[int], page: str, *, done: Collection[tuple[str, int]] = (), threads: int = 1,
    cpus: float, gpus: float,
) -> dict[Any, str]:  # fmt: skip
    """Begin what a page needs and nobody has done yet (`done`: key and seed): task -> what it does."""
    store = Store.open(root)
    run, draw = (ray.remote(task).options(num_cpus=cpus, num_gpus=gpus) for task in (run_seed, draw_seed))
    tasks = {
        run.remote(str(root), seed, threads): f"moons, seed {seed}"
        for seed in seeds
        if (moons_key(), seed) not in done and not store.exists(_name(seed, "json"))
    }
    if page == "figure-2" and not store.exists(_name(seeds[0], "png")):
        tasks[draw.remote(str(root), seeds[0], threads)] = f"Fig. 2, seed {seeds[0]}"
    return tasks


def moons_results(root: Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """What the seeds that are done gave."""
    store = Store.open(root)
    there = [_name(seed, "json") for seed in seeds if store.exists(_name(seed, "json"))]
    return [{"key": moons_key(), **read_json(store, name, dict)} for name in there]


def moons_picture(root: Path, seeds: Sequence[int], page: str, results: Sequence[Result]) -> bytes | None:
    """The page's picture, where it has one and what it shows has been run."""
    store = Store.open(root)
    if page == "figure-2" and store.exists(_name(seeds[0], "png")):
        return store.get(_name(seeds[0], "png"))
    if page == "figure-3" and results:
        return draw_divergences([row for result in results for row in result["rows"]])
    return None


def _name(seed: int, kind: str) -> str:
    """Where a seed's file is kept."""
    return f"moons/{moons_key().removeprefix('moons-')}/seed-{seed}.{kind}"

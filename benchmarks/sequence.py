"""Seven requests one after another: `python -m benchmarks.sequence`.

Digits, the paper's sequence of classes (Fig. 9): the project's default and the paper's recipe, each request
from the version that the one before published, each version beside a model retrained for it. A run that
was stopped goes on from `--storage`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.rows import endings, finished
from benchmarks.zero_shot import value
from papers.zero_shot import Row, row
from papers.zero_shot_figures import SEQUENCE
from rayunlearn.execution.machine import machine_facts
from rayunlearn.recipes import load_recipe
from rayunlearn.reports.comparison import returned_classes

METHODS: dict[str, tuple[str, ...]] = {
    "gated_inversion": (),
    "gkt": ("gkt.cycles=120", "gkt.schedule_cycles=120", "gkt.generator_halving=20"),
}
"""With the settings that give the paper's recipe the seconds that the default takes."""
SEEDS = 5
HELD, GAP = 5, 4.0
"""Requests for which the default must keep within so many points of Retrain."""


def rows() -> list[Row]:
    """The sequence by each method."""
    recipe = load_recipe("digits")
    requests = [(c,) for c in SEQUENCE]
    return [
        row("sequence", recipe, recipe, method, requests, *settings, measures="accuracy,probe")
        for method, settings in METHODS.items()
    ]


def after_each(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One method: for each request what it left, means over the seeds that came to it."""
    found = []
    for position, target in enumerate(SEQUENCE):
        of = [r for r in results if r["target"] == [target]]
        if not of:
            break
        gold, own = (mean(100 * value(r, s, "retain_accuracy") for r in of) for s in ("gold", "unlearned"))
        back: dict[int, float] = {}
        for r in of:
            for c, share in returned_classes(r["figures"]).items():
                back[c] = max(share, back.get(c, 0.0))
        found.append(
            {
                "request": position + 1,
                "class": target,
                "gold": gold,
                "unlearned": own,
                "gap": gold - own,
                "forget": max(100 * value(r, "unlearned", "forget_accuracy") for r in of),
                "probe": mean(100 * value(r, "unlearned", "probe_forget_recall") for r in of),
                "probe_gold": mean(100 * value(r, "gold", "probe_forget_recall") for r in of),
                "came_back": {str(c): share for c, share in back.items()},
                "refused": sum(r["refused"] is not None for r in of),
                "n": len(of),
            }
        )
    return found


def main(
    out: Path = Path("docs/results/sequence.json"),
    storage: Path = Path("reproduction"),
    seeds: int = SEEDS,
) -> None:
    """Run the benchmark.

    Args:
        out: where the figures are stored.
        storage: folder for what is under way.
        seeds: fewer are for a quick look, not for figures.
    """
    console = Console(width=110)
    results = finished(rows(), seeds, storage, console)
    found = {method: after_each([r for r in results if r["method"] == method]) for method in METHODS}
    ends = {row.recipe.method: endings(row, seeds, storage) for row in rows()}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = (
        "method", "forget", "n", "Retrain", "D_r", "gap", "D_f", "probe (gold)", "came back", "refused",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "method" else "right")
    for method, requests in found.items():
        for of in requests:
            table.add_row(
                method, str(of["class"]), str(of["n"]), f"{of['gold']:.2f} %", f"{of['unlearned']:.2f} %",
                f"{of['gap']:.2f}",
                f"{of['forget']:.2f} %", f"{of['probe']:.1f} ({of['probe_gold']:.1f}) %",
                ", ".join(of["came_back"]) or "none", f"{of['refused']} of {of['n']}",
            )  # fmt: skip
    console.print(table)
    for method, of_method in ends.items():
        for seed, (request, why) in of_method.items():
            console.print(f"{method}, seed {seed}: ended at {request}: {why}", highlight=False)
    own = found["gated_inversion"]
    checks = {
        f"the default keeps within {GAP:g} points of Retrain to request {HELD}": all(
            of["gap"] <= GAP for of in own[:HELD]
        ),
        "none of the forgotten classes comes back": not any(of["came_back"] for of in own),
        "every seed of the default serves all requests": not ends["gated_inversion"],
    }
    for claim, holds in checks.items():
        console.print(f"{'yes' if holds else 'NO '}  {claim}", highlight=False)
    stored = {
        "benchmark": "sequence", "seeds": seeds, "methods": found, "ended": ends, "checks": checks,
        "machine": machine_facts(),
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(stored, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)

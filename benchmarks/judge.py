"""The gate's verdicts on the zoo, whose models' truth is known: `python -m benchmarks.judge`.

The rows are those of `docs/results/zoo.parquet` (`python -m benchmarks.zoo`), so that it takes seconds. The
bounds are the gate's own and were fitted to no row. Beside them, under `before`, stands the gate as it was
before it had a scale.

What is not judged yet is left out of the line: a predicted D_r, its order over methods, and the stop.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, Literal

import pyarrow.parquet as pq
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.zoo import before
from rayunlearn.evaluation.synthetic import Assessment
from rayunlearn.scheduling.erasing import Recall, Scale, judge_erasing
from rayunlearn.scheduling.gate import GateSettings

STORED = Path(__file__).parents[1] / "docs" / "results" / "zoo.parquet"
Row = dict[str, Any]
Verdict = Literal["passed", "refused", "cannot tell"]

TOLD = 0.1
"""By so much a probe on real images has to know more of the hidden baseline than of any Retrain model, of the
forget classes' recall as a share of the others', to tell one from the other."""
HIDDEN, ERASED = 0.75, 0.25
"""Places between Retrain (0) and the hidden baseline (1), by such a probe: from here on the class is merely
hidden, and up to here it is erased. In between nothing is asked of the judge."""
SOUND, DAMAGED = 1.0, 5.0
"""Points of D_r below Retrain: at most so many, and at least."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The models of one request.

    Attributes:
        rows: by name.
    """

    rows: dict[str, Row]

    def of(self, family: str) -> list[Row]:
        """Models of a family."""
        return [row for row in self.rows.values() if row["family"] == family]

    @property
    def version(self) -> Row:
        """What is asked to forget."""
        (row,) = self.of("version")
        return row

    @property
    def judged(self) -> list[Row]:
        """Models of which the truth is known, but the version's."""
        return [row for row in self.rows.values() if row["truth"] and row["family"] != "version"]

    def places(self, row: Row) -> list[float]:
        """A model's places between Retrain and the hidden baseline, by the real probes that tell these."""
        found = []
        for probe in ("probe_1", "probe_10"):
            golds = [_relative(r["truth"][probe]) for r in self.of("retrained")]
            hidden = _relative(self.rows["mask_logit"]["truth"][probe])
            if hidden - max(golds) >= TOLD:
                low = mean(golds)
                found.append((_relative(row["truth"][probe]) - low) / (hidden - low))
        return found

    def below(self, row: Row) -> float:
        """Points of D_r that a model lacks of the Retrain models' mean."""
        return mean(self.retained(r) for r in self.of("retrained")) - self.retained(row)

    def retained(self, row: Row) -> float:
        """D_r, in %."""
        truth, kept = row["truth"], row["retain"]
        return 100 * sum(truth["correct"][c] for c in kept) / sum(truth["count"][c] for c in kept)


def _relative(recalls: Sequence[float]) -> float:
    forget, retain = recalls
    return Recall(forget=forget, retain=retain).relative


def tasks(rows: Iterable[Row]) -> dict[str, Task]:
    """Of the zoo's rows; only such as have a version, both ends of its scale and a Retrain model."""
    by_task: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_task[row["task"]][row["name"]] = row
    found = {name: Task(rows=members) for name, members in by_task.items()}
    needed = ("version", "stand-in", "hidden", "retrained")
    return {name: task for name, task in found.items() if all(task.of(family) for family in needed)}


def erasing(task: Task, row: Row, settings: GateSettings) -> Verdict:
    """What the gate says of what a model has erased."""
    images = row["without_data"]["assessment"]
    if images["forget_correct"] / images["forget_count"] > settings.max_forget:
        return "refused"
    scale = Scale(version=_recall(task.version), stand_ins=tuple(map(_recall, task.of("stand-in"))))
    position, power = settings.max_position, settings.least_power
    said = judge_erasing(_recall(row), scale, max_position=position, least_power=power)
    return "passed" if said == "erased" else "cannot tell" if said == "cannot tell" else "refused"


def erasing_before(task: Task, row: Row) -> Verdict:
    """The same of the gate as it was."""
    return "passed" if _before(task, row)[1] else "refused"


def keeping(task: Task, row: Row, settings: GateSettings) -> Verdict:
    """What the gate says of what a model has kept: as ever, its accuracy on inverted images."""
    bounds = before.Bounds(retain_drop=settings.max_retain_drop)
    return "passed" if _before(task, row, bounds)[0] else "refused"


def _before(task: Task, row: Row, bounds: before.Bounds | None = None) -> tuple[bool, bool]:
    found, parent = (Assessment(**r["without_data"]["assessment"]) for r in (row, task.version))
    measured = row["without_data"]
    return before.passed(found, parent, measured["relapse"], _recall(row).forget, bounds or before.Bounds())


def _recall(row: Row) -> Recall:
    forget, retain = row["without_data"]["probes"]["inverted"]["1"]
    return Recall(forget=forget, retain=retain)


def family(row: Row) -> str:
    """Of a method its name; students from the hidden baseline apart from others."""
    if row["family"] == "method":
        return str(row["name"]).rsplit("-", 1)[0]
    return f"student from {row['name'].rsplit('-', 1)[1]}" if row["family"] == "student" else row["family"]


def figures(
    zoo: dict[str, Task], judge: Callable[[Task, Row], Verdict], keeps: Callable[[Task, Row], Verdict]
) -> dict[str, Any]:
    """Shares of models of which the verdict is right, each over those of which something is asked.

    A Retrain model has to pass and a hidden one to be refused by erasing and keeping together; the others are
    asked of one of these alone.

    Args:
        zoo: the tasks.
        judge: of erasing.
        keeps: of keeping.
    """
    golds: list[Verdict] = []
    hidden: dict[str, list[Verdict]] = defaultdict(list)
    erased: list[Verdict] = []
    as_erased: list[Verdict] = []
    told, blind, damaged, sound = [], [], [], []
    for name, task in zoo.items():
        if task.places(task.rows["mask_logit"]):
            told.append(name)
            blind += [name] * (judge(task, task.rows["mask_logit"]) == "cannot tell")
        for row in task.judged:
            places = task.places(row)
            if row["family"] == "retrained":
                golds.append(_worse(judge(task, row), keeps(task, row)))
                erased.append(judge(task, row))
            elif places and min(places) >= HIDDEN:
                hidden[family(row)].append(_worse(judge(task, row), keeps(task, row)))
            elif places and max(places) <= ERASED:
                as_erased.append(judge(task, row))
            if task.below(row) >= DAMAGED:
                damaged.append(keeps(task, row))
            elif task.below(row) <= SOUND:
                sound.append(keeps(task, row))
    return {
        "retrain_passed": _share(golds, "passed"),
        "retrain_erased": _share(erased, "passed"),
        "hidden_refused": {kind: _share(said, "refused") for kind, said in sorted(hidden.items())},
        "erased_passed": _share(as_erased, "passed"),
        "damaged_refused": _share(damaged, "refused"),
        "sound_passed": _share(sound, "passed"),
        "cannot_tell": len(blind) / len(told) if told else None,
        "tasks": len(zoo),
        "models": sum(len(task.judged) for task in zoo.values()),
    }


def _worse(one: Verdict, other: Verdict) -> Verdict:
    return max(one, other, key=("passed", "cannot tell", "refused").index)


def _share(verdicts: Sequence[Verdict], wanted: Verdict) -> float | None:
    return verdicts.count(wanted) / len(verdicts) if verdicts else None


def by_family(zoo: dict[str, Task], judge: Callable[[Task, Row], Verdict]) -> Table:
    """How many models of each family get which verdict of erasing."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for task in zoo.values():
        for row in task.judged:
            counts[family(row)][judge(task, row)] += 1
    table = Table("models", "passed", "refused", "cannot tell", box=box.SIMPLE_HEAD, title="Erasing")
    for kind, found in sorted(counts.items()):
        table.add_row(kind, *(str(found[said]) for said in ("passed", "refused", "cannot tell")))
    return table


def main(
    stored: Annotated[Path, tyro.conf.arg(help="the zoo's table of measured rows")] = STORED,
) -> None:
    """Judge every model of the zoo by what was measured without data, and compare with the truth."""
    zoo = tasks(pq.read_table(stored).to_pylist())
    settings = GateSettings()

    def now(task: Task, row: Row) -> Verdict:
        return erasing(task, row, settings)

    def keeps(task: Task, row: Row) -> Verdict:
        return keeping(task, row, settings)

    console = Console()
    console.print(by_family(zoo, now))
    found = figures(zoo, now, keeps)
    for column in ("dataset", "model"):
        for group, part in _parts(zoo, column).items():
            console.print(f"{column} {group}: {json.dumps(figures(part, now, keeps))}", soft_wrap=True)
    print(json.dumps(found | {"before": figures(zoo, erasing_before, keeps)}))


def _parts(zoo: dict[str, Task], column: str) -> dict[str, dict[str, Task]]:
    groups: dict[str, dict[str, Task]] = defaultdict(dict)
    for name, task in zoo.items():
        groups[task.version[column]][name] = task
    return dict(sorted(groups.items()))


if __name__ == "__main__":
    tyro.cli(main)

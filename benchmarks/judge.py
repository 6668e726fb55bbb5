"""The gate's verdicts on the zoo, whose models' truth is known: `python -m benchmarks.judge`.

The rows are those of `docs/results/zoo.parquet` (`python -m benchmarks.zoo`), so that it takes seconds.
Erasing is judged by the gate itself, whose bounds are not fitted, but were chosen with some of these rows in
sight (docs/log.md, 95). Keeping is judged by a predicted D_r, fitted to models of the other data sets
(or networks), never to those that it is tried on. So is the stop of long runs. Under `before` stands the gate
as it was, which judged keeping by accuracy on inverted images.

With `--calibrate` the calibration that comes with the package is fitted anew, to all rows.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean, median
from typing import Annotated, Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.zoo import before
from rayunlearn.evaluation.synthetic import Assessment
from rayunlearn.scheduling import keeping as keeping_module
from rayunlearn.scheduling.erasing import Recall, Scale
from rayunlearn.scheduling.gate import GateMeasures, GateSettings, Outcome, judge
from rayunlearn.scheduling.keeping import Calibration, Kept, Prediction, plain_share
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings, choose

STORED = Path(__file__).parents[1] / "docs" / "results" / "zoo.parquet"
COST = STORED.with_name("judge-cost.json")
"""What `python -m benchmarks.judge_cost` stored."""
Row = dict[str, Any]

TOLD = 0.1
"""By so much a probe on real images has to know more of the hidden baseline than of any Retrain model, of the
forget classes' recall as a share of the others', to tell one from the other."""
HIDDEN, ERASED = 0.75, 0.25
"""Places between Retrain (0) and the hidden baseline (1), by such a probe: from here on the class is merely
hidden, and up to here it is erased. In between nothing is asked of the judge."""
SOUND, DAMAGED = 1.0, 5.0
"""Points of D_r below Retrain: at most so many, and at least."""
MOST_KEPT, LITTLE = 0.6, 0.15
"""Models with less of the version's D_r than the first count only so much in a calibration: how bad a ruined
model is need not be known."""
RIDGE = 3e-2
COVERED = 0.9
LONG_RUN = 15
"""Checkpoints from which on the stop of a run is judged."""
COUNTS = ("retain_correct", "retain_count", "forget_correct", "forget_count", "forget_mass")


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
    """Of the zoo's rows; only such as have a version, both ends of its scale and a Retrain model.

    Left out is a second request of a version that the first one damaged: no gate would have published that
    version, and what a model keeps of it says nothing of the classes.
    """
    by_task: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        by_task[row["task"]][row["name"]] = row
    found = {name: Task(rows=members) for name, members in by_task.items()}
    needed = ("version", "stand-in", "hidden", "retrained")
    whole = {name: task for name, task in found.items() if all(task.of(family) for family in needed)}
    return {name: task for name, task in whole.items() if task.below(task.version) < DAMAGED}


def erasing(task: Task, row: Row, settings: GateSettings) -> Outcome:
    """What the gate says of what a model has erased."""
    found, parent = (Assessment(**r["without_data"]["assessment"]) for r in (row, task.version))
    measures = GateMeasures(
        retain_correct=found.retain_correct, retain_count=found.retain_count,
        forget_correct=found.forget_correct, forget_count=found.forget_count,
        parent_retain_correct=parent.retain_correct, recall=_recall(row),
        scale=Scale(version=_recall(task.version), stand_ins=tuple(map(_recall, task.of("stand-in")))),
        kept=kept(task, row),
    )  # fmt: skip
    return judge(measures, replace(settings, max_loss=1.0)).outcome


def erasing_before(task: Task, row: Row) -> Outcome:
    """The same of the gate as it was."""
    return "passed" if _before(task, row)[1] else "refused"


def keeping_before(task: Task, row: Row) -> Outcome:
    """What the gate as it was says of what a model has kept: by its accuracy on inverted images."""
    return "passed" if _before(task, row)[0] else "refused"


def _before(task: Task, row: Row) -> tuple[bool, bool]:
    found, parent = (Assessment(**r["without_data"]["assessment"]) for r in (row, task.version))
    measured = row["without_data"]
    return before.passed(found, parent, measured["relapse"], _recall(row).forget)


def kept(task: Task, row: Row) -> Kept:
    """What a prediction is made of."""
    found, parent = (r["without_data"]["assessment"]["retain_correct"] for r in (row, task.version))
    plain = plain_share(found, parent)
    return Kept(**_measured(row["without_data"]["kept"]), plain=plain, retain_data=row["retain_data"])


def _measured(kept: Mapping[str, float]) -> dict[str, float]:
    return {name: kept[name] for name in keeping_module.MEASURED}


def share(task: Task, row: Row) -> float:
    """D_r as a share of the version's, at most 1."""
    return min(1.0, task.retained(row) / task.retained(task.version))


def fitted(zoo: Iterable[Task], spread: float) -> Calibration:
    """A ridge regression of D_r on what was kept, in which every task has the same weight."""
    x, y, weights = [], [], []
    for task in zoo:
        for row in task.judged:
            true = share(task, row)
            x.append(kept(task, row).terms)
            y.append(true)
            weights.append((1 if true >= MOST_KEPT else LITTLE) / len(task.judged))
    measures, truth, w = np.array(x), np.array(y), np.array(weights)
    middle, scale = np.average(measures, axis=0, weights=w), measures.std(axis=0) + 1e-9
    z = np.c_[(measures - middle) / scale, np.ones(len(x))]
    penalty = RIDGE * w.sum() * np.diag([1.0] * len(middle) + [0.0])
    *slopes, offset = np.linalg.solve((z * w[:, None]).T @ z + penalty, (z * w[:, None]).T @ truth)
    slopes = np.array(slopes) / scale
    return Calibration.of(float(offset - slopes @ middle), slopes.tolist(), spread)


def calibrations(zoo: Mapping[str, Task], column: str) -> dict[str, Calibration]:
    """Task -> a calibration that saw nothing of its group.

    Args:
        zoo: the tasks.
        column: what groups have in common, "dataset" or "model"; there are two at least. The interval comes
            from errors on a group that was left out of the calibration's own, where there are three.
    """
    groups = _parts(zoo, column)
    found: dict[str, Calibration] = {}
    for name, part in groups.items():
        made = calibrated([tasks for other, tasks in groups.items() if other != name])
        found |= dict.fromkeys(part, made)
    return found


def calibrated(groups: Sequence[Mapping[str, Task]]) -> Calibration:
    """Fitted to all groups, with the interval of errors on each when it was left out."""
    return fitted([task for tasks in groups for task in tasks.values()], _spread(groups))


def predictions(zoo: Mapping[str, Task], column: str) -> dict[tuple[str, str], Prediction]:
    """(task, model) -> what is predicted of it by a calibration that saw nothing of its group."""
    made = calibrations(zoo, column)
    return {
        (name, row["name"]): made[name].predict(kept(task, row))
        for name, task in zoo.items()
        for row in task.judged
    }


def _spread(groups: Sequence[Mapping[str, Task]]) -> float:
    """The error within which nine of ten models lie of the group that was missed most when it was left out.

    There are few groups, so the next one may well be as unlike the others as the worst of these.
    """
    found = []
    for i, part in enumerate(groups):
        others = [task for other in (*groups[:i], *groups[i + 1 :]) for task in other.values()]
        calibration = fitted(others or part.values(), 0.0)
        errors = [
            abs(calibration.predict(kept(task, row)).share - share(task, row))
            for task in part.values()
            for row in task.judged
            if share(task, row) >= MOST_KEPT
        ]
        found.append(float(np.quantile(errors, COVERED)))
    return max(found)


def keeping(predicted: Mapping[tuple[str, str], Prediction], task: Task, row: Row) -> Outcome:
    """What is said of a model's loss, by its predicted D_r."""
    lost = 1 - predicted[task.version["task"], row["name"]].share
    return "passed" if lost <= GateSettings().max_loss else "refused"


def errors(zoo: Mapping[str, Task], predicted: Mapping[tuple[str, str], Prediction]) -> dict[str, Any]:
    """How far predictions are off, in points of the version's D_r, for models that kept most of it.

    `rho` is Spearman's, of predicted and real D_r of a task's methods, students and Retrain models; mean over
    the tasks whose methods have been built.
    """
    off, covered, orders = [], [], []
    for name, task in zoo.items():
        rows = [row for row in task.judged if share(task, row) >= MOST_KEPT]
        for row in rows:
            guess, true = predicted[name, row["name"]], share(task, row)
            off.append(100 * abs(guess.share - true))
            covered.append(guess.low <= true <= guess.high)
        made = [row for row in task.judged if row["family"] in ("method", "retrained", "student")]
        if task.of("method"):
            said = [predicted[name, row["name"]].share for row in made]
            orders.append(_rho(said, [share(task, row) for row in made]))
    return {
        "d_r_error_median": median(off), "d_r_error_90": float(np.quantile(off, 0.9)),
        "d_r_error_worst": max(off), "d_r_coverage": mean(covered), "rho": mean(orders) if orders else None,
    }  # fmt: skip


def _rho(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import spearmanr  # half a second

    return float(spearmanr(one, other).statistic)


def regrets(zoo: Mapping[str, Task], settings: StoppingSettings) -> dict[str, tuple[float, float]]:
    """Task and method -> points of D_r that the stop of a long run missed; and by the paper's rule.

    The best checkpoint is the one with the highest D_r of those that give the classes to no test image of
    them. A rule that chooses none misses all of its D_r; but of a run that is damaged at its best there is
    nothing to miss by that. The paper's rule saw more checkpoints, on plain images. Calibrations saw nothing
    of the data set.
    """
    made = calibrations(zoo, "dataset")
    found = {}
    for name, task in zoo.items():
        runs: dict[str, list[Row]] = defaultdict(list)
        for row in task.of("method"):
            if row["without_data"]["stop"] is not None:
                runs[family(row)].append(row)
        for method, rows in runs.items():
            rows.sort(key=lambda row: row["step"])
            if len(rows) < LONG_RUN:
                continue
            clean = [task.retained(row) for row in rows if not _named(row)]
            records = [_record(row, made[name]) for row in rows]
            by_score = choose(records, settings).step
            of_step = {row["step"]: task.retained(row) for row in rows}
            by_paper = next((row["step"] for row in rows if row["chosen"]), None)
            best = max(clean, default=0.0)
            whole = mean(task.retained(r) for r in task.of("retrained"))
            without = best if best <= whole - DAMAGED else 0.0
            ours, papers = (best - of_step.get(step, without) for step in (by_score, by_paper))
            found[f"{name} {method}"] = ours, papers
    return found


def _record(row: Row, calibration: Calibration) -> CheckpointRecord:
    seen = row["without_data"]["stop"]
    counts = {key: seen["assessment"][key] for key in COUNTS}
    predicted = calibration.score(Kept(**_measured(seen["kept"]), retain_data=row["retain_data"]))
    return CheckpointRecord(step=row["step"], pass_rate=0.0, predicted=predicted, **counts)


def _named(row: Row) -> int:
    """Test images of the classes to forget that are still given them."""
    return sum(row["truth"]["correct"][c] for c in row["target"])


def _recall(row: Row) -> Recall:
    forget, retain = row["without_data"]["probe"]
    return Recall(forget=forget, retain=retain)


def family(row: Row) -> str:
    """Of a method its name; students from the hidden baseline apart from others."""
    if row["family"] == "method":
        return str(row["name"]).rsplit("-", 1)[0]
    return f"student from {row['name'].rsplit('-', 1)[1]}" if row["family"] == "student" else row["family"]


def figures(
    zoo: dict[str, Task], judge: Callable[[Task, Row], Outcome], keeps: Callable[[Task, Row], Outcome]
) -> dict[str, Any]:
    """Shares of models of which the verdict is right, each over those of which something is asked.

    A Retrain model has to pass and a hidden one to be refused by erasing and keeping together; the others are
    asked of one of these alone.

    Args:
        zoo: the tasks.
        judge: of erasing.
        keeps: of keeping.
    """
    golds: list[Outcome] = []
    hidden: dict[str, list[Outcome]] = defaultdict(list)
    erased: list[Outcome] = []
    as_erased: list[Outcome] = []
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


def _worse(one: Outcome, other: Outcome) -> Outcome:
    return max(one, other, key=("passed", "cannot tell", "refused").index)


def _share(verdicts: Sequence[Outcome], wanted: Outcome) -> float | None:
    return verdicts.count(wanted) / len(verdicts) if verdicts else None


def by_family(zoo: dict[str, Task], judge: Callable[[Task, Row], Outcome]) -> Table:
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
    calibrate: Annotated[bool, tyro.conf.arg(help="write the package's calibration anew")] = False,
) -> None:
    """Judge every model of the zoo by what was measured without data, and compare with the truth."""
    zoo = tasks(pq.read_table(stored).to_pylist())
    if calibrate:
        write_calibration(zoo, stored)
    settings = GateSettings()

    def now(task: Task, row: Row) -> Outcome:
        return erasing(task, row, settings)

    console = Console()
    console.print(by_family(zoo, now))
    found = {}
    for column in ("dataset", "model"):
        predicted = predictions(zoo, column)

        def keeps(task: Task, row: Row, predicted: Any = predicted) -> Outcome:
            return keeping(predicted, task, row)

        for group, part in _parts(zoo, column).items():
            told = json.dumps(figures(part, now, keeps) | errors(part, predicted))
            console.print(f"{column} {group}, left out: {told}", soft_wrap=True)
        found[column] = figures(zoo, now, keeps) | errors(zoo, predicted)
    missed = regrets(zoo, StoppingSettings(patience=None))
    for run, (ours, papers) in missed.items():
        console.print(f"stop of {run}: {ours:.1f} points missed; by the paper's rule {papers:.1f}")
    before, ended = figures(zoo, erasing_before, keeping_before), found["dataset"]
    if COST.exists():
        ended["cost_share"] = max(of["share"] for of in json.loads(COST.read_text())["seconds"].values())
    if missed:
        ended["regret_worst"], before["regret_worst"] = map(max, zip(*missed.values(), strict=True))
    print(json.dumps(ended | {"leave_one_network_out": found["model"], "before": before}))


def write_calibration(zoo: Mapping[str, Task], stored: Path) -> None:
    """Fit the calibration that comes with the package, and say what it was fitted to."""
    made = calibrated(list(_parts(zoo, "dataset").values()))
    rounded = {name: round(value, 4) for name, value in asdict(made).items()}
    about = {
        "tasks": sorted(zoo), "models": sum(len(task.judged) for task in zoo.values()),
        "rows": hashlib.sha256(stored.read_bytes()).hexdigest(),
    }  # fmt: skip
    path = Path(keeping_module.__file__).parent / keeping_module.STANDARD
    path.write_text(json.dumps({"calibration": rounded, "fitted_to": about}, indent=2) + "\n")


def _parts(zoo: Mapping[str, Task], column: str) -> dict[str, dict[str, Task]]:
    groups: dict[str, dict[str, Task]] = defaultdict(dict)
    for name, task in zoo.items():
        groups[task.version[column]][name] = task
    return dict(sorted(groups.items()))


if __name__ == "__main__":
    tyro.cli(main)

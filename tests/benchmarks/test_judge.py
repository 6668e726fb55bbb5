"""The scores of the judge, on rows whose truth and measures are made up."""

from __future__ import annotations

import math
from typing import Any

import pytest

from benchmarks.judge import (
    Task,
    erasing,
    errors,
    figures,
    fitted,
    keeping,
    keeping_before,
    kept,
    predictions,
    regrets,
    share,
    tasks,
)
from rayunlearn.scheduling.gate import GateSettings, Outcome
from rayunlearn.scheduling.stopping import StoppingSettings

SETTINGS = GateSettings()
KEPT, GONE = (0, 1), 2


def measures(close: float) -> dict[str, float]:
    """What a prediction is made of: one measure alone differs, in whose logarithm it is linear."""
    return {"coarse": math.exp(close - 1), "cut": 0.5, "direction": 0.0}


def model(
    family: str, name: str, *, real: tuple[float, float], synthetic: tuple[float, float], d_r: int = 90,
    inverted: int = 100,
) -> dict[str, Any]:
    """A row: recalls of the class to forget and of the others, on real and inverted images, and D_r in %."""
    return {
        "task": "t", "dataset": "d", "model": "m", "family": family, "name": name, "retain": list(KEPT),
        "target": [GONE], "retain_data": family == "retrained",
        "truth": {
            "correct": [d_r, d_r, 0], "count": [100, 100, 100], "probe_1": list(real), "probe_10": list(real),
        },
        "without_data": {
            "probe": list(synthetic), "kept": measures(1.0), "stop": None, "relapse": [0.0],
            "assessment": {
                "retain_correct": inverted, "retain_count": 100, "forget_correct": 0, "forget_count": 50,
                "retain_loss": 0.0, "forget_mass": 0.0, "forgotten_share": [],
            },
        },
    }  # fmt: skip


VERSION = model("version", "version", real=(0.9, 0.9), synthetic=(1, 1))
ENDS = [
    VERSION,
    model("stand-in", "stand-in-0", real=(0, 0), synthetic=(0.2, 0.8)) | {"truth": None},
    model("hidden", "mask_logit", real=(0.9, 0.9), synthetic=(1, 1)),
    model("retrained", "retrained-0", real=(0.5, 0.9), synthetic=(0.25, 0.9)),
    model("retrained", "retrained-1", real=(0.4, 0.9), synthetic=(0.3, 0.9)),
]
RUINED = model("noisy", "noisy-20", real=(0.4, 0.7), synthetic=(0.2, 0.6), d_r=70, inverted=60)
SOUND = model("student", "student-inverted-nothing", real=(0.45, 0.9), synthetic=(0.3, 0.9))


def zoo(*more: dict[str, Any]) -> dict[str, Task]:
    """One task."""
    return tasks([*ENDS, *more])


def scored(found: dict[str, Task]) -> dict[str, Any]:
    """By the gate's settings."""
    return figures(found, lambda t, r: erasing(t, r, SETTINGS), keeping_before)


def test_a_judge_that_is_right_has_every_point() -> None:
    """Retrain and a sound student pass; hidden and ruined models are refused; the table counts them all."""
    found = scored(zoo(RUINED, SOUND))
    assert found == {
        "retrain_passed": 1, "retrain_erased": 1, "hidden_refused": {"hidden": 1}, "erased_passed": 1,
        "damaged_refused": 1, "sound_passed": 1, "cannot_tell": 0, "tasks": 1, "models": 5,
    }  # fmt: skip


def test_each_mistake_has_a_score_of_its_own() -> None:
    """A Retrain refused, a hidden model passed, a ruined one passed, a sound one refused."""
    wrong: dict[str, Outcome] = {"passed": "refused", "refused": "passed"}
    found = figures(
        zoo(RUINED, SOUND),
        lambda t, r: wrong[erasing(t, r, SETTINGS)],
        lambda t, r: wrong[keeping_before(t, r)],
    )
    assert found["retrain_passed"] == found["retrain_erased"] == found["erased_passed"] == 0
    assert found["damaged_refused"] == found["sound_passed"] == 0
    assert found["hidden_refused"] == {"hidden": 1}, "refused for what it keeps, wrongly"


def test_a_model_is_hidden_by_what_real_images_tell() -> None:
    """A student whose features hold the class counts as hidden, and as a mistake where it passes.

    Between the ends, or where no real probe tells them apart, nothing is asked.
    """
    leaking = model("student", "student-inverted-hidden", real=(0.85, 0.9), synthetic=(0.3, 0.9))
    assert scored(zoo(leaking))["hidden_refused"] == {"hidden": 1, "student from hidden": 0}
    between = model("student", "student-inverted-hidden", real=(0.7, 0.9), synthetic=(0.3, 0.9))
    assert scored(zoo(between))["hidden_refused"] == {"hidden": 1}
    near = [
        row | {"truth": row["truth"] | {"probe_1": [0.85, 0.9], "probe_10": [0.85, 0.9]}}
        if row["family"] == "retrained" else row
        for row in ENDS
    ]  # fmt: skip
    assert scored(tasks(near))["hidden_refused"] == {}


def test_abstaining_is_counted_over_tasks_that_can_be_told() -> None:
    """Stand-ins that know the class as the version does leave the hidden baseline undecided."""
    blind = [row for row in ENDS if row["family"] != "stand-in"]
    blind.append(model("stand-in", "stand-in-0", real=(0, 0), synthetic=(0.98, 0.98)) | {"truth": None})
    found = scored(tasks(blind))
    assert found["cannot_tell"] == 1 and found["hidden_refused"] == {"hidden": 0}
    assert found["retrain_passed"] == 1, "clearly below the version"


def test_a_class_that_is_still_named_is_refused() -> None:
    """Whatever the features hold."""
    row = model("method", "gkt-1", real=(0.4, 0.9), synthetic=(0.2, 0.9))
    row["without_data"]["assessment"]["forget_correct"] = 1
    (task,) = zoo(row).values()
    assert erasing(task, row, SETTINGS) == "refused"


@pytest.mark.parametrize("family", ["version", "stand-in", "hidden", "retrained"])
def test_a_task_without_an_end_is_left_out(family: str) -> None:
    """The zoo may be half built."""
    assert tasks([row for row in ENDS if row["family"] != family]) == {}


# ---- keeping


def planted(dataset: str, slope: float, *, models: int = 12, noise: float = 0.0) -> list[dict[str, Any]]:
    """A task of a data set in which D_r is 40 and `slope` times a measure, in %, and nothing else counts."""
    rows = [row | {"task": dataset, "dataset": dataset} for row in ENDS]
    for number in range(models):
        close = 0.2 + 0.8 * number / (models - 1)
        d_r = round(40 + slope * close + noise * (-1) ** number)
        row = model("method", f"m-{number}", real=(0.4, 0.9), synthetic=(0.2, 0.9), d_r=d_r)
        rows.append(row | {"task": dataset, "dataset": dataset})
        rows[-1]["without_data"] |= {"kept": measures(close)}
    return rows


def test_a_data_set_that_was_left_out_is_predicted_by_the_others() -> None:
    """Where one line holds for all, errors are those of rounding, and the order is right."""
    zoo = tasks([row for name in "abc" for row in planted(name, 50)])
    predicted = predictions(zoo, "dataset")
    found = errors(zoo, predicted)
    assert found["d_r_error_worst"] < 2 and found["rho"] > 0.9
    for name, task in zoo.items():
        for row in task.judged:
            lost = 1 - share(task, row)
            if abs(lost - 0.05) > 0.02:
                assert keeping(predicted, task, row) == ("passed" if lost < 0.05 else "refused"), name


def test_an_interval_holds_nine_of_ten_where_data_sets_are_alike() -> None:
    """With points of noise on each D_r."""
    zoo = tasks([row for name in "abcd" for row in planted(name, 50, noise=2)])
    found = errors(zoo, predictions(zoo, "dataset"))
    assert found["d_r_error_median"] > 1 and found["d_r_coverage"] > 0.8


def test_the_truth_of_who_is_left_out_is_not_looked_at() -> None:
    """Turned round in one data set, its predictions stay to the bit, and so does their interval.

    Control: a calibration that saw it changes.
    """
    rows = [row for name in "abc" for row in planted(name, 50, noise=1)]
    turned = [row for name in "ab" for row in planted(name, 50, noise=1)] + planted("c", -20, noise=1)
    before, after = tasks(rows), tasks(turned)
    said, again = predictions(before, "dataset"), predictions(after, "dataset")
    assert all(said[key] == again[key] for key in said if key[0] == "c")
    assert any(said[key] != again[key] for key in said if key[0] == "a")
    one = kept(before["c"], before["c"].rows["m-8"])
    leaky = [fitted(zoo.values(), 0.1).predict(one) for zoo in (before, after)]
    assert abs(leaky[0].share - leaky[1].share) > 0.01


def test_a_data_set_of_its_own_kind_is_missed_and_the_interval_says_so() -> None:
    """Where another line holds, errors are large; the interval, made of errors on left-out sets, is wide."""
    alike = tasks([row for name in "abcd" for row in planted(name, 50)])
    slopes = {"a": 50.0, "b": 20.0, "c": 50.0, "d": 20.0}
    unlike = tasks([row for name, slope in slopes.items() for row in planted(name, slope)])
    wide, narrow = (predictions(zoo, "dataset")["a", "m-3"] for zoo in (unlike, alike))
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    assert errors(unlike, predictions(unlike, "dataset"))["d_r_error_worst"] > 5


# ---- stop


def long_run(task: str, d_r: list[int], close: list[float], chosen: int) -> list[dict[str, Any]]:
    """A run whose checkpoints have D_r in % and closeness; `chosen` by the paper's rule."""
    rows = []
    for number, (real, near) in enumerate(zip(d_r, close, strict=True)):
        row = model("method", f"gkt-{number}", real=(0.4, 0.9), synthetic=(0.2, 0.9), d_r=real)
        row["without_data"]["kept"] = measures(near)
        row["without_data"]["stop"] = {
            "assessment": row["without_data"]["assessment"], "kept": measures(near)
        }  # fmt: skip
        rows.append(row | {"task": task, "dataset": task, "step": number, "chosen": number == chosen})
    return rows


def test_a_stop_misses_what_the_best_clean_checkpoint_has_more() -> None:
    """By closeness the best is found, where the paper's rule took a later one; a leak is not the best."""
    rise = [40 + 3 * n for n in range(16)]
    close = [(r - 40) / 50 for r in rise]
    others = [row for name in "bc" for row in planted(name, 50)]
    ends = [row | {"task": "a", "dataset": "a"} for row in ENDS]
    run = long_run("a", [*rise, 80, 80], [*close, 0.8, 0.8], chosen=17)
    found = regrets(tasks([*others, *ends, *run]), StoppingSettings(patience=None, smooth=1))
    assert found == {"a gkt": (0.0, 5.0)}
    run[15]["truth"]["correct"][GONE] = 3
    (ours, papers), = regrets(tasks([*others, *ends, *run]), StoppingSettings(patience=None)).values()
    assert papers == 82 - 80 and ours <= 0


def test_a_short_run_has_no_regret() -> None:
    """Three checkpoints say nothing of a stop."""
    rows = [row for name in "abc" for row in planted(name, 50)]
    run = long_run("a", [50, 60, 70], [0.2, 0.4, 0.6], chosen=2)
    assert regrets(tasks([*rows, *run]), StoppingSettings()) == {}

"""Where D_r is predicted the stopping rule and the search go by it; accuracy says only who has learned."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.recipes import load_recipe
from rayunlearn.scheduling.keeping import Calibration
from rayunlearn.scheduling.objective import TrialResult, trial_result
from rayunlearn.scheduling.stopping import CheckpointRecord, StoppingSettings, StopReason, choose, first_stop
from rayunlearn.unlearning.judging import record_of

SETTINGS = StoppingSettings(smooth=1, patience=None)


def records(*figures: tuple[int, float | None]) -> list[CheckpointRecord]:
    """Checkpoints, ten cycles apart, of retain images right, of 20, and predicted D_r; all are clean."""
    return [
        CheckpointRecord(10 * (i + 1), right, 20, 0, 20, 0.0, 0.9, predicted=predicted)
        for i, (right, predicted) in enumerate(figures)
    ]


def test_the_highest_prediction_is_chosen() -> None:
    """Not the latest of the highest accuracy; without predictions that one."""
    found = records((18, 0.90), (18, 0.97), (20, 0.94), (20, 0.93))
    choice = choose(found, SETTINGS)
    assert choice.step == 20 and "predicted D_r 97.00 % of the version's" in choice.reason
    plain = [replace(record, predicted=None) for record in found]
    assert choose(plain, SETTINGS).step == 40 and "predicted" not in choose(plain, SETTINGS).reason


def test_who_has_not_learned_is_told_by_accuracy() -> None:
    """Whatever is predicted of it."""
    choice = choose(records((9, 0.99), (10, 0.5), (10, 0.4)), SETTINGS)
    assert choice.step == 20 and choice.admissible == (20, 30)


def test_patience_ends_where_predictions_stand_still() -> None:
    """Though accuracy rises."""
    still = records(*((10 + i, 0.9) for i in range(6)))
    stop = first_stop(still, StoppingSettings(smooth=1, patience=3))
    assert stop is not None and (stop.reason, stop.step) == (StopReason.NO_IMPROVEMENT, 40)
    rising = records(*((15, 0.8 + i / 100) for i in range(6)))
    assert first_stop(rising, StoppingSettings(smooth=1, patience=3)) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.floats(-0.2, 1.3)), min_size=1, max_size=12))
def test_nothing_admissible_is_predicted_better_than_the_choice(figures: list[tuple[int, float]]) -> None:
    """By more than the least difference; checkpoints that would be above 1 are told apart."""
    found = records(*figures)
    choice = choose(found, SETTINGS)
    by_step = {record.step: record.score for record in found}
    if choice.step is None:
        assert not choice.admissible
        return
    best = max(by_step[step] for step in choice.admissible)
    assert by_step[choice.step] >= best - SETTINGS.min_delta - 1e-6


def test_a_number_is_predicted_of_all_or_of_none() -> None:
    """A mixture, and what is no number, are errors."""
    with pytest.raises(BadInput, match="predicted at step 20"):
        choose(records((18, 0.9), (18, None)), SETTINGS)
    with pytest.raises(BadInput, match="predicted is nan"):
        records((18, math.nan))
    with pytest.raises(BadInput, match=r"stopping\.score"):
        StoppingSettings(score="guess")  # type: ignore[arg-type]


def test_a_trial_is_worth_its_prediction() -> None:
    """Of the chosen checkpoint; the second set's is reported."""
    found = records((18, 0.9), (20, 0.8))
    result = trial_result("a", found, SETTINGS)
    assert (result.score, result.step) == (0.9, 10)
    second = replace(found[0], predicted=0.85)
    told = TrialResult(trial="a", score=0.9, step=10, cycles=20, reason="", second=second)
    assert told.second_score == 0.85 and told.gap == pytest.approx(0.05)
    assert trial_result("a", records((18, -0.1)), SETTINGS).score == 0, "it is admissible"


def test_a_row_of_the_ledger_is_predicted_by_the_calibration() -> None:
    """From what was measured, so that another calibration reads the same rows; rows of before have none.

    A method with access to retain data has a term more.
    """
    measured = {"coarse": 0.5, "cut": 0.5, "direction": 0.1}
    (record,) = records((18, None))
    own = {key: value for key, value in asdict(record).items() if key not in ("samples", "predicted")}
    row = {**own, "kept": json.dumps(measured)}
    calibration = Calibration.of(0.95, [0.1, 0.0, 0.0, 0.1, 0.0], 0.1)
    recipe = load_recipe("digits")
    recipe = replace(recipe, gate=replace(recipe.gate, calibration=calibration))
    said = 0.95 + 0.1 * math.log(0.5)
    assert record_of(row, recipe).predicted == pytest.approx(said)
    older = row | {"kept": json.dumps(measured | {"explained": 0.3})}
    assert record_of(older, recipe).predicted == pytest.approx(said)
    assert record_of(row, replace(recipe, method="fine_tune")).predicted == pytest.approx(said + 0.1 * 0.9)
    assert record_of(row | {"kept": None}, recipe).predicted is None
    assert record_of(own, recipe) == record

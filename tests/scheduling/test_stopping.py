"""The stopping rule: the invariants that it keeps, and the simpler rules that break them.

Rules are functions `(records, settings) -> step | None`, so that the simple ones go through the same
checks as the real one.
"""

from dataclasses import replace

import pytest
from hypothesis import assume, find, given, settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.stopping import (
    CheckpointRecord,
    StoppingSettings,
    StopReason,
    choose,
    first_stop,
    should_stop,
)

QUICK = settings(deadline=None, max_examples=150, database=None)
COUNT = 20


def record(step, retain, forget, *, mass=0.0, count=COUNT):
    """A checkpoint with so many of `count` right on either set."""
    return CheckpointRecord(step, retain, count, forget, count, mass, 0.9)


def row(points, *, count=COUNT, every=10):
    """Records from (retain, forget) or (retain, forget, mass), a checkpoint every ten cycles."""
    return [
        record(every * (i + 1), point[0], point[1], mass=point[2] if len(point) > 2 else 0.0, count=count)
        for i, point in enumerate(points)
    ]


POINTS = st.tuples(
    st.integers(0, COUNT),
    st.sampled_from([0, 0, 0, 0, 0, 1, 2, 10, COUNT]),
    st.sampled_from([0.0, 0.001, 0.009, 0.011, 0.05, 0.5]),
)
RECORDS = st.lists(POINTS, max_size=14).map(row)
SETTINGS = st.builds(
    StoppingSettings,
    forget_tolerance=st.sampled_from([0.0, 0.05]),
    leak=st.sampled_from([0.06, 0.1, 0.5]),
    confirm=st.integers(1, 3),
    guard=st.integers(1, 3),
    smooth=st.sampled_from([1, 3, 5]),
    min_retain=st.sampled_from([0.0, 0.2, 0.5]),
    patience=st.sampled_from([None, 1, 2, 5]),
    min_delta=st.sampled_from([0.0, 0.05, 0.1]),
)

# ALGORITHMS.md, the reference notebook on MNIST, class 0: cycle, retain %, forget %.
NOTEBOOK = [
    CheckpointRecord(step, round(10 * retain), 1000, forget, 100, 0.001, 0.9)
    for step, retain, forget in [
        (650, 88.5, 0),
        (700, 89.7, 0),
        (750, 94.8, 0),
        (800, 98.4, 6),
        (850, 98.8, 53),
        (900, 98.8, 76),
    ]
]


def rule(records, stopping):
    """The rule under test."""
    return choose(records, stopping).step


def last_checkpoint(records, stopping):
    """A simple rule that must fail: the last checkpoint."""
    return records[-1].step if records else None


def best_retain(records, stopping):
    """A simple rule that must fail: the highest retain accuracy."""
    return max(records, key=lambda r: r.retain_accuracy).step if records else None


def last_clean(records, stopping):
    """A simple rule that must fail: the last checkpoint within the tolerance."""
    clean = [r for r in records if r.forget_accuracy <= stopping.forget_tolerance]
    return clean[-1].step if clean else None


def stop_of(records, stopping):
    """The first stop of records that have one."""
    stop = first_stop(records, stopping)
    assert stop is not None
    return stop


def is_clean(a_rule, records, stopping):
    """Whether the rule chooses a record that is learned and within the tolerance, or none."""
    step = a_rule(records, stopping)
    if step is None:
        return True
    (chosen,) = (r for r in records if r.step == step)
    return (
        chosen.forget_accuracy <= stopping.forget_tolerance and chosen.retain_accuracy >= stopping.min_retain
    )


def is_settled_by_the_stop(a_rule, records, stopping):
    """Whether the rule chooses the same from all records as from those up to the first stop."""
    stop = first_stop(records, stopping)
    return stop is None or a_rule(records, stopping) == a_rule(records[: stop.records], stopping)


# the paper's curve


@pytest.mark.parametrize(("guard", "step"), [(1, 750), (2, 700), (3, 650), (4, None)])
def test_the_notebook_curve(guard, step):
    """On the reference's own curve the choice is 750, or 700 with one checkpoint more between."""
    stopping = StoppingSettings(guard=guard)
    choice = choose(NOTEBOOK, stopping)
    assert choice.step == step
    assert should_stop(NOTEBOOK[:3], stopping) is None
    assert should_stop(NOTEBOOK[:4], stopping) is StopReason.CLASS_CAME_BACK
    assert stop_of(NOTEBOOK, stopping).step == 800
    assert choose(NOTEBOOK[:4], stopping) == choice


def test_simple_rules_fail_on_the_notebook_curve():
    """The last checkpoint and the best retain accuracy publish a model that knows the class (76, 53 %)."""
    stopping = StoppingSettings()
    assert is_clean(rule, NOTEBOOK, stopping)
    assert last_checkpoint(NOTEBOOK, stopping) == 900
    assert best_retain(NOTEBOOK, stopping) == 850
    assert not is_clean(last_checkpoint, NOTEBOOK, stopping)
    assert not is_clean(best_retain, NOTEBOOK, stopping)


# invariants, each with rules that break it


@QUICK
@given(RECORDS, SETTINGS)
def test_the_choice_is_admissible_and_recorded(records, stopping):
    """The step is admissible, what is admissible is recorded, and None comes only if nothing is."""
    choice = choose(records, stopping)
    assert set(choice.admissible) <= {r.step for r in records}
    assert (choice.step in choice.admissible) if choice.admissible else (choice.step is None)
    assert choice.reason


@QUICK
@given(RECORDS, SETTINGS)
def test_never_a_record_above_the_tolerance(records, stopping):
    """No admissible record is above the forget tolerance or below the least retain accuracy."""
    assert is_clean(rule, records, stopping)
    steps = choose(records, stopping).admissible
    for r in records:
        if r.step in steps:
            assert r.forget_accuracy <= stopping.forget_tolerance
            assert r.retain_accuracy >= stopping.min_retain


@pytest.mark.parametrize("flawed", [last_checkpoint, best_retain, last_clean])
def test_simple_rules_are_not_clean(flawed):
    """Negative control: the check above finds each of the simple rules out."""
    find(RECORDS, lambda records: not is_clean(flawed, records, StoppingSettings()), settings=QUICK)


@QUICK
@given(RECORDS, SETTINGS)
def test_what_comes_after_the_stop_changes_nothing(records, stopping):
    """Whatever follows the first stop, the choice is that of the run that stopped, reason and all."""
    assert is_settled_by_the_stop(rule, records, stopping)
    stop = first_stop(records, stopping)
    if stop:
        assert choose(records, stopping) == choose(records[: stop.records], stopping)


@pytest.mark.parametrize("flawed", [last_checkpoint, best_retain, last_clean])
def test_simple_rules_change_after_the_stop(flawed):
    """Negative control: simple rules let records after the stop change the choice."""
    find(
        RECORDS,
        lambda records: not is_settled_by_the_stop(flawed, records, StoppingSettings()),
        settings=QUICK,
    )


@QUICK
@given(RECORDS, SETTINGS)
def test_the_stop_is_final_and_never_looks_ahead(records, stopping):
    """Asked after every record, the rule says nothing before the first stop and the same ever after."""
    answers = [should_stop(records[:n], stopping) for n in range(len(records) + 1)]
    stop = first_stop(records, stopping)
    if stop is None:
        assert set(answers) == {None}
    else:
        assert answers == [None] * stop.records + [stop.reason] * (len(answers) - stop.records)
        assert stop.step == records[stop.records - 1].step


@QUICK
@given(RECORDS, SETTINGS)
def test_what_is_admissible_once_stays_so(records, stopping):
    """A checkpoint that could have been published at some moment can be at every later one."""
    before: set[int] = set()
    for n in range(len(records) + 1):
        now = set(choose(records[:n], stopping).admissible)
        assert before <= now
        before = now


@QUICK
@given(RECORDS, SETTINGS, st.sampled_from([2, 3, 7, 50]))
def test_the_size_of_the_sets_does_not_matter(records, stopping, times):
    """Multiplying every count by the same number gives the same stop and the same choice."""
    larger = [
        replace(
            r,
            retain_correct=times * r.retain_correct,
            retain_count=times * r.retain_count,
            forget_correct=times * r.forget_correct,
            forget_count=times * r.forget_count,
        )
        for r in records
    ]
    assert choose(larger, stopping) == choose(records, stopping)
    assert first_stop(larger, stopping) == first_stop(records, stopping)


@QUICK
@given(RECORDS, SETTINGS, st.lists(st.integers(1, 100), min_size=14, max_size=14))
def test_only_the_order_of_steps_matters(records, stopping, gaps):
    """Renumbering the steps in the same order renumbers the choice."""
    steps = [sum(gaps[: i + 1]) for i in range(len(records))]
    renumbered = [replace(r, step=s) for r, s in zip(records, steps, strict=True)]
    new = {r.step: s for r, s in zip(records, steps, strict=True)}
    choice, other = choose(records, stopping), choose(renumbered, stopping)
    assert other.step == (None if choice.step is None else new[choice.step])
    assert other.admissible == tuple(new[s] for s in choice.admissible)


@QUICK
@given(RECORDS, SETTINGS, st.integers(1, COUNT))
def test_a_better_chosen_checkpoint_stays_chosen(records, stopping, gain):
    """Raising the chosen record's retain accuracy keeps it chosen, without smoothing and patience.

    With a median it need not hold (the neighbours' medians rise too), nor with patience (a new best
    moves the stop, and a later tie may be seen).
    """
    stopping = replace(stopping, smooth=1, patience=None)
    step = rule(records, stopping)
    assume(step is not None)
    better = [
        replace(r, retain_correct=min(r.retain_correct + gain, COUNT)) if r.step == step else r
        for r in records
    ]
    assert rule(better, stopping) == step


@QUICK
@given(st.integers(3, 12), st.data())
def test_one_lucky_checkpoint_does_not_win(length, data):
    """A single checkpoint above a level curve, at the ends too, leaves the choice where it was."""
    level = [(12, 0, data.draw(st.sampled_from([0.0, 0.02, 0.04]))) for _ in range(length)]
    place = data.draw(st.integers(0, length - 1))
    lucky = [(COUNT, 0, m) if i == place else (r, 0, m) for i, (r, _, m) in enumerate(level)]
    stopping = StoppingSettings(patience=None)
    assert rule(row(lucky), stopping) == rule(row(level), stopping)


def test_without_smoothing_one_lucky_checkpoint_wins():
    """Negative control: the same curve without a median is won by luck."""
    lucky = row([(12, 0), (20, 0), (12, 0), (12, 0)])
    assert rule(lucky, StoppingSettings(smooth=1)) == 20
    assert rule(lucky, StoppingSettings(smooth=3)) == 40


# when the class has come back


def test_the_early_transient_is_no_leak():
    """A random student that answers all with the forget class neither stops the run nor bounds it."""
    records = row([(0, 20), (1, 20), (4, 15), (11, 6), (14, 2), (15, 0), (17, 0), (18, 0)])
    assert should_stop(records, StoppingSettings()) is None
    assert choose(records, StoppingSettings()).admissible == (60, 70, 80)
    assert rule(records, StoppingSettings()) == 80


def test_the_transient_after_a_chance_zero_is_no_leak():
    """A student at forget 0 by chance, before it has learned anything, is not yet a class gone."""
    records = row([(2, 0), (3, 20), (12, 9), (16, 0), (18, 0)])
    assert should_stop(records, StoppingSettings()) is None
    assert choose(records, StoppingSettings()).admissible == (40, 50)


def test_patience_does_not_run_before_anything_is_learned():
    """A student that takes long to learn anything is not stopped for it; one that stays level later is."""
    stopping = StoppingSettings(patience=3)
    slow = [(2, 0)] * 10
    assert should_stop(row(slow), stopping) is None
    assert should_stop(row(slow + [(15, 0)] * 3), stopping) is None
    stop = stop_of(row(slow + [(15, 0)] * 9), stopping)
    # Smoothed: checkpoint 11 is the first at 15 (2, 15, 15), 12 to 14 do not improve; 14 needs the 15th.
    assert (stop.reason, stop.records) == (StopReason.NO_IMPROVEMENT, 15)


def test_patience_starts_again_with_each_improvement():
    """Improvements above `min_delta` keep the run going; ones of exactly `min_delta` do not."""
    stopping = StoppingSettings(patience=2, smooth=1, min_delta=0.05)
    assert should_stop(row([(10, 0), (12, 0), (12, 0), (14, 0), (14, 0), (16, 0)]), stopping) is None
    assert stop_of(row([(10, 0), (11, 0), (11, 0), (20, 0)]), stopping).step == 30


def test_patience_can_be_left_out():
    """With patience None a level run goes on for ever."""
    assert should_stop(row([(15, 0)] * 500), StoppingSettings(patience=None)) is None


def test_the_class_coming_back_is_named_before_patience():
    """Where both reasons arise with the same record, the class that came back is the one named."""
    stopping = StoppingSettings(patience=2, smooth=1)
    assert should_stop(row([(15, 0), (15, 0), (15, 5)]), stopping) is StopReason.CLASS_CAME_BACK


@pytest.mark.parametrize(
    ("forget", "stops"), [(0, False), (4, False), (5, True), (6, True)], ids=["0 %", "4 %", "5 %", "6 %"]
)
def test_the_leak_bound_is_inclusive(forget, stops):
    """Forget accuracy at `leak` counts as come back; below it the checkpoint is only inadmissible."""
    records = row([(80, 0), (80, forget)], count=100)
    assert (should_stop(records, StoppingSettings()) is not None) == stops
    assert choose(records, StoppingSettings()).admissible == ((10, 20) if forget == 0 else (10,))


def test_confirm_lets_a_single_outlier_pass():
    """With two in a row required one high checkpoint is passed over; a rise is dated to its start."""
    blip = row([(15, 0), (15, 3), (18, 0), (18, 0), (18, 3), (18, 9), (18, 20)])
    assert stop_of(blip, StoppingSettings(confirm=1)).step == 20
    stopping = StoppingSettings(confirm=2)
    assert stop_of(blip, stopping).step == 60
    assert choose(blip, stopping).admissible == (10, 30, 40)
    # While it is not settled whether 50 is an outlier, it bounds as if it were none.
    assert choose(blip[:5], replace(stopping, guard=2)).admissible == (10, 30)


def test_the_end_of_the_records_counts_as_a_leak():
    """With a guard of two the last checkpoint is not yet safe: the next one may be the leak."""
    records = row([(15, 0), (16, 0), (17, 0)])
    assert choose(records, StoppingSettings(guard=2)).admissible == (10, 20)


# ties


def test_ties_take_the_later_checkpoint():
    """On a saturated curve with the mass below the filter's eps the latest checkpoint is taken."""
    records = row([(20, 0, 0.001), (20, 0, 0.0001), (20, 0, 0.009)])
    assert rule(records, StoppingSettings()) == 30


def test_the_mass_is_compared_with_the_lowest():
    """No mark on the scale of masses separates two that differ by less than `mass_delta`."""
    records = row([(20, 0, 0.0005), (20, 0, 0.0101)])
    assert rule(records, StoppingSettings()) == 20
    assert rule(records, StoppingSettings(mass_delta=0.009)) == 10
    assert rule(records, StoppingSettings(mass_delta=0.0)) == 10


def test_ties_keep_away_from_rising_mass():
    """When the mass has begun to rise, the latest of those before the rise is taken."""
    records = row([(20, 0, 0.001), (20, 0, 0.002), (20, 0, 0.03), (20, 0, 0.2)])
    assert rule(records, StoppingSettings()) == 20


def test_mass_does_not_outweigh_accuracy():
    """A higher smoothed retain accuracy wins over a lower mass."""
    records = row([(14, 0, 0.0), (14, 0, 0.0), (18, 0, 0.04), (18, 0, 0.04)])
    assert rule(records, StoppingSettings()) == 40


def test_a_leaked_checkpoint_lends_its_accuracy_to_none():
    """The median before a leak takes no leaked record in; with it, the suspect checkpoint 30 would win."""
    records = row([(16, 0, 0.0), (16, 0, 0.0), (18, 0, 0.02), (20, 9, 0.4)])
    assert first_stop(records, StoppingSettings()) is not None
    assert rule(records, StoppingSettings()) == 20


@pytest.mark.parametrize(("min_delta", "step"), [(0.0, 20), (0.04, 20), (0.05, 30), (0.1, 30)])
def test_min_delta_is_the_width_of_a_tie(min_delta, step):
    """An image of twenty is a tie from a `min_delta` of 0.05 on, and the later checkpoint is taken."""
    stopping = StoppingSettings(smooth=1, min_delta=min_delta)
    assert rule(row([(18, 0), (20, 0), (19, 0)]), stopping) == step


# nothing to choose


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([], "no checkpoints"),
        (row([(3, 0), (5, 0)]), "highest retain accuracy is 25.00 %; at least 50.00 %"),
        (
            row([(18, 4), (19, 8)]),
            "lowest forget accuracy of a learned checkpoint is 20.00 %; at most 0.00 %",
        ),
        (row([(18, 0), (19, 8)]), "2 or more before step 20, where the class came back"),
        (row([(18, 0)]), "2 or more before the end of the records"),
    ],
)
def test_nothing_admissible_says_why(records, words):
    """Without an admissible checkpoint the reason says which bound none of them keeps, with the figure."""
    choice = choose(records, StoppingSettings(guard=2))
    assert (choice.step, choice.admissible) == (None, ())
    assert words in choice.reason


# bad input


@pytest.mark.parametrize("function", [choose, should_stop, first_stop])
def test_records_out_of_order_or_of_other_sets_are_refused(function):
    """Steps must rise, and every checkpoint must be measured on one set; the step and value are named."""
    good = record(10, 15, 0)
    for bad in (record(10, 15, 0), record(9, 15, 0)):
        with pytest.raises(BadInput, match="step of a checkpoint record"):
            function([good, bad], StoppingSettings())
    with pytest.raises(BadInput, match="retain_count at step 20 is 21; allowed: 20, as at step 10"):
        function([good, replace(record(20, 15, 0), retain_count=21)], StoppingSettings())
    with pytest.raises(BadInput, match="forget_count at step 20"):
        function([good, replace(record(20, 15, 0), forget_count=21)], StoppingSettings())


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"step": True},
        {"retain_correct": 21},
        {"retain_correct": -1},
        {"retain_correct": 1.0},
        {"retain_count": 0},
        {"forget_correct": 21},
        {"forget_count": 0},
        {"forget_mass": float("nan")},
        {"forget_mass": 1.1},
        {"pass_rate": -0.1},
    ],
)
def test_impossible_records_are_refused(change):
    """Figures that no measurement can give are refused on construction, by name."""
    with pytest.raises(BadInput) as error:
        replace(record(10, 15, 0), **change)
    assert error.value.thing in change or error.value.thing.replace("count", "correct") in change


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"forget_tolerance": 0.05}, "stopping.forget_tolerance"),
        ({"leak": 1.5}, "stopping.leak"),
        ({"confirm": 0}, "stopping.confirm"),
        ({"guard": 0}, "stopping.guard"),
        ({"smooth": 4}, "stopping.smooth"),
        ({"smooth": 0}, "stopping.smooth"),
        ({"min_retain": -0.1}, "stopping.min_retain"),
        ({"patience": 0}, "stopping.patience"),
        ({"patience": True}, "stopping.patience"),
        ({"min_delta": float("nan")}, "stopping.min_delta"),
        ({"mass_delta": -0.1}, "stopping.mass_delta"),
    ],
)
def test_bad_settings_name_the_setting(change, name):
    """A setting out of range, or at odds with another, is refused by its dotted name."""
    with pytest.raises(BadInput, match=name):
        StoppingSettings(**change)

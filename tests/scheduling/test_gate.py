"""The gate refuses each kind of bad result for its own reason, exactly above its bound."""

from dataclasses import replace
from typing import Any

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.recipes import load_recipe
from rayunlearn.scheduling.erasing import Recall, Scale
from rayunlearn.scheduling.gate import GateMeasures, GateSettings, Verdict, judge
from rayunlearn.scheduling.keeping import Calibration, Kept, standard

LINE = Calibration.of(1.0, [0.0, 0.0, -1.0, 0.0, 0.0], 0.06)


def kept(percent: int) -> Kept:
    """Of which LINE predicts so many percent of the parent's D_r."""
    return Kept(coarse=0.5, cut=0.5, direction=1.0, plain=percent / 100)


SETTINGS = GateSettings(
    max_forget=0.04, max_loss=0.10, calibration=LINE, max_retain_drop=0.10, max_position=0.5,
    least_power=0.25, max_forgotten_share=0.02,
)  # fmt: skip
KNOWN, UNSEEN = Recall(forget=1.0, retain=1.0), Recall(forget=0.2, retain=0.8)
GOOD = GateMeasures(
    retain_correct=940,
    retain_count=1000,
    forget_correct=0,
    forget_count=50,
    parent_retain_correct=980,
    recall=Recall(forget=0.3, retain=0.9),
    scale=Scale(version=KNOWN, stand_ins=(UNSEEN, UNSEEN)),
    kept=kept(95),
    forgotten_share={7: 0.0, 2: 0.01},
)

EXAMPLES = replace(GOOD, kind="examples", recall=None, scale=None, kept=None)

# (what is changed, how many reasons it must give): each check below, at and above its bound.
AT_THE_BOUNDS = [
    ({"forget_correct": 1}, 0),
    ({"forget_correct": 2}, 0),
    ({"forget_correct": 3}, 1),
    ({"kept": kept(91)}, 0),
    ({"kept": kept(90)}, 0),
    ({"kept": kept(89)}, 1),
    ({"kept": kept(100)}, 0),
    ({"retain_correct": 0}, 0),
    ({"recall": Recall(forget=0.59, retain=0.6)}, 0),
    ({"recall": Recall(forget=0.61, retain=0.6)}, 1),
    ({"recall": Recall(forget=0.62, retain=1.0)}, 0),
    ({"recall": Recall(forget=0.63, retain=1.0)}, 1),
    ({"forgotten_share": {2: 0.019}}, 0),
    ({"forgotten_share": {2: 0.02}}, 0),
    ({"forgotten_share": {2: 0.021}}, 1),
    ({"forgotten_share": {2: 0.3, 7: 0.3, 8: 0.02}}, 2),
    ({"forgotten_share": {}}, 0),
]


@pytest.mark.parametrize(("change", "failures"), AT_THE_BOUNDS)
def test_each_check_at_its_bound(change, failures):
    """A figure below or at its bound passes and one above it fails, each check on its own."""
    verdict = judge(replace(GOOD, **change), SETTINGS)
    assert len(verdict.reasons) == failures
    assert verdict.passed == (failures == 0)


@pytest.mark.parametrize("count", [10, 30, 70, 360, 576, 1000])
def test_the_retain_bound_is_exact_on_counts(count):
    """A drop of a tenth of the images passes at every size, one image more fails; 0.98 - 0.88 would not."""
    parent = count - count // 50
    tenth = replace(
        EXAMPLES, retain_count=count, parent_retain_correct=parent, retain_correct=parent - count // 10
    )
    assert judge(tenth, SETTINGS).passed
    assert not judge(replace(tenth, retain_correct=tenth.retain_correct - 1), SETTINGS).passed


SUBJECTS: dict[str, tuple[dict[str, Any], str]] = {
    "the unmodified original": ({"retain_correct": 980, "forget_correct": 50}, "forget accuracy"),
    "a random student": ({"kept": kept(11)}, "predicted D_r is 11.00 % of the parent's"),
    "a checkpoint taken too early": ({"kept": kept(70)}, "nine of ten lie between 64.00 % and 76.00 %"),
    "a checkpoint after the class came back": ({"forget_correct": 26}, "forget accuracy"),
    "a head replaced on the features as they were": ({"recall": KNOWN}, "still in the features"),
    "features with noise": ({"recall": Recall(forget=0.8, retain=0.8)}, "still in the features"),
    "a class of an earlier request is back": ({"forgotten_share": {2: 0.09}}, "class 2, forgotten earlier"),
}


@pytest.mark.parametrize("subject", SUBJECTS)
def test_each_bad_subject_fails_for_its_own_reason(subject):
    """Each result that must not be published fails for one reason, which names the figure and the bound."""
    change, words = SUBJECTS[subject]
    (reason,) = judge(replace(GOOD, **change), SETTINGS).reasons
    assert words in reason
    assert reason.count("%") >= 2
    assert "at most" in reason or "the parent's features 100.00 %" in reason


def test_retrain_passes():
    """The figures of a retrained model pass: forget 0, retain as the parent's, features as of stand-ins."""
    measures = replace(GOOD, kept=kept(99), recall=UNSEEN)
    assert judge(measures, SETTINGS) == Verdict("passed", ())


BLIND = replace(GOOD, scale=Scale(version=KNOWN, stand_ins=(KNOWN,)), recall=KNOWN)


def test_what_cannot_be_told_is_no_pass_and_no_refusal():
    """Where models that never saw the class know it as the parent does, the reason says so, with figures."""
    verdict = judge(BLIND, SETTINGS)
    assert verdict.outcome == "cannot tell" and not verdict.passed
    (reason,) = verdict.reasons
    assert reason.startswith("it cannot be told whether the class is still in the features")
    assert reason.count("100.00 % (others 100.00 %)") == 3


def test_a_refusal_decides_where_another_check_can_tell_nothing():
    """Both reasons are given."""
    verdict = judge(replace(BLIND, kept=kept(0)), SETTINGS)
    assert verdict.outcome == "refused" and len(verdict.reasons) == 2


def test_no_check_is_cut_short():
    """A result bad in every way gets a reason from every check."""
    bad = replace(
        GOOD,
        kept=kept(0),
        forget_correct=50,
        recall=KNOWN,
        forgotten_share={2: 0.5, 7: 0.5},
    )
    reasons = judge(bad, SETTINGS).reasons
    words = ("forget accuracy", "predicted D_r", "in the features", "class 2", "class 7")
    assert len(reasons) == 5
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"retain_correct": 1001},
        {"retain_correct": -1},
        {"retain_correct": True},
        {"retain_count": 0},
        {"forget_correct": 51},
        {"forget_count": 0},
        {"parent_retain_correct": 1001},
        {"recall": None},
        {"scale": None},
        {"kept": None},
        {"forgotten_share": {2: -0.1}},
        {"forgotten_share": {"2": 0.1}},
    ],
)
def test_impossible_figures_are_refused(change):
    """Figures that no measurement can give are an error and not a verdict."""
    with pytest.raises(BadInput):
        replace(GOOD, **change)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"max_forget": -0.1}, "gate.max_forget"),
        ({"max_loss": -0.1}, "gate.max_loss"),
        ({"max_retain_drop": 1.1}, "gate.max_retain_drop"),
        ({"max_position": float("nan")}, "gate.max_position"),
        ({"max_position": -0.1}, "gate.max_position"),
        ({"least_power": 2}, "gate.least_power"),
        ({"undecided": "guess"}, "gate.undecided"),
        ({"max_forgotten_share": "0.1"}, "gate.max_forgotten_share"),
    ],
)
def test_bad_settings_name_the_setting(change, name):
    """A setting out of range is refused by its dotted name."""
    with pytest.raises(BadInput, match=name):
        GateSettings(**change)


def test_a_verdict_cannot_contradict_its_reasons():
    """Passed with reasons, or failed without one, cannot be constructed."""
    with pytest.raises(BadInput):
        Verdict("passed", ("why",))
    for outcome in ("refused", "cannot tell"):
        with pytest.raises(BadInput):
            Verdict(outcome, ())


SAMPLES = replace(GOOD, kind="samples", forget_count=0, recall=None, scale=None)


def test_single_samples_are_judged_by_what_is_left():
    """Without a class to forget predicted D_r and classes forgotten earlier decide, at the same bounds."""
    assert judge(SAMPLES, SETTINGS) == Verdict("passed", ())
    (reason,) = judge(replace(SAMPLES, kept=kept(89)), SETTINGS).reasons
    assert "predicted D_r" in reason
    (reason,) = judge(replace(SAMPLES, forgotten_share={2: 0.021}), SETTINGS).reasons
    assert "class 2, forgotten earlier" in reason


@pytest.mark.parametrize(
    "change", [{"forget_count": 1}, {"recall": UNSEEN}, {"scale": GOOD.scale}, {"kind": "classes"}]
)
def test_no_image_shows_a_single_sample(change):
    """Forget images or a probe's recall of samples are an error, and so are 0 of 0 images of a class."""
    with pytest.raises(BadInput):
        replace(SAMPLES, **change)


def test_a_behaviour_is_judged_by_held_out_samples():
    """Of examples nothing is predicted: accuracy on D' decides; a figure of the other kind is an error."""
    (reason,) = judge(replace(EXAMPLES, retain_correct=879), SETTINGS).reasons
    assert "retain accuracy" in reason
    with pytest.raises(BadInput, match="kept"):
        replace(EXAMPLES, kept=kept(95))


def test_the_calibration_is_part_of_the_settings():
    """Another one decides otherwise, and gives a recipe another hash."""
    strict = replace(LINE, offset=-0.1)
    assert judge(GOOD, SETTINGS).passed
    assert not judge(GOOD, replace(SETTINGS, calibration=strict)).passed
    recipe = load_recipe("digits")
    other = replace(recipe, gate=replace(recipe.gate, calibration=strict))
    assert other.config_hash != recipe.config_hash
    assert recipe.gate.calibration == standard()

"""All measures over one bench: their rows against direct calls, and which models they tell apart."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.anamnesis import RelearnCurve, RelearnSettings
from rayunlearn.evaluation.bench import Bench, Measurement, MeasureSettings, MislabelledImages, Shadows
from rayunlearn.evaluation.lira import shadow_plan
from rayunlearn.evaluation.measures import MEASURES, check_measures, left_out, measurable, measured
from rayunlearn.evaluation.membership import EntropyAttackSettings
from rayunlearn.evaluation.neighbours import NeighbourSettings
from rayunlearn.evaluation.probe import ProbeSettings, linear_probe
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.seeds import derive_seed
from tests.conftest import TrainVersion

FORGET = (3,)
RETAIN = (0, 1, 2, 4, 5, 6, 7, 8, 9)
SETTINGS = MeasureSettings(probe_draws=2, relearn=RelearnSettings(batch_size=64, max_steps=12))


@pytest.fixture
def bench(digits_data: Any, digits_version: TrainVersion) -> Bench:
    """The original, two gold models (the second without one more class), and a masked logit."""
    images, labels = digits_data.images, digits_data.labels
    original = digits_version()
    return Bench(
        train=(images[::2], labels[::2]),
        test=(images[1::2], labels[1::2]),
        retain=RETAIN,
        forget=FORGET,
        subjects={
            "original": original,
            "gold": digits_version(FORGET),
            "gold_2": digits_version((3, 5)),
            "mask_logit": mask_logit(original, FORGET, offset=20.0),
        },
        golds=("gold", "gold_2"),
        settings=SETTINGS,
        seed=1,
    )


def by_subject(rows: list[Measurement], measure: str, **equals: Any) -> dict[str, Measurement]:
    """Rows of one measure; each subject has one."""
    found = [r for r in rows if r.measure == measure and all(getattr(r, k) == v for k, v in equals.items())]
    assert len({r.subject for r in found}) == len(found) > 0, measure
    return {r.subject: r for r in found}


def test_accuracy_of_each_split_and_class(bench: Bench) -> None:
    """Sums and counts are those of `class_counts`, on both parts, of the groups and of each class."""
    rows = measured(bench, ["accuracy"])
    for split, part in (("train", bench.train), ("test", bench.test)):
        for subject, model in bench.subjects.items():
            counts = class_counts(model, *part, 10)
            for measure, classes in (("retain_accuracy", RETAIN), ("forget_accuracy", FORGET)):
                row = by_subject(rows, measure, split=split)[subject]
                assert (row.sum, row.count) == counts.sums(classes)
                assert row.value == pytest.approx(counts.accuracy(classes))
            for c in range(10):
                row = by_subject(rows, "class_accuracy", split=split, classes=(c,))[subject]
                assert (row.sum, row.count) == counts.sums((c,))
    assert {r.measure for r in rows} == {"retain_accuracy", "forget_accuracy", "class_accuracy"}


@pytest.mark.learned
def test_a_comparison_leaves_the_subject_itself_out(bench: Bench) -> None:
    """Sums run over the other gold models: two for a model, one for a gold model, whose own is not 0.

    A bench without gold models gives no comparison, and one alone is compared with nothing.
    """
    rows = measured(bench, ["distance", "class_membership"])
    images = int((bench.test[1] == 3).sum())
    js = by_subject(rows, "js_to_gold", classes=FORGET)
    assert {s: r.count for s, r in js.items()} == {
        "original": 2 * images, "mask_logit": 2 * images, "gold": images, "gold_2": images,
    }  # fmt: skip
    assert js["gold"].sum == pytest.approx(js["gold_2"].sum) and js["gold"].value > 0
    assert js["original"].value > js["gold"].value
    assert by_subject(rows, "class_membership_js_of_means")["original"].count == 2
    alone = replace(bench, golds=("gold",))
    assert "gold" not in by_subject(measured(alone, ["distance"]), "js_to_gold", classes=FORGET)
    assert measured(replace(bench, golds=()), ["distance", "class_membership"]) == []


def test_probes_pool_their_draws(bench: Bench) -> None:
    """The rows are sums over the draws of direct calls; each draw has a seed of its own."""
    rows = measured(bench, ["probe", "neighbours"])
    reports = [
        linear_probe(
            bench.subjects["gold"], *bench.train, *bench.test, FORGET, SETTINGS.probe,
            derive_seed(1, "probe", draw),
        )
        for draw in range(2)
    ]  # fmt: skip
    row = by_subject(rows, "probe_forget_recall")["gold"]
    assert (row.sum, row.count) == (
        sum(r.forget.correct for r in reports), sum(r.forget.count for r in reports)
    )  # fmt: skip
    for measure in ("probe_forget_recall", "knn_forget_recall"):
        recall = by_subject(rows, measure)
        assert recall["mask_logit"].sum == recall["original"].sum, "a mask does not touch the features"
        assert recall["original"].value > recall["gold"].value


def test_relearning_in_three_forms(bench: Bench) -> None:
    """Steps, retain-only peaks and few-example steps of all but the original, with their curves."""
    rows = measured(bench, ["anamnesis", "relearning"])
    for measure in ("relearn_steps", "relearn_retain_peak", "relearn_few_steps"):
        found = by_subject(rows, measure)
        assert set(found) == {"gold", "gold_2", "mask_logit"}
        for row in found.values():
            assert 1 < len(row.parameters["curve"]) <= 1 + SETTINGS.relearn.max_steps
    shown = {m: by_subject(rows, m)["gold"].parameters["forget_per_class"] for m in (
        "relearn_steps", "relearn_retain_peak", "relearn_few_steps"
    )}  # fmt: skip
    assert shown == {"relearn_steps": None, "relearn_retain_peak": 0, "relearn_few_steps": 5}
    images = int((bench.test[1] == 3).sum())
    known = class_counts(bench.subjects["original"], *bench.test, 10).accuracy(FORGET)
    for row in rows:
        if row.measure != "anamnesis_index":
            told = row.parameters
            assert (told["count"], told["needed"]) == (images, math.ceil((known - 0.05) * images))
    assert by_subject(rows, "relearn_retain_peak")["gold"].sum == 0
    index, steps = by_subject(rows, "anamnesis_index"), by_subject(rows, "relearn_steps")
    if not steps["gold"].censored:
        assert index["gold"].value == 1.0


def test_a_bench_relearns_as_it_is_told(bench: Bench) -> None:
    """Models, target, settings and seed go to `Bench.relearn` for each kind of data, its curves to rows."""
    asked = []

    def by_hand(
        models: Mapping[str, Classifier], target: float, settings: RelearnSettings, seed: int
    ) -> dict[str, RelearnCurve]:
        asked.append((set(models), target, settings.forget_per_class, seed))
        return {
            subject: RelearnCurve(
                correct=(0, 1), count=20, reached=None, target_accuracy=target, settings=settings, seed=seed
            )
            for subject in models
        }

    rows = measured(replace(bench, relearn=by_hand), ["anamnesis", "relearning"])
    known = class_counts(bench.subjects["original"], *bench.test, 10).accuracy(FORGET)
    others, seed = {"gold", "gold_2", "mask_logit"}, derive_seed(1, "relearn")
    assert asked == [(others, known, few, seed) for few in (None, 0, 5)]
    assert {tuple(r.parameters["curve"]) for r in rows if "curve" in r.parameters} == {(0, 1)}
    assert by_subject(rows, "relearn_steps")["mask_logit"].censored


def test_an_index_that_gold_leaves_open_has_its_bound(bench: Bench) -> None:
    """A mask relearns within a cap that gold does not: no value, marked as cut off, and the bound is told."""

    def times(
        models: Mapping[str, Classifier], target: float, settings: RelearnSettings, seed: int
    ) -> dict[str, RelearnCurve]:
        return {
            subject: RelearnCurve(
                correct=(0, 1), count=20, reached=3 if subject == "mask_logit" else None,
                target_accuracy=target, settings=settings, seed=seed,
            )
            for subject in models
        }  # fmt: skip

    index = by_subject(measured(replace(bench, relearn=times), ["anamnesis"]), "anamnesis_index")
    found = {s: (r.value, r.censored, r.parameters["upper_bound"]) for s, r in index.items()}
    nothing = (None, True, None)
    assert found == {"mask_logit": (None, True, 3 / 12), "gold": nothing, "gold_2": nothing}


@pytest.mark.learned
def test_attacks(bench: Bench) -> None:
    """The entropy attack counts each set once; the inversion draws as much from a mask as from the original.

    The likelihood ratio attack takes shadow models and gives its AUC and how many it has judged.
    """
    models = [bench.subjects["original"], bench.subjects["gold"]] * 2
    both = [int((part[1] == 3).sum()) for part in (bench.train, bench.test)]
    plan = shadow_plan(torch.arange(sum(both)), len(models), 0)
    rows = measured(
        replace(bench, shadows=Shadows(models=models, included=plan)),
        ["entropy", "likelihood_ratio", "inversion"],
    )
    called = by_subject(rows, "entropy_attack_train")["original"]
    assert called.count == len(bench.train[1])
    assert by_subject(rows, "entropy_attack_forget")["gold"].count == both[0]
    drawn = by_subject(rows, "inversion_specific")
    assert drawn["mask_logit"].value == pytest.approx(drawn["original"].value, abs=1e-3)
    assert drawn["gold"].value != pytest.approx(drawn["original"].value, abs=1e-3)
    auc = by_subject(rows, "lira_auc")["original"]
    assert auc.value is not None and 0 <= auc.value <= 1
    assert (auc.parameters["members"], auc.parameters["non_members"]) == tuple(both)
    areas = {name: r.value for name, r in by_subject(rows, "lira_auc").items()}
    gaps = {name: r.value for name, r in by_subject(rows, "lira_auc_gap").items()}
    assert gaps["mask_logit"] == pytest.approx(
        (abs(areas["mask_logit"] - areas["gold"]) + abs(areas["mask_logit"] - areas["gold_2"])) / 2
    )
    assert gaps["gold"] == pytest.approx(abs(areas["gold"] - areas["gold_2"])), "of the other gold model"
    roc, tpr = auc.parameters["roc"], by_subject(rows, "lira_tpr_at_1_percent_fpr")["original"]
    assert roc[0] == (0, tpr.sum), "of under 100 non-members 1 % is none"
    assert roc[-1][1] == both[0] and len(roc) <= 200
    assert by_subject(rows, "lira_tpr_at_1_percent_fpr")["gold"].count == both[0]


SAMPLES = torch.tensor([3, 40, 41, 200])
"""Of the bench's training images, four of classes that are retained."""


def with_samples(bench: Bench, forget: tuple[int, ...]) -> Bench:
    """The bench after these single samples were forgotten, alone or beside a class."""
    images, labels = bench.train
    kept = torch.ones(len(labels), dtype=torch.bool)
    kept[SAMPLES] = False
    return replace(
        bench,
        train=(images[kept], labels[kept]),
        samples=(images[SAMPLES], labels[SAMPLES]),
        forget=forget,
        retain=RETAIN if forget else tuple(range(10)),
    )


@pytest.mark.parametrize("forget", [(), FORGET])
def test_figures_on_forgotten_samples(bench: Bench, forget: tuple[int, ...]) -> None:
    """They are training data and name no class; accuracy and agreement are a count by hand's.

    A class that was forgotten besides has the figures that it has without the samples.
    """
    both = with_samples(bench, forget)
    assert set(both.samples[1].tolist()) <= set(both.retain)
    rows = measured(both, ["accuracy", "distance"])
    answers = {}
    for subject, model in bench.subjects.items():
        with torch.no_grad():
            answers[subject] = model.eval()(both.samples[0]).argmax(dim=1)
    right = by_subject(rows, "forget_accuracy", classes=())
    agreeing = by_subject(rows, "agreement_with_gold", classes=())
    for subject, answer in answers.items():
        assert (right[subject].sum, right[subject].count) == (int((answer == both.samples[1]).sum()), 4)
        golds = [gold for gold in bench.golds if gold != subject]
        assert agreeing[subject].sum == sum(int((answer == answers[gold]).sum()) for gold in golds)
    on_samples = [r for r in rows if not r.classes]
    assert {r.split for r in on_samples} == {"train"}
    if forget:
        before = [r for r in measured(bench, ["accuracy", "distance"]) if r.split == "test"]
        assert [r for r in rows if r.split == "test"] == before
    else:
        assert all(r.classes in ((), both.retain) or r.measure == "class_accuracy" for r in rows)


def test_membership_of_all_that_was_forgotten(bench: Bench) -> None:
    """Forget images of the attack are the class's training images and the samples together."""
    of_class = int((bench.train[1] == 3).sum())
    for forget, count in (((), 4), (FORGET, of_class + 4)):
        called = by_subject(measured(with_samples(bench, forget), ["entropy"]), "entropy_attack_forget")
        assert {r.count for r in called.values()} == {count}


def test_a_measure_of_a_class_needs_one(bench: Bench) -> None:
    """Where samples alone were forgotten seven measures are refused by name, and four are made."""
    alone = with_samples(bench, ())
    made = measurable(list(MEASURES), forget=())
    assert made == ("accuracy", "distance", "calibration", "entropy")
    assert measurable(list(MEASURES), FORGET) == tuple(MEASURES)
    for name in set(MEASURES) - set(made):
        with pytest.raises(BadInput, match=f"measure is '{name}'; allowed: accuracy, distance, .*class"):
            measured(alone, ["accuracy", name])
    assert measured(alone, ["calibration"])


def test_what_can_be_measured_of_a_behaviour(bench: Bench) -> None:
    """Neither a class nor a sample: accuracy on D_r and calibration, and no gold model is needed for them.

    What needs a class, or samples, is refused with that reason; with an earlier class both can be made.
    """
    nothing = replace(bench, forget=(), golds=())
    assert measurable(list(MEASURES), (), samples=False) == ("accuracy", "calibration")
    rows = measured(nothing, ["accuracy", "calibration"])
    assert {r.measure for r in rows} == {"retain_accuracy", "class_accuracy", "calibration_error"}
    for name, reason in (("entropy", "samples that were forgotten"), ("probe", "of a forgotten class")):
        assert reason in str(left_out(name, (), samples=False))
        assert left_out(name, FORGET, samples=False) is None
        with pytest.raises(
            BadInput, match=f"measure is '{name}'; allowed: accuracy, calibration: .*{reason}"
        ):
            measured(nothing, [name])


def answering(bench: Bench, images: torch.Tensor, labels: torch.Tensor) -> Classifier:
    """A model whose answers for these images are these labels: the original's features, a head solved for."""
    model = copy.deepcopy(bench.subjects["original"]).eval()
    with torch.no_grad():
        x = torch.cat([model.features(images), torch.ones(len(images), 1)], dim=1).double()
        wanted = torch.nn.functional.one_hot(labels, 10).double()
        solved = torch.linalg.lstsq(x, wanted, driver="gelsd").solution.float()
        model.head.weight.copy_(solved[:-1].T)
        model.head.bias.copy_(solved[-1])
    return model


def test_figures_on_mislabelled_images(bench: Bench) -> None:
    """One that answers with the right labels has all of D_e and none of what it was taught; one that answers
    as it was taught the reverse; one that answers neither has neither. Nothing else changes.
    """
    ids = (bench.train[1] == 7).nonzero().flatten()[:6]
    images = bench.train[0][ids]
    right, taught, other = (torch.tensor(labels) for labels in ([7] * 6, [2, 3] * 3, [5] * 6))
    subjects = {
        name: answering(bench, images, labels)
        for name, labels in (("original", taught), ("unlearned", right), ("gold", other))
    }
    without = replace(bench, subjects=subjects, golds=("gold",))
    mislabelled = MislabelledImages(images=images, right=right, taught=taught)
    rows = measured(replace(without, mislabelled=mislabelled), ["accuracy"])
    found = {
        name: {s: (r.sum, r.count) for s, r in by_subject(rows, f"mislabelled_{name}").items()}
        for name in ("accuracy", "taught")
    }
    assert found == {
        "accuracy": {"original": (0, 6), "unlearned": (6, 6), "gold": (0, 6)},
        "taught": {"original": (6, 6), "unlearned": (0, 6), "gold": (0, 6)},
    }
    own = [r for r in rows if r.measure.startswith("mislabelled")]
    assert {(r.classes, r.split) for r in own} == {((), "train")}
    assert [r for r in rows if r not in own] == measured(without, ["accuracy"])


def test_mislabelled_images_are_labelled_twice(bench: Bench) -> None:
    """Labels of other images, or of no class of the model, are named, the right ones and the taught."""
    images, labels = bench.train
    fine = MislabelledImages(images=images[:4], right=labels[:4], taught=(labels[:4] + 1) % 10)
    assert replace(bench, mislabelled=fine).on_mislabelled.keys() == bench.subjects.keys()
    for change in ({"right": labels[:3]}, {"taught": labels[:4] + 10}):
        with pytest.raises(BadInput, match="mislabelled images of an audit"):
            replace(bench, mislabelled=replace(fine, **change))


def test_the_same_bench_gives_the_same_rows(bench: Bench) -> None:
    """Measuring is a function of the bench: twice is the same, and the models are left as they were."""
    before = {s: {k: v.clone() for k, v in m.state_dict().items()} for s, m in bench.subjects.items()}
    names = ["calibration", "anamnesis", "inversion"]
    assert measured(bench, names) == measured(replace(bench), names)
    for subject, model in bench.subjects.items():
        assert all(torch.equal(before[subject][k], v) for k, v in model.state_dict().items())


def test_names_of_measures() -> None:
    """They come in the order of the table and each once; an unknown one names the nearest."""
    assert check_measures(["probe", "accuracy", "probe"]) == ("accuracy", "probe")
    assert check_measures(list(MEASURES)) == tuple(MEASURES)
    with pytest.raises(BadInput, match="acuracy.*accuracy"):
        check_measures(["acuracy"])
    with pytest.raises(BadInput, match="at least one of accuracy"):
        check_measures([])


def test_a_bench_on_which_nothing_can_be_compared(bench: Bench) -> None:
    """A missing original or gold, nothing to retain, no shadow models: named, before anything is measured."""
    others: dict[str, Classifier] = {k: v for k, v in bench.subjects.items() if k != "original"}
    for change, message in (
        ({"subjects": others}, "'original' among them"),
        ({"golds": ("gold", "gold_3")}, "'gold_3' among them"),
        ({"retain": ()}, "retain classes of an audit"),
    ):
        with pytest.raises(BadInput, match=message):
            replace(bench, **change)
    with pytest.raises(BadInput, match="shadow models"):
        measured(bench, ["likelihood_ratio"])
    with pytest.raises(BadInput, match=r"audit\.few_per_class"):
        MeasureSettings(few_per_class=0)


# What no measure gives a number for.


def with_shadows(bench: Bench, count: int = 4) -> Bench:
    """The bench with copies of two of its models as shadow models."""
    models = [bench.subjects["original"], bench.subjects["gold"]] * (count // 2)
    candidates = sum(int((part[1] == 3).sum()) for part in (bench.train, bench.test))
    included = torch.zeros(count, candidates, dtype=torch.bool)
    included[: count // 2] = True
    return replace(bench, shadows=Shadows(models=models, included=included))


@pytest.mark.parametrize("measure", MEASURES)
def test_logits_that_are_not_finite_are_an_error(bench: Bench, measure: str) -> None:
    """One NaN in one model's head: every measure ends in an error that says so.

    Negative control: it names every measure, and the same bench with a sound head gives rows.
    """
    broken = copy.deepcopy(bench.subjects["mask_logit"])
    with torch.no_grad():
        broken.head.bias[0] = math.nan
    whole = replace(with_shadows(bench), settings=replace(SETTINGS, probe_draws=1))
    assert measured(whole, [measure])
    with pytest.raises(BadInput, match="NaN or infinite"):
        measured(replace(whole, subjects={**bench.subjects, "mask_logit": broken}), [measure])


def test_a_shadow_model_that_is_not_finite_is_an_error(bench: Bench) -> None:
    """NaN in a shadow model is found, not averaged."""
    whole = with_shadows(bench)
    assert whole.shadows is not None
    broken = copy.deepcopy(bench.subjects["gold"])
    with torch.no_grad():
        broken.head.bias[0] = math.nan
    shadows = replace(whole.shadows, models=[broken, *whole.shadows.models[1:]])
    with pytest.raises(BadInput, match="NaN or infinite"):
        measured(replace(whole, shadows=shadows), ["likelihood_ratio"])


def test_models_with_different_class_counts_are_named(bench: Bench) -> None:
    """A subject of eleven classes and a shadow model of nine: refused before any measure."""

    def of(classes: int) -> Classifier:
        return build_classifier(replace(bench.subjects["original"].spec, num_classes=classes), 0)

    with pytest.raises(BadInput, match="number of classes of 'mine' is 11; allowed: 10, as of 'original'"):
        replace(bench, subjects={**bench.subjects, "mine": of(11)})
    whole = with_shadows(bench)
    assert whole.shadows is not None
    shadows = replace(whole.shadows, models=[whole.shadows.models[0], of(9)])
    with pytest.raises(BadInput, match="number of classes of 'shadow 1' is 9; allowed: 10"):
        replace(whole, shadows=shadows)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_class_without_images_is_named(bench: Bench, part: str) -> None:
    """A forget or a retain class that is missing, one class only, or labels of other images, at once."""
    images, labels = getattr(bench, part)
    name = {"train": "training", "test": "test"}[part]
    for kept, missing in ((labels != 3, 3), (labels != 5, 5), (labels == 3, 0)):
        with pytest.raises(BadInput, match=f"{name} images of class {missing} is 0; allowed: at least 1"):
            replace(bench, **{part: (images[kept], labels[kept])})
    with pytest.raises(BadInput, match=f"{name} images of an audit: number of labels"):
        replace(bench, **{part: (images, labels[1:])})
    with pytest.raises(BadInput, match=f"{name} images of an audit: range of the labels is .*0..9"):
        replace(bench, **{part: (images, labels + 1)})


@pytest.mark.parametrize(
    ("measure", "settings", "message"),
    [
        ("probe", {"probe": ProbeSettings(train_per_class=1000)}, "linear_probe: .*class 0 .*at least 1000"),
        ("neighbours", {"neighbours": NeighbourSettings(k=1000)}, "knn_probe: .*at least k = 1000"),
        ("relearning", {"few_per_class": 1000}, "relearn: .*forget class 3 .*at least 1000"),
        ("entropy", {"entropy": EntropyAttackSettings(least_fitted=1000)}, "at least 2000"),
    ],
)
def test_too_few_images_for_a_measure_are_named(
    bench: Bench, measure: str, settings: dict[str, Any], message: str
) -> None:
    """What is there, and what that measure needs, comes with its name; the other measures do without."""
    few = replace(bench, settings=replace(SETTINGS, **settings))
    with pytest.raises(BadInput, match=message):
        measured(few, [measure])
    assert measured(few, ["accuracy", "distance", "class_membership", "calibration"])


def test_a_mean_image_that_others_compose_has_no_specific_score(bench: Bench) -> None:
    """Where class 3's mean is class 5's nothing is its own: no figure, rather than 0; the others have one."""
    images, labels = bench.train
    alike = images.clone()
    alike[labels == 3] = images[labels == 5].mean(dim=0)
    rows = measured(replace(bench, train=(alike, labels)), ["inversion"])
    for row in by_subject(rows, "inversion_specific").values():
        assert row.value is None is row.sum
    assert all(row.value is not None for row in by_subject(rows, "inversion_confidence").values())


def test_too_few_shadow_models_are_named(bench: Bench) -> None:
    """Two shadow models leave each example with one of each kind, which has no variance."""
    with pytest.raises(BadInput, match="likelihood_ratios: .*example 0 .*at least 2 of each"):
        measured(with_shadows(bench, 2), ["likelihood_ratio"])

"""Distances to a retrained model against closed forms, SciPy and slow loops; flawed variants miss."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import rel_entr, softmax
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.distance import (
    LOG_PROB_FLOOR,
    ClassMembership,
    calibration_error,
    class_membership,
    divergences,
)
from rayunlearn.evaluation.predictions import Predictions

LN2 = math.log(2)
QUICK = settings(deadline=None, max_examples=100, database=None)

Rows = list[list[float]]


def saying(probabilities: Rows, labels: list[int] | None = None) -> Predictions:
    """Answers with these probabilities; every image is of class 0 where nothing else is said."""
    log_probs = torch.tensor(probabilities, dtype=torch.float64).log().float()
    return Predictions(log_probs, torch.tensor(labels or [0] * len(probabilities)))


def from_logits(logits: torch.Tensor, labels: torch.Tensor | None = None) -> Predictions:
    """Answers of a model with these logits [N, K]."""
    labels = torch.zeros(len(logits)).long() if labels is None else labels
    return Predictions(logits.double().log_softmax(dim=1).float(), labels)


def drawn(seed: int, n: int = 60, num_classes: int = 5, scale: float = 3.0) -> Predictions:
    """Answers of a model with normal logits of a fixed seed."""
    draw = torch.Generator().manual_seed(seed)
    return from_logits(scale * torch.randn(n, num_classes, generator=draw))


def float64_of(predictions: Predictions) -> np.ndarray:
    """Probabilities [N, K] by SciPy, which sum to 1 in float64."""
    return softmax(predictions.log_probs.double().numpy(), axis=1)


# Divergences.


def test_closed_form() -> None:
    """r = (1/2, 1/2) and m = (1/4, 3/4), mixture (3/8, 5/8); beside it an image on which both agree.

    KL(r || m) = 1/2 ln 2 + 1/2 ln(2/3) = 1/2 ln(4/3); reversed it is 1/4 ln(1/2) + 3/4 ln(3/2), another
    number. JS = 1/2 (1/2 ln(4/3) + 1/2 ln(4/5)) + 1/2 (1/4 ln(2/3) + 3/4 ln(6/5)). TV = 1/4. The
    predictions are 0 (the first of a tie) and 1: the models agree on the second image alone.
    """
    reference, model = saying([[0.5, 0.5], [0.2, 0.8]]), saying([[0.25, 0.75], [0.2, 0.8]])
    found = divergences(model, reference)
    kl = 0.5 * math.log(4 / 3)
    js = (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5) + 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)) / 2
    assert found.kl_sum == pytest.approx(kl, rel=1e-6) and found.kl == pytest.approx(kl / 2, rel=1e-6)
    assert found.js_sum == pytest.approx(js, rel=1e-6) and found.js == pytest.approx(js / 2, rel=1e-6)
    assert found.tv_sum == pytest.approx(0.25, rel=1e-6) and found.total_variation == found.tv_sum / 2
    assert (found.agreeing, found.count, found.agreement) == (1, 2, 0.5)
    reverse = divergences(reference, model).kl_sum
    assert reverse == pytest.approx(0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2), rel=1e-6)
    assert reverse != pytest.approx(kl, rel=0.05)


def test_divergences_equal_scipys() -> None:
    """Sums over 60 images agree with SciPy's `rel_entr` and `jensenshannon` squared to 1e-12.

    Flawed variants miss: arguments swapped, the distance rather than the divergence, bits for nats, a
    mean over classes, a total variation that is not halved.
    """
    model, reference = drawn(0), drawn(1)
    m, r = float64_of(model), float64_of(reference)
    found = divergences(model, reference)
    js = sum(jensenshannon(a, b) ** 2 for a, b in zip(r, m, strict=True))
    assert found.kl_sum == pytest.approx(rel_entr(r, m).sum(), rel=1e-12)
    assert found.js_sum == pytest.approx(js, rel=1e-12)
    assert found.tv_sum == pytest.approx(sum(np.maximum(r - m, 0).sum(axis=1)), rel=1e-12)
    assert found.agreeing == int((r.argmax(axis=1) == m.argmax(axis=1)).sum())
    assert 0 < found.agreeing < found.count == 60
    for name, right, flawed in (
        ("swapped", found.kl_sum, rel_entr(m, r).sum()),
        ("mean over classes", found.kl_sum, rel_entr(r, m).mean(axis=1).sum()),
        ("distance", found.js_sum, sum(jensenshannon(a, b) for a, b in zip(r, m, strict=True))),
        ("bits", found.js_sum, js / LN2),
        ("not halved", found.tv_sum, np.abs(r - m).sum()),
    ):
        assert flawed != pytest.approx(right, rel=0.02), name


@st.composite
def logit_rows(draw: st.DrawFn) -> tuple[Rows, Rows]:
    """Logits of two models for the same 1 to 4 images of 1 to 5 classes, up to surer than the floor."""
    n, num_classes = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    row = st.lists(st.floats(-300, 300, width=32), min_size=num_classes, max_size=num_classes)
    return draw(st.lists(row, min_size=n, max_size=n)), draw(st.lists(row, min_size=n, max_size=n))


@QUICK
@given(logit_rows())
def test_symmetry_and_bounds(rows: tuple[Rows, Rows]) -> None:
    """JS, TV and agreement do not care which is the reference; all are finite and within their bounds.

    They are tied together: KL >= 2 TV^2 (Pinsker) and TV^2 / 2 <= JS <= ln 2 * TV (Lin), for an image
    and, by convexity, for the means.
    """
    model, reference = (from_logits(torch.tensor(part)) for part in rows)
    found, swapped = divergences(model, reference), divergences(reference, model)
    assert found.js_sum == pytest.approx(swapped.js_sum, abs=1e-12)
    assert (found.tv_sum, found.agreeing) == (swapped.tv_sum, swapped.agreeing)
    assert 0 <= found.js <= LN2 + 1e-12
    assert 0 <= found.total_variation <= 1 + 1e-12
    assert 0 <= found.agreement <= 1
    assert 2 * found.total_variation**2 - 1e-12 <= found.kl <= -LOG_PROB_FLOOR + 1e-12
    assert found.total_variation**2 / 2 - 1e-12 <= found.js <= LN2 * found.total_variation + 1e-12
    same = divergences(model, model)
    assert (same.kl_sum, same.tv_sum, same.agreement) == (0, 0, 1) and 0 <= same.js_sum < 1e-12


def test_a_probability_of_0_adds_nothing_where_the_reference_has_none() -> None:
    """r = (1, 0, 0) and m = (1/2, 1/2, 0): KL is ln 2; what both exclude adds 0, not NaN.

    The mixture is (3/4, 1/4, 0): JS = 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2).
    """
    found = divergences(saying([[0.5, 0.5, 0.0]]), saying([[1.0, 0.0, 0.0]]))
    assert found.kl == pytest.approx(LN2, rel=1e-7)
    js = math.log(4 / 3) / 2 + (math.log(2 / 3) + LN2) / 4
    assert found.js == pytest.approx(js, rel=1e-7)
    assert found.total_variation == pytest.approx(0.5, rel=1e-7)
    disjoint = divergences(saying([[0.0, 1.0]]), saying([[1.0, 0.0]]))
    assert disjoint.js == pytest.approx(LN2, rel=1e-12) and disjoint.total_variation == 1
    assert disjoint.kl == pytest.approx(-LOG_PROB_FLOOR, rel=1e-12)


def test_never_is_never_whatever_the_masks_constant() -> None:
    """r = (1/2, 1/2), m = (1, 0): KL = (0 - 103.3) * -1/2 - ln 2, for a mask of 200, 1e4 or infinity.

    As the mask's constant has it (the negative control) they are 100, 5,000 and no number. A mask of
    80 is above the floor and is not touched. JS and TV are the same for all of them.
    """
    reference = saying([[0.5, 0.5]])
    masked = {mask: Predictions(torch.tensor([[0.0, -mask]]), torch.tensor([0])) for mask in
              (80.0, 200.0, 1e4, math.inf)}  # fmt: skip
    found = {mask: divergences(model, reference) for mask, model in masked.items()}
    assert found[80.0].kl == pytest.approx(40 - LN2, rel=1e-12)
    for mask in (200.0, 1e4, math.inf):
        assert found[mask].kl == pytest.approx(-LOG_PROB_FLOOR / 2 - LN2, rel=1e-12)
        assert found[mask].kl != pytest.approx(mask / 2 - LN2, rel=0.1)
    for measure in ("js", "total_variation"):
        assert len({round(getattr(each, measure), 12) for each in found.values()}) == 1
    least = float(np.finfo(np.float32).smallest_subnormal)
    assert math.exp(LOG_PROB_FLOOR) == pytest.approx(least, rel=1e-12)


def test_rounding_to_float32_is_no_distance() -> None:
    """All log-probabilities 1e-6 higher are the same answer: distance 0 to 1e-12, and never negative.

    Without normalising anew (the negative control) KL is -1e-6 an image.
    """
    reference = drawn(2)
    model = Predictions(reference.log_probs + 1e-6, reference.labels)
    found = divergences(model, reference)
    assert 0 <= found.kl < 1e-12 and 0 <= found.js < 1e-12
    log_r, log_m = reference.log_probs.double(), model.log_probs.double()
    assert float((log_r.exp() * (log_r - log_m)).sum(dim=1).mean()) == pytest.approx(-1e-6, rel=0.2)


def test_a_masked_logit_has_golds_accuracy_and_not_its_answers() -> None:
    """Forget image of class 0; original (5, 1, 0), masked (-95, 1, 0), gold (-95, 0, 2): both never say 0.

    Over classes 1 and 2 the mask says sigmoid(1) and gold sigmoid(-2): TV = sigmoid(1) - sigmoid(-2).
    Accuracy on D_f is 0 for both; a model that answers like gold, one nat off, is nearer in all measures.
    """
    gold, masked, near = (
        from_logits(torch.tensor([logits]))
        for logits in ([-95.0, 0.0, 2.0], [-95.0, 1.0, 0.0], [-95.0, 0.0, 1.0])
    )
    assert all(answers.counts().accuracy([0]) == 0 for answers in (gold, masked, near))
    hidden, erased = divergences(masked, gold), divergences(near, gold)
    assert hidden.total_variation == pytest.approx(1 / (1 + math.exp(-1)) - 1 / (1 + math.exp(2)), rel=1e-6)
    assert (hidden.agreement, erased.agreement) == (0, 1)
    for measure in ("kl", "js", "total_variation"):
        assert getattr(hidden, measure) > 3 * getattr(erased, measure)


def test_answers_for_other_images_or_classes_are_refused() -> None:
    """Another number of images, other labels, another number of classes, none: each named with its value."""
    one, two = saying([[0.5, 0.5]]), saying([[0.5, 0.5], [0.2, 0.8]])
    three, relabelled = saying([[0.2, 0.3, 0.5]]), saying([[0.5, 0.5], [0.2, 0.8]], [1, 0])
    none = Predictions(torch.zeros(0, 2), torch.zeros(0).long())
    for measure, where in ((divergences, "divergences"), (class_membership, "class_membership")):
        arguments = () if measure is divergences else ([1],)
        for model, reference, message in (
            (one, two, "number of the model's images is 1; allowed: 2, that of the reference"),
            (none, two, "number of the model's images is 0; allowed: 2"),
            (none, none, "number of images is 0; allowed: at least 1"),
            (relabelled, two, "images with another label than the reference's is 1; allowed: 0"),
            (three, one, "number of classes of the model is 3; allowed: 2, that of the reference"),
        ):
            with pytest.raises(BadInput, match=f"{where}: .*{message}"):
                measure(model, reference, *arguments)


# Class membership.


def membership(answers: Predictions, retain: list[int]) -> torch.Tensor:
    """The mean distribution of answers, which stand beside themselves."""
    return class_membership(answers, answers, retain).model


def test_membership_is_renormalised_image_by_image() -> None:
    """(1/2 | 1/2, 0) and (9/10 | 0, 1/10) over classes 1 and 2 are (1, 0) and (0, 1): the mean is (1/2, 1/2).

    Renormalising the mean instead would weigh the images by what they leave to the retain classes and
    give (5/6, 1/6).
    """
    answers = saying([[0.5, 0.5, 0.0], [0.9, 0.0, 0.1]])
    assert membership(answers, [1, 2]).tolist() == pytest.approx([0.5, 0.5], abs=1e-12)
    mean = answers.log_probs.double().exp()[:, 1:].mean(dim=0)
    assert (mean / mean.sum()).tolist() == pytest.approx([5 / 6, 1 / 6], rel=1e-6)


def test_membership_keeps_the_order_of_the_classes() -> None:
    """Retain classes 3 and 1 of (0, 1/4, 1/4, 1/2): 2/3 and 1/3, in that order; class 2 is left out."""
    answers = saying([[0.0, 0.25, 0.25, 0.5]])
    found = membership(answers, [3, 1])
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([2 / 3, 1 / 3], rel=1e-6)
    assert membership(answers, [2]).tolist() == [1.0]


def test_swapped_images_show_in_the_images_and_not_in_the_mean() -> None:
    """The model sends images 1 and 2 to classes 1 and 2, the reference to 2 and 1: equal means, all swapped.

    Distance of the means 0; per image ln 2 and 1. Against itself all four are 0.
    """
    one, two = [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]
    model, reference = saying([one, two]), saying([two, one])
    found = class_membership(model, reference, [1, 2])
    assert found.js_of_means == 0 and found.tv_of_means == 0
    assert found.js_per_image == pytest.approx(LN2, rel=1e-12) and found.tv_per_image == 1
    assert (found.tv_sum, found.count) == (2, 2)
    same = class_membership(model, model, [1, 2])
    assert (same.js_of_means, same.tv_of_means, same.js_sum, same.tv_sum) == (0, 0, 0, 0)


def test_membership_equals_a_slow_reference() -> None:
    """40 images, retain classes 1, 2 and 4 of 5: each distance as SciPy has it, in float64."""
    retain = [1, 2, 4]
    model, reference = drawn(3, n=40), drawn(4, n=40)
    m, r = (softmax(answers.log_probs.double().numpy()[:, retain], axis=1) for answers in (model, reference))
    found = class_membership(model, reference, retain)
    assert found.model.tolist() == pytest.approx(m.mean(axis=0).tolist(), rel=1e-12)
    assert found.reference.tolist() == pytest.approx(r.mean(axis=0).tolist(), rel=1e-12)
    assert found.js_of_means == pytest.approx(jensenshannon(m.mean(axis=0), r.mean(axis=0)) ** 2, rel=1e-9)
    assert found.tv_of_means == pytest.approx(np.abs(m.mean(axis=0) - r.mean(axis=0)).sum() / 2, rel=1e-12)
    js = sum(jensenshannon(a, b) ** 2 for a, b in zip(m, r, strict=True))
    assert found.js_sum == pytest.approx(js, rel=1e-12)
    assert found.tv_sum == pytest.approx(np.abs(m - r).sum() / 2, rel=1e-12)


def both_ways(rows: tuple[Rows, Rows]) -> tuple[ClassMembership, ClassMembership]:
    """Membership of two models over all classes but a forget class that is put before them, both ways."""
    model, reference = (
        from_logits(torch.cat([torch.zeros(len(part), 1), torch.tensor(part)], dim=1)) for part in rows
    )
    retain = range(1, model.num_classes)
    return class_membership(model, reference, retain), class_membership(reference, model, retain)


@QUICK
@given(logit_rows())
def test_the_mean_image_is_never_farther_than_the_images(rows: tuple[Rows, Rows]) -> None:
    """Convexity: the distance of the means is at most the mean distance; both are symmetric and bounded."""
    found, swapped = both_ways(rows)
    assert 0 <= found.js_of_means <= found.js_per_image + 1e-12 <= LN2 + 2e-12
    assert 0 <= found.tv_of_means <= found.tv_per_image + 1e-12 <= 1 + 2e-12
    assert found.js_sum == pytest.approx(swapped.js_sum, abs=1e-12)
    assert found.js_of_means == pytest.approx(swapped.js_of_means, abs=1e-12)
    assert (found.tv_sum, found.tv_of_means) == (swapped.tv_sum, swapped.tv_of_means)
    assert torch.equal(found.model, swapped.reference)
    assert float(found.model.sum()) == pytest.approx(1, rel=1e-12)


def test_a_mask_has_the_originals_membership() -> None:
    """A constant off the forget logit changes every divergence and leaves the membership as it was."""
    logits = 3 * torch.randn(30, 4, generator=torch.Generator().manual_seed(5)) + torch.tensor([9.0, 0, 0, 0])
    original = from_logits(logits)
    masked = from_logits(logits - torch.tensor([30.0, 0, 0, 0]))
    same = class_membership(masked, original, [1, 2, 3])
    assert same.js_per_image < 1e-9 and same.tv_per_image < 1e-5
    assert divergences(masked, original).total_variation > 0.9


def test_membership_of_what_is_no_forget_image_is_refused() -> None:
    """Images of a retain class, no probability on any of them, unknown, repeated or no classes, no images."""
    answers = saying([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], [0, 0])
    none = Predictions(torch.zeros(0, 2), torch.zeros(0).long())
    for given_answers, retain, message in (
        (saying([[0.2, 0.3, 0.5]] * 2, [0, 2]), [1, 2], r"retain classes among the labels is \[2\]; .* none"),
        (answers, [1, 2], "images without any probability on retain classes is 1; allowed: 0"),
        (answers, [1, 3], r"classes is \[1, 3\]; allowed: at least one of 0..2, each once"),
        (answers, [1, 1], r"classes is \[1, 1\]"),
        (answers, [], r"classes is \[\]"),
        (none, [1], "number of images is 0; allowed: at least 1"),
    ):
        with pytest.raises(BadInput, match=f"class_membership: .*{message}"):
            membership(given_answers, retain)


# Calibration.


def test_calibration_by_hand() -> None:
    """Confidence 0.9 right, 0.9 wrong, 0.7 right. Five bins: |1 - 0.7| and |1 - 1.8| over 3 are 1.1 / 3.

    In one bin the gaps cancel: |2 - 2.5| / 3. A mean over the two bins that are filled (0.35) is wrong.
    """
    answers = saying([[0.9, 0.1], [0.1, 0.9], [0.7, 0.3]])
    five = calibration_error(answers, bins=5)
    assert five.count.tolist() == [0, 0, 0, 1, 2] and five.correct.tolist() == [0, 0, 0, 1, 1]
    assert five.confidence_sum.tolist() == pytest.approx([0, 0, 0, 0.7, 1.8], rel=1e-6)
    assert five.value == pytest.approx(1.1 / 3, rel=1e-6)
    assert calibration_error(answers, bins=1).value == pytest.approx(0.5 / 3, rel=1e-6)
    assert five.value != pytest.approx(0.35, rel=0.02)


def test_a_bin_holds_its_upper_edge() -> None:
    """Bins are open on the left (Guo et al.): of four, the first has 1/4, the second 1/2, the last 1."""
    for num_classes, bin_id in ((4, 0), (2, 1), (1, 3)):
        answers = saying([[1 / num_classes] * num_classes])
        assert calibration_error(answers, bins=4).count.nonzero().tolist() == [[bin_id]]


def labelled(seed: int, n: int = 500, num_classes: int = 4) -> Predictions:
    """Answers of a model that is right more often than not, and not calibrated."""
    labels = torch.arange(n) % num_classes
    answers = drawn(seed, n, num_classes, scale=1.5).log_probs
    return from_logits(answers + 1.5 * torch.eye(num_classes)[labels], labels)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_equals_a_slow_reference(bins: int) -> None:
    """500 images: a loop over bins and images in float64 agrees to 1e-12, and scikit-learn per filled bin."""
    answers = labelled(6)
    probabilities = float64_of(answers)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == answers.labels.numpy()
    expected = 0.0
    for i in range(bins):
        inside = [j for j in range(500) if i / bins < confidence[j] <= (i + 1) / bins]
        if inside:
            accuracy = sum(right[j] for j in inside) / len(inside)
            mean_confidence = sum(confidence[j] for j in inside) / len(inside)
            expected += len(inside) / 500 * abs(accuracy - mean_confidence)
    found = calibration_error(answers, bins)
    assert found.value == pytest.approx(expected, rel=1e-12)
    filled = found.count > 0
    accuracies, confidences = calibration_curve(right, confidence, n_bins=bins, strategy="uniform")
    assert (found.correct / found.count)[filled].tolist() == pytest.approx(accuracies.tolist(), rel=1e-6)
    mean = (found.confidence_sum / found.count)[filled]
    assert mean.tolist() == pytest.approx(confidences.tolist(), rel=1e-9)
    assert (int(found.count.sum()), int(found.correct.sum())) == (500, int(right.sum()))


def test_calibration_equals_torchmetrics() -> None:
    """The library's own function, in float32."""
    answers = labelled(7)
    expected = multiclass_calibration_error(answers.log_probs.exp(), answers.labels, 4, n_bins=15)
    assert calibration_error(answers).value == pytest.approx(float(expected), abs=1e-6)


def test_a_calibrated_model_and_one_that_is_always_wrong() -> None:
    """Seven of ten right at confidence 0.7: 0. None right, as of a forgotten class: 0.7, the mean."""
    answers = [[0.7, 0.3]] * 10
    assert calibration_error(saying(answers, [0] * 7 + [1] * 3)).value == pytest.approx(0, abs=1e-7)
    assert calibration_error(saying(answers, [1] * 10)).value == pytest.approx(0.7, rel=1e-6)


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 12))
def test_finer_bins_never_lower_the_error(seed: int, n: int, bins: int) -> None:
    """Bins split in three cancel less; of one bin the error is |accuracy - mean confidence|; at most 1."""
    answers = labelled(seed, n)
    one, coarse, fine = (calibration_error(answers, count).value for count in (1, bins, 3 * bins))
    confidence = float(float64_of(answers).max(axis=1).mean())
    accuracy = float((answers.predicted == answers.labels).double().mean())
    assert one == pytest.approx(abs(accuracy - confidence), abs=1e-12)
    assert 0 <= one <= coarse + 1e-12 <= fine + 2e-12 <= 1 + 3e-12


def test_no_images_or_no_bins_have_no_calibration() -> None:
    """Each is refused by name rather than divided by zero."""
    with pytest.raises(BadInput, match="calibration_error: bins is 0; allowed: a whole number > 0"):
        calibration_error(labelled(0), bins=0)
    with pytest.raises(BadInput, match="calibration_error: number of images is 0; allowed: at least 1"):
        calibration_error(Predictions(torch.zeros(0, 2), torch.zeros(0).long()))

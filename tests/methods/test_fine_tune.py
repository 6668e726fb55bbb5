"""Oracle: the version's own weights, trained on with what is retained."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.methods.fine_tune import METHOD, FineTuneSettings
from rayunlearn.methods.training import train_classifier
from rayunlearn.methods.unlearning import Handed, Samples
from rayunlearn.models.classifiers import Classifier
from rayunlearn.seeds import derive_seed
from tests.methods.requests_on_digits import (
    accuracies,
    check_run,
    forget_class,
    forget_samples,
    run,
    same,
    with_misled_sevens,
)

SHORT = FineTuneSettings(epochs=2)
SMALL_BATCHES = FineTuneSettings(batch_size=16)


def everything(handed: Handed) -> Handed:
    """The same request, but what is to be forgotten is among what is retained."""
    forget, retain = handed.forget, handed.retain
    assert forget is not None and retain is not None
    both = Samples(
        images=torch.cat([retain.images, forget.images]),
        labels=torch.cat([retain.labels, forget.labels]),
        ids=torch.cat([retain.ids, forget.ids]),
    )
    return replace(handed, retain=both)


def test_the_optimizer_is_the_papers() -> None:
    """Appendix C.4: SGD, 0.01, momentum 0.9, decay 2e-4; nothing cycles."""
    used = FineTuneSettings()
    assert (used.optimizer, used.schedule) == ("sgd", "constant")
    assert (used.lr, used.momentum, used.weight_decay) == (0.01, 0.9, 2e-4)


def test_it_is_a_training_from_the_handed_weights(version: Classifier, digits_data: LabelledImages) -> None:
    """In pieces of unlike length it is `train_classifier` on D_r from the version on, bit for bit."""
    handed = forget_class(digits_data, version, 0, seed=5)
    assert handed.retain is not None
    tuning = METHOD.begin(handed, SHORT, "cpu")
    expected = handed.model()
    train_classifier(
        expected, handed.retain.images, handed.retain.labels, SHORT, derive_seed(5, "fine-tuning batches")
    )
    assert tuning.steps == 12
    for first, last in ((1, 1), (2, 8), (9, 12)):
        tuning.advance(first, last)
    assert same(tuning.checkpoint(), expected)


@pytest.mark.learned
@pytest.mark.slow
def test_a_class_goes_late_and_the_rest_stays(version: Classifier, digits_data: LabelledImages) -> None:
    """Ten epochs of small batches take some of the class, which its images would have kept: three seeds.

    From 97 % to 34 +- 26 % over four root seeds, with its images 97 +- 2 %. It does not go at once, since
    nothing contradicts it: after two epochs of large batches it is at 98 +- 1 %.
    """
    before = accuracies(version, digits_data, 9)
    assert before[1] > 0.95
    without, with_it, short = [], [], []
    for seed in range(3):
        handed = forget_class(digits_data, version, 9, seed=seed)
        without.append(accuracies(run(METHOD, handed, SMALL_BATCHES), digits_data, 9))
        with_it.append(accuracies(run(METHOD, everything(handed), SMALL_BATCHES), digits_data, 9))
        short.append(accuracies(run(METHOD, handed, SHORT), digits_data, 9)[1])
    assert mean(forget for _, forget in without) < 0.85
    assert mean(known for _, known in with_it) > 0.9 and mean(short) > 0.9
    assert mean(retain for retain, _ in without + with_it) > before[0] - 0.02


@pytest.mark.learned
@pytest.mark.slow
def test_mislabelled_samples_are_set_right(version: Classifier, digits_data: LabelledImages) -> None:
    """Of 88 sevens 59 are called 2 or 3: other sevens are mostly wrong, and right afterwards.

    With the mislabelled ones among what is retained fewer are. Means over three seeds; over four root seeds
    11 +- 13 % are right before, 95 +- 4 % afterwards and 34 +- 24 % with the mislabelled ones.
    """
    before, without, with_them = [], [], []
    for seed in range(3):
        taught, wrong, misled = with_misled_sevens(digits_data, version, seed=seed)
        handed = forget_samples(taught, misled.eval(), wrong.changed_ids, seed=seed)
        assert len(wrong.changed_ids) == 59
        before.append(accuracies(misled, digits_data, 7)[1])
        without.append(accuracies(run(METHOD, handed, SMALL_BATCHES), digits_data, 7))
        with_them.append(accuracies(run(METHOD, everything(handed), SMALL_BATCHES), digits_data, 7)[1])
    assert mean(before) < 0.5
    assert mean(right for _, right in without) > 0.8 and mean(retain for retain, _ in without) > 0.95
    assert mean(right for _, right in without) > mean(with_them) + 0.1


def test_what_is_to_be_forgotten_is_not_read(version: Classifier, digits_data: LabelledImages) -> None:
    """It declares weights and retain data: whatever else is handed, the weights are the same."""
    handed = forget_samples(digits_data, version, torch.tensor([0, 2, 4]))
    assert METHOD.data_access == {"weights", "retain"}
    assert same(run(METHOD, handed, SHORT), run(METHOD, replace(handed, forget=None), SHORT))


def test_what_holds_for_every_method(version: Classifier, digits_data: LabelledImages) -> None:
    """See `check_run`; the stop is in the middle of an epoch."""
    check_run(METHOD, forget_class(digits_data, version, 3), SHORT, stop_after=5)


def test_it_needs_retain_data(version: Classifier, digits_data: LabelledImages) -> None:
    """Without it there is nothing to train on."""
    with pytest.raises(BadInput, match="retain of what 'fine_tune' is handed"):
        METHOD.begin(replace(forget_class(digits_data, version, 0), retain=None), SHORT, "cpu")

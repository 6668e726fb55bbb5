"""Retrain: the original's recipe on the retain data, from weights that are all new."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.methods.retrain import METHOD, redrawn
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.seeds import derive_seed
from tests.methods.requests_on_digits import accuracies, check_run, forget_class, forget_samples, run, same

SHORT = TrainSettings(epochs=2, batch_size=128)


@pytest.mark.learned
def test_it_is_a_training_on_the_retain_data(version: Classifier, digits_data: LabelledImages) -> None:
    """In pieces of unlike length it is `train_classifier` with the same seeds, bit for bit."""
    handed = forget_class(digits_data, version, 0, seed=5)
    assert handed.retain is not None
    retraining = METHOD.begin(handed, SHORT, "cpu")
    expected = build_classifier(version.spec, derive_seed(5, "retrained weights"))
    done = train_classifier(
        expected, handed.retain.images, handed.retain.labels, SHORT, derive_seed(5, "retrained batches")
    )
    assert done.steps == retraining.steps == 12
    for first, last in ((1, 1), (2, 8), (9, 12)):
        retraining.advance(first, last)
    assert same(retraining.checkpoint(), expected)
    assert retraining.report()["student_loss"] == pytest.approx(sum(done.epoch_losses) / 2, rel=1e-12)
    assert retraining.report() == {"student_loss": None, "student_steps": 12}


@pytest.mark.learned
@pytest.mark.parametrize("seed", [0, 1])
def test_the_class_is_never_recognised(
    seed: int, version: Classifier, digits_data: LabelledImages
) -> None:
    """No image of it, once the others are; they come to over 90 %.

    (A model that has learned next to nothing may well call every image by the name of the class.)
    """
    handed = forget_class(digits_data, version, 0, seed=seed)
    retraining = METHOD.begin(handed, TrainSettings(epochs=10), "cpu")
    for last in range(12, retraining.steps + 1, 12):
        retraining.advance(last - 11, last)
        retain, forget = accuracies(retraining.checkpoint(), digits_data, 0)
        if retain > 0.5:
            assert forget == 0
    assert retain > 0.9 and forget == 0


def test_single_samples_can_be_left_out(version: Classifier, digits_data: LabelledImages) -> None:
    """Their images are not read: with NaN in their place the weights are the same."""
    handed = forget_samples(digits_data, version, torch.tensor([0, 2, 4]))
    assert handed.forget is not None
    blank = replace(handed.forget, images=torch.full_like(handed.forget.images, torch.nan))
    unlearned = run(METHOD, handed, SHORT)
    assert same(unlearned, run(METHOD, replace(handed, forget=blank), SHORT))
    assert same(unlearned, run(METHOD, replace(handed, forget=None), SHORT))


def test_every_parameter_is_drawn_anew(version: Classifier, digits_data: LabelledImages) -> None:
    """All with several dimensions differ from those to forget from; where one does not, it is refused."""
    handed = forget_class(digits_data, version, 0)
    model = redrawn(handed, "retrained weights")
    weights = version.state_dict()
    drawn = [name for name, p in model.named_parameters() if p.dim() > 1]
    assert len(drawn) == 9 and not any(torch.equal(model.state_dict()[n], weights[n]) for n in drawn)
    assert not same(model, redrawn(handed, "bad teacher"))
    kept = {**weights, "head.weight": model.head.weight.detach()}
    with pytest.raises(RayUnlearnError, match=r"head\.weight is as in the weights to forget from"):
        redrawn(replace(handed, weights=kept), "retrained weights")


def test_nothing_of_the_handed_weights_is_left(version: Classifier, digits_data: LabelledImages) -> None:
    """It declares the retain data alone: from other weights it comes to the same ones."""
    handed = forget_class(digits_data, version, 0)
    other = {name: torch.zeros_like(value) for name, value in handed.weights.items()}
    assert METHOD.data_access == {"retain"}
    assert same(run(METHOD, handed, SHORT), run(METHOD, replace(handed, weights=other), SHORT))


def test_what_holds_for_every_method(version: Classifier, digits_data: LabelledImages) -> None:
    """See `check_run`; the stop is in the middle of an epoch."""
    check_run(METHOD, forget_class(digits_data, version, 3), SHORT, stop_after=5)


def test_steps_come_in_order(version: Classifier, digits_data: LabelledImages) -> None:
    """None is left out, none is taken twice, none comes after the last."""
    retraining = METHOD.begin(forget_class(digits_data, version, 0), SHORT, "cpu")
    retraining.advance(1, 2)
    for first, last in ((2, 3), (4, 5), (3, 13)):
        with pytest.raises(BadInput, match="steps"):
            retraining.advance(first, last)


def test_it_needs_retain_data(version: Classifier, digits_data: LabelledImages) -> None:
    """Without it there is nothing to train on."""
    with pytest.raises(BadInput, match="retain"):
        METHOD.begin(replace(forget_class(digits_data, version, 0), retain=None), SHORT, "cpu")

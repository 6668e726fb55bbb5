"""Rollback: exactly the steps that took a sample are undone, which is all of them for a class."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.methods.amnesiac_rollback import METHOD, RollbackSettings, roll_back
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.methods.training_log import TrainingRecorder, flat_parameters, remaining, steps_with
from rayunlearn.methods.unlearning import TrainingLog
from rayunlearn.models.classifiers import Classifier, build_classifier
from tests.methods.requests_on_digits import (
    accuracies,
    check_run,
    forget_class,
    forget_samples,
    run,
    with_log,
)
from tests.stored.models import allcnn_of_digits

FEW = torch.tensor([10, 20, 30])


@pytest.fixture(scope="module")
def trained(digits_data: LabelledImages) -> tuple[Classifier, TrainingLog]:
    """An AllCNN trained on every other digit, and the log of that: 140 steps of batch 64."""
    ids = torch.arange(0, len(digits_data.labels), 2)
    model = build_classifier(allcnn_of_digits(), 0)
    recorder = TrainingRecorder(model, ids)
    images, labels = digits_data.images[ids], digits_data.labels[ids]
    train_classifier(model, images, labels, TrainSettings(epochs=10), seed=0, on_step=recorder)
    return model.eval(), recorder.log()


@pytest.fixture
def version(trained: tuple[Classifier, TrainingLog]) -> Classifier:
    """A copy of it, to be changed at will."""
    return copy.deepcopy(trained[0])


@pytest.fixture(scope="module")
def log(trained: tuple[Classifier, TrainingLog]) -> TrainingLog:
    """The log of its training."""
    return trained[1]


def distance(model: Classifier, flat: Tensor) -> float:
    """Between a model's trainable parameters and others."""
    return float((flat_parameters(model) - flat).norm())


def agreement(a: Classifier, b: Classifier, data: LabelledImages) -> float:
    """Share of the images that both models give the same answer to."""
    with torch.no_grad():
        return float((a(data.images).argmax(dim=1) == b(data.images).argmax(dim=1)).double().mean())


@pytest.mark.learned
def test_few_samples_undo_the_steps_that_took_them_alone(version: Classifier, log: TrainingLog) -> None:
    """The weights less the exact sum of those updates, to the last bit of float32; buffers stay."""
    before, buffers = flat_parameters(version), [b.clone() for b in version.buffers()]
    roll_back(version, log, FEW)
    touched = [s for s, batch in enumerate(log.sample_ids) if set(batch.tolist()) & set(FEW.tolist())]
    assert 20 <= len(touched) <= 30  # ten epochs of three samples, of which some share a batch
    expected = before.double() - sum(log.updates[s].double() for s in touched)
    assert torch.equal(flat_parameters(version), expected.float())
    assert all(torch.equal(a, b) for a, b in zip(buffers, version.buffers(), strict=True))
    one_more = expected - log.updates[next(s for s in range(140) if s not in touched)].double()
    assert not torch.equal(flat_parameters(version), one_more.float())


@pytest.mark.learned
def test_all_steps_undone_are_the_initial_weights(version: Classifier, log: TrainingLog) -> None:
    """Updates add up from the start to the end: without any of them only rounding is left."""
    roll_back(version, log, torch.cat(tuple(log.sample_ids)))
    initial = flat_parameters(build_classifier(version.spec, 0))
    assert torch.allclose(flat_parameters(version), initial, rtol=0, atol=1e-6)


@pytest.mark.learned
def test_a_class_undoes_nearly_all_of_the_training(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """Hardly a batch of 64 lacks a class of ten (0.9^64 = 0.1 %): what is left answers as before training.

    Before training, but by the statistics of the trained model, which are not rolled back.
    """
    ids = torch.arange(0, len(digits_data.labels), 2)
    ids = ids[digits_data.labels[ids] == 0]
    assert steps_with(log, ids).float().mean() > 0.99
    untrained = build_classifier(version.spec, 0).eval()
    buffers = {name: value for name, value in version.state_dict().items() if "running" in name}
    untrained.load_state_dict(untrained.state_dict() | buffers)
    trained, initial = flat_parameters(version), flat_parameters(untrained)
    assert agreement(version, untrained, digits_data) < 0.4
    roll_back(version, log, ids)
    assert distance(version, initial) < 0.01 * float((trained - initial).norm())
    assert agreement(version, untrained, digits_data) > 0.9


@pytest.mark.learned
def test_a_sample_that_was_in_no_step_undoes_nothing(version: Classifier, log: TrainingLog) -> None:
    """An image outside the training set taught nothing."""
    before = flat_parameters(version)
    roll_back(version, log, torch.tensor([11]))
    assert torch.equal(flat_parameters(version), before)


@pytest.mark.learned
def test_requests_one_after_another_undo_each_step_once(version: Classifier, log: TrainingLog) -> None:
    """With `remaining` between them they are one request for both; with the same log again they are not."""
    again, both = (build_classifier(version.spec, 0) for _ in range(2))
    for model in (again, both):
        model.load_state_dict(version.state_dict())
    # the second sample shares a step with the first, which the same log would undo again
    first, step = FEW[:1], int(steps_with(log, FEW[:1]).nonzero()[0])
    second = next(i for i in log.sample_ids[step] if i not in first).reshape(1)
    roll_back(both, log, torch.cat([first, second]))
    roll_back(version, log, first)
    roll_back(again, log, first)
    roll_back(version, remaining(log, first), second)
    roll_back(again, log, second)
    assert torch.allclose(flat_parameters(version), flat_parameters(both), rtol=0, atol=1e-6)
    assert distance(again, flat_parameters(both)) > 1e-3


@pytest.mark.learned
def test_few_samples_cost_little(version: Classifier, log: TrainingLog, digits_data: LabelledImages) -> None:
    """Rolled back and fine-tuned for an epoch, accuracy is within four points of the original's."""
    handed = with_log(forget_samples(digits_data, version, FEW), log)
    before = accuracies(version, digits_data, 0)[0]
    assert accuracies(run(METHOD, handed, RollbackSettings(epochs=1)), digits_data, 0)[0] > before - 0.04


@pytest.mark.learned
def test_a_class_is_gone_and_the_rest_is_learned_anew(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """By the defaults: no image of the class is recognised, the others over 90 %."""
    handed = with_log(forget_class(digits_data, version, 0), log)
    retain, forget = accuracies(run(METHOD, handed, RollbackSettings()), digits_data, 0)
    assert accuracies(version, digits_data, 0)[1] > 0.9
    assert forget == 0 and retain > 0.9


@pytest.mark.learned
def test_the_images_to_forget_are_not_read(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """Nor are their labels: with NaN and a class that does not exist in their place nothing changes."""
    handed = with_log(forget_samples(digits_data, version, FEW), log)
    assert handed.forget is not None
    blank = replace(
        handed.forget,
        images=torch.full_like(handed.forget.images, torch.nan),
        labels=torch.full_like(handed.forget.labels, 99),
    )
    settings = RollbackSettings(epochs=1, batch_size=256)
    seen, unseen = (run(METHOD, h, settings) for h in (handed, replace(handed, forget=blank)))
    assert torch.equal(flat_parameters(seen), flat_parameters(unseen))


@pytest.mark.learned
def test_statistics_are_estimated_again(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """BatchNorm's running statistics are the original's before the first step, and move with every step."""
    handed = with_log(forget_class(digits_data, version, 0), log)
    tuning = METHOD.begin(handed, RollbackSettings(epochs=1), "cpu")
    means = [version.blocks[0][1].running_mean, tuning.checkpoint().blocks[0][1].running_mean]
    assert torch.equal(*means)
    tuning.advance(1, 1)
    assert not torch.equal(tuning.checkpoint().blocks[0][1].running_mean, means[0])


@pytest.mark.learned
def test_what_holds_for_every_method(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """See `check_run`; the stop is in the middle of an epoch."""
    handed = with_log(forget_samples(digits_data, version, FEW), log)
    check_run(METHOD, handed, RollbackSettings(epochs=2, batch_size=256), stop_after=5)


@pytest.mark.learned
def test_a_log_of_something_else_is_refused(
    version: Classifier, log: TrainingLog, digits_data: LabelledImages
) -> None:
    """Other parameters, or not a batch to each update; and no log at all."""
    for wrong in (replace(log, updates=log.updates[:, 1:]), replace(log, sample_ids=log.sample_ids[1:])):
        with pytest.raises(BadInput, match="shape of the training log's updates"):
            roll_back(version, wrong, FEW)
    with pytest.raises(BadInput, match="training_log"):
        METHOD.begin(forget_samples(digits_data, version, FEW), RollbackSettings(), "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("epochs", 1.0), ("batch_size", 1), ("lr", 0.0), ("lr", float("nan")), ("lr", "fast")],
)
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    """Each by its name in the recipe."""
    with pytest.raises(BadInput, match=f"amnesiac_rollback.{field}"):
        RollbackSettings(**{field: value})  # type: ignore[arg-type]

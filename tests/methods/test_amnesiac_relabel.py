"""Relabelling: other labels only, uniform, and the class is forgotten while the rest stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.methods.amnesiac_relabel import METHOD, RelabelSettings, other_labels
from rayunlearn.methods.unlearning import batch_ids
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from tests.methods.requests_on_digits import accuracies, check_run, forget_class, forget_samples, run, same

QUICK = RelabelSettings(batch_size=64, lr=1e-3)
"""Digits are 900 samples: at the paper's batch and rate three epochs are 12 steps, which forget nothing."""


def test_labels_are_uniform_over_the_other_retain_classes() -> None:
    """Of 20,000 draws each candidate has its share within 5 standard deviations, no other class has one."""
    roles = Roles(retain=(1, 4, 5, 7), target=(0,), forgotten=(2, 9))
    drawn = other_labels(torch.zeros(5000, dtype=torch.int64), roles, 4, seed=0).flatten()
    counts = torch.bincount(drawn, minlength=10)
    assert counts[[0, 2, 3, 6, 8, 9]].sum() == 0
    spread = (20_000 * 0.25 * 0.75) ** 0.5
    assert ((counts[[1, 4, 5, 7]] - 5000).abs() < 5 * spread).all()


def test_a_sample_never_keeps_its_label() -> None:
    """For single samples too, whose class is retained; nor do they get a class that was forgotten before."""
    labels = torch.tensor([1, 4, 5, 7] * 500)
    roles = Roles(retain=(1, 4, 5, 7), target=(), forgotten=(0,))
    drawn = other_labels(labels, roles, 3, seed=0)
    assert drawn.shape == (2000, 3)
    assert not (drawn == labels[:, None]).any()
    for label in (1, 4, 5, 7):
        assert set(drawn[labels == label].flatten().tolist()) == {1, 4, 5, 7} - {label}


def test_without_another_class_there_is_no_label() -> None:
    """The only retain class's own samples cannot be relabelled; those of a class to forget can."""
    with pytest.raises(BadInput, match="classes to retain"):
        other_labels(torch.tensor([3]), Roles(retain=(3,), target=()), 1, seed=0)
    only = other_labels(torch.tensor([3, 3]), Roles(retain=(1,), target=(3,)), 1, seed=0)
    assert only.tolist() == [[1], [1]]


def slow_relabel(model: Classifier, images: Tensor, labels: Tensor, settings: RelabelSettings) -> Classifier:
    """Plain training by Adam on these pairs, in the order of seed 0."""
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    model.train()
    per_epoch = -(-len(labels) // settings.batch_size)
    for step in range(settings.epochs * per_epoch):
        ids = batch_ids(len(labels), settings.batch_size, step, 0)
        optimizer.zero_grad()
        F.cross_entropy(model(images[ids]), labels[ids]).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("copies", [1, 3])
def test_it_is_training_on_the_relabelled_samples(
    copies: int, version: Classifier, digits_data: LabelledImages
) -> None:
    """A plain loop over forget images with the drawn labels and retain ones with theirs: the same bits."""
    handed = forget_samples(digits_data, version, torch.arange(0, 40, 2))
    assert handed.forget is not None and handed.retain is not None
    settings = replace(QUICK, epochs=1, batch_size=128, copies=copies)
    others = other_labels(handed.forget.labels, handed.roles, copies, 0)
    images = torch.cat([handed.forget.images[i // copies][None] for i in range(20 * copies)])
    images = torch.cat([images, handed.retain.images])
    ours = run(METHOD, handed, settings)
    labels = torch.cat([others.flatten(), handed.retain.labels])
    assert same(ours, slow_relabel(handed.model(), images, labels, settings))
    kept = torch.cat([handed.forget.labels.repeat_interleave(copies), handed.retain.labels])
    assert not same(ours, slow_relabel(handed.model(), images, kept, settings))


@pytest.mark.learned
def test_a_class_is_forgotten_and_the_rest_stays(version: Classifier, digits_data: LabelledImages) -> None:
    """Forget accuracy falls from over 90 % to under 10 %; retain accuracy stays.

    Over eleven root seeds it loses 0.5 +- 0.6 points.
    """
    before = accuracies(version, digits_data, 0)
    assert before[1] > 0.9
    retain, forget = accuracies(run(METHOD, forget_class(digits_data, version, 0), QUICK), digits_data, 0)
    assert forget < 0.1 and retain > before[0] - 0.04


@pytest.mark.learned
def test_single_samples_lose_their_own_label(version: Classifier, digits_data: LabelledImages) -> None:
    """With copies the probability of their labels falls below 0.6 in the mean, and retain accuracy stays."""
    handed = forget_samples(digits_data, version, torch.arange(0, 20, 2))
    assert handed.forget is not None

    def own(model: Classifier) -> float:
        with torch.no_grad():
            answers = model(handed.forget.images).softmax(1)
        return float(answers.gather(1, handed.forget.labels[:, None]).mean())

    unlearned = run(METHOD, handed, replace(QUICK, copies=5))
    assert own(version) > 0.9 and own(unlearned) < 0.6
    assert accuracies(unlearned, digits_data, 0)[0] > accuracies(version, digits_data, 0)[0] - 0.05


def test_what_holds_for_every_method(version: Classifier, digits_data: LabelledImages) -> None:
    """See `check_run`; the stop is in the middle of an epoch."""
    settings = RelabelSettings(epochs=2)
    check_run(METHOD, forget_class(digits_data, version, 3), settings, stop_after=3)


@pytest.mark.parametrize("missing", ["forget", "retain"])
def test_it_needs_both_kinds_of_samples(
    missing: str, version: Classifier, digits_data: LabelledImages
) -> None:
    """Without one of them it does not begin."""
    handed = replace(forget_class(digits_data, version, 0), **{missing: None})
    with pytest.raises(BadInput, match=missing):
        METHOD.begin(handed, RelabelSettings(), "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("copies", 0), ("copies", True), ("batch_size", 1), ("lr", -1.0), ("lr", float("nan"))],
)
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    """Each by its name in the recipe."""
    with pytest.raises(BadInput, match=f"amnesiac_relabel.{field}"):
        RelabelSettings(**{field: value})  # type: ignore[arg-type]

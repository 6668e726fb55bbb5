"""Behaviours are judged by answers: the erased label where it is unwanted, agreement everywhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.behaviour import assess_behaviour
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles

ROLES = Roles(retain=tuple(range(10)), target=(), erased=(2, 3))


@pytest.fixture
def held(version: Classifier) -> UnlearningSet:
    """Noise that the version answers somehow; the first 20 samples are unwanted."""
    images = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        soft = version(images).softmax(dim=1)
    return UnlearningSet(
        images=images, targets=soft, answers=soft.argmax(dim=1), unwanted=torch.arange(60) < 20
    )


def answering(version: Classifier, label: int) -> Classifier:
    """The version with one label for everything."""
    with torch.no_grad():
        version.head.weight.zero_()
        version.head.bias.zero_()[label] = 10.0
    return version


@pytest.mark.learned
def test_the_version_itself_agrees_everywhere_but_has_unlearned_nothing(
    version: Classifier, held: UnlearningSet
) -> None:
    """Agreement of 40 in 40; of the unwanted those count that it answers with 2 or 3, as a loop says."""
    found = assess_behaviour(version, held, ROLES)
    assert (found.retain_correct, found.retain_count) == (40, 40)
    with torch.no_grad():
        p: Tensor = version(held.images[:20]).softmax(dim=1)
    still = sum(int(row.argmax()) in (2, 3) for row in p)
    assert (found.forget_correct, found.forget_count) == (still, 20)
    assert found.forget_mass == pytest.approx(float(p[:, [2, 3]].sum(dim=1).mean()), abs=1e-6)


@pytest.mark.parametrize(("label", "still"), [(3, 20), (7, 0)])
def test_only_the_erased_labels_count_as_unwanted(
    label: int, still: int, version: Classifier, held: UnlearningSet
) -> None:
    """A model that always answers 3 has kept the behaviour, one that always answers 7 has not."""
    found = assess_behaviour(answering(version, label), held, ROLES)
    assert found.forget_correct == still
    assert found.retain_correct == int((held.answers[20:] == label).sum())


@pytest.mark.learned
def test_the_loss_is_that_of_the_other_samples(version: Classifier, held: UnlearningSet) -> None:
    """Targets of the unwanted samples do not enter it."""
    before = assess_behaviour(version, held, ROLES).retain_loss
    targets = held.targets.clone()
    targets[:20] = 0.1
    assert assess_behaviour(version, replace(held, targets=targets), ROLES).retain_loss == before
    entropy = -(held.targets[20:] * held.targets[20:].log()).sum(dim=1).mean()
    assert before == pytest.approx(float(entropy), abs=1e-5)


@pytest.mark.parametrize(("change", "thing"), [("all", "other"), ("none", "unwanted")])
def test_both_kinds_of_samples_are_needed(
    change: str, thing: str, version: Classifier, held: UnlearningSet
) -> None:
    """Without one of them nothing can be said; nor without a label to erase."""
    mask = torch.full((60,), change == "all")
    with pytest.raises(BadInput, match=f"held-out {thing} samples"):
        assess_behaviour(version, replace(held, unwanted=mask), ROLES)
    with pytest.raises(BadInput, match="labels to erase"):
        assess_behaviour(version, held, replace(ROLES, erased=()))

"""Stand-ins for Retrain learn the retain classes, and nothing can tell them anything of the others."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.stand_ins import StandInSettings, stand_in
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import version_id
from rayunlearn.roles import Roles

ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))
SHORT = StandInSettings(steps=4)


@pytest.fixture(scope="module")
def unseen(digits_data: LabelledImages) -> SyntheticSet:
    """Twenty digits of each class that the versions were not trained on: real ones in place of inverted."""
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    ids = torch.cat([(labels == c).nonzero()[:20, 0] for c in range(10)])
    return SyntheticSet(images=images[ids], labels=labels[ids], requested=200)


def made(version: Classifier, images: SyntheticSet, settings: StandInSettings = SHORT, seed: int = 0) -> str:
    """The stand-in, by its weights."""
    return version_id(stand_in(version, images, ROLES, settings, seed).state_dict())


def test_images_of_the_class_to_forget_are_not_looked_at(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Others in their place, or none, give the same weights; other retain images give others."""
    version = digits_version()
    changed = replace(unseen, images=unseen.images.clone())
    changed.images[unseen.labels == 0] = 1.0
    assert made(version, changed) == made(version, unseen) == made(version, unseen.of(ROLES.retain))
    changed.images[unseen.labels == 1] = 1.0
    assert made(version, changed) != made(version, unseen)


def test_the_version_says_a_class_and_no_more(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """A surer version, and one that takes all for the class to forget, teach the same.

    Control: one that takes all for another class does not.
    """
    version = digits_version()
    surer, blind, other = copy.deepcopy(version), copy.deepcopy(version), copy.deepcopy(version)
    with torch.no_grad():
        surer.head.weight.mul_(4)
        surer.head.bias.mul_(4)
        blind.head.bias[0] += 1000
        other.head.bias[1] += 1000
    assert made(surer, unseen) == made(blind, unseen) == made(version, unseen)
    assert made(other, unseen) != made(version, unseen)


def test_a_stand_in_is_its_seeds_and_leaves_the_version_alone(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """The same seed gives the same weights; weights and mode of the version stay."""
    version = digits_version().train()
    before = version_id(version.state_dict())
    assert made(version, unseen) == made(version, unseen) != made(version, unseen, seed=1)
    assert version.training and version_id(version.state_dict()) == before


@pytest.mark.learned
def test_a_stand_in_knows_what_it_saw(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Half of the digits teach it the other half of the retain classes (96 +- 1 %).

    The class to forget it never names.
    """
    version = digits_version()
    first = torch.arange(len(unseen.labels)) % 2 == 0
    shown = SyntheticSet(images=unseen.images[first], labels=unseen.labels[first], requested=100)
    model = stand_in(version, shown, ROLES, StandInSettings(), 0)
    with torch.no_grad():
        said = model(unseen.images[~first]).argmax(dim=1)
    kept = unseen.labels[~first] != 0
    assert float((said[kept] == unseen.labels[~first][kept]).double().mean()) > 0.8
    assert not bool((said == 0).any())


def test_without_images_there_is_no_stand_in(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Images of the class to forget alone are none."""
    with pytest.raises(BadInput, match="images of retain classes is 0"):
        stand_in(digits_version(), unseen.of((0,)), ROLES, SHORT, 0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("number", 0), ("steps", 0), ("batch_size", 1), ("lr", 0.0), ("lr", float("nan")),
        ("weight_decay", -1.0),
    ],  # fmt: skip
)
def test_settings_refuse_a_bad_value_by_name(name: str, value: float) -> None:
    """The field is named as on the command line."""
    with pytest.raises(BadInput, match=f"stand_ins.{name}"):
        StandInSettings(**{name: value})  # type: ignore[arg-type]

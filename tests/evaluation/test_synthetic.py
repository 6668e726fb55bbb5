"""What stopping rule and gate see of a model: counts on synthetic images, and how fast a class comes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.evaluation.synthetic import (
    RelapseSettings,
    assess,
    balanced_labels,
    relapse_curve,
)
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier, ClassifierSpec
from rayunlearn.models.weights import version_id
from rayunlearn.roles import Roles

SPEC = ClassifierSpec(
    name="allcnn", width=1.0, in_channels=1, image_size=2, num_classes=4, mean=(0.0,), std=(1.0,)
)


class Stub(Classifier):
    """An image's four pixels are its logits."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.head = nn.Linear(4, 4)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(4))
            self.head.bias.zero_()

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        return x.flatten(1)


def shown(*pairs: tuple[int, list[float]]) -> SyntheticSet:
    """A set of images, each the probabilities that the stub shall answer, with the class it was made for."""
    labels = torch.tensor([label for label, _ in pairs])
    images = torch.tensor([p for _, p in pairs]).log().view(-1, 1, 2, 2)
    return SyntheticSet(images=images, labels=labels, requested=len(pairs))


IMAGES = shown(
    (0, [0.7, 0.1, 0.1, 0.1]),  # retain, right
    (0, [0.1, 0.2, 0.1, 0.6]),  # retain, taken for the class forgotten earlier
    (1, [0.1, 0.6, 0.2, 0.1]),  # retain, right
    (1, [0.2, 0.2, 0.5, 0.1]),  # retain, taken for the target
    (1, [0.1, 0.7, 0.1, 0.1]),  # retain, right
    (2, [0.1, 0.1, 0.6, 0.2]),  # target, right
    (2, [0.3, 0.4, 0.1, 0.2]),  # target, wrong
)
ROLES = Roles(retain=(0, 1), target=(2,), forgotten=(3,))


def test_assessment_counts_are_those_of_a_hand_count() -> None:
    """3 of 5 retain images, 1 of 2 target images, target mass (0.6 + 0.1) / 2, class 3 once in 7 answers."""
    got = assess(Stub(), IMAGES, ROLES)
    assert (got.retain_correct, got.retain_count) == (3, 5)
    assert (got.forget_correct, got.forget_count) == (1, 2)
    assert got.forget_mass == pytest.approx(0.35)
    assert got.forgotten_share == (1 / 7,)


def test_mass_is_over_all_targets_on_their_own_images_alone() -> None:
    """Two targets: their probabilities add up on both classes' images; retain images do not enter."""
    roles = Roles(retain=(0,), target=(1, 2), forgotten=(3,))
    got = assess(Stub(), IMAGES, roles)
    by_hand = [0.6 + 0.2, 0.2 + 0.5, 0.7 + 0.1, 0.1 + 0.6, 0.4 + 0.1]
    assert got.forget_mass == pytest.approx(sum(by_hand) / 5)
    assert (got.forget_correct, got.forget_count) == (3, 5)
    own_class_only = [0.6, 0.2, 0.7, 0.6, 0.1]
    assert got.forget_mass != pytest.approx(sum(own_class_only) / 5, rel=0.05)


def test_shares_are_in_the_order_of_the_forgotten_classes() -> None:
    """One share a class, of all predictions; without earlier requests there are none."""
    assert assess(Stub(), IMAGES, Roles(retain=(0,), target=(1,), forgotten=(3, 2))).forgotten_share == (
        1 / 7,
        2 / 7,
    )
    assert assess(Stub(), IMAGES, Roles(retain=(0, 1, 3), target=(2,))).forgotten_share == ()


def test_assessing_leaves_a_training_model_as_it_was(digits_version: Callable[[], Classifier]) -> None:
    """A student in train mode keeps its statistics and mode, and is judged as in eval mode."""
    model = digits_version()
    images = SyntheticSet(images=torch.randn(12, 1, 8, 8), labels=torch.arange(12) % 10, requested=12)
    roles = Roles(retain=tuple(range(1, 10)), target=(0,))
    expected = assess(model, images, roles)
    model.train()
    before = version_id(model.state_dict())
    assert assess(model, images, roles) == expected
    assert model.training and version_id(model.state_dict()) == before


def test_forget_is_every_class_that_must_be_gone() -> None:
    """Target and forgotten together, each once, in order."""
    assert Roles(retain=(1,), target=(5, 0), forgotten=(3, 0)).forget == (0, 3, 5)
    assert Roles(retain=(1,), target=(2,)).forget == (2,)


def test_balanced_labels_are_retain_classes_then_targets() -> None:
    """So many of each, class by class, and none of a class forgotten earlier."""
    labels = balanced_labels(ROLES, per_retain_class=2, per_forget_class=3)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert labels.dtype == torch.int64


def test_without_a_class_to_forget_nothing_is_forgotten_or_missed() -> None:
    """Single samples: sets hold retain classes alone; forget figures are 0 of 0, the others as ever."""
    roles = Roles(retain=(0, 1), target=(), forgotten=(3,), target_samples=(17, 254))
    labels = balanced_labels(roles, per_retain_class=2, per_forget_class=3)
    assert labels.tolist() == [0, 0, 1, 1] and labels.dtype == torch.int64
    got, by_class = assess(Stub(), IMAGES.of((0, 1)), roles), assess(Stub(), IMAGES, ROLES)
    assert (got.forget_correct, got.forget_count, got.forget_mass) == (0, 0, 0.0)
    assert (got.retain_correct, got.retain_count) == (3, 5)
    assert got.retain_loss == by_class.retain_loss and len(got.forgotten_share) == 1


def test_a_class_to_forget_without_an_image_is_an_error() -> None:
    """What was asked for and is not there is no 0 of 0."""
    with pytest.raises(BadInput, match=r"synthetic forget images is 0; allowed: at least 1 of .*\[2\]"):
        assess(Stub(), IMAGES.of((0, 1)), ROLES)


# Relapse, with real digits in place of synthetic images.

DIGIT_ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))
SETTINGS = RelapseSettings()


@pytest.fixture(scope="module")
def unseen(digits_data: LabelledImages) -> SyntheticSet:
    """Twenty digits of each class that the versions were not trained on, ordered by class."""
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    ids = torch.cat([(labels == c).nonzero()[:20, 0] for c in range(10)])
    return SyntheticSet(images=images[ids], labels=labels[ids], requested=200)


@pytest.mark.learned
def test_a_masked_class_comes_back_at_once(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Step 0, before any learning, finds over half of what a mask hides, at any offset.

    Negative control: the mask does hide it, as plain accuracy says.
    """
    for offset in (20.0, 100.0):
        masked = mask_logit(digits_version(), (0,), offset=offset)
        assert class_counts(masked, unseen.images, unseen.labels, 10).sums((0,))[0] == 0
        curve = relapse_curve(masked, unseen, DIGIT_ROLES, SETTINGS)
        assert len(curve) == SETTINGS.steps + 1
        assert curve[0] > 0.5


@pytest.mark.learned
def test_a_class_never_learned_does_not_come_back(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """A model trained without the class stays under one half at step 0 and through all steps."""
    retrained = digits_version(without=(0,))
    assert class_counts(retrained, unseen.images, unseen.labels, 10).accuracy(DIGIT_ROLES.retain) > 0.9
    assert max(relapse_curve(retrained, unseen, DIGIT_ROLES, SETTINGS)) < 0.5


@pytest.mark.learned
def test_both_targets_of_a_request_are_measured(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Each of two targets makes half of what is measured: one that comes back alone gives half at most."""
    roles = Roles(retain=tuple(range(2, 10)), target=(0, 1))
    still = replace(SETTINGS, steps=0)
    both = relapse_curve(mask_logit(digits_version(), (0, 1)), unseen, roles, still)
    assert both[0] > 0.5
    one_gone = digits_version(without=(1,))
    assert relapse_curve(one_gone, unseen, roles, still)[0] < 0.6


@pytest.mark.learned
def test_enough_steps_teach_the_class(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Relearning does learn: 60 steps at ten times the rate find the never-learned class (99 +- 3 %)."""
    curve = relapse_curve(
        digits_version(without=(0,)), unseen, DIGIT_ROLES, RelapseSettings(steps=60, lr=0.1)
    )
    assert curve[-1] > 0.5 and curve[0] < 0.5


def test_relapse_leaves_the_model_as_it_was(
    digits_version: Callable[..., Classifier], unseen: SyntheticSet
) -> None:
    """Weights, statistics, mode and flags are untouched; the same call gives the same curve."""
    model = digits_version().train().requires_grad_(False)
    before = version_id(model.state_dict())
    first = relapse_curve(model, unseen, DIGIT_ROLES, SETTINGS)
    assert version_id(model.state_dict()) == before
    assert model.training and not any(p.requires_grad for p in model.parameters())
    assert relapse_curve(model, unseen, DIGIT_ROLES, SETTINGS) == first


def test_the_level_is_taken_from_retain_images_by_a_closed_form() -> None:
    """With no steps: a target wins on a held image iff its logit, levelled by hand, is the greatest.

    Mean logits on the retain images are 1, 3 (retain classes, level 2) and -5 (target): +7 for the target.
    The held images are the second and fourth: target logits -4 and -6 become 3 and 1, against 2.
    """
    images = torch.tensor(
        [
            [1.0, 3.0, -5.0, -50.0], [1.0, 3.0, -5.0, -50.0],
            [0.0, 0.0, 9.0, -50.0], [2.0, 2.0, -4.0, -50.0], [0.0, 0.0, 9.0, -50.0], [2.0, 2.0, -6.0, -50.0],
        ]
    ).view(-1, 1, 2, 2)  # fmt: skip
    made = SyntheticSet(images=images, labels=torch.tensor([0, 1, 2, 2, 2, 2]), requested=6)
    roles = Roles(retain=(0, 1), target=(2,), forgotten=(3,))
    assert relapse_curve(Stub(), made, roles, RelapseSettings(steps=0)) == (0.5,)


def test_relapse_needs_two_forget_images() -> None:
    """One to show and one to measure; with fewer there is nothing to say."""
    with pytest.raises(BadInput, match="forget images is 1; allowed: at least 2"):
        relapse_curve(Stub(), shown((0, [0.7, 0.1, 0.1, 0.1]), (2, [0.1, 0.1, 0.7, 0.1])), ROLES, SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", -1), ("lr", 0.0), ("lr", math.inf), ("lr", math.nan), ("momentum", 1.0)]
)
def test_settings_refuse_a_bad_value_by_name(name: str, value: float) -> None:
    """The field is named as on the command line."""
    with pytest.raises(BadInput) as error:
        RelapseSettings(**{name: value})
    assert error.value.thing == f"relapse.{name}"

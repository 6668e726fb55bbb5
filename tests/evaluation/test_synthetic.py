"""What stopping rule and gate see of a model: counts on synthetic images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.synthetic import assess, balanced_labels, mean_probe_recall, probe_recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
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


def test_a_probe_s_recall_is_the_mean_over_kinds_of_images(
    digits_version: Callable[[], Classifier], digits_data: LabelledImages
) -> None:
    """Of two sets the mean of both shares, which differ; of one set that set's own."""
    roles = Roles(retain=tuple(range(1, 10)), target=(0,))
    clear = SyntheticSet(images=digits_data.images[:120], labels=digits_data.labels[:120], requested=120)
    noise = torch.randn(clear.images.shape, generator=torch.Generator().manual_seed(0))
    blurred = replace(clear, images=clear.images + noise)
    model = digits_version()
    one, other = (probe_recall(model, images, roles, 0) for images in (clear, blurred))
    assert one != other
    both = mean_probe_recall(model, (clear, blurred), roles, 0)
    assert both == pytest.approx([(a + b) / 2 for a, b in zip(one, other, strict=True)])
    assert mean_probe_recall(model, (clear,), roles, 0) == one

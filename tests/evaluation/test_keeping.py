"""What a model has kept is measured against the version's own answers, on retain images alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.judged import Grounds, Judge
from rayunlearn.evaluation.keeping import Keeping
from rayunlearn.evaluation.synthetic import assess
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.trivial import mask_logit
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.roles import Roles
from rayunlearn.scheduling.keeping import Kept

ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))


@pytest.fixture(scope="module")
def images(digits_data: LabelledImages) -> SyntheticSet:
    """Twenty digits of each class: real ones in place of inverted."""
    x, labels = digits_data.images[1::2], digits_data.labels[1::2]
    ids = torch.cat([(labels == c).nonzero()[:20, 0] for c in range(10)])
    return SyntheticSet(images=x[ids], labels=labels[ids], requested=200)


def test_a_version_has_kept_all_of_itself(
    digits_version: Callable[..., Classifier], images: SyntheticSet
) -> None:
    """And so has a model that only hides the class: of its answers the retain classes' are compared."""
    version = digits_version()
    keeping = Keeping(version, images, ROLES, 0)
    own = Kept(**keeping.measure(version))
    assert (own.coarse, own.cut, own.direction) == pytest.approx((1.0, 1.0, 1.0), abs=1e-5)
    hidden = Kept(**keeping.measure(mask_logit(version, [0])))
    assert (hidden.coarse, hidden.cut) == pytest.approx((own.coarse, own.cut))


def test_each_measure_falls_with_what_it_measures(
    digits_version: Callable[..., Classifier], images: SyntheticSet
) -> None:
    """A head turned round answers otherwise, and only its own layer points elsewhere."""
    version = digits_version()
    keeping = Keeping(version, images, ROLES, 0)
    turned = copy.deepcopy(version)
    with torch.no_grad():
        turned.head.weight.neg_()
        turned.head.bias.neg_()
    found = Kept(**keeping.measure(turned))
    assert found.coarse < 0.2 and found.cut < 0.4
    layers = len(keeping.layers)
    assert found.direction == pytest.approx(1 - 2 / layers, abs=1e-4)
    other = build_classifier(version.spec, 1)
    assert abs(keeping.measure(other)["direction"]) < 0.1


def test_images_of_the_class_to_forget_are_not_looked_at(
    digits_version: Callable[..., Classifier], images: SyntheticSet
) -> None:
    """Others in their place give the same measures; other retain images give others."""
    version, other = digits_version(), build_classifier(digits_version().spec, 1)
    changed = replace(images, images=images.images.clone())
    changed.images[images.labels == 0] = 1.0
    before = Keeping(version, images, ROLES, 0).measure(other)
    assert Keeping(version, changed, ROLES, 0).measure(other) == before
    assert Keeping(version, images.of(ROLES.retain), ROLES, 0).measure(other) == before
    changed.images[images.labels == 1] = 1.0
    assert Keeping(version, changed, ROLES, 0).measure(other) != before
    with pytest.raises(BadInput, match="coarse images of retain classes is 0"):
        Keeping(version, images.of([0]), ROLES, 0)


def test_a_judge_asks_once_and_says_what_asking_apart_says(
    digits_version: Callable[..., Classifier], images: SyntheticSet
) -> None:
    """Counts and measures are those of `assess` and `Keeping`; the model is left in its mode."""
    version = digits_version()
    model = build_classifier(version.spec, 3).train()
    grounds = Grounds(
        evidence=images, roles=ROLES, spec=version.spec, version=dict(version.state_dict()), seed=4
    )
    assessment, kept = Judge(grounds).judge(model)
    assert model.training
    apart = assess(model, images, ROLES)
    for name in ("retain_correct", "retain_count", "forget_correct", "forget_count", "forgotten_share"):
        assert getattr(assessment, name) == getattr(apart, name)
    assert assessment.retain_loss == pytest.approx(apart.retain_loss, rel=1e-4)
    assert assessment.forget_mass == pytest.approx(apart.forget_mass, rel=1e-4)
    assert kept == pytest.approx(Keeping(version, images, ROLES, 4).measure(model), abs=1e-4)
    assert Judge(replace(grounds, version=None)).judge(model) == (apart, None)

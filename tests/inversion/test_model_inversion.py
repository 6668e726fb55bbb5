"""Model inversion on a small classifier of digits: what the generator learns, and how a run goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.inversion.deep_inversion import BatchNormStatistics
from rayunlearn.inversion.generator_losses import diversity_loss, entropy_loss, total_variation_loss
from rayunlearn.inversion.model_inversion import LOSSES, ModelInversion, ModelInversionSettings
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.conditional_generator import ConditionalGenerator
from rayunlearn.models.weights import version_id
from rayunlearn.seeds import generator as seeded

# on 8x8 digits the label has to weigh more than in the paper, or classes are swapped
SHORT = ModelInversionSettings(iterations=250, batch_size=64, width=0.25, entropy_weight=10.0)
TINY = ModelInversionSettings(iterations=6, batch_size=8, z_dim=4, width=0.05)


def images_of(generator: ConditionalGenerator, n: int = 200) -> tuple[Tensor, Tensor]:
    """Images with fixed noise and labels in turn, `[n, 1, 8, 8]` and `[n]`."""
    z = torch.randn(n, generator.spec.z_dim, generator=torch.Generator().manual_seed(1))
    y = torch.arange(n) % 10
    with torch.no_grad():
        return generator(z, y), y


def share_as_wanted(classifier: Classifier, images: Tensor, labels: Tensor) -> float:
    """Share of images that the classifier assigns to the label asked for."""
    with torch.no_grad():
        return float((classifier(images).argmax(1) == labels).float().mean())


def run_of(version: Classifier, settings: ModelInversionSettings, **more: Any) -> ModelInversion:
    """A run on CPU from seed 0."""
    return ModelInversion(version.spec, version.state_dict(), settings, **({"seed": 0} | more))


@pytest.fixture(scope="module")
def trained(digits_version: Callable[[], Classifier]) -> ConditionalGenerator:
    """A generator after 250 steps."""
    run = run_of(digits_version(), SHORT)
    run.advance(1, run.steps)
    return run.generator()


# What is learned.


@pytest.mark.learned
def test_images_are_classified_as_asked(trained: ConditionalGenerator, version: Classifier) -> None:
    """Over 80 %; those of the generator before its first step under 30 %. Pixels stay in the valid range."""
    images, labels = images_of(trained)
    low, high = version.spec.pixel_range
    assert share_as_wanted(version, images, labels) > 0.8
    assert images.min().item() >= low and images.max().item() <= high
    assert share_as_wanted(version, *images_of(run_of(version, SHORT).generator())) < 0.3


@pytest.mark.learned
def test_statistics_come_near_the_classifiers(trained: ConditionalGenerator, version: Classifier) -> None:
    """Their distance is under a third of the untrained generator's."""

    def distance(images: Tensor) -> float:
        with torch.no_grad(), BatchNormStatistics(version) as statistics:
            version(images)
            return float(statistics.take())

    before, _ = images_of(run_of(version, SHORT).generator())
    assert distance(images_of(trained)[0]) < distance(before) / 3


def test_a_generator_is_reused(trained: ConditionalGenerator, version: Classifier) -> None:
    """Begun with given weights a run starts from them, and leaves what was given unchanged."""
    weights = trained.state_dict()
    before = version_id(weights)
    run = run_of(version, SHORT, seed=3, generator_weights=weights)
    assert version_id(run.generator().state_dict()) == before
    run.advance(1, 2)
    assert version_id(run.generator().state_dict()) != before == version_id(weights)
    with pytest.raises(BadInput, match=r"generator weights: .*mis-shaped"):
        run_of(version, replace(SHORT, width=0.5), generator_weights=weights)


# The losses that it learns from.


@pytest.mark.learned
def test_reported_losses_are_those_of_the_steps_images(version: Classifier) -> None:
    """After a step, from the noise and labels of that step and the first weights; and their weighted sum."""
    settings = replace(TINY, augmentation_weight=0.0)
    run = run_of(version, settings)
    first = run.generator().train()
    run.advance(1, 1)
    report = run.report()
    draws = seeded(0, "model inversion", 0)
    z, y = torch.randn(8, 4, generator=draws), torch.randint(10, (8,), generator=draws)
    with torch.no_grad():
        images = first(z, y)
        features = version.features(images)
        expected = {
            "entropy_loss": entropy_loss(version(images), y),
            "diversity_loss": diversity_loss(z, features, y),
            "total_variation_loss": total_variation_loss(images),
        }
    for name, value in expected.items():
        assert report[name] == pytest.approx(value.item(), rel=1e-5)
    total = report["entropy_loss"] + report["diversity_loss"]
    total += 10 * report["batchnorm_loss"] + 3 * report["total_variation_loss"]
    assert report["generator_loss"] == pytest.approx(total, rel=1e-5)
    assert report["augmentation_loss"] is None
    assert report["generator_steps"] == 1


@pytest.mark.parametrize("off", LOSSES)
def test_each_loss_can_be_switched_off(off: str, version: Classifier) -> None:
    """Its weight at 0: no mean is reported of it alone, and the generator learns something else."""
    full, without = run_of(version, TINY), run_of(version, replace(TINY, **{f"{off}_weight": 0.0}))
    for run in (full, without):
        run.advance(1, 2)
    report = without.report()
    assert [loss for loss in LOSSES if report[f"{loss}_loss"] is None] == [off]
    assert version_id(full.generator().state_dict()) != version_id(without.generator().state_dict())


def test_a_classifier_without_batchnorm_works_without_its_loss() -> None:
    """The attribute and the report say so; if that loss alone is wanted, nothing is left to learn from."""
    spec = ClassifierSpec(
        name="lenet", width=0.25, in_channels=1, image_size=28, num_classes=10, mean=(0.13,), std=(0.31,)
    )
    lenet = build_classifier(spec, 0)
    run = run_of(lenet, TINY)
    run.advance(1, 2)
    report = run.report()
    assert not run.has_batchnorm
    assert [loss for loss in LOSSES if report[f"{loss}_loss"] is None] == ["batchnorm"]
    others = {f"{loss}_weight": 0.0 for loss in LOSSES if loss != "batchnorm"}
    with pytest.raises(BadInput, match="at least one above 0"):
        run_of(lenet, replace(TINY, **others))


# How a run goes on.


def test_a_loaded_run_goes_on_to_the_same_bits(version: Classifier) -> None:
    """Two steps, saved, loaded in a run of other weights, four more: weights and report are the same."""
    whole, half = run_of(version, TINY), run_of(version, TINY)
    whole.advance(1, 6)
    half.advance(1, 2)
    state = half.state()
    half.advance(3, 4)  # what was saved does not move with the run
    loaded = run_of(version, TINY)
    loaded.advance(1, 1)
    loaded.load(state)
    loaded.advance(3, 6)
    assert version_id(loaded.generator().state_dict()) == version_id(whole.generator().state_dict())
    assert loaded.report() == whole.report()


def test_weights_are_the_seeds_alone(version: Classifier) -> None:
    """Same seed, same bits, whatever the global generator; another seed, others. In one call or in many."""
    made = []
    for seed, parts in ((0, [(1, 3)]), (0, [(1, 1), (2, 3)]), (1, [(1, 3)])):
        torch.manual_seed(len(made))
        before = torch.get_rng_state()
        run = run_of(version, TINY, seed=seed)
        for first, last in parts:
            run.advance(first, last)
        assert torch.equal(before, torch.get_rng_state())
        made.append(version_id(run.generator().state_dict()))
    assert made[0] == made[1] != made[2]


def test_the_classifier_is_not_changed(version: Classifier) -> None:
    """Weights and statistics stay, given and held; what `generator` gives is a copy in eval mode."""
    before = version_id(version.state_dict())
    run = run_of(version, TINY)
    early = run.generator()
    kept = version_id(early.state_dict())
    run.advance(1, 3)
    assert version_id(version.state_dict()) == before == version_id(run.classifier.state_dict())
    assert not any(m.training for m in (*run.classifier.modules(), *early.modules()))
    assert not any(m._forward_pre_hooks for m in run.classifier.modules())
    assert version_id(early.state_dict()) == kept != version_id(run.generator().state_dict())


def test_wrong_steps_and_a_loss_that_is_not_finite_are_refused(version: Classifier) -> None:
    """Steps twice, left out or beyond the last; weights that are not numbers."""
    run = run_of(version, TINY)
    for first, last in ((2, 2), (1, 7)):
        with pytest.raises(BadInput, match="steps"):
            run.advance(first, last)
    with torch.no_grad():
        version.head.bias.fill_(float("nan"))
    with pytest.raises(RayUnlearnError, match="at step 1"):
        run_of(version, TINY).advance(1, 1)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("iterations", 0), ("iterations", 2.0), ("batch_size", 1), ("batch_size", True), ("z_dim", 0),
        ("width", 0.0), ("width", NAN), ("lr", INF), ("lr", -1e-3), ("weight_decay", -1.0),
        *((f"{loss}_weight", value) for loss in LOSSES for value in (-1.0, NAN, INF)),
        ("betas", (0.5, 1.0)), ("betas", (0.5,)), ("betas", (NAN, 0.9)),
        ("transformations", ("flip",)), ("transformations", ("zoom_in", "zoom_in")), ("transformations", ()),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(field: str, value: object) -> None:
    """By the path that a recipe knows them by."""
    with pytest.raises(BadInput, match=rf"model_inversion\.{field} is"):
        ModelInversionSettings(**{field: value})


def test_no_transformation_is_allowed_where_none_is_used() -> None:
    """With the augmentation loss switched off."""
    ModelInversionSettings(transformations=(), augmentation_weight=0.0)

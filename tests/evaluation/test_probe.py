"""The probe on features that hold the class, on features that do not, and on too little data."""

import copy
import math

import pytest
import torch
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.probe import (
    ProbeReport,
    ProbeSettings,
    linear_probe,
    linear_probes,
)
from rayunlearn.models.feature_layer import features_of
from tests.evaluation.pixels import CLASSES, SIZE, Pixels, images_of


def probe(
    signal: float, *, n: int = 100, forget: tuple[int, ...] = (0,), scale: float = 1.0, seed: int = 0,
    **settings: object,
) -> ProbeReport:  # fmt: skip
    """Probe the pixels of n training and n test images per class."""
    labels = torch.arange(CLASSES).repeat(n)
    train, test = images_of(labels, signal, 1) * scale, images_of(labels, signal, 2) * scale
    chosen = ProbeSettings(**settings)  # type: ignore[arg-type]
    return linear_probe(Pixels(), train, labels, test, labels, forget, chosen, seed)


def test_features_that_hold_the_class_linearly() -> None:
    """Classes eight deviations apart: the probe finds the forget class and the others, all of them."""
    report = probe(8.0)
    assert report.forget.recall >= 0.99 and report.retain.recall >= 0.99
    assert (report.forget.count, report.retain.count, report.train_count) == (100, 300, 400)
    assert report.converged


def test_features_without_the_class_give_chance() -> None:
    """Pure noise of four classes: recall within four standard errors of 1/4, far from 1."""
    report = probe(0.0, n=400)
    error = math.sqrt(0.25 * 0.75 / 400)
    assert abs(report.forget.recall - 0.25) < 4 * error
    assert abs(report.retain.recall - 0.25) < 4 * error


def test_a_class_held_only_by_a_product_is_not_linear() -> None:
    """Label = sign of a product of two pixels: the probe stays at chance; given the product, it is at 1."""
    g = torch.Generator().manual_seed(4)
    images = torch.randn(800, 1, SIZE, SIZE, generator=g)
    labels = (images[:, 0, 0, 0] * images[:, 0, 0, 1] > 0).long()
    settings = ProbeSettings()

    def recall(x: torch.Tensor) -> float:
        halves = (x[:400], labels[:400], x[400:], labels[400:])
        report = linear_probe(Pixels(2), *halves, [1], settings, 0)
        return (report.forget.correct + report.retain.correct) / 400

    helped = images.clone()
    helped[:, 0, 3, 3] = 5 * labels - 2.5
    assert abs(recall(images) - 0.5) < 0.11
    assert recall(helped) == 1.0


def test_features_are_standardised() -> None:
    """Features a thousandfold smaller give the same counts; as they are, C = 1 would shrink them."""
    assert probe(2.0) == probe(2.0, scale=1e-3)


def test_the_head_does_not_matter() -> None:
    """A model whose forget logit is masked probes exactly as the original: the features are the same."""
    labels = torch.arange(CLASSES).repeat(30)
    train, test = images_of(labels, 3.0, 1), images_of(labels, 3.0, 2)
    model = Pixels()
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.head.bias[0] -= 100
    args = (train, labels, test, labels, [0], ProbeSettings(), 0)
    assert linear_probe(model, *args) == linear_probe(masked, *args)


def test_several_forget_classes_are_pooled() -> None:
    """Forget classes 0 and 2: their counts are one sum, and the two parts cover the test set."""
    one, two = probe(1.5, forget=(0,)), probe(1.5, forget=(0, 2))
    assert (two.forget.count, two.retain.count) == (200, 200)
    assert one.forget.correct + one.retain.correct == two.forget.correct + two.retain.correct


def test_the_few_sample_probe_draws_by_seed() -> None:
    """Three images a class: 12 in all, the same for the same seed, others for another; less is learned."""
    few = probe(2.0, train_per_class=3)
    assert few.train_count == 12
    assert few == probe(2.0, train_per_class=3)
    assert len({probe(2.0, train_per_class=3, seed=s).retain.correct for s in range(5)}) > 1
    assert few.retain.recall < probe(2.0).retain.recall
    assert probe(2.0, train_per_class=100) == probe(2.0)


def test_draws_in_one_call_are_those_of_a_call_each() -> None:
    """Though the features are taken once, of the images that any of the draws has."""
    labels = torch.arange(CLASSES).repeat(50)
    sets = images_of(labels, 2.0, 1), labels, images_of(labels, 2.0, 2), labels
    settings = ProbeSettings(train_per_class=2)
    together = linear_probes(Pixels(), *sets, [0], settings, [3, 4, 5])
    assert together == [linear_probe(Pixels(), *sets, [0], settings, seed) for seed in (3, 4, 5)]
    assert len({report.retain.correct for report in together}) > 1


def test_an_unfinished_fit_is_said() -> None:
    """One iteration is not enough: `converged` is False, and no warning reaches the user."""
    assert not probe(1.0, max_iter=1).converged


def test_the_model_is_left_as_it_was() -> None:
    """Mode, flags and BatchNorm statistics stay, and the features are those of eval mode."""

    class Normalised(Pixels):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(1)

        def _run(self, x: torch.Tensor, maps: list[torch.Tensor] | None) -> torch.Tensor:
            return self.norm(x).flatten(1)

    model = Normalised().train()
    before = copy.deepcopy(model.state_dict())
    images = 7 + images_of(torch.arange(CLASSES), 1.0, 1)
    features = features_of(model, images)
    assert torch.allclose(features, images.flatten(1), rtol=1e-4)
    assert not features.requires_grad and model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("train", "test", "forget", "few", "message"),
    [
        ([0, 0, 0], [0, 1], [0], None, r"classes among the training images is \[0\]; allowed: at least two"),
        ([1, 2, 3], [0, 1], [0], None, "training images of class 0 is 0; allowed: at least 1"),
        ([0, 0, 1], [0, 1, 2], [0], None, "training images of class 2 is 0; allowed: at least 1"),
        ([0, 0, 1], [0, 1], [0], 2, "training images of class 1 is 1; allowed: at least 2"),
        ([0, 1], [1, 1], [0], None, "test images of class 0 is 0; allowed: at least 1"),
        ([0, 1], [0, 0], [0], None, "test images of the retain classes is 0"),
        ([0, 1], [0, 1], [], None, "forget classes"),
        ([0, 1], [0, 1], [4], None, "forget classes"),
        ([0, 4], [0, 1], [0], None, "range of the labels"),
    ],
)
def test_too_little_data_is_named(
    train: list[int], test: list[int], forget: list[int], few: int | None, message: str
) -> None:
    """One class only, a class without images, too few for the few-sample probe: said, with what is needed."""
    x, y = torch.tensor(train), torch.tensor(test)
    with pytest.raises(BadInput, match=message):
        linear_probe(
            Pixels(), images_of(x % 4, 1.0, 1), x, images_of(y, 1.0, 2), y, forget,
            ProbeSettings(train_per_class=few), 0,
        )  # fmt: skip


def test_features_that_are_not_finite_are_an_error() -> None:
    """NaN features of two images end in an error that counts them."""
    labels = torch.arange(CLASSES).repeat(3)
    images = images_of(labels, 1.0, 1)
    images[4:6, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match="NaN or infinite output is 2"):
        linear_probe(Pixels(), images, labels, images, labels, [0], ProbeSettings(), 0)


@pytest.mark.parametrize(("name", "value"), [("C", 0.0), ("max_iter", 0), ("train_per_class", 0)])
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.probe.{name}"):
        ProbeSettings(**{name: value})  # type: ignore[arg-type]

"""The nearest-neighbour probe against a slow one in float64, on features that hold the class and not."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.neighbours import NeighbourSettings, knn_probe
from rayunlearn.evaluation.probe import ProbeReport, ProbeSettings, few_per_class, linear_probe
from rayunlearn.models.classifiers import Classifier
from tests.evaluation.pixels import CLASSES, SIZE, Pixels, images_of


def probe(
    signal: float, *, n: int = 60, forget: tuple[int, ...] = (0,), scale: float = 1.0, seed: int = 0,
    **chosen: object,
) -> ProbeReport:  # fmt: skip
    """Probe the pixels of n training and n test images per class."""
    labels = torch.arange(CLASSES).repeat(n)
    train, test = images_of(labels, signal, 1) * scale, images_of(labels, signal, 2) * scale
    return knn_probe(Pixels(), train, labels, test, labels, forget, NeighbourSettings(**chosen), seed)  # type: ignore[arg-type]


def slow_votes(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, chosen: NeighbourSettings
) -> list[int]:
    """One image at a time, float64: standardise, sort, let the first k vote, ties to the nearer voters."""
    mean, deviation = train.mean(axis=0), train.std(axis=0)
    train, test = (train - mean) / deviation, (test - mean) / deviation
    names = []
    for image in test:
        if chosen.metric == "euclidean":
            distances = np.sqrt(((train - image) ** 2).sum(axis=1))
        else:
            lengths = np.linalg.norm(train, axis=1) * np.linalg.norm(image)
            distances = 1 - train @ image / lengths
        nearest = np.argsort(distances)[: chosen.k]
        best = []
        for class_id in sorted(set(labels[nearest].tolist())):
            own = distances[nearest][labels[nearest] == class_id]
            votes = (1 / own).sum() if chosen.weights == "distance" else len(own)
            best.append((-votes, own.sum(), class_id))
        names.append(min(best)[2])
    return names


# Against oracles.


@given(
    st.integers(1, 9),
    st.sampled_from(["uniform", "distance"]),
    st.sampled_from(["euclidean", "cosine"]),
    st.sampled_from([None, 3]),
    st.integers(0, 2**31),
)
@settings(max_examples=40)
def test_it_is_the_brute_force_vote(k: int, weights: str, metric: str, few: int | None, seed: int) -> None:
    """Counts of every class as forget class equal those of a loop in float64 that knows no library."""
    chosen = NeighbourSettings(k=k, weights=weights, metric=metric, train_per_class=few)  # type: ignore[arg-type]
    labels = torch.arange(CLASSES).repeat(5)
    tested = torch.arange(CLASSES).repeat(4)
    train, test = images_of(labels, 1.5, seed), images_of(tested, 1.5, seed + 1)
    ids = few_per_class(labels, few, 7)
    flat, flat_test = (x.flatten(1).double().numpy() for x in (train[ids], test))
    names = np.array(slow_votes(flat, labels[ids].numpy(), flat_test, chosen))
    right = names == tested.numpy()
    for class_id in range(CLASSES):
        report = knn_probe(Pixels(), train, labels, test, tested, [class_id], chosen, 7)
        of_class = tested.numpy() == class_id
        assert (report.forget.correct, report.forget.count) == (right[of_class].sum(), 4)
        assert (report.retain.correct, report.retain.count) == (right[~of_class].sum(), 12)
        assert report.train_count == len(ids) and report.converged


def line(at: list[float]) -> torch.Tensor:
    """Images whose first pixel is given and whose other pixels are 0."""
    x = torch.zeros(len(at), 1, SIZE, SIZE)
    x[:, 0, 0, 0] = torch.tensor(at)
    return x


@pytest.mark.parametrize(("near", "far"), [(0, 1), (1, 0)])
def test_a_tie_goes_to_the_nearer_voter(near: int, far: int) -> None:
    """Two votes, one each: the class at 1 wins over the class at 3, whichever has the smaller id.

    scikit-learn's own uniform vote, the control, gives class 0 both times: a forget class 0 would be
    found wherever it came near.
    """
    train, labels = line([1.0, 3.0, 50.0, 60.0]), torch.tensor([near, far, 2, 2])
    test, tested = line([0.0, 55.0]), torch.tensor([near, 2])
    report = knn_probe(Pixels(3), train, labels, test, tested, [near], NeighbourSettings(k=2), 0)
    assert report.forget.correct == 1 and report.retain.correct == 1
    plain = KNeighborsClassifier(2).fit(train.flatten(1).numpy(), labels.numpy())
    assert plain.predict(test[:1].flatten(1).numpy()) == [0]


def test_nearness_never_outvotes_a_vote() -> None:
    """Two voters at 0.01 against three at 5: three win; weighted by distance, the control, two do."""
    train, labels = line([0.01, -0.01, 5.0, 5.0, 5.0, 99.0]), torch.tensor([0, 0, 1, 1, 1, 2])
    test, tested = line([0.0, 99.0]), torch.tensor([1, 2])
    for weights, right in (("uniform", 1), ("distance", 0)):
        chosen = NeighbourSettings(k=5, weights=weights)  # type: ignore[arg-type]
        report = knn_probe(Pixels(3), train, labels, test, tested, [1], chosen, 0)
        assert report.forget.correct == right


def test_voters_at_distance_zero() -> None:
    """All k neighbours are copies of the test image: a plain majority, and no division by zero."""
    train, labels = line([1.0, 1.0, 1.0, -1.0]), torch.tensor([1, 1, 0, 2])
    test, tested = line([1.0, -1.0]), torch.tensor([1, 2])
    report = knn_probe(Pixels(3), train, labels, test, tested, [1], NeighbourSettings(k=3), 0)
    assert report.forget.correct == 1


# What it says of features.


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_features_that_hold_the_class(metric: str, weights: str) -> None:
    """Classes eight deviations apart: the probe finds the forget class and the others, nearly all of them."""
    report = probe(8.0, metric=metric, weights=weights)
    assert report.forget.recall >= 0.98 and report.retain.recall >= 0.98
    assert (report.forget.count, report.retain.count, report.train_count) == (60, 180, 240)


@pytest.mark.parametrize("k", [1, 5])
def test_features_without_the_class_give_chance(k: int) -> None:
    """Pure noise of four classes: recall within four standard errors of 1/4, far from 1."""
    report = probe(0.0, n=200, k=k)
    error = math.sqrt(0.25 * 0.75 / 200)
    assert abs(report.forget.recall - 0.25) < 4 * error
    assert abs(report.retain.recall - 0.25) < 4 * error


def test_it_sees_what_is_not_linear() -> None:
    """Label = sign of a product of two pixels: neighbours are right in over 90 %, a linear probe under 70."""
    g = torch.Generator().manual_seed(4)
    images = torch.zeros(800, 1, SIZE, SIZE)
    images[:, 0, 0, :2] = torch.randn(800, 2, generator=g)
    labels = (images[:, 0, 0, 0] * images[:, 0, 0, 1] > 0).long()
    halves = (images[:400], labels[:400], images[400:], labels[400:])
    ours = knn_probe(Pixels(2), *halves, [1], NeighbourSettings(), 0)
    linear = linear_probe(Pixels(2), *halves, [1], ProbeSettings(), 0)
    assert (ours.forget.correct + ours.retain.correct) / 400 > 0.9
    assert (linear.forget.correct + linear.retain.correct) / 400 < 0.7


def test_features_are_standardised() -> None:
    """A pixel of thousandfold size that says nothing drowns no other; a common scale is no matter."""
    assert probe(2.0) == probe(2.0, scale=1e-3)
    labels = torch.arange(CLASSES).repeat(60)
    train, test = images_of(labels, 8.0, 1), images_of(labels, 8.0, 2)
    for x in (train, test):
        x[:, 0, 3, 3] *= 1000
    report = knn_probe(Pixels(), train, labels, test, labels, [0], NeighbourSettings(), 0)
    assert report.forget.recall > 0.95


def test_the_head_does_not_matter() -> None:
    """A model whose forget logit is masked gives exactly the same: the features are."""
    labels = torch.arange(CLASSES).repeat(30)
    train, test = images_of(labels, 3.0, 1), images_of(labels, 3.0, 2)
    model = Pixels()
    masked = copy.deepcopy(model)
    with torch.no_grad():
        masked.head.bias[0] -= 100
    args = (train, labels, test, labels, [0], NeighbourSettings(), 0)
    assert knn_probe(model, *args) == knn_probe(masked, *args)


def test_several_forget_classes_are_pooled() -> None:
    """Forget classes 0 and 2: their counts are one sum, and the two parts cover the test set."""
    one, two = probe(1.5, forget=(0,)), probe(1.5, forget=(0, 2))
    assert (two.forget.count, two.retain.count) == (120, 120)
    assert one.forget.correct + one.retain.correct == two.forget.correct + two.retain.correct


def test_the_few_sample_probe_draws_by_seed() -> None:
    """Three images a class: 12 in all, the same for the same seed, others for another; less is found."""
    few = probe(2.0, train_per_class=3, k=1)
    assert few.train_count == 12
    assert few == probe(2.0, train_per_class=3, k=1)
    assert len({probe(2.0, train_per_class=3, k=1, seed=s).retain.correct for s in range(5)}) > 1
    assert few.retain.recall < probe(2.0).retain.recall


def test_the_model_is_left_as_it_was(version: Classifier) -> None:
    """Mode and BatchNorm statistics stay."""
    version.train()
    before = copy.deepcopy(version.state_dict())
    labels = torch.arange(10).repeat(3)
    x = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    knn_probe(version, x, labels, x, labels, [0], NeighbourSettings(), 0)
    assert version.training
    assert all(torch.equal(before[name], value) for name, value in version.state_dict().items())


# What is refused.


@pytest.mark.parametrize(
    ("train", "test", "few", "k", "message"),
    [
        ([0, 1, 1], [0, 1], None, 4, "number of training images is 3; allowed: at least k = 4, the number"),
        ([0, 0, 1, 1], [0, 1], 1, 3, "number of training images is 2; allowed: at least k = 3"),
        ([0, 0, 0], [0, 1], None, 1, r"classes among the training images is \[0\]; allowed: at least two"),
        ([1, 2, 3], [0, 1], None, 1, "training images of class 0 is 0; allowed: at least 1"),
        ([0, 0, 1], [0, 1], 2, 1, "training images of class 1 is 1; allowed: at least 2"),
        ([0, 1], [1, 1], None, 1, "test images of class 0 is 0; allowed: at least 1"),
        ([0, 4], [0, 1], None, 1, "range of the labels"),
    ],
)
def test_too_little_data_is_named(
    train: list[int], test: list[int], few: int | None, k: int, message: str
) -> None:
    """Fewer training images than k, drawn or given, a class without images: said, with what is needed."""
    x, y = torch.tensor(train), torch.tensor(test)
    with pytest.raises(BadInput, match=f"knn_probe: .*{message}"):
        knn_probe(
            Pixels(), images_of(x % 4, 1.0, 1), x, images_of(y, 1.0, 2), y, [0],
            NeighbourSettings(train_per_class=few, k=k), 0,
        )  # fmt: skip


def test_features_that_are_not_finite_are_an_error() -> None:
    """NaN features of two images end in an error that counts them."""
    labels = torch.arange(CLASSES).repeat(3)
    x = images_of(labels, 1.0, 1)
    x[4:6, 0, 0, 0] = math.nan
    with pytest.raises(BadInput, match="NaN or infinite output is 2"):
        knn_probe(Pixels(), x, labels, x, labels, [0], NeighbourSettings(), 0)


@pytest.mark.parametrize(
    ("name", "value"), [("k", 0), ("weights", "gaussian"), ("metric", "manhattan"), ("train_per_class", 0)]
)
def test_settings_are_checked(name: str, value: object) -> None:
    """Each wrong field is refused by its name."""
    with pytest.raises(BadInput, match=f"audit.neighbours.{name} is"):
        NeighbourSettings(**{name: value})  # type: ignore[arg-type]

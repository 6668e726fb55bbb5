"""Similarity to the examples: closed forms, its sign, the kernel's width, and classes of real digits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.inversion.knee import knee_threshold
from rayunlearn.inversion.similarity import KERNELS, features_of, kernel_width, similarity
from rayunlearn.models.classifiers import Classifier


def rows(n: int, dim: int, seed: int) -> Tensor:
    """Features, as of a ReLU, but none all zero."""
    return 0.01 + torch.randn(n, dim, generator=torch.Generator().manual_seed(seed)).relu()


def norm(a: list[float]) -> float:
    """Euclidean norm."""
    return math.sqrt(sum(x * x for x in a))


def distance(a: list[float], b: list[float]) -> float:
    """Euclidean distance."""
    return norm([x - y for x, y in zip(a, b, strict=True)])


def cosine(a: list[float], b: list[float]) -> float:
    """Cosine of the angle."""
    return sum(x * y for x, y in zip(a, b, strict=True)) / (norm(a) * norm(b))


WIDTH = 1.7
SLOW: dict[str, Callable[[list[float], list[float]], float]] = {
    "rbf": lambda a, b: math.exp(-(distance(a, b) ** 2) / (2 * WIDTH**2)),
    "cosine": cosine,
    "l2": lambda a, b: -distance(a, b),
}


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_a_score_is_the_sum_over_the_examples(kernel: str) -> None:
    """A slow loop over pairs, for 60 samples and 40 examples of 7 features, in float64."""
    samples, examples = rows(60, 7, seed=0), rows(40, 7, seed=1)
    scores = similarity(samples, examples, kernel, width=WIDTH)
    expected = [sum(SLOW[kernel](a, b) for b in examples.tolist()) for a in samples.tolist()]
    assert scores.dtype == torch.float64
    assert scores.tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_chunks_give_the_whole(kernel: str) -> None:
    """Chunks of 1, 7 and 1024 and parts scored apart, with one width, agree; `rbf` and `l2` to the bit."""
    samples, examples = rows(300, 24, seed=0), rows(30, 24, seed=1)
    whole = similarity(samples, examples, kernel, width=WIDTH)
    others = [similarity(samples, examples, kernel, width=WIDTH, chunk_size=size) for size in (1, 7)]
    others.append(torch.cat([similarity(p, examples, kernel, width=WIDTH) for p in samples.split(113)]))
    for other in others:
        assert torch.allclose(whole, other, rtol=1e-12, atol=0)
        assert kernel == "cosine" or torch.equal(whole, other)


def clusters() -> tuple[Tensor, Tensor, Tensor]:
    """Features of 500 samples of which 50 are like the 5 examples, a mask of these, and the examples.

    Ten clusters, one in each direction; the examples are of the fourth.
    """
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(500) % 10
    centres = 5 * torch.eye(10)
    samples = centres[labels] + 0.1 * torch.randn(500, 10, generator=draws)
    return samples, labels == 3, centres[3] + 0.1 * torch.randn(5, 10, generator=draws)


@pytest.mark.parametrize("kernel", sorted(KERNELS))
def test_what_is_near_the_examples_is_selected(kernel: str) -> None:
    """Known answer: D'_e is the examples' own cluster, up to the curve's spacing of 3 samples.

    Below the threshold, the other reading of eq. 9, is none of it.
    """
    samples, like, examples = clusters()
    scores = similarity(samples, examples, kernel)
    knee = knee_threshold(scores)
    assert knee.method == "knee"
    selected = knee.selects(scores)
    assert bool(selected[like].all()) and int(selected[~like].sum()) <= 3
    assert not bool((scores < knee.threshold)[like].any())


def test_the_width_is_the_examples_own_spread_or_a_quarter_of_their_distance() -> None:
    """Examples spread wide: their median distance; close together: a quarter of that to the samples."""
    samples, wide = rows(11, 5, seed=0), rows(3, 5, seed=1)  # odd numbers of pairs: one in the middle
    pairs = [distance(wide.tolist()[i], wide.tolist()[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    width = kernel_width(samples, wide)
    assert width.source == "examples" and width.value == pytest.approx(statistics.median(pairs))

    close = wide[:1] + 0.01 * rows(3, 5, seed=2)
    apart = [distance(a, b) for a in samples.tolist() for b in close.tolist()]
    width = kernel_width(samples, close)
    assert width.source == "samples" and width.value == pytest.approx(statistics.median(apart) / 4)


@pytest.mark.parametrize("copies", [1, 2, 6])
def test_examples_that_are_all_the_same_have_a_width(copies: int) -> None:
    """One example, or copies of one: the width is the samples', and the cluster is found."""
    samples, like, examples = clusters()
    same = examples[:1].expand(copies, -1)
    assert kernel_width(samples, same).source == "samples"
    scores = similarity(samples, same)
    assert torch.equal(scores, similarity(samples, same, width=kernel_width(samples, same).value))
    selected = knee_threshold(scores).selects(scores)
    assert bool(selected[like].all()) and int(selected[~like].sum()) <= 3


def test_the_width_of_many_is_that_of_evenly_spaced_ones() -> None:
    """3000 samples: every third; the memory does not grow with D'."""
    samples, examples = rows(3000, 4, seed=0), rows(5, 4, seed=1) / 100
    assert kernel_width(samples, examples) == kernel_width(samples[::3], examples)
    assert kernel_width(samples, examples) != kernel_width(samples[:1000], examples)


def test_features_of_zero_have_no_angle() -> None:
    """A dead sample's cosine is 0: neither NaN nor like anything."""
    scores = similarity(
        torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]]), "cosine"
    )
    assert scores.tolist() == [0.0, 2.0]


FINE = torch.eye(3)
BROKEN = torch.tensor([[0.0, math.nan, 0.0]])


@pytest.mark.parametrize(
    ("samples", "examples", "more", "thing"),
    [
        (FINE, FINE[:0], {}, "shape of the features of the examples"),
        (FINE[:0], FINE, {}, "shape of the features of the samples"),
        (FINE, FINE[0], {}, "shape of the features of the examples"),
        (FINE, FINE[:, :2], {}, "features of an example"),
        (FINE, BROKEN, {}, "rows with NaN or infinity in the features of the examples"),
        (BROKEN, FINE, {}, "rows with NaN or infinity in the features of the samples"),
        (FINE, FINE, {"kernel": "rbff"}, "kernel"),
        (FINE, FINE, {"width": 0.0}, "kernel width"),
        (FINE, FINE, {"width": math.nan}, "kernel width"),
        (FINE, FINE, {"chunk_size": 0}, "chunk_size"),
        (FINE[:1].expand(9, 3), FINE[:1].expand(2, 3), {}, "kernel width"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    samples: Tensor, examples: Tensor, more: dict[str, Any], thing: str
) -> None:
    """No examples, no samples, features that do not fit or are NaN, no kernel, no width: each by its name."""
    with pytest.raises(BadInput) as error:
        similarity(samples, examples, **more)
    assert error.value.thing == thing


# A real classifier.


def test_features_are_what_enters_the_head(version: Classifier, digits_data: LabelledImages) -> None:
    """Recorded at the head during a plain forward pass of 50 images; chunks of 16 give the same."""
    images, seen = digits_data.images[:50], []
    handle = version.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        version(images)
    handle.remove()
    assert torch.equal(features_of(version, images), seen[0])
    assert torch.allclose(features_of(version, images, chunk_size=16), seen[0], atol=1e-5)


def test_features_of_what_is_no_image_are_refused(version: Classifier, digits_data: LabelledImages) -> None:
    """No image, another size, another number of channels, NaN, and a model in train mode."""
    images = digits_data.images[:4]
    for wrong in (images[:0], images[..., :7], images.expand(-1, 3, -1, -1), images[0]):
        with pytest.raises(BadInput) as error:
            features_of(version, wrong)
        assert error.value.thing == "shape of the images"
    with pytest.raises(BadInput) as error:
        features_of(version, images * torch.nan)
    assert error.value.thing == "rows with NaN or infinity in the features of the images"
    with pytest.raises(BadInput) as error:
        features_of(version.train(), images)
    assert error.value.thing == "mode of the classifier"


LEAST_PRECISION = {"rbf": 0.8, "cosine": 0.5, "l2": 0.5}


@pytest.mark.learned
@pytest.mark.parametrize("kernel", sorted(KERNELS))
@pytest.mark.parametrize("erased", [3, 4, 6])
def test_samples_above_the_knee_are_mostly_of_the_examples_class(
    kernel: str, erased: int, version: Classifier, digits_data: LabelledImages
) -> None:
    """Five training digits of a class; unseen digits stand in for samples: all of the class, mostly it.

    The stored version's precision for the classes 3, 4 and 6: rbf 93, 88, 90 %, cosine 85, 61, 80 %, l2 79,
    63, 64 %; recall 100 %. Over six originals: rbf 90 +- 3 %, l2 68 +- 5 %, cosine 71 +- 12 %, once 37 %.
    Below the threshold, the other reading of eq. 9, are next to none of the class.
    """
    train, test = (slice(0, None, 2), slice(1, None, 2))
    given = digits_data.images[train][digits_data.labels[train] == erased][:5]
    like = digits_data.labels[test] == erased
    samples = features_of(version, digits_data.images[test])
    scores = similarity(samples, features_of(version, given), kernel)
    knee = knee_threshold(scores)
    selected = knee.selects(scores)
    assert knee.method == "knee"
    assert float(like[selected].double().mean()) > LEAST_PRECISION[kernel]
    assert float(selected[like].double().mean()) > 0.97
    assert float(like[scores < knee.threshold].double().mean()) < 0.01

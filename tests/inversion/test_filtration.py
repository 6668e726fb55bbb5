"""Filtration: eq. 8 against a slow loop, one D' for any order of arrival, and classes that yield nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.inversion.filtration import (
    ApproximatedSet,
    Candidates,
    FiltrationSettings,
    Tally,
    compose,
    gather,
    judge_chunk,
    prediction_entropy,
    sampled,
    unjudged,
)
from rayunlearn.inversion.knee import knee_threshold
from rayunlearn.inversion.relabelling import relabel
from rayunlearn.inversion.similarity import KERNELS, features_of, similarity
from rayunlearn.models.classifiers import Classifier, ClassifierSpec
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator as seeded

K = 4
SPEC = ClassifierSpec(
    name="allcnn", width=1.0, in_channels=1, image_size=2, num_classes=K, mean=(0.0,), std=(1.0,)
)


class Pixels(Classifier):
    """An image of four pixels: its logits."""

    def __init__(self) -> None:
        super().__init__(SPEC)
        self.head = nn.Linear(K, K)
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(K))
            self.head.bias.zero_()

    def _run(self, x: Tensor, maps: list[Tensor] | None) -> Tensor:
        return x.flatten(1)


class Maker(nn.Module):
    """z, with y's pixel raised by `raised`, as an image; counts its calls."""

    def __init__(self, raised: Sequence[float] = (4.0,) * K) -> None:
        super().__init__()
        self.spec = SimpleNamespace(z_dim=K)
        self.raised = torch.tensor(raised)
        self.calls = 0

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Images [B, 1, 2, 2]."""
        self.calls += 1
        raised = nn.functional.one_hot(y, K) * self.raised[y][:, None]
        return (z + raised).view(-1, 1, 2, 2)


FIRST = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
TRANSFORMATIONS: list[Callable[[Tensor], Tensor]] = [
    lambda x: 0.7 * x,
    lambda x: x + 9 * FIRST * (x[..., :1, :1] > 0.7),
    lambda x: 2 * x,
]
SETTINGS = FiltrationSettings(per_class=12, budget=110, chunk_size=20)
ALL = Roles(retain=(0, 1, 2), target=(3,))
MAKER, PIXELS = Maker().eval(), Pixels().eval()


def z_of(seed: int, label: int, chunk: int, size: int = 20) -> Tensor:
    """The noise of a chunk's candidates, as documented."""
    return torch.randn(size, K, generator=seeded(seed, "filtration z", label, chunk))


def softmax(logits: list[float]) -> list[float]:
    """Probabilities in plain Python."""
    total = sum(math.exp(v) for v in logits)
    return [math.exp(v) / total for v in logits]


def entropy(logits: list[float]) -> float:
    """In nats, in plain Python."""
    return -sum(p * math.log(p) for p in softmax(logits))


def slow_verdict(image: list[float], t_ent: float, everywhere: bool) -> tuple[bool, bool]:
    """Whether a candidate's entropy is low, and its label consistent: eq. 8 or algorithm 2, read aloud."""
    views = [
        image,
        [0.7 * v for v in image],
        [image[0] + 9 * (image[0] > 0.7), *image[1:]],
        [2 * v for v in image],
    ]
    certain = all(entropy(view) < t_ent for view in (views if everywhere else views[:1]))
    return certain, all(view.index(max(view)) == image.index(max(image)) for view in views)


def slow_accepted(seed: int, label: int, settings: FiltrationSettings, raised: float = 4.0) -> list[int]:
    """Indices of all accepted candidates of a class within its budget, by the slow loop."""
    everywhere = settings.entropy_under == "every_transformation"
    accepted = []
    for i in range(settings.budget):
        chunk, row = divmod(i, settings.chunk_size)
        image = z_of(seed, label, chunk, settings.chunk_size)[row].tolist()
        image[label] += raised
        if all(slow_verdict(image, settings.t_ent, everywhere)):
            accepted.append(i)
    return accepted


def same(a: ApproximatedSet, b: ApproximatedSet) -> bool:
    """Equal bit for bit, reports included."""
    fields = ("images", "soft_labels", "labels", "indices")
    return all(torch.equal(getattr(a, f), getattr(b, f)) for f in fields) and a.composition == b.composition


# Eq. 8.


def test_the_papers_entropies_are_nats() -> None:
    """Table 3's vectors: 0.867, 0.500 and 0.282 nats, in this order (its caption has them reversed).

    In bits the middle one, the default t_ent, would be 0.722.
    """
    vectors = torch.tensor([[1 - 9 * rest, *[rest] * 9] for rest in (0.02, 0.01, 0.005)])
    assert prediction_entropy(vectors.log()).tolist() == pytest.approx([0.867, 0.500, 0.282], abs=6e-4)
    assert prediction_entropy(torch.tensor([[1e4, 0.0, -1e4]])).tolist() == [0.0]
    assert FiltrationSettings().t_ent == 0.5


@pytest.mark.parametrize("entropy_under", ["every_transformation", "plain"])
def test_a_chunk_is_judged_as_by_a_slow_loop(entropy_under: str) -> None:
    """Accepted indices, images, soft labels and both counts of 200 candidates, one by one in plain Python.

    Each criterion rejects some that the other lets pass.
    """
    settings = FiltrationSettings(per_class=1, budget=600, chunk_size=200, entropy_under=entropy_under)
    found = judge_chunk(MAKER, PIXELS, TRANSFORMATIONS, settings, 5, 1, 2)
    images = z_of(5, 1, 2, 200) + torch.tensor([0.0, 4, 0, 0])
    verdicts = [slow_verdict(v, 0.5, entropy_under == "every_transformation") for v in images.tolist()]
    rows = [i for i, verdict in enumerate(verdicts) if all(verdict)]
    assert 20 < len(rows) < 180
    assert (True, False) in verdicts and (False, True) in verdicts
    assert found.indices.tolist() == [400 + row for row in rows]
    assert torch.equal(found.images, images[rows].view(-1, 1, 2, 2))
    soft = torch.tensor([softmax(images[row].tolist()) for row in rows])
    assert torch.allclose(found.soft_labels, soft, atol=1e-6)
    assert found.tally == Tally(
        label=1,
        chunk=2,
        judged=200,
        entropy_failed=sum(not certain for certain, _ in verdicts),
        consistency_failed=sum(not consistent for _, consistent in verdicts),
        predicted=tuple(images[rows].argmax(dim=1).tolist()),
    )


def test_equation_8_is_not_algorithm_2() -> None:
    """On what is certain as it is and uncertain at 0.7 times the contrast, they differ, one way only."""
    per_class, budget = 1, 200
    eq_8, algorithm_2 = (
        set(slow_accepted(0, 0, FiltrationSettings(per_class=per_class, budget=budget, entropy_under=under)))
        for under in ("every_transformation", "plain")
    )
    assert eq_8 < algorithm_2
    for under, expected in (("every_transformation", eq_8), ("plain", algorithm_2)):
        settings = FiltrationSettings(per_class=per_class, budget=budget, entropy_under=under)
        found = judge_chunk(MAKER, PIXELS, TRANSFORMATIONS, settings, 0, 0, 0)
        assert set(found.indices.tolist()) == expected


def test_the_plain_image_is_tested_under_both() -> None:
    """A transformation that sharpens, or none at all, does not let an uncertain image pass."""
    for transformations in ([], [lambda x: 10 * x]):
        found = [
            judge_chunk(MAKER, PIXELS, transformations, settings, 0, 0, 0)
            for settings in (SETTINGS, FiltrationSettings(per_class=1, chunk_size=20, entropy_under="plain"))
        ]
        for candidates in found:
            entropies = [entropy(image) for image in candidates.images.flatten(1).tolist()]
            assert 0 < len(entropies) < 20 and max(entropies) < 0.5
        assert torch.equal(found[0].indices, found[1].indices)


def collect(
    generator: nn.Module,
    classifier: nn.Module,
    transformations: Sequence[Callable[[Tensor], Tensor]],
    settings: FiltrationSettings,
    seed: int,
    roles: Roles,
) -> ApproximatedSet:
    """D' in this process: chunk by chunk and class by class, until each has enough or its budget is spent."""
    parts: list[Candidates] = []
    for label in sampled(roles):
        while left := unjudged((part.tally for part in parts), settings, label):
            parts.append(judge_chunk(generator, classifier, transformations, settings, seed, label, left[0]))
    return gather(parts, compose((part.tally for part in parts), settings, roles))


# D'.


def test_d_prime_is_the_first_accepted_of_each_class() -> None:
    """By the slow loop: twelve of each class, or all that 110 candidates gave; in order, with labels."""
    made = collect(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    expected = [(y, i) for y in range(K) for i in slow_accepted(3, y, SETTINGS)[:12]]
    assert list(zip(made.labels.tolist(), made.indices.tolist(), strict=True)) == expected
    for n, (label, index) in enumerate(expected):
        image = z_of(3, label, index // 20)[index % 20]
        image[label] += 4
        assert torch.equal(made.images[n].flatten(), image)


def simulated(workers: int, seed: int) -> tuple[ApproximatedSet, list[Candidates]]:
    """D' as a runtime makes it: so many chunks of each class under way, which end in a random order."""
    order = torch.Generator().manual_seed(seed)
    arrived: list[Candidates] = []
    for label in range(K):
        while left := unjudged((part.tally for part in arrived), SETTINGS, label):
            running = left[:workers]
            for k in torch.randperm(len(running), generator=order).tolist():
                arrived.append(judge_chunk(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 3, label, running[k]))
    shuffled = [arrived[k] for k in torch.randperm(len(arrived), generator=order).tolist()]
    composition = compose((part.tally for part in shuffled), SETTINGS, ALL)
    return gather(shuffled, composition), shuffled


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_d_prime_does_not_depend_on_workers_or_arrival(workers: int) -> None:
    """Chunks that end in any order, some of them not needed: the same bits and the same report.

    Negative control: the first twelve to arrive are other samples.
    """
    alone = collect(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    differs = False
    for seed in range(3):
        made, arrived = simulated(workers, seed)
        assert same(made, alone)
        for label in range(K):
            parts = [part.indices for part in arrived if part.tally.label == label]
            differs |= not torch.equal(torch.cat(parts)[:12], alone.indices[alone.labels == label])
    assert differs


def test_another_seed_and_another_class_draw_others() -> None:
    """The same seed gives the same bits; neither another seed nor another class does."""
    first = collect(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    assert same(first, collect(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL))
    assert not torch.equal(first.images, collect(MAKER, PIXELS, TRANSFORMATIONS, SETTINGS, 4, ALL).images)
    assert not torch.equal(z_of(3, 0, 0), z_of(3, 1, 0)) and not torch.equal(z_of(3, 0, 0), z_of(3, 0, 1))


@given(
    accepted=st.lists(st.integers(0, 5), min_size=7, max_size=7),
    wanted=st.integers(1, 20),
    order=st.permutations(range(7)),
)
def test_a_class_is_done_when_the_rest_cannot_matter(
    accepted: list[int], wanted: int, order: list[int]
) -> None:
    """Chunks that arrive after a class is done change nothing; before it is done, `compose` refuses."""
    settings = FiltrationSettings(per_class=wanted, budget=70, chunk_size=10)
    roles = Roles(retain=(1,), target=(0,))
    retained = Tally(
        label=1, chunk=0, judged=10, entropy_failed=0, consistency_failed=0, predicted=(1,) * wanted
    )
    tallies = [
        Tally(label=0, chunk=c, judged=10, entropy_failed=0, consistency_failed=0, predicted=(0,) * n)
        for c, n in enumerate(accepted)
    ]
    arrived = [retained]
    for chunk in order:
        if not unjudged(arrived, settings, 0):
            break
        with pytest.raises(BadInput):
            compose(arrived, settings, roles)
        arrived.append(tallies[chunk])
    composition = compose(arrived, settings, roles)
    assert composition == compose([*tallies, retained], settings, roles)
    assert composition.classes[0].found == min(wanted, sum(accepted))


def test_the_samples_like_the_examples_are_found_and_relabelled() -> None:
    """Known answer: D'_e of an example of class 3 is what was made for it; its relabelled answers lack it.

    Every kernel. Below the threshold, the other reading of eq. 9, lie the other classes.
    """
    maker = Maker((9.0,) * K).eval()
    made = collect(maker, PIXELS, [], FiltrationSettings(per_class=40, budget=80, chunk_size=20), 0, ALL)
    example = torch.tensor([[[[0.0, 0.0], [0.0, 9.0]]]])
    for kernel in KERNELS:
        scores = similarity(features_of(PIXELS, made.images), features_of(PIXELS, example), kernel)
        selected = knee_threshold(scores).selects(scores)
        assert bool(selected[made.labels == 3].all())
        assert int(selected[made.labels != 3].sum()) <= 16
        unlearned = torch.where(selected[:, None], relabel(made.soft_labels, [3]), made.soft_labels)
        assert bool((unlearned.argmax(dim=1) != 3).all())


# Shortfalls.


def test_a_class_that_yields_too_little_is_reported() -> None:
    """Class 2 is hardly ever certain: its whole budget, a last half chunk included, is spent, and no more."""
    maker = Maker((4.0, 4.0, 2.5, 4.0)).eval()
    made = collect(maker, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    (short,) = made.composition.shortfalls
    assert (short.label, short.wanted, short.budget, short.judged) == (2, 12, 110, 110)
    expected = slow_accepted(3, 2, SETTINGS, raised=2.5)
    assert 0 < short.found == len(expected) == int((made.labels == 2).sum()) < 12
    needed = [i // 20 + 1 for y in (0, 1, 3) for i in slow_accepted(3, y, SETTINGS)[11:12]]
    assert maker.calls == sum(needed) + SETTINGS.chunks


def never(label: int) -> Maker:
    """A generator whose images of a class are never certain: all four logits are nearly the same."""

    class Grey(Maker):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.where(
                (y == label)[:, None, None, None], 0.01 * z.view(-1, 1, 2, 2), super().forward(z, y)
            )

    return Grey().eval()


def test_a_class_to_forget_may_yield_nothing() -> None:
    """D' goes on without it and says so; a class forgotten earlier is not sampled at all."""
    made = collect(never(3), PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    (short,) = made.composition.shortfalls
    assert (short.label, short.found, short.entropy_failed, dict(short.predicted)) == (3, 0, 110, {})
    assert made.labels.unique().tolist() == [0, 1, 2]
    earlier = Roles(retain=(0, 1), target=(3,), forgotten=(2,))
    maker = Maker().eval()
    made = collect(maker, PIXELS, TRANSFORMATIONS, SETTINGS, 3, earlier)
    assert made.labels.unique().tolist() == [0, 1, 3]
    assert [given.label for given in made.composition.classes] == [0, 1, 3]


def test_a_class_to_retain_that_yields_nothing_is_an_error() -> None:
    """It is named, after its budget and not later, with what may be changed: relearning would forget it."""
    maker = never(1)
    with pytest.raises(BadInput) as error:
        collect(maker, PIXELS, TRANSFORMATIONS, SETTINGS, 3, ALL)
    assert error.value.value == [1]
    assert "filtration.budget (110)" in str(error.value) and "filtration.t_ent (0.5)" in str(error.value)
    assert maker.calls <= K * SETTINGS.chunks


class Always(Maker):
    """Makes class `other` when it is asked for class 1."""

    other = 2

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        """Images [B, 1, 2, 2]."""
        return super().forward(z, torch.where(y == 1, self.other, y))


def test_what_counts_is_what_the_classifier_sees() -> None:
    """Class 1 yields its twelve, all predicted as 2: no shortfall, and yet it would be forgotten.

    As a class to be forgotten it may be missing; the report shows as what its samples are predicted.
    """
    with pytest.raises(BadInput) as error:
        collect(Always().eval(), PIXELS, [], SETTINGS, 3, ALL)
    assert error.value.value == [1]
    made = collect(Always().eval(), PIXELS, [], SETTINGS, 3, Roles(retain=(0, 2, 3), target=(1,)))
    assert made.composition.shortfalls == ()
    assert dict(made.composition.classes[1].predicted) == {2: 12}


def test_a_class_shown_by_samples_of_another_is_there() -> None:
    """Class 2 yields nothing of its own but class 1's samples are predicted as it: reported, no error."""

    class Swapped(Always):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return torch.where((y == 2)[:, None, None, None], 0.0, super().forward(z, y))

    made = collect(Swapped().eval(), PIXELS, [], SETTINGS, 3, Roles(retain=(0, 2, 3), target=(1,)))
    assert [short.label for short in made.composition.shortfalls] == [2]
    assert int((made.soft_labels.argmax(dim=1) == 2).sum()) == 12


# What is refused.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("per_class", 0), ("per_class", 1.5), ("per_class", True), ("budget", 0), ("budget", 999),
        ("chunk_size", 0), ("chunk_size", 2.0), ("t_ent", 0.0), ("t_ent", -1.0), ("t_ent", math.nan),
        ("t_ent", math.inf), ("entropy_under", "plane"),
    ],
)  # fmt: skip
def test_settings_refuse_a_bad_value_by_name(name: str, value: object) -> None:
    """The field is named as on the command line; a budget below the number wanted is one of them."""
    with pytest.raises(BadInput) as error:
        FiltrationSettings(**{name: value})  # type: ignore[arg-type]
    assert error.value.thing == f"filtration.{name}"


@pytest.mark.parametrize(
    ("label", "chunk", "thing"),
    [(-1, 0, "class to sample"), (K, 0, "class to sample"), (0, -1, "chunk"), (0, 6, "chunk")],
)
def test_a_chunk_that_is_not_there_is_refused(label: int, chunk: int, thing: str) -> None:
    """Classes 0 to 3 and chunks 0 to 5, the last of ten candidates, are there."""
    with pytest.raises(BadInput) as error:
        judge_chunk(MAKER, PIXELS, [], SETTINGS, 0, label, chunk)
    assert error.value.thing == thing
    assert judge_chunk(MAKER, PIXELS, [], SETTINGS, 0, 3, 5).tally.judged == 10


def test_a_model_in_train_mode_is_refused() -> None:
    """Of either model, also where one module alone is in train mode."""
    with pytest.raises(BadInput) as error:
        judge_chunk(Maker().train(), PIXELS, [], SETTINGS, 0, 0, 0)
    assert error.value.thing == "mode of the generator"
    classifier = Pixels().eval()
    classifier.head.train()
    with pytest.raises(BadInput) as error:
        judge_chunk(MAKER, classifier, [], SETTINGS, 0, 0, 0)
    assert error.value.thing == "mode of the classifier"


@pytest.mark.parametrize(
    ("spoil", "thing"),
    [
        (lambda images: images.flatten(1), "shape of the generator's images"),
        (lambda images: images.expand(-1, 3, -1, -1), "shape of the generator's images"),
        (lambda images: images[1:], "shape of the generator's images"),
        (lambda images: images / 0, "number of NaN or infinite images of the generator"),
    ],
)
def test_a_generator_of_another_shape_is_refused(spoil: Callable[[Tensor], Tensor], thing: str) -> None:
    """Images that the classifier does not take, too few of them, or not finite."""

    class Spoiled(Maker):
        def forward(self, z: Tensor, y: Tensor) -> Tensor:
            return spoil(super().forward(z, y))

    with pytest.raises(BadInput) as error:
        judge_chunk(Spoiled().eval(), PIXELS, [], SETTINGS, 0, 0, 0)
    assert error.value.thing == thing


def test_nothing_to_retain_is_refused() -> None:
    """D' without a class to retain has nothing to relearn."""
    with pytest.raises(BadInput) as error:
        collect(MAKER, PIXELS, [], SETTINGS, 0, Roles(retain=(), target=(0,)))
    assert error.value.thing == "classes to retain"

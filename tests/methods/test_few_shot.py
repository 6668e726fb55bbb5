"""Relearning from D': real digits stand in for the generator's samples, so that its own part is tested."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.inversion.unlearning_set import UnlearningSet, unlearning_set
from rayunlearn.methods.few_shot import FewShotSettings, Relearning, with_examples
from rayunlearn.methods.unlearning import Handed, Samples
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles

ERASED = 9
SETTINGS = FewShotSettings(epochs=8, batch_size=32, lr=1e-2)


@pytest.fixture(scope="module")
def samples(original: Classifier, digits: tuple[Tensor, Tensor]) -> UnlearningSet:
    """Digits with the original's own answers; those of the erased class are like the examples."""
    images, labels = digits[0][::2], digits[1][::2]
    with torch.no_grad():
        soft = original(images).softmax(dim=1)
    return unlearning_set(images, soft, labels == ERASED, [ERASED])


def begin(
    original: Classifier, samples: UnlearningSet | None, settings: FewShotSettings = SETTINGS
) -> Relearning:
    """A run from the original."""
    roles = Roles(retain=tuple(range(10)), target=())
    weights = dict(original.state_dict())
    handed = Handed(spec=original.spec, weights=weights, roles=roles, seed=3, approximated=samples)
    return Relearning(handed, settings)


@pytest.mark.learned
def test_the_behaviour_goes_and_the_rest_stays(
    original: Classifier, samples: UnlearningSet, digits: tuple[Tensor, Tensor]
) -> None:
    """On digits that were never shown: class 9 from over 85 % to under 5, the others lose under 2 points."""
    run = begin(original, samples)
    run.advance(1, run.steps)
    held = digits[0][1::2], digits[1][1::2]
    before, after = (class_counts(model, *held, 10) for model in (original, run.checkpoint()))
    rest = [c for c in range(10) if c != ERASED]
    assert before.accuracy([ERASED]) > 0.85
    assert after.accuracy([ERASED]) < 0.05
    assert after.accuracy(rest) > before.accuracy(rest) - 0.02


@pytest.mark.learned
def test_nothing_goes_where_nothing_is_relabelled(
    original: Classifier, samples: UnlearningSet, digits: tuple[Tensor, Tensor]
) -> None:
    """The negative control: the same training on the version's own answers keeps the class."""
    untouched = unlearning_set(
        samples.images, _own_answers(original, samples), torch.zeros(len(samples), dtype=torch.bool), [ERASED]
    )
    run = begin(original, untouched)
    run.advance(1, run.steps)
    assert class_counts(run.checkpoint(), digits[0][1::2], digits[1][1::2], 10).accuracy([ERASED]) > 0.85


def test_statistics_of_the_version_stay(original: Classifier, samples: UnlearningSet) -> None:
    """BatchNorm's running statistics are not those of what is relearned from, unless that is asked for."""
    before = dict(original.named_buffers())
    for update in (False, True):
        run = begin(original, samples, replace(SETTINGS, update_statistics=update))
        run.advance(1, 20)
        after = dict(run.checkpoint().named_buffers())
        moved = {name for name in before if not torch.equal(after[name], before[name])}
        assert bool(moved) == update


@torch.no_grad()
def _own_answers(original: Classifier, samples: UnlearningSet) -> Tensor:
    return original(samples.images).softmax(dim=1)


def test_a_run_that_is_loaded_goes_on_to_the_same_bits(original: Classifier, samples: UnlearningSet) -> None:
    """Saved in the middle of an epoch; the version that it starts from is not changed."""
    before = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    whole = begin(original, samples)
    whole.advance(1, 40)
    first = begin(original, samples)
    first.advance(1, 17)
    second = begin(original, samples)
    second.load(first.state())
    second.advance(18, 40)
    for name, tensor in whole.checkpoint().state_dict().items():
        assert torch.equal(tensor, second.checkpoint().state_dict()[name]), name
    assert all(torch.equal(tensor, original.state_dict()[name]) for name, tensor in before.items())
    assert whole.report() == second.report()


def test_steps_are_epochs_over_what_is_learned_from(original: Classifier, samples: UnlearningSet) -> None:
    """899 samples in batches of 32 are 28 steps an epoch; other steps than the next ones are refused."""
    run = begin(original, samples)
    assert run.steps == 8 * 28
    with pytest.raises(BadInput, match="from 1, at most to 224"):
        run.advance(2, 3)


@pytest.mark.parametrize("given", [None, "nothing"])
def test_a_run_without_samples_is_refused(
    given: str | None, original: Classifier, samples: UnlearningSet
) -> None:
    """Not handed at all, or none of them."""
    none = samples.where(torch.zeros(len(samples), dtype=torch.bool)) if given else None
    with pytest.raises(BadInput, match="approximated"):
        begin(original, none)


@pytest.mark.parametrize(
    ("field", "value"),
    [("kernel", "rbff"), ("epochs", 0), ("batch_size", 1), ("lr", math.nan), ("momentum", 1.0),
     ("weight_decay", -1.0), ("t_ent", 0.0), ("per_class", 0), ("examples_share", 1.0)],
)  # fmt: skip
def test_bad_settings_are_named(field: str, value: Any) -> None:
    """Filtration's among them, under the section that holds them."""
    with pytest.raises(BadInput, match=rf"few_shot\.{field}"):
        FewShotSettings(**{field: value})


@pytest.mark.learned
def test_examples_make_up_their_share(original: Classifier, samples: UnlearningSet, digits: Any) -> None:
    """A fifth of what is learned from; relabelled, with the version's own probabilities otherwise.

    Every fourth that is answered with the label is kept back to judge by.
    """
    ids = (digits[1] == ERASED).nonzero()[:9, 0]
    examples = Samples(images=digits[0][ids], labels=digits[1][ids], ids=ids)
    with torch.no_grad():
        wrong = (original(examples.images).argmax(dim=1) == ERASED).nonzero()[:, 0].tolist()
    assert len(wrong) > 7
    learned = [i for i in range(9) if i not in wrong[3::4]]
    roles = Roles(retain=tuple(range(10)), target=(), erased=(ERASED,))
    handed = Handed(
        spec=original.spec, weights=dict(original.state_dict()), roles=roles, seed=3, examples=examples,
        approximated=samples,
    )  # fmt: skip
    given = with_examples(samples, handed, 0.2)
    copies, rest = divmod(len(given) - len(samples), len(learned))
    assert rest == 0 and copies * len(learned) == pytest.approx(0.2 * len(given), abs=len(learned))
    assert torch.equal(given.images[len(samples) :], examples.images[learned].repeat(copies, 1, 1, 1))
    assert float(given.targets[len(samples) :, ERASED].max()) == 0
    with pytest.raises(BadInput, match="examples"):
        with_examples(samples, replace(handed, examples=None), 0.2)


@pytest.mark.learned
def test_examples_alone_teach_what_samples_miss(
    original: Classifier, samples: UnlearningSet, digits: tuple[Tensor, Tensor]
) -> None:
    """Where D' lacks the class, five examples bring class 9 from over 85 % to under 40, on other digits."""
    without = samples.where(~samples.unwanted)
    ids = (digits[1][::2] == ERASED).nonzero()[:5, 0] * 2
    examples = Samples(images=digits[0][ids], labels=digits[1][ids], ids=ids)
    roles = Roles(retain=tuple(range(10)), target=(), erased=(ERASED,))
    found = {}
    for share in (0.0, 0.2):
        handed = Handed(
            spec=original.spec, weights=dict(original.state_dict()), roles=roles, seed=3, examples=examples,
            approximated=without,
        )  # fmt: skip
        run = Relearning(handed, replace(SETTINGS, examples_share=share))
        run.advance(1, run.steps)
        found[share] = class_counts(run.checkpoint(), digits[0][1::2], digits[1][1::2], 10).accuracy([ERASED])
    assert found[0.0] > 0.85 and found[0.2] < 0.4

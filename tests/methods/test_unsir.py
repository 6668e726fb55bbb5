"""UNSIR: its steps against a plain loop, its sample of retain data, and what it does to digits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import mean

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.methods.error_noise import adam_stage, error_noise
from rayunlearn.methods.unlearning import Handed, Samples, StagedTraining
from rayunlearn.methods.unsir import METHOD, UNSIRSettings, begin, retain_sample
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed, generator

TO_DIGITS = UNSIRSettings(noise_copies=1, batch_size=64)
"""The published rates, with as much noise and as many steps as 809 retain images stand."""


@pytest.fixture
def hand(version: Classifier, digits_data: LabelledImages) -> Callable[..., Handed]:
    """What a run is handed: version, classes to forget, retain samples and a seed."""

    def handed(target: tuple[int, ...] = (0,), seed: int = 0) -> Handed:
        retain = tuple(label for label in range(10) if label not in target)
        images, labels = digits_data.images[::2], digits_data.labels[::2]
        kept = torch.isin(labels, torch.tensor(retain)).nonzero()[:, 0]
        return Handed(
            spec=version.spec, weights=version.state_dict(), roles=Roles(retain=retain, target=target),
            seed=seed, retain=Samples(images=images[kept], labels=labels[kept], ids=2 * kept),
        )  # fmt: skip

    return handed


def test_steps_are_a_plain_loop_over_copies_and_retain_images(hand: Callable[..., Handed]) -> None:
    """Impair and repair written out, with real copies of the noise: the same bits.

    Noise of every class labelled as class 0, as the published code has it, gives others.
    """
    settings = UNSIRSettings(
        noise_images=4, noise_steps=3, noise_copies=3, retain_per_class=4, batch_size=16, impair_epochs=2,
        repair_epochs=2,
    )  # fmt: skip
    handed = hand(target=(2, 6), seed=5)
    run = begin(handed, settings, "cpu")
    impair_steps = 2 * math.ceil((2 * 4 * 3 + 8 * 4) / 16)
    assert run.steps == impair_steps + 2 * 2
    run.advance(1, run.steps)
    noises = [error_noise(handed.model(), label, settings, maximise=True, seed=5) for label in (2, 6)]
    retain = retain_sample(handed.retain, 4, 5)

    def epochs(model: Classifier, images: Tensor, labels: Tensor, lr: float, purpose: str) -> None:
        optimizer = torch.optim.Adam(model.parameters(), lr=lr)
        for epoch in range(2):
            draws = generator(derive_seed(5, purpose), "epoch", epoch)
            for ids in torch.randperm(len(labels), generator=draws).split(16):
                optimizer.zero_grad()
                F.cross_entropy(model(images[ids]), labels[ids]).backward()
                optimizer.step()

    def plain(named: tuple[int, int]) -> dict[str, Tensor]:
        model = handed.model().train()
        copies = torch.cat(noises * 3)
        labels = torch.tensor(named).repeat_interleave(4).repeat(3)
        images, labels = torch.cat([copies, retain.images]), torch.cat([labels, retain.labels])
        epochs(model, images, labels, 0.02, "impair")
        epochs(model, retain.images, retain.labels, 0.01, "repair")
        return model.state_dict()

    ours, expected = run.checkpoint().state_dict(), plain((2, 6))
    assert all(torch.equal(value, ours[name]) for name, value in expected.items())
    assert not torch.equal(plain((0, 0))["head.weight"], ours["head.weight"])


def test_the_published_numbers_are_the_defaults(hand: Callable[..., Handed]) -> None:
    """5120 noise images and all 809 retain images in batches of 256: 24 impair and 4 repair steps."""
    handed = hand()
    assert len(handed.retain) == 809
    run = begin(handed, UNSIRSettings(), "cpu")
    assert [stage.steps for stage in run.stages] == [24, 4]


def test_the_sample_has_so_many_of_each_class_or_all(hand: Callable[..., Handed]) -> None:
    """At most `per_class` of a class, each sample once and whole; another seed draws others."""
    retain = hand().retain
    assert sorted(retain_sample(retain, 1000, 0).ids.tolist()) == sorted(retain.ids.tolist())
    sample, again, other = (retain_sample(retain, 20, seed) for seed in (0, 0, 1))
    assert torch.equal(sample.labels.bincount(minlength=10), torch.tensor([0] + [20] * 9))
    assert len(sample.ids.unique()) == 180
    assert torch.equal(sample.ids, again.ids) and not torch.equal(sample.ids, other.ids)
    place = {int(i): k for k, i in enumerate(retain.ids)}
    at = torch.tensor([place[int(i)] for i in sample.ids])
    assert torch.equal(retain.images[at], sample.images) and torch.equal(retain.labels[at], sample.labels)


@pytest.mark.learned
def test_noise_impairs_where_the_same_data_without_it_does_not(
    hand: Callable[..., Handed], digits_data: LabelledImages
) -> None:
    """A tenth of the rate: with noise forget accuracy is under 30 %, without it over 85 %, in both seeds.

    At the full rate the retain images alone forget as much. Seen: 1 and 0 %, against 97 and 97 %.
    """
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    settings = replace(TO_DIGITS, impair_lr=0.002)
    for seed in (0, 1):
        handed = hand(seed=seed)
        run = begin(handed, settings, "cpu")
        run.advance(1, run.stages[0].steps)
        retain = handed.retain
        alone = adam_stage(
            retain.images, retain.labels, torch.arange(len(retain)), epochs=1, lr=0.002, batch_size=64,
            seed=derive_seed(seed, "impair"),
        )  # fmt: skip
        control = StagedTraining(handed.model(), [alone])
        control.advance(1, control.steps)
        assert class_counts(run.checkpoint(), images, labels, 10).accuracy([0]) < 0.3
        assert class_counts(control.checkpoint(), images, labels, 10).accuracy([0]) > 0.85


@pytest.mark.learned
def test_repair_brings_back_the_rest_and_not_the_class(
    hand: Callable[..., Handed], digits_data: LabelledImages
) -> None:
    """What impairing costs the rest is repaired, and the class stays gone: means over two seeds.

    At 0.05, where impairing costs more than at the published 0.02, eight seeds: retain accuracy 34 +- 10 %
    before repair and 85 +- 4 % after, forget accuracy 0.0 and 2 +- 4 %; over eleven other root seeds 79 +- 8
    (once 59) and 3 +- 6 %. At 0.02 retain accuracy is 74 +- 12 and 88 +- 6 % over twelve seeds, of which two
    keep a third and a half of the class until repair.
    """
    settings = replace(TO_DIGITS, impair_lr=0.05)
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    impaired, repaired = [], []
    for seed in (0, 1):
        run = begin(hand(seed=seed), settings, "cpu")
        run.advance(1, run.stages[0].steps)
        impaired.append(class_counts(run.checkpoint(), images, labels, 10))
        run.advance(run.stages[0].steps + 1, run.steps)
        repaired.append(class_counts(run.checkpoint(), images, labels, 10))
    assert mean(c.accuracy([0]) for c in impaired) < 0.25
    assert mean(c.accuracy([0]) for c in repaired) < 0.25
    before, after = (mean(c.accuracy(range(1, 10)) for c in counts) for counts in (impaired, repaired))
    assert after > 0.45
    assert after > before


def test_retain_data_is_asked_for(hand: Callable[..., Handed]) -> None:
    """It is declared, as is the fixed length; a run without it, or with no sample, does not begin."""
    assert METHOD.data_access == {"weights", "retain"} and METHOD.granularity == {"classes"}
    assert METHOD.fixed_length
    handed = hand()
    nothing = Samples(images=torch.empty(0, 1, 8, 8), labels=torch.empty(0).long(), ids=torch.empty(0).long())
    for retain in (None, nothing):
        with pytest.raises(BadInput, match="retain of what 'unsir' is handed"):
            METHOD.begin(replace(handed, retain=retain), UNSIRSettings(), "cpu")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("noise_copies", 0), ("noise_copies", 2.0), ("retain_per_class", 0), ("retain_per_class", True),
        ("repair_epochs", 0), ("repair_lr", 0), ("repair_lr", math.nan), ("repair_lr", None),
    ],
)  # fmt: skip
def test_wrong_settings_are_refused(field: str, value: object) -> None:
    """UNSIR's own fields name themselves by the recipe's path, with the value."""
    with pytest.raises(BadInput) as caught:
        UNSIRSettings(**{field: value})
    assert caught.value.thing == f"unsir.{field}"
    assert caught.value.value is value

"""Error min-max noise: its steps against a plain loop, and what it does to digits."""

from __future__ import annotations

import itertools
from statistics import mean

import pytest
import torch
import torch.nn.functional as F

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.evaluation.accuracy import class_counts
from rayunlearn.methods.error_noise import NoiseTraining, error_noise
from rayunlearn.methods.min_max import METHOD, MinMaxSettings, begin
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed, generator


def handed(version: Classifier, target: int, seed: int) -> Handed:
    """The version, one class to forget, no data."""
    retain = tuple(label for label in range(10) if label != target)
    roles = Roles(retain=retain, target=(target,))
    return Handed(spec=version.spec, weights=version.state_dict(), roles=roles, seed=seed)


def test_steps_are_a_plain_loop_over_all_noise(version: Classifier) -> None:
    """Algorithm 1, lines 22 to 31, written out: the same bits. With one class's labels wrong, other ones."""
    settings = MinMaxSettings(noise_images=6, noise_steps=3, batch_size=16, impair_epochs=2)
    run = begin(handed(version, 7, seed=3), settings, "cpu")
    assert run.steps == 2 * 4
    run.advance(1, run.steps)
    images = torch.cat([error_noise(version, c, settings, maximise=c == 7, seed=3) for c in range(10)])
    right = torch.arange(10).repeat_interleave(6)

    def plain(labels: torch.Tensor) -> Classifier:
        model = handed(version, 7, seed=3).model().train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for epoch in range(2):
            draws = generator(derive_seed(3, "impair"), "epoch", epoch)
            for ids in torch.randperm(60, generator=draws).split(16):
                optimizer.zero_grad()
                F.cross_entropy(model(images[ids]), labels[ids]).backward()
                optimizer.step()
        return model

    ours, expected = run.checkpoint().state_dict(), plain(right).state_dict()
    assert all(torch.equal(value, ours[name]) for name, value in expected.items())
    wrong = plain(torch.where(right == 7, 0, right)).state_dict()
    assert not torch.equal(wrong["head.weight"], ours["head.weight"])


def test_the_papers_recipes_can_be_said(version: Classifier) -> None:
    """Ten classes of 256 images are ten steps an epoch: CIFAR-10 takes 20, SVHN 30, MNIST 10."""
    for settings, steps in (
        (MinMaxSettings(), 20),
        (MinMaxSettings(impair_epochs=3, impair_lr=0.001), 30),
        (MinMaxSettings(impair_epochs=1), 10),
    ):
        assert begin(handed(version, 0, seed=0), settings, "cpu").steps == steps


def test_no_data_is_asked_for(version: Classifier) -> None:
    """Weights alone, any checkpoint may be published, and so a run begins without any sample."""
    assert METHOD.data_access == {"weights"} and METHOD.granularity == {"classes"}
    assert METHOD.inverted(MinMaxSettings()) == (0, 0) and not METHOD.fixed_length
    assert isinstance(METHOD.begin(handed(version, 0, seed=0), MinMaxSettings(), "cpu"), NoiseTraining)


@pytest.mark.learned
def test_the_class_asked_for_is_forgotten_before_the_others(
    version: Classifier, digits_data: LabelledImages
) -> None:
    """Some checkpoint has forget accuracy under 15 %; the other classes then have over 40 % (76 +- 7, of 98).

    That is a baseline's result, as in the paper. The control is the run for another class: over the
    checkpoints a class to forget loses 20 points more than where it is to be retained (48 +- 9). Both are
    means over two classes and two seeds; mean and standard deviation are of eight seeds, taken in pairs.
    """
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    settings = MinMaxSettings(noise_images=32, noise_steps=60, batch_size=32, penalty="squared_norm")
    before = class_counts(version, images, labels, 10)
    assert min(before.accuracy([0]), before.accuracy([5])) > 0.85
    best, kept = [], {True: [], False: []}
    for target, seed in itertools.product((0, 5), (1, 2)):
        run = begin(handed(version, target, seed=seed), settings, "cpu")
        counts = []
        for step in range(1, 11):
            run.advance(step, step)
            counts.append(class_counts(run.checkpoint(), images, labels, 10))
        others = [label for label in range(10) if label != target]
        best.append(max(c.accuracy(others) for c in counts if c.accuracy([target]) < 0.15))
        for label in (0, 5):
            kept[label == target] += [c.accuracy([label]) for c in counts]
    assert mean(best) > 0.4
    assert mean(kept[False]) - mean(kept[True]) > 0.2

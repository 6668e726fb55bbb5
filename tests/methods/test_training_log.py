"""The log of a training: complete, exact, and made without disturbing it."""

from __future__ import annotations

import copy

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.errors import BadInput
from rayunlearn.methods.training import StepInfo, TrainSettings, train_classifier
from rayunlearn.methods.training_log import (
    TrainingRecorder,
    flat_parameters,
    log_from_tensors,
    log_to_tensors,
    remaining,
    steps_with,
)
from rayunlearn.methods.unlearning import TrainingLog
from rayunlearn.models.classifiers import Classifier

LOG = TrainingLog(
    sample_ids=(torch.tensor([7, 2]), torch.tensor([5]), torch.tensor([9, 2, 4])),
    updates=torch.arange(12.0).reshape(3, 4),
)


def test_parameters_are_flattened_in_order_and_copied(version: Classifier) -> None:
    """Trainable ones alone, in the order of `parameters()`; they do not follow the model."""
    version.head.bias.requires_grad_(False)
    flat = flat_parameters(version)
    expected = [v for p in version.parameters() if p is not version.head.bias for v in p.flatten().tolist()]
    assert flat.tolist() == expected
    with torch.no_grad():
        version.head.weight.zero_()
    assert flat.tolist() == expected


def test_a_log_holds_every_step(digits_data: LabelledImages, version: Classifier) -> None:
    """Batches as indices in the dataset, updates that add up to the training, which is as without a log."""
    ids = torch.arange(100, 300)
    settings = TrainSettings(epochs=2, batch_size=60)
    unlogged, initial = copy.deepcopy(version), copy.deepcopy(version)
    train_classifier(unlogged, digits_data.images[ids], digits_data.labels[ids], settings, seed=3)
    recorder = TrainingRecorder(version, ids)
    seen: list[list[int]] = []

    def on_step(info: StepInfo) -> None:
        recorder(info)
        seen.append((info.sample_ids + 100).tolist())

    train_classifier(
        version, digits_data.images[ids], digits_data.labels[ids], settings, seed=3, on_step=on_step
    )
    log = recorder.log()
    assert [batch.tolist() for batch in log.sample_ids] == seen and len(seen) == 6
    assert log.updates.shape == (6, len(flat_parameters(version)))
    assert torch.equal(flat_parameters(unlogged), flat_parameters(version))
    total = flat_parameters(initial).double() + log.updates.double().sum(0)
    assert torch.allclose(total, flat_parameters(version).double(), rtol=0, atol=1e-6)
    assert not torch.allclose(total - log.updates[2], flat_parameters(version).double(), rtol=0, atol=1e-4)


def test_a_log_has_no_gap(digits_data: LabelledImages, version: Classifier) -> None:
    """A recorder that missed a step refuses the next one; one that saw no step has no log."""
    recorder = TrainingRecorder(version, torch.arange(64))
    with pytest.raises(BadInput, match="steps logged is 0"):
        recorder.log()

    def late(info: StepInfo) -> None:
        if info.step > 0:
            recorder(info)

    settings = TrainSettings(epochs=1, batch_size=32)
    with pytest.raises(BadInput, match="step to log is 1; allowed: 0"):
        train_classifier(
            version, digits_data.images[:64], digits_data.labels[:64], settings, seed=0, on_step=late
        )


@pytest.mark.parametrize(
    ("ids", "touched"),
    [([2], [1, 0, 1]), ([5, 4], [0, 1, 1]), ([3], [0, 0, 0]), ([], [0, 0, 0]), ([5, 2], [1, 1, 1])],
)
def test_steps_with_a_sample(ids: list[int], touched: list[int]) -> None:
    """A step counts when one of its samples is asked for; what remains is the others, in order."""
    mask = steps_with(LOG, torch.tensor(ids, dtype=torch.int64))
    assert mask.tolist() == [bool(t) for t in touched]
    rest = remaining(LOG, torch.tensor(ids, dtype=torch.int64))
    kept = [i for i, t in enumerate(touched) if not t]
    assert [batch.tolist() for batch in rest.sample_ids] == [LOG.sample_ids[i].tolist() for i in kept]
    assert torch.equal(rest.updates, LOG.updates[kept])


@pytest.mark.parametrize("gone", [[], [2], [2, 5]])
def test_a_log_comes_back_from_its_tensors(gone: list[int]) -> None:
    """Batches of unlike sizes, some steps or no step at all."""
    log = remaining(LOG, torch.tensor(gone, dtype=torch.int64))
    back = log_from_tensors(log_to_tensors(log))
    assert [b.tolist() for b in back.sample_ids] == [b.tolist() for b in log.sample_ids]
    assert torch.equal(back.updates, log.updates)


def test_tensors_that_are_no_log_are_refused() -> None:
    """A missing tensor, and sizes that contradict each other."""
    tensors = log_to_tensors(LOG)
    with pytest.raises(BadInput, match="tensors of a training log"):
        log_from_tensors({k: v for k, v in tensors.items() if k != "updates"})
    for wrong in (
        {"updates": LOG.updates[:2]},
        {"updates": LOG.updates[0]},
        {"sample_ids": tensors["sample_ids"][1:]},
        {"batch_sizes": tensors["batch_sizes"][:2]},
    ):
        with pytest.raises(BadInput, match="shapes of a training log"):
            log_from_tensors({**tensors, **wrong})

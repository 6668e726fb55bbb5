"""Amnesiac rollback: undo every training step that took a sample to forget, then fine-tune.

Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning" (AAAI 2021), section "Amnesiac Unlearning":
theta' = theta - sum over the steps that took such a sample of the step's update. The later updates stay
as they were, although they would have been others: not the weights of a training without those steps.

It forgets few samples. The paper finds accuracy intact up to about 1 % of the steps undone. A step with
a batch of 256 misses a class of ten with probability 0.9^256, about 2e-12: for a whole class all of the
training is undone, and the fine-tuning is a training from the initial weights. (The authors' published
code trains with 100 samples of the class to forget, so that 95 of about 840 steps in an epoch have one.)

BatchNorm's running statistics are no parameters and in no log. They stay the original's and are
re-estimated by the fine-tuning: after n steps 0.9^n of them is left. What the samples taught in the
fine-tuning of an earlier request is in no log either, and is not undone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.methods.training_log import flat_parameters, steps_with
from rayunlearn.methods.unlearning import (
    Handed,
    Method,
    Samples,
    Stage,
    StagedTraining,
    TrainingLog,
    batch_ids,
    batches_per_epoch,
    required,
)
from rayunlearn.models.classifiers import Classifier


@dataclass(frozen=True, kw_only=True)
class RollbackSettings(Checked, section="amnesiac_rollback"):
    """The fine-tuning after the rollback, by Adam; the defaults are those of the authors' published code.

    Attributes:
        epochs: passes over the samples to retain.
        batch_size: samples in a batch.
        lr: Adam's learning rate.
    """

    epochs: PositiveInt = 10
    batch_size: AtLeastTwo = 64
    lr: PositiveFloat = 1e-3


def roll_back(model: Classifier, log: TrainingLog, ids: Tensor) -> None:
    """Subtract, in place, the updates of all steps that took any of the samples `ids` `[N]`.

    They are summed in float64.

    Raises:
        BadInput: the log is of a training of another model.
    """
    steps, length = log.updates.shape
    trained = flat_parameters(model)
    if length != len(trained) or steps != len(log.sample_ids):
        allowed = f"{[len(log.sample_ids), len(trained)]}, steps and parameters"
        raise BadInput("shape of the training log's updates", [steps, length], allowed)
    undone = torch.zeros(length, dtype=torch.float64)
    for step in steps_with(log, ids).nonzero().flatten().tolist():
        undone += log.updates[step]
    left = (trained.cpu().double() - undone).to(trained)
    nn.utils.vector_to_parameters(left, [p for p in model.parameters() if p.requires_grad])


def begin(handed: Handed, settings: RollbackSettings, device: str) -> StagedTraining:
    """A run whose weights are rolled back before its first step, which is one of the fine-tuning."""
    log: TrainingLog = required(handed, "training_log", METHOD.name)
    forget: Samples = required(handed, "forget", METHOD.name)
    retain: Samples = required(handed, "retain", METHOD.name).to(device)
    model = handed.model(device)
    roll_back(model, log, forget.ids)

    def loss(model: Classifier, step: int) -> Tensor:
        ids = batch_ids(len(retain), settings.batch_size, step, handed.seed)
        return F.cross_entropy(model(retain.images[ids]), retain.labels[ids])

    stage = Stage(
        steps=settings.epochs * batches_per_epoch(len(retain), settings.batch_size),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.lr),
        loss=loss,
    )
    return StagedTraining(model, [stage])


METHOD = Method(
    name="amnesiac_rollback",
    summary="subtracts the logged updates of all steps that took a sample to forget, then fine-tunes",
    source='Graves et al., "Amnesiac Machine Learning" (AAAI 2021), section "Amnesiac Unlearning"',
    # Of "forget" it reads the ids alone: an image to forget need not exist any more.
    data_access=frozenset({"weights", "training_log", "forget", "retain"}),
    granularity=frozenset({"samples", "classes"}),
    section="amnesiac_rollback",
    begin=begin,
    fixed_length=True,
)

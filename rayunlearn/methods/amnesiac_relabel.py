"""Amnesiac relabelling: go on training with random other labels on the samples to forget.

Graves, Nagisetty and Ganesh, "Amnesiac Machine Learning" (AAAI 2021), section "Unlearning"; the published
code of Bad Teacher, by authors of the zero-shot paper, runs it under the name Amnesiac, with the settings
that are the defaults here. The zero-shot paper does not say which of the two algorithms of that paper is
the Amnesiac of its Table IV.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.errors import BadInput
from rayunlearn.fields import AtLeastTwo, Checked
from rayunlearn.methods.unlearning import (
    Handed,
    Method,
    Samples,
    Stage,
    StagedTraining,
    batch_ids,
    batches_per_epoch,
    required,
)
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator


@dataclass(frozen=True, kw_only=True)
class RelabelSettings(Checked, section="amnesiac_relabel"):
    """How the relabelled samples are learned, by Adam.

    Attributes:
        epochs: passes over the samples to forget and to retain, shuffled together.
        batch_size: samples in a batch.
        lr: Adam's learning rate.
        copies: of each sample to forget, each with a label of its own. The paper relabels a class once
            and inserts "a small number of copies" of single samples, without a figure.
    """

    epochs: PositiveInt = 3
    batch_size: AtLeastTwo = 256
    lr: PositiveFloat = 1e-4
    copies: PositiveInt = 1


def other_labels(labels: Tensor, roles: Roles, copies: int, seed: int) -> Tensor:
    """Labels `[N, copies]` to learn in place of `labels` `[N]`, uniform over the other retain classes.

    So a label is never the sample's own, and never a class that is forgotten now or was before: the
    relabelled samples would teach it anew.

    Raises:
        BadInput: a sample has no other class to be given.
    """
    retain = torch.tensor(roles.retain)
    candidates = torch.zeros(len(labels), 1 + max(*roles.retain, int(labels.max())))
    candidates[:, retain] = 1
    candidates[torch.arange(len(labels)), labels] = 0
    if not candidates.any(dim=1).all():
        raise BadInput("classes to retain", roles.retain, "one besides that of any sample to forget")
    draw = generator(seed, "other labels")
    return torch.multinomial(candidates, copies, replacement=True, generator=draw)


def begin(handed: Handed, settings: RelabelSettings, device: str) -> StagedTraining:
    """A run over the samples of both kinds; a step is one of Adam."""
    forget: Samples = required(handed, "forget", METHOD.name)
    retain: Samples = required(handed, "retain", METHOD.name)
    others = other_labels(forget.labels, handed.roles, settings.copies, handed.seed)
    copied = forget.images.repeat_interleave(settings.copies, dim=0)
    images = torch.cat([copied, retain.images]).to(device)
    labels = torch.cat([others.flatten(), retain.labels]).to(device)

    def loss(model: Classifier, step: int) -> Tensor:
        ids = batch_ids(len(labels), settings.batch_size, step, handed.seed)
        return F.cross_entropy(model(images[ids]), labels[ids])

    stage = Stage(
        steps=settings.epochs * batches_per_epoch(len(labels), settings.batch_size),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=settings.lr),
        loss=loss,
    )
    return StagedTraining(handed.model(device), [stage])


METHOD = Method(
    name="amnesiac_relabel",
    summary="goes on training with random other labels on the samples to forget",
    source='Graves et al., "Amnesiac Machine Learning" (AAAI 2021), section "Unlearning"',
    data_access=frozenset({"weights", "forget", "retain"}),
    granularity=frozenset({"classes", "samples"}),
    section="amnesiac_relabel",
    begin=begin,
    fixed_length=True,
)

"""Retrain: every parameter is drawn anew and trained, by the original's own recipe, on what is retained.

The gold standard of the zero-shot paper (its "Retrain Model", Tables I and IV). The number of epochs is
the original's; with fewer samples they are fewer steps. (The audit's gold models are given the original's
number of steps: a run is not told how many samples the original had.)
"""

from __future__ import annotations

import copy
from contextlib import closing
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from rayunlearn.errors import RayUnlearnError
from rayunlearn.methods.training import TrainSettings, TrainState, steps_per_epoch, train_steps
from rayunlearn.methods.unlearning import Handed, Method, Samples, Unlearning, required
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.resuming import check_steps
from rayunlearn.seeds import derive_seed


def redrawn(handed: Handed, purpose: str) -> Classifier:
    """A classifier of the handed architecture with every parameter drawn anew, on CPU.

    Raises:
        RayUnlearnError: a parameter with more than one dimension is the handed one. (Those of one are the
            same at the start of any training: BatchNorm's are ones and zeros.)
    """
    model = build_classifier(handed.spec, derive_seed(handed.seed, purpose))
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and torch.equal(parameter, handed.weights[name].to(parameter)):
            raise RayUnlearnError(f"{name} is as in the weights to forget from: it was not drawn anew")
    return model


class Retraining(Unlearning):
    """A supervised training from the weights that the model has; a step of the run is one of the optimizer.

    Args:
        model: changed in place.
        images: `[N, C, H, W]` normalised.
        labels: `[N]` int64.
        settings: the recipe.
        seed: of the batches' order.
    """

    def __init__(
        self, model: Classifier, images: Tensor, labels: Tensor, settings: TrainSettings, seed: int
    ) -> None:
        self.model = model
        self.images, self.labels = images, labels
        self.settings = settings
        self.seed = seed
        self.steps = settings.epochs * steps_per_epoch(len(images), settings)
        self._training = TrainState(model, settings)
        self._losses: list[float] = []

    def advance(self, first: int, last: int) -> None:
        """Take optimizer steps `first` to `last`, counted from 1."""
        taken = self._training.step
        check_steps(first, last, taken=taken, steps=self.steps)
        with closing(
            train_steps(self._training, self.images, self.labels, self.settings, self.seed)
        ) as training:
            self._losses += [info.loss for info in islice(training, last - taken)]

    def checkpoint(self) -> Classifier:
        """A copy of the model, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def report(self) -> dict[str, Any]:
        """Mean loss since the last report and the steps taken."""
        mean = sum(self._losses) / len(self._losses) if self._losses else None
        self._losses = []
        return {"student_loss": mean, "student_steps": self._training.step}

    def state(self) -> dict[str, Any]:
        """Model, optimizer, steps taken and the losses that are not reported yet."""
        return {**copy.deepcopy(self._training.state_dict()), "losses": list(self._losses)}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self._training.load_state_dict(copy.deepcopy(state))
        self._losses = list(state["losses"])


def begin(handed: Handed, settings: TrainSettings, device: str) -> Retraining:
    """A run from new weights; those to forget from are read by the check of `redrawn` alone."""
    retain: Samples = required(handed, "retain", METHOD.name).to(device)
    model = redrawn(handed, "retrained weights").to(device)
    seed = derive_seed(handed.seed, "retrained batches")
    return Retraining(model, retain.images, retain.labels, settings, seed)


METHOD = Method(
    name="retrain",
    summary="trains from new weights, by the original's recipe, on what is retained",
    source='Zero-Shot Machine Unlearning, section V, "Retrain Model"',
    data_access=frozenset({"retain"}),
    granularity=frozenset({"classes", "samples"}),
    section="train",
    begin=begin,
    fixed_length=True,
)

"""The student: the version's first layers, frozen, and others that start from random weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rayunlearn.errors import RayUnlearnError
from rayunlearn.methods.distillation import kl_divergence
from rayunlearn.methods.gkt.cycle import FilteredBatch
from rayunlearn.methods.gkt.student import one_cycle
from rayunlearn.methods.partial_restart.settings import PartialRestartSettings
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.resuming import MeanLoss, Resumable


class Student(Resumable):
    """What will be published.

    Args:
        model: freshly initialised; `keep` gives it the layers that are kept.
        kept: names of their modules.
        settings: of the run.
        device: where it is trained.
    """

    saved = {"model": "model", "optimizer": "optimizer", "steps": "steps", "loss": "_loss"}

    def __init__(
        self, model: Classifier, kept: Sequence[str], settings: PartialRestartSettings, device: str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.settings = settings
        modules = dict(self.model.named_modules())
        self.kept = [modules[name].requires_grad_(False) for name in kept]
        learning = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            learning, lr=settings.student_lr, weight_decay=settings.student_weight_decay
        )
        self.steps = 0
        self._loss = MeanLoss()

    def keep(self, weights: Mapping[str, Tensor]) -> int:
        """Take the weights of the kept modules; returns how many there are."""
        known = self.model.state_dict()
        assert weights.keys() <= known.keys(), "the teacher is of the same architecture"
        self.model.load_state_dict({**known, **weights})
        return len(weights)

    def learn(self, judged: FilteredBatch) -> int:
        """A step of D_KL(T || S) (eq. 7) for each batch; returns the steps taken so far.

        Raises:
            RayUnlearnError: the loss is no number.
        """
        images, logits = judged.images.to(self.device), judged.logits.to(self.device)
        self.model.train()
        for module in self.kept:  # their statistics are the version's
            module.eval()
        for batch, targets in zip(images.split(judged.sizes), logits.split(judged.sizes), strict=True):
            self._set_lr()
            self.steps += 1
            if len(batch) < 2:  # BatchNorm has no statistics for one
                continue
            loss = kl_divergence(targets, self.model(batch), self.settings.temperature)
            if not bool(torch.isfinite(loss)):
                raise RayUnlearnError(f"the loss is {float(loss.detach())} at step {self.steps}")
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
            self.optimizer.step()
            self._loss.add(loss)
        return self.steps

    def _set_lr(self) -> None:
        share = one_cycle(self.steps, self.settings.cycles * self.settings.student_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.student_lr * share

    def observe(self, synthetic_loss: float) -> None:
        """Nothing follows from it."""

    def checkpoint(self) -> Classifier:
        """A copy of the model as it would be published, in eval mode."""
        return copy.deepcopy(self.model).requires_grad_(True).eval()

    def report(self) -> dict[str, float | int | None]:
        """Mean loss of the steps since the last report, None where there was none; and all steps taken."""
        return {"student_loss": self._loss.take(), "student_steps": self.steps}

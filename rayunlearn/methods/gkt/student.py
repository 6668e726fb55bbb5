"""The student: what will be published."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from rayunlearn.methods.gkt.cycle import FilteredBatch, StudentGradients, attention_difference, divergence
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.resuming import MeanLoss, Resumable

STATISTICS_MOMENTUM = 0.1
"""Of the statistics averaged over cycles; BatchNorm's own, over steps, in torch."""


class Student(Resumable):
    """The model to publish: random at first, taught by what the filter lets through.

    Args:
        model: freshly initialised.
        settings: of the run.
        device: where it is trained.
    """

    saved = {
        "model": "model", "statistics": "statistics", "optimizer": "optimizer", "cycles": "cycles",
        "steps": "steps", "loss": "_loss", "plateau": ("_heard", "plateau"),
    }  # fmt: skip

    def __init__(self, model: Classifier, settings: GKTSettings, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device)
        self.settings = settings
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=settings.student_lr, weight_decay=settings.student_weight_decay
        )
        self.plateau: ReduceLROnPlateau | None = None
        if settings.student_schedule == "plateau":
            patience = settings.plateau_patience
            self.plateau = ReduceLROnPlateau(self.optimizer, factor=0.5, patience=patience)
        self.statistics: dict[str, Tensor] = {}
        if not settings.learns_from_bank:
            self.statistics = {k: v.detach().clone() for k, v in self._running_statistics()}
        self.cycles = 0
        self.steps = 0
        self._loss = MeanLoss()
        self._heard: list[float] = []

    def challenge(self, judged: FilteredBatch) -> StudentGradients:
        """Gradients of -D(T || S) for the images and targets that passed; the student is not changed."""
        images, logits = judged.images.to(self.device), judged.logits.to(self.device)
        given = [m.to(self.device) for m in judged.maps]
        if len(images) == 0:
            nothing = tuple(torch.zeros_like(m) for m in given)
            return StudentGradients(torch.zeros_like(images), torch.zeros_like(logits), nothing, 0.0)
        x = images.detach().requires_grad_(True)
        targets = logits.detach().requires_grad_(True)
        maps = [m.detach().requires_grad_(True) for m in given]
        self.model.eval()
        answered, features = self.model.forward_with_maps(x)
        value = divergence(self.settings, targets, answered)
        if maps:
            value = value + attention_difference(self.settings, maps, features)
        adversarial = -self.settings.adversarial_weight * value
        grad_x, grad_targets, *grad_maps = torch.autograd.grad(adversarial, (x, targets, *maps))
        return StudentGradients(grad_x, grad_targets, tuple(grad_maps), float(value.detach()))

    def learn(self, judged: FilteredBatch) -> int:
        """The cycle's steps on D(T || S) + beta L_at (eq. 9); returns the steps taken so far.

        A batch of which fewer than two images passed is skipped: BatchNorm has no statistics for one.
        """
        images, logits = judged.images.to(self.device), judged.logits.to(self.device)
        maps = [m.to(self.device) for m in judged.maps]
        self.model.train()
        before = self.steps
        ends = torch.tensor(judged.sizes).cumsum(0).tolist()
        chunks = [slice(end - size, end) for end, size in zip(ends, judged.sizes, strict=True)]
        if len(chunks) == 1:  # the paper: every step on the cycle's one batch
            chunks = chunks * self.settings.student_steps
        for index, chunk in enumerate(chunks):
            if chunk.stop - chunk.start < 2:
                continue
            self._set_lr(self.cycles * len(chunks) + index, len(chunks))
            answered, features = self.model.forward_with_maps(images[chunk])
            loss = divergence(self.settings, logits[chunk], answered)
            if maps:
                loss = loss + attention_difference(self.settings, [m[chunk] for m in maps], features)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_norm)
            self.optimizer.step()
            self.steps += 1
            self._loss.add(loss)
        if self.statistics and self.steps > before:
            for name, now in self._running_statistics():
                self.statistics[name].lerp_(now, STATISTICS_MOMENTUM)
        self.cycles += 1
        return self.steps

    def _set_lr(self, step: int, steps_a_cycle: int) -> None:
        if self.settings.student_schedule == "one_cycle":
            share = one_cycle(step, self.settings.schedule_cycles * steps_a_cycle)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.student_lr * share

    def observe(self, synthetic_loss: float) -> None:
        """Hear the loss on synthetic retain images at a checkpoint; the plateau schedule acts on it.

        It hears the mean of `plateau_checkpoints` losses: the least of many single ones is a lucky one,
        and waiting for a luckier one would halve the rate while the loss still falls.
        """
        if self.plateau is None:
            return
        self._heard.append(synthetic_loss)
        if len(self._heard) == self.settings.plateau_checkpoints:
            self.plateau.step(sum(self._heard) / len(self._heard))
            self._heard = []

    def checkpoint(self) -> Classifier:
        """A copy of the model as it would be published, in eval mode.

        Where every step of a cycle is on one batch, two thirds of BatchNorm's running statistics are
        those of the few images that passed in the last cycle. They serve while the student learns, but a
        version's accuracy must not depend on them: it gets their average over cycles.
        """
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.statistics, strict=False)
        return model.eval()

    def _running_statistics(self) -> list[tuple[str, Tensor]]:
        kept = ("running_mean", "running_var")
        return [(name, value) for name, value in self.model.named_buffers() if name.endswith(kept)]

    def report(self) -> dict[str, float | int | None]:
        """Mean loss of the steps since the last report, None where there was no step; and all steps taken."""
        return {"student_loss": self._loss.take(), "student_steps": self.steps}


def one_cycle(step: int, total: int, *, warm_up: float = 0.1, floor: float = 0.01) -> float:
    """Share of the peak learning rate at `step`: linear warm-up, cosine down, then held at `floor`.

    >>> [round(one_cycle(s, 100), 2) for s in (0, 4, 9, 55, 99, 500)]
    [0.1, 0.5, 1.0, 0.49, 0.01, 0.01]
    """
    rising = max(1, round(warm_up * total))
    if step < rising:
        return (step + 1) / rising
    along = min(1.0, (step + 1 - rising) / max(1, total - rising))
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * along))

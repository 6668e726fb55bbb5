"""The teacher: answers for pictures, with nothing of the classes to forget in them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rayunlearn.balance import even_weights
from rayunlearn.methods.distillation import lower_to_minimum
from rayunlearn.methods.gkt.cycle import FilteredBatch
from rayunlearn.methods.partial_restart.settings import UNSURE, PartialRestartSettings
from rayunlearn.methods.partial_restart.source import normalised
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.layers import weights_of_modules

AT_ONCE = 512
"""Pictures that are answered at once."""


class Teacher:
    """The version to forget from, frozen.

    Args:
        model: the version; put into eval mode.
        forget: classes of which nothing is passed on: those to forget now and all forgotten before.
        kept: names of the modules that the student keeps.
        settings: of the run.
        device: where the model lives.
    """

    def __init__(
        self,
        model: Classifier,
        forget: Sequence[int],
        kept: Sequence[str],
        settings: PartialRestartSettings,
        device: str = "cpu",
    ) -> None:
        self.device = torch.device(device)
        self.model = model.to(self.device).eval().requires_grad_(False)
        self.forget, self.kept_names = tuple(forget), tuple(kept)
        self.settings = settings
        self.most_forget = settings.most_forget

    def kept(self) -> dict[str, Tensor]:
        """Weights of the modules that the student keeps, and no others."""
        return {k: v.cpu() for k, v in weights_of_modules(self.model, self.kept_names).items()}

    @torch.no_grad()
    def weigh(self, pictures: Tensor) -> Tensor:
        """Weights `[N]` that make its answers to pictures `[N, C, H, W]`, in bytes, even over the classes.

        A picture that is a little like a class to forget has weight 0. From here on this bound holds for
        images to `label` as well.
        """
        answers, like = torch.zeros(len(pictures), dtype=torch.int64), torch.zeros(len(pictures))
        for ids in torch.arange(len(pictures)).split(AT_ONCE):
            logits = self.model(normalised(pictures[ids].to(self.device), self.model.spec))
            answers[ids] = lower_to_minimum(logits, self.forget).argmax(dim=1).cpu()
            like[ids] = self._forget_probability(logits).cpu()
        least = float(like.sort().values[round(self.settings.least_share * (len(like) - 1))])
        self.most_forget = max(self.settings.most_forget, min(least, UNSURE))
        weights, passed = torch.zeros(len(pictures)), like < self.most_forget
        if passed.any():
            weights[passed] = even_weights(answers[passed])
        return weights

    @torch.no_grad()
    def label(self, images: Tensor) -> FilteredBatch:
        """Targets for student batches `[S, B, C, H, W]`; what is of a class to forget is dropped."""
        batches, size = images.shape[:2]
        kept, targets, sizes = [], [], []
        for batch in images.to(self.device).view(batches, size, *images.shape[2:]):
            logits = self.model(batch)
            passed = self._forget_probability(logits) < self.most_forget
            kept.append(batch[passed])
            targets.append(lower_to_minimum(logits[passed], self.forget))
            sizes.append(int(passed.sum()))
        return FilteredBatch(torch.cat(kept), torch.cat(targets), (), tuple(sizes))

    def _forget_probability(self, logits: Tensor) -> Tensor:
        return logits.softmax(dim=1)[:, list(self.forget)].sum(dim=1)

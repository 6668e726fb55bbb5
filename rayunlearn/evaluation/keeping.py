"""What a model has kept of its version, measured on coarse inverted images: nothing here sees real data.

What is measured is explained in `rayunlearn.scheduling.keeping`, where a D_r is predicted from it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rayunlearn.balance import even_weights
from rayunlearn.errors import BadInput
from rayunlearn.evaluation.answers import answers
from rayunlearn.inversion.augmentations import cut_together
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator


class Keeping:
    """A version's answers to coarse images, with which other models' answers are compared.

    Args:
        version: whose weights and answers they are; it is left as it was.
        images: coarse inverted images; those of the retain classes are used, and no others.
        roles: which classes are kept.
        seed: of the cuts.

    Attributes:
        images: `[2N, C, H, W]`, the N of the retain classes, then each of these cut together with another.

    Raises:
        BadInput: fewer than two images of retain classes.
    """

    def __init__(self, version: Classifier, images: SyntheticSet, roles: Roles, seed: int) -> None:
        coarse = images.of(roles.retain).images
        if len(coarse) < 2:
            raise BadInput("coarse images of retain classes", len(coarse), "at least 2")
        draws = generator(seed, "keeping")
        others = coarse[torch.randperm(len(coarse), generator=draws)]
        self.images = torch.cat([coarse, cut_together(coarse, others, draws)])
        self.retain = list(roles.retain)
        self.logits = answers(version, self.images)
        self.layers = [layer.detach() for layer in version.parameters() if layer.dim() > 1]

    def measure(self, model: Classifier) -> dict[str, float]:
        """The measures of a model of the version's kind, by the names of `Kept`; its mode is put back."""
        return self.measured(model, answers(model, self.images))

    def measured(self, model: Classifier, logits: Tensor) -> dict[str, float]:
        """The same where the model's `answers` to `images` are known."""
        own, wanted = (x[:, self.retain].softmax(dim=1) for x in (logits, self.logits))
        close = torch.minimum(own, wanted).sum(dim=1)
        coarse, cut = (
            float((even_weights(said) * part).sum())
            for said, part in zip(wanted.argmax(dim=1).chunk(2), close.chunk(2), strict=True)
        )
        return {"coarse": coarse, "cut": cut, "direction": self._direction(model)}

    def _direction(self, model: Classifier) -> float:
        layers = [layer.detach() for layer in model.parameters() if layer.dim() > 1]
        cosines = [
            torch.cosine_similarity(after.flatten(), before.to(after).flatten(), dim=0)
            for before, after in zip(self.layers, layers, strict=True)
        ]
        return float(torch.stack(cosines).mean())

"""What each layer of a network holds of a class: the probe of the gate, layer by layer.

A probe of the features asks what the last layer below the head holds. Here it asks what leaves each of the
layers, so that one can tell from which one on a class is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rayunlearn.evaluation.synthetic import mean_probe_recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.layers import matrices
from rayunlearn.roles import Roles


class UpTo(nn.Module):
    """A model that ends after some layers: what leaves these, a map by its mean, is the input of its head.

    Args:
        model: images `[B, C, H, W]` -> logits; it is left as it was.
        after: name of the module that comes next, with a matrix: of a layer, or the head.
        example: `[B, C, H, W]`, by which the size of the features is found.
    """

    def __init__(self, model: Classifier, after: str, example: Tensor) -> None:
        super().__init__()
        self.model = model
        self._next = [model.get_submodule(after)]  # in a list: it is the model's already
        features = self._features(example)
        self.head = nn.Linear(features.shape[1], model.spec.num_classes, device=features.device)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a head that has learned nothing."""
        logits: Tensor = self.head(self._features(x))
        return logits

    @torch.no_grad()
    def _features(self, x: Tensor) -> Tensor:
        entered: list[Tensor] = []
        handle = self._next[0].register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
        try:
            self.model(x)
        finally:
            handle.remove()
        maps = entered[0]
        if maps.dim() == 4:
            return maps.mean(dim=(2, 3))
        return maps.flatten(1, -2).mean(dim=1) if maps.dim() > 2 else maps  # of tokens, their mean


def layer_recalls(
    model: Classifier, sets: Sequence[SyntheticSet], roles: Roles, seed: int
) -> list[tuple[float, float]]:
    """`mean_probe_recall` of what leaves each layer below the head, from first to last; eval mode.

    Returns:
        Shares of the classes to forget and of the others, a pair for each layer.

    Raises:
        BadInput: fewer than two images of a class in a set.
    """
    model.eval()
    example = sets[0].images[:2].to(next(model.parameters()).device)
    ends = [*matrices(model.spec)[1:], model.head_name]
    return [mean_probe_recall(UpTo(model, after, example), sets, roles, seed) for after in ends]

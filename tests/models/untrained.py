"""Specs and models that the tests of classifiers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier


def spec(**changes: Any) -> ClassifierSpec:
    """A small spec with some fields changed."""
    fields: dict[str, Any] = {
        "name": "allcnn", "width": 0.1, "in_channels": 1, "image_size": 8, "num_classes": 10,
        "mean": (0.25,), "std": (0.5,),
    }  # fmt: skip
    return ClassifierSpec(**(fields | changes))


def untrained(name: str, channels: int, size: int, width: float = 0.1) -> tuple[Classifier, Tensor]:
    """A model in eval mode whose BatchNorms have statistics of their own, and three images of noise."""
    flat = {"mean": (0.25,) * channels, "std": (0.5,) * channels}
    shape = {"in_channels": channels, "image_size": size}
    model = build_classifier(spec(name=name, width=width, **shape, **flat), seed=0)
    draws = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for values in (module.running_mean, module.weight.data, module.bias.data):
                values.copy_(torch.randn(values.shape, generator=draws))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=draws))
    return model.eval(), torch.randn(3, channels, size, size, generator=draws)

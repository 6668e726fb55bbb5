"""The layers of a network in order of execution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.models.body_and_head import Classifier
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier


def layers(spec: ClassifierSpec) -> list[tuple[str, ...]]:
    """Names of the modules of each layer below the head, from first to last.

    A layer is a module with a matrix or kernel, and what follows it up to the next one: its BatchNorm. The
    first layer begins with whatever comes first.

    >>> spec = ClassifierSpec(
    ...     name="allcnn", width=0.1, in_channels=1, image_size=8, num_classes=3, mean=(0.0,), std=(1.0,)
    ... )
    >>> layers(spec)[:2], len(layers(spec))
    ([('blocks.0.0', 'blocks.0.1'), ('blocks.1.0', 'blocks.1.1')], 8)
    """
    model = build_classifier(spec, 0).eval()
    before: list[str] = []
    found: list[list[str]] = []

    def note(name: str, module: nn.Module) -> None:
        if _has_matrix(module):
            found.append([name] if found else [*before, name])
        else:
            (found[-1] if found else before).append(name)

    for name, module in model.named_modules():
        if name != "head" and next(module.parameters(recurse=False), None) is not None:
            module.register_forward_hook(lambda module, _, __, name=name: note(name, module))
    with torch.no_grad():
        model(torch.zeros(1, spec.in_channels, spec.image_size, spec.image_size))
    return [tuple(dict.fromkeys(layer)) for layer in found]


def _has_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.dim() > 1


def matrices(spec: ClassifierSpec) -> list[str]:
    """Name of the module of each layer that has the matrix or kernel, from first to last.

    >>> spec = ClassifierSpec(
    ...     name="lenet", width=1.0, in_channels=1, image_size=28, num_classes=3, mean=(0.0,), std=(1.0,)
    ... )
    >>> len(matrices(spec)) == len(layers(spec))
    True
    """
    modules = dict(build_classifier(spec, 0).named_modules())
    return [next(name for name in layer if _has_matrix(modules[name])) for layer in layers(spec)]


def first_layers(spec: ClassifierSpec, count: int) -> list[str]:
    """Names of the modules of the first so many layers.

    Raises:
        BadInput: there are fewer.
    """
    there = layers(spec)
    if not 0 <= count <= len(there):
        allowed = f"from 0 to {len(there)}, the layers of {spec.name!r} below its head"
        raise BadInput("kept layers", count, allowed)
    return [name for layer in there[:count] for name in layer]


def weights_of_modules(model: Classifier, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """Parameters and buffers of some modules, by their names in the model's state."""
    modules = dict(model.named_modules())
    return {
        f"{name}.{part}": value.detach().clone()
        for name in names
        for part, value in modules[name].state_dict().items()
    }

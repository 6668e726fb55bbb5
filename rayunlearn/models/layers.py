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
    first layer begins with whatever comes first. Of modules inside one another those count that run and hold
    parameters with none below them that do; where a module's parts do not run by themselves, as those of an
    attention, it is one. A parameter beside modules, as a class token, is of no layer, and a module that
    runs again is of the layer in which it ran first.

    >>> spec = ClassifierSpec(
    ...     name="allcnn", width=0.1, in_channels=1, image_size=8, num_classes=3, mean=(0.0,), std=(1.0,)
    ... )
    >>> layers(spec)[:2], len(layers(spec))
    ([('blocks.0.0', 'blocks.0.1'), ('blocks.1.0', 'blocks.1.1')], 8)
    """
    model = build_classifier(spec, 0).eval()
    ran: list[str] = []
    modules = {
        name: module
        for name, module in model.named_modules()
        if name and name != model.head_name and next(module.parameters(), None) is not None
    }
    for name, module in modules.items():
        module.register_forward_hook(lambda module, _, __, name=name: ran.append(name))
    with torch.no_grad():
        model(torch.zeros(1, *spec.shape))
    order = dict.fromkeys(ran)
    whole = {name.rpartition(".")[0] for name in order}  # these have parts that run
    for name in list(whole) + [model.head_name]:
        while name:
            name = name.rpartition(".")[0]
            whole.add(name)
    before: list[str] = []
    found: list[list[str]] = []
    for name in order:
        if name in whole:
            continue
        if _has_matrix(modules[name]):
            found.append([name] if found else [*before, name])
        else:
            (found[-1] if found else before).append(name)
    return [tuple(layer) for layer in found]


def _has_matrix(module: nn.Module) -> bool:
    return any(parameter.dim() > 1 for parameter in module.parameters())


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

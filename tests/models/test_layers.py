"""Layers by order of execution: which modules they are, and what is refused."""

from __future__ import annotations

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import CLASSIFIERS, ClassifierSpec, build_classifier
from rayunlearn.models.layers import first_layers, layers, weights_of_modules


def spec_of(name: str) -> ClassifierSpec:
    """A narrow network for grey images of a size that all of them take."""
    return ClassifierSpec(
        name=name, width=0.1, in_channels=1, image_size=32, num_classes=10, mean=(0.5,), std=(0.5,)
    )


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_every_weight_below_the_head_is_of_one_layer(name: str) -> None:
    """A layer has one matrix or kernel; together they are all modules with weights but the head."""
    model = build_classifier(spec_of(name), 0)
    modules = dict(model.named_modules())
    found = [module for layer in layers(spec_of(name)) for module in layer]
    own = [n for n, m in modules.items() if list(m.parameters(recurse=False)) and n != "head"]
    assert len(found) == len(set(found)) and set(found) == set(own)
    for layer in layers(spec_of(name)):
        dims = [modules[part].weight.dim() for part in layer]
        assert sum(dim > 1 for dim in dims) == 1, layer


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_what_comes_later_changes_nothing_in_the_first_layers(name: str) -> None:
    """The input of the first restarted layer stays as it is when all restarted layers are drawn anew.

    Negative control: when a kept layer is drawn anew, it changes.
    """
    spec = spec_of(name)
    there = layers(spec)
    count = len(there) // 2
    model, other = build_classifier(spec, 0).eval(), build_classifier(spec, 1).eval()
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))

    def entering(weights: dict[str, torch.Tensor]) -> torch.Tensor:
        mixed = build_classifier(spec, 2).eval()
        mixed.load_state_dict(weights)
        seen: list[torch.Tensor] = []
        dict(mixed.named_modules())[there[count][0]].register_forward_hook(
            lambda module, entered, _: seen.append(entered[0])
        )
        mixed(images)
        return seen[0]

    kept = weights_of_modules(model, first_layers(spec, count))
    restarted = {**other.state_dict(), **kept}
    assert torch.equal(entering(restarted), entering(model.state_dict()))
    less = {**other.state_dict(), **weights_of_modules(model, first_layers(spec, count - 1))}
    assert not torch.equal(entering(less), entering(model.state_dict()))


@pytest.mark.parametrize("count", [-1, 9])
def test_a_number_of_layers_that_is_not_there_is_refused(count: int) -> None:
    """AllCNN has eight below its head."""
    assert len(first_layers(spec_of("allcnn"), 8)) == 16
    with pytest.raises(BadInput, match=f"kept layers is {count}; allowed: from 0 to 8"):
        first_layers(spec_of("allcnn"), count)

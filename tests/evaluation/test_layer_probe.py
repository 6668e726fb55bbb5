"""A probe of each layer says what leaves this layer, and the last one's is the probe of the features."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.evaluation.layer_probe import UpTo, layer_recalls
from rayunlearn.evaluation.synthetic import probe_recall
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.layers import layers, matrices
from rayunlearn.models.weights import version_id
from rayunlearn.roles import Roles

ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))


@pytest.fixture(scope="module")
def shown(digits_data: LabelledImages) -> SyntheticSet:
    """Twelve digits of each class, in place of inverted images."""
    images, labels = digits_data.images[1::2], digits_data.labels[1::2]
    ids = torch.cat([(labels == c).nonzero()[:12, 0] for c in range(10)])
    return SyntheticSet(images=images[ids], labels=labels[ids], requested=120)


def test_the_last_layer_is_the_features(
    digits_version: Callable[..., Classifier], shown: SyntheticSet
) -> None:
    """A pair for each layer; the last is the recall of the model itself, and the model is as it was."""
    version = digits_version()
    before = version_id(version.state_dict())
    found = layer_recalls(version, [shown], ROLES, 3)
    assert len(found) == len(layers(version.spec))
    assert found[-1] == probe_recall(version, shown, ROLES, 3)
    assert version_id(version.state_dict()) == before
    assert not any(module._forward_pre_hooks for module in version.modules())


def test_a_layer_is_not_told_by_those_after_it(
    digits_version: Callable[..., Classifier], shown: SyntheticSet
) -> None:
    """Layers from the fifth on with other weights: the first four's recalls stay, the last one's does not."""
    version = digits_version()
    changed = copy.deepcopy(version)
    modules = dict(changed.named_modules())
    with torch.no_grad():
        for name in matrices(version.spec)[4:]:
            modules[name].weight.normal_(generator=torch.Generator().manual_seed(1))
    own, other = (layer_recalls(model, [shown], ROLES, 3) for model in (version, changed))
    assert own[:4] == other[:4]
    assert own[-1] != other[-1]


@pytest.mark.parametrize(("name", "size"), [("allcnn", 8), ("lenet", 28), ("resnet9", 8)])
def test_what_leaves_a_layer(name: str, size: int) -> None:
    """A map is told by its channels' means, a vector by itself; by hand for the first and the last layer."""
    spec = ClassifierSpec(
        name=name, width=0.125, in_channels=1, image_size=size, num_classes=4, mean=(0.0,), std=(1.0,)
    )
    model = build_classifier(spec, 0).eval()
    images = torch.randn(3, 1, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, maps = model.forward_with_maps(images)
        assert UpTo(model, model.head_name, images)._features(images).equal(model.features(images))
    found = UpTo(model, matrices(spec)[1], images)._features(images)
    if name == "lenet":  # pooled between: not the map itself
        maps[0] = torch.nn.functional.max_pool2d(maps[0], 2)
    assert torch.allclose(found, maps[0].mean(dim=(2, 3)))

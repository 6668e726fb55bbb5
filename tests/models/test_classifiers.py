"""Claims about classifiers."""

import json
import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import version_id


def spec(**changes: Any) -> ClassifierSpec:
    """A small spec with some fields changed."""
    fields: dict[str, Any] = {
        "name": "allcnn", "width": 0.1, "in_channels": 1, "image_size": 8, "num_classes": 10,
        "mean": (0.25,), "std": (0.5,),
    }  # fmt: skip
    return ClassifierSpec(**(fields | changes))


def test_allcnn_has_the_papers_layers():
    """All-CNN-C's channels, kernels and strides; its parameter count by hand.

    Convolutions 9*(c*96 + 96*96*2 + 96*192 + 192*192*3) + 192*192, BatchNorm 2*(3*96 + 5*192), head
    192*10 + 10.
    """
    model = build_classifier(spec(width=1.0, in_channels=3, mean=(0.5,) * 3, std=(0.5,) * 3), seed=0)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.kernel_size[0], c.stride[0]) for c in convs] == [
        (96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1),
    ]  # fmt: skip
    assert all(c.bias is None for c in convs)
    by_hand = 9 * (3 * 96 + 96 * 96 * 2 + 96 * 192 + 192 * 192 * 3) + 192 * 192
    by_hand += 2 * (3 * 96 + 5 * 192) + 192 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == by_hand == 1_370_986


def test_forward_is_head_of_features_and_last_map():
    """Logits are the head on `features`; the pooled last map is `features`; there are 8 maps."""
    model = build_classifier(spec(), seed=0).eval()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    logits, maps = model.forward_with_maps(x)
    features = model.features(x)
    assert torch.equal(logits, model(x))
    assert torch.equal(logits, F.linear(features, model.head.weight, model.head.bias))
    torch.testing.assert_close(maps[-1].mean(dim=(2, 3)), features)
    assert [m.shape[2] for m in maps] == [8, 8, 4, 4, 4, 2, 2, 2]
    assert all((m >= 0).all() for m in maps)


def test_initialisation_is_the_seeds_alone():
    """Equal seeds give equal weights whatever the global RNG; others differ; the global RNG is untouched."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = version_id(build_classifier(spec(), seed=3).state_dict())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert version_id(build_classifier(spec(), seed=3).state_dict()) == first
    assert version_id(build_classifier(spec(), seed=4).state_dict()) != first


def test_pixel_range_covers_black_and_white_of_all_channels():
    """By hand: (0-.5)/.25 = -2 and (0-.2)/.4 = -.5; (1-.5)/.25 = 2 and (1-.2)/.4 = 2."""
    assert spec(in_channels=2, mean=(0.5, 0.2), std=(0.25, 0.4)).pixel_range == (-2.0, 2.0)


def test_spec_survives_json():
    """`from_dict` of the JSON of `to_dict` is the same spec."""
    assert ClassifierSpec.from_dict(json.loads(json.dumps(spec().to_dict()))) == spec()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 0), ("width", -1.0), ("width", math.nan), ("width", "1"), ("in_channels", 0),
        ("image_size", 8.0), ("num_classes", 1), ("mean", (0.1, 0.2)), ("mean", (math.inf,)),
        ("std", (0.0,)), ("std", 0.5),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field, value):
    """A field out of range is refused by its name."""
    with pytest.raises(BadInput) as error:
        spec(**{field: value})
    assert error.value.thing == field


def test_unknown_names_get_the_nearest():
    """A misspelt classifier, an unknown field and a missing one are refused with what is allowed."""
    with pytest.raises(BadInput, match="'allcnn'"):
        spec(name="alcnn")
    with pytest.raises(BadInput, match="'width'"):
        ClassifierSpec.from_dict(spec().to_dict() | {"widht": 1})
    with pytest.raises(BadInput, match="missing.*std"):
        ClassifierSpec.from_dict({k: v for k, v in spec().to_dict().items() if k != "std"})

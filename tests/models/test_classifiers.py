"""Claims about classifiers."""

import json
import math
import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.data.datasets import DATA_VARIABLE, LabelledImages, load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import CLASSIFIERS, Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.weights import version_id


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


@pytest.mark.parametrize(
    ("name", "sizes", "one_channel", "three_channels"),
    [
        ("allcnn", (8, 28, 32), 1_369_258, 1_370_986),
        ("lenet", (28, 32), 61_706, 62_006),
        ("resnet9", (8, 28, 32), 2_439_114, 2_440_266),
    ],
)
def test_parameter_counts(name: str, sizes: tuple[int, ...], one_channel: int, three_channels: int) -> None:
    """Width 1, ten classes: the counts of the docstring's table, at every image size."""
    table = CLASSIFIERS[name].__doc__ or ""
    for channels, count in ((1, one_channel), (3, three_channels)):
        assert f"{count:,}" in table
        for size in sizes:
            model, images = untrained(name, channels, size, width=1.0)
            assert sum(p.numel() for p in model.parameters()) == count
            assert model(images).shape == (3, 10)


def test_lenet_has_the_papers_layers() -> None:
    """LeNet-5's layers by hand, fully connected between its maps: the well-known 61,706 for grey images."""
    by_hand = 6 * 25 + 6 + 16 * 6 * 25 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    assert by_hand == 61_706
    model, _ = untrained("lenet", 1, 28, width=1.0)
    assert [tuple(p.shape) for p in model.parameters() if p.dim() > 1] == [
        (6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84),
    ]  # fmt: skip
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


def test_resnet9_has_nine_layers() -> None:
    """Eight convolutions without bias and the head; the parameter count by hand."""
    model, _ = untrained("resnet9", 3, 32, width=1.0)
    convs = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sorted((c.in_channels, c.out_channels) for c in convs) == [
        (3, 64), (64, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 256),
    ]  # fmt: skip
    by_hand = 9 * (3 * 64 + 64 * 128 + 2 * 128**2 + 128 * 256 + 3 * 256**2)
    by_hand += 2 * (64 + 3 * 128 + 4 * 256) + 256 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == by_hand == 2_440_266


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_lenet_is_its_functions(size: int, channels: int) -> None:
    """Features and maps by torch's functions on the weights, 28x28 padded to 32x32."""
    model, images = untrained("lenet", channels, size, width=0.5)
    w1, b1, w2, b2, w3, b3, w4, b4, *_ = model.parameters()
    first = F.relu(F.conv2d(images, w1, b1, padding=2 if size == 28 else 0))
    second = F.relu(F.conv2d(F.max_pool2d(first, 2), w2, b2))
    hidden = F.relu(F.linear(F.max_pool2d(second, 2).flatten(1), w3, b3))
    features = F.relu(F.linear(hidden, w4, b4))
    _, maps = model.forward_with_maps(images)
    assert [m.shape[1:] for m in maps] == [(3, 28, 28), (8, 10, 10)]
    assert torch.equal(maps[0], first) and torch.equal(maps[1], second)
    assert torch.equal(model.features(images), features)


@pytest.mark.parametrize(
    ("size", "channels", "sides"), [(8, 1, [8, 8, 4, 2]), (28, 1, [28, 28, 14, 7]), (32, 3, [32, 32, 16, 8])]
)
def test_resnet9_is_its_functions(size: int, channels: int, sides: list[int]) -> None:
    """Features and maps by torch's functions on the weights; nothing is pooled away at 28x28 or 8x8."""
    model, images = untrained("resnet9", channels, size)

    def conv(x: Tensor, where: str) -> Tensor:
        norm = model.get_submodule(f"{where}.1")
        x = F.conv2d(x, model.get_submodule(f"{where}.0").weight, padding=1)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        return F.relu(x * norm.weight[:, None, None] + norm.bias[:, None, None])

    def pair(x: Tensor, where: str) -> Tensor:
        return x + conv(conv(x, f"{where}.body.0"), f"{where}.body.1")

    def half(x: Tensor) -> Tensor:
        odd = x.shape[-1] % 2  # nothing is negative here, so a border of zeros changes no maximum
        return F.max_pool2d(F.pad(x, (0, odd, 0, odd)), 2)

    first = conv(images, "blocks.0")
    second = conv(first, "blocks.1")
    third = conv(pair(half(second), "between.1.1"), "blocks.2")
    fourth = conv(half(third), "blocks.3")
    features = pair(half(fourth), "between.3.1").flatten(2).max(dim=2).values
    _, maps = model.forward_with_maps(images)
    assert [m.shape[-1] for m in maps] == sides
    torch.testing.assert_close([*maps, model.features(images)], [first, second, third, fourth, features])


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_width_multiplies_every_layer_but_the_ends(name: str) -> None:
    """Half width halves inputs and outputs of each layer, but for the image's channels and the classes."""
    (full, _), (half, _) = (untrained(name, 1, 28, width=w) for w in (1.0, 0.5))
    shapes = [[tuple(p.shape) for p in m.parameters() if p.dim() > 1] for m in (full, half)]
    for at, (whole, halved) in enumerate(zip(*shapes, strict=True)):
        assert halved[0] * (1 if at == len(shapes[0]) - 1 else 2) == whole[0]
        assert halved[1] * (1 if at == 0 else 2) == whole[1]
    narrowest, images = untrained(name, 1, 28, width=0.001)
    assert narrowest(images).shape == (3, 10)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_maps_do_not_change_the_answer(name: str) -> None:
    """With and without maps the logits are the same bits, the head on `features`; no map is negative."""
    model, images = untrained(name, 3, 32)
    logits, maps = model.forward_with_maps(images)
    assert torch.equal(logits, model(images))
    assert torch.equal(logits, model.head(model.features(images)))
    assert len(maps) == {"allcnn": 8, "lenet": 2, "resnet9": 4}[name]
    assert all((m >= 0).all() and m.requires_grad for m in maps)


@pytest.mark.parametrize("size", [1, 8, 27, 64])
def test_lenet_refuses_other_sizes(size: int) -> None:
    """The sizes that it takes are named."""
    with pytest.raises(BadInput, match="allowed: 28 or 32 for 'lenet'") as error:
        spec(name="lenet", image_size=size)
    assert (error.value.thing, error.value.value) == ("image_size", size)


def test_resnet9_learns_the_digits(digits_data: LabelledImages) -> None:
    """Width 0.125, five epochs on half of the 8x8 digits: over 95 % of the other half."""
    shape = {"mean": digits_data.mean, "std": digits_data.std}
    model = build_classifier(spec(name="resnet9", width=0.125, **shape), seed=0)
    train_classifier(model, digits_data.images[::2], digits_data.labels[::2], TrainSettings(epochs=5), seed=0)
    right = model.eval()(digits_data.images[1::2]).argmax(1) == digits_data.labels[1::2]
    assert right.float().mean() > 0.95


@pytest.mark.skipif(DATA_VARIABLE not in os.environ, reason=f"{DATA_VARIABLE} is not set: MNIST is not here")
def test_lenet_learns_mnist() -> None:
    """Two epochs on 6000 images, a tenth of MNIST: over 90 % of 1000 test images."""
    data = load_dataset("mnist")
    model = build_classifier(
        spec(name="lenet", width=1.0, image_size=28, mean=data.mean, std=data.std), seed=0
    )
    settings = TrainSettings(epochs=2, lr=5e-3)
    train_classifier(model, data.images[:6000], data.labels[:6000], settings, seed=0)
    right = model.eval()(data.images[-1000:]).argmax(1) == data.labels[-1000:]
    assert right.float().mean() > 0.9


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

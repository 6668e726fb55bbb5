"""AllCNN and LeNet-5: their layers, by hand and by torch's functions."""

import os

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from rayunlearn.data.datasets import DATA_VARIABLE, load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import build_classifier
from tests.models.untrained import spec, untrained


def test_lenet_has_the_papers_layers() -> None:
    """LeNet-5's layers by hand, fully connected between its maps: the well-known 61,706 for grey images."""
    by_hand = 6 * 25 + 6 + 16 * 6 * 25 + 16 + 400 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10
    assert by_hand == 61_706
    model, _ = untrained("lenet", 1, 28, width=1.0)
    assert [tuple(p.shape) for p in model.parameters() if p.dim() > 1] == [
        (6, 1, 5, 5), (16, 6, 5, 5), (120, 400), (84, 120), (10, 84),
    ]  # fmt: skip
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())


@pytest.mark.parametrize(("size", "channels"), [(28, 1), (32, 3)])
def test_lenet5_bn_is_its_functions(size: int, channels: int) -> None:
    """BatchNorm by hand before each convolution, the first on the image itself; else LeNet's functions."""
    model, images = untrained("lenet5_bn", channels, size, width=0.5)

    def norm(x: Tensor, where: str) -> Tensor:
        layer = model.get_submodule(where)
        x = (x - layer.running_mean[:, None, None]) / (layer.running_var[:, None, None] + layer.eps).sqrt()
        return x * layer.weight[:, None, None] + layer.bias[:, None, None]

    w1, w2, w3, w4, _ = (p for p in model.parameters() if p.dim() > 1)
    b1, b2, b3, b4 = (
        model.get_parameter(f"{where}.bias") for where in ("blocks.0.1", "blocks.1.1", "hidden.1", "hidden.3")
    )
    first = F.relu(F.conv2d(norm(images, "blocks.0.0"), w1, b1, padding=2 if size == 28 else 0))
    second = F.relu(F.conv2d(norm(F.max_pool2d(first, 2), "blocks.1.0"), w2, b2))
    hidden = F.relu(F.linear(F.max_pool2d(second, 2).flatten(1), w3, b3))
    features = F.relu(F.linear(hidden, w4, b4))
    _, maps = model.forward_with_maps(images)
    torch.testing.assert_close([*maps, model.features(images)], [first, second, features])
    without = F.relu(F.conv2d(images, w1, b1, padding=2 if size == 28 else 0))
    assert not torch.allclose(maps[0], without, atol=1e-2)


def test_lenet5_bn_adds_batchnorm_alone() -> None:
    """Scale and shift of the image's channels and of six maps: 2 + 12 in grey, 6 + 12 in colour."""
    for channels, added in ((1, 14), (3, 18)):
        counts = [
            sum(p.numel() for p in untrained(name, channels, 28, width=1.0)[0].parameters())
            for name in ("lenet", "lenet5_bn")
        ]
        assert counts[1] - counts[0] == added


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


@pytest.mark.parametrize("size", [1, 8, 27, 64])
@pytest.mark.parametrize("name", ["lenet", "lenet5_bn"])
def test_lenet_refuses_other_sizes(name: str, size: int) -> None:
    """The sizes that it takes are named."""
    with pytest.raises(BadInput, match=f"allowed: 28 or 32 for '{name}'") as error:
        spec(name=name, image_size=size)
    assert (error.value.thing, error.value.value) == ("image_size", size)


@pytest.mark.learned
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

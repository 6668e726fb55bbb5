"""ResNet9, PreActResNet-18 and ResNet-50: their layers, by torch's functions and by torchvision."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rayunlearn.data.datasets import LabelledImages
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import build_classifier
from tests.models.untrained import spec, untrained


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


def test_preactresnet18_has_eighteen_layers() -> None:
    """Seventeen 3x3 convolutions and the head, three 1x1 shortcuts; the parameter count by hand.

    The CIFAR version without a last BatchNorm has 1024 parameters fewer: 11,171,146.
    """
    model, _ = untrained("preactresnet18", 3, 8, width=1.0)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert [c.kernel_size[0] for c in convs].count(3) == 17
    assert [(c.in_channels, c.out_channels, c.stride[0]) for c in convs if c.kernel_size[0] == 1] == [
        (64, 128, 2), (128, 256, 2), (256, 512, 2),
    ]  # fmt: skip
    assert all(c.bias is None for c in convs)
    by_hand = 9 * (3 * 64 + 4 * 64**2)
    norms = 4 * 64
    for fewer, more in ((64, 128), (128, 256), (256, 512)):
        by_hand += 9 * (fewer * more + 3 * more**2) + fewer * more
        norms += fewer + 3 * more
    by_hand += 2 * (norms + 512) + 512 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == by_hand == 11_171_146 + 1024


def test_preactresnet18_is_its_functions() -> None:
    """Features and maps by torch's functions: what is activated enters the shortcut, what is not is added."""
    model, images = untrained("preactresnet18", 1, 28, width=0.1)

    def active(x: Tensor, where: str) -> Tensor:
        norm = model.get_submodule(where)
        x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
        return F.relu(x * norm.weight[:, None, None] + norm.bias[:, None, None])

    def conv(x: Tensor, where: str, stride: int = 1) -> Tensor:
        weight = model.get_parameter(f"{where}.weight")
        return F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)

    x, maps = conv(images, "stem"), []
    for at in range(8):
        block = f"blocks.{at}"
        stride = 2 if at in (2, 4, 6) else 1
        inside = active(x, f"{block}.norm1")
        if at % 2 == 0:
            maps.append(inside)
        added = conv(inside, f"{block}.shortcut", 2) if stride == 2 else x
        x = added + conv(active(conv(inside, f"{block}.conv1", stride), f"{block}.norm2"), f"{block}.conv2")
    maps.append(active(x, "norm"))
    _, found = model.forward_with_maps(images)
    assert [m.shape[-1] for m in found] == [28, 28, 14, 7, 4]
    torch.testing.assert_close(
        [*found, model.features(images)], [*maps, maps[-1].flatten(2).mean(dim=2)], rtol=1e-4, atol=1e-4
    )


def test_resnet50_is_torchvisions() -> None:
    """torchvision's resnet50 with a 3x3 stem and no pooling gives the same features, maps and logits.

    Its weights load by name, `fc` for `head`. The control: with its own max pool it gives others.
    """
    from torchvision.models import resnet50

    model, images = untrained("resnet50", 1, 16, width=1.0)
    other = resnet50(num_classes=10)
    pool = other.maxpool
    other.conv1, other.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    other.load_state_dict({k.replace("head.", "fc."): v for k, v in model.state_dict().items()})
    other.eval()
    maps: list[Tensor] = []
    for name in ("relu", "layer1", "layer2", "layer3", "layer4"):
        other.get_submodule(name).register_forward_hook(lambda *call: maps.append(call[-1].clone()))
    entered: list[Tensor] = []
    other.fc.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        expected = other(images)
        logits, found = model.forward_with_maps(images)
        torch.testing.assert_close(found, maps)
        torch.testing.assert_close([logits, model.features(images)], [expected, *entered])
        other.maxpool = pool
        assert not torch.allclose(other(images), logits)


def test_convolutions_are_drawn_as_torchvisions() -> None:
    """He's normal of variance 2 / fan-out, and not torch's own of 1 / (3 fan-in)."""
    model = build_classifier(spec(name="resnet50", width=1.0), seed=0)
    for name in ("layer1.0.conv3", "layer2.0.conv2", "layer4.2.conv1"):
        weight = model.get_parameter(f"{name}.weight")
        fan_out = weight.shape[0] * weight.shape[2] * weight.shape[3]
        assert weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.02)
        fan_in = weight[0].numel()
        assert weight.std().item() != pytest.approx((1 / (3 * fan_in)) ** 0.5, rel=0.1)


@pytest.mark.learned
@pytest.mark.parametrize("name", ["resnet9", "preactresnet18"])
def test_small_ones_learn_the_digits(name: str, digits_data: LabelledImages) -> None:
    """Width 0.125, five epochs on half of the 8x8 digits: over 85 % of the other half.

    Over root seeds ResNet9 97.6 +- 0.6 % and PreActResNet-18 94.5 +- 1.4 %.
    """
    shape = {"mean": digits_data.mean, "std": digits_data.std}
    model = build_classifier(spec(name=name, width=0.125, **shape), seed=0)
    train_classifier(model, digits_data.images[::2], digits_data.labels[::2], TrainSettings(epochs=5), seed=0)
    right = model.eval()(digits_data.images[1::2]).argmax(1) == digits_data.labels[1::2]
    assert right.double().mean() > 0.85

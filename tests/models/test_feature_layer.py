"""The head found by what it does: on our classifiers, on others', and on models that have none."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet18

from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import CLASSIFIERS, Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.feature_layer import features_of, head_of

K, D = 3, 5


def images(n: int = 4, channels: int = 1, size: int = 8, seed: int = 0) -> Tensor:
    """Noise [N, C, S, S]."""
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(seed))


class Plain(nn.Module):
    """Flattened by a function, a hidden linear layer, and a last one of which `change` is returned."""

    def __init__(self, change: Callable[[Tensor], object] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.out = nn.Linear(D, K)  # registered first, run last
        self.hidden = nn.Linear(64, D)
        self.change = change

    def forward(self, x: Tensor) -> object:
        """Logits, changed."""
        return self.change(self.out(F.relu(self.hidden(torch.flatten(x, 1)))))


class WithAuxiliary(nn.Module):
    """Two linear layers with K outputs; the auxiliary one, registered last, runs first or last."""

    def __init__(self, *, auxiliary_last: bool, tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(1, D, 3), nn.BatchNorm2d(D), nn.ReLU())
        self.classify = nn.Linear(D, K)
        self.auxiliary = copy.deepcopy(self.classify) if tied else nn.Linear(D, K)
        self.auxiliary_last = auxiliary_last

    def forward(self, x: Tensor) -> Tensor:
        """The main head's logits; the auxiliary's are computed and dropped."""
        pooled = self.body(x).mean(dim=(2, 3))
        if not self.auxiliary_last:
            self.auxiliary(pooled)
        logits = self.classify(pooled)
        if self.auxiliary_last:
            self.auxiliary(pooled)
        return logits


def last_of_that_size(model: nn.Module, classes: int) -> str:
    """The flawed way: the last linear layer whose size equals the number of classes."""
    layers = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    return [name for name, layer in layers if layer.out_features == classes][-1]


# Found.

FEATURES = {"allcnn": 19, "lenet": 8, "lenet5_bn": 8, "resnet9": 26, "preactresnet18": 51, "resnet50": 204}
"""Numbers of features at width 0.1."""


def test_our_classifiers_head_and_features(version: Classifier) -> None:
    """The structure gives `head` itself and, bit for bit, what `Classifier.features` gives."""
    x = images(10)
    name, head = head_of(version, x)
    assert (name, head is version.head) == ("head", True)
    assert torch.equal(features_of(version, x), version.features(x).detach())


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 32)])
def test_the_feature_layer_of_every_architecture(name: str, channels: int, size: int) -> None:
    """What enters `head`, bit for bit; LeNet's hidden layer, with as many outputs as classes, is not it."""
    spec = ClassifierSpec(
        name=name, width=0.1, in_channels=channels, image_size=size,
        num_classes=8, mean=(0.5,) * channels, std=(0.5,) * channels,
    )  # fmt: skip
    model = build_classifier(spec, 0).eval()
    x = images(3, channels, size)
    entered: list[Tensor] = []
    model.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0].detach()))
    found, head = head_of(model, x)
    assert (found, head is model.head) == ("head", True)
    features = features_of(model, x)
    assert features.shape == (3, FEATURES[name])
    assert torch.equal(features, entered[-1]) and torch.equal(features, model.features(x).detach())


@pytest.mark.parametrize("auxiliary_last", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_an_auxiliary_head_is_not_the_head(auxiliary_last: bool, tied: bool) -> None:
    """Two layers with K outputs, in either order, even where both put out the same values.

    The negative control, by size, names the auxiliary one.
    """
    model = WithAuxiliary(auxiliary_last=auxiliary_last, tied=tied)
    name, head = head_of(model, images())
    assert (name, head is model.classify) == ("classify", True)
    assert last_of_that_size(model, K) == "auxiliary"
    pooled = model.eval().body(images()).mean(dim=(2, 3))
    assert torch.equal(features_of(model, images()), pooled.detach())


def test_a_model_that_flattens_by_a_function() -> None:
    """No module stands between: the features enter the last layer that runs, not the last registered."""
    model = Plain()
    assert head_of(model, images())[0] == "out"
    expected = F.relu(model.hidden(images().flatten(1))).detach()
    assert torch.equal(features_of(model, images()), expected)


def test_torchvisions_resnet() -> None:
    """resnet18: `fc`, and the features that it gives with an identity in place of `fc`."""
    model = resnet18(weights=None, num_classes=K)
    x = images(2, channels=3, size=32)
    assert head_of(model, x) == ("fc", model.fc)
    features = features_of(model, x)
    assert features.shape == (2, 512)
    model.fc = nn.Identity()
    with torch.no_grad():
        assert torch.equal(features, model.eval()(x))


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits.view(logits.shape),
        lambda logits: F.dropout(logits, training=False),
        lambda logits: logits.contiguous().float(),
    ],
)
def test_what_changes_nothing_is_passed_through(change: Callable[[Tensor], Tensor]) -> None:
    """A view of the same shape, dropout in eval mode, a conversion to what it is already."""
    assert head_of(Plain(change), images())[0] == "out"


def test_a_layer_called_twice_and_by_name() -> None:
    """Of two calls of one layer the one whose output is returned counts; so does `input=`."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(64, K)

        def forward(self, x: Tensor) -> Tensor:
            first = self.out(input=x.flatten(1))
            self.out(2 * x.flatten(1))
            return first

    assert torch.equal(features_of(Twice(), images()), images().flatten(1))


def test_a_model_that_is_its_head() -> None:
    """A bare linear layer has the empty name, as in `named_modules`; in a Sequential it has a number."""
    layer = nn.Linear(8, K)
    assert head_of(layer, torch.randn(2, 8)) == ("", layer)
    assert head_of(nn.Sequential(nn.Flatten(), nn.Linear(64, K)), images())[0] == "1"


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_does_not_matter(batch_size: int) -> None:
    """Batches of 1, of 3 with one left over, and one batch: the same features in the same order."""
    model = WithAuxiliary(auxiliary_last=True)
    expected = model.eval().body(images(7)).mean(dim=(2, 3)).detach()
    assert torch.allclose(features_of(model, images(7), batch_size), expected, atol=1e-6)


def test_the_model_is_left_as_it_was() -> None:
    """Modes, statistics and hooks are as before, found or refused."""
    model = WithAuxiliary(auxiliary_last=True).train()
    model.body.eval()
    modes = [module.training for module in model.modules()]
    before = copy.deepcopy(model.state_dict())
    head_of(model, images())
    features_of(model, images())
    with pytest.raises(BadInput):
        head_of(model, torch.full((2, 1, 8, 8), torch.nan))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


# Refused.


def test_a_model_without_a_linear_head_is_refused() -> None:
    """A 1x1 convolution as head; with a hidden linear layer, that one is listed as seen."""
    model = nn.Sequential(nn.Conv2d(1, K, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        BadInput, match=r"feature layer: linear layers that ran.* is \[\]; allowed: one whose"
    ):
        head_of(model, images())
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(64, D), nn.Unflatten(1, (D, 1)), nn.Conv1d(D, K, 1), nn.Flatten()
    )
    with pytest.raises(BadInput, match=r"is \['1 \[4, 5\]'\]; allowed: .* of shape \[4, 3\], as it is"):
        head_of(model, images())


@pytest.mark.parametrize(
    "change",
    [
        lambda logits: logits.softmax(dim=1),
        lambda logits: 2 * logits,
        lambda logits: logits.mul_(2),  # the same memory
        lambda logits: logits.sub_(logits.max() + 1).relu_(),
        lambda logits: logits[:, :2],
        lambda logits: logits.flip(1),
        lambda logits: F.relu(logits + 100) - 100,
        lambda logits: logits + 0,  # the same values, which another example might not have
    ],
)
def test_a_changed_output_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    """Softmax, scale, in place or not, a slice: no layer's output is the model's; both layers are listed."""
    message = r"is \['hidden \[4, 5\]', 'out \[4, 3\]'\]"
    with pytest.raises(BadInput, match=message):
        head_of(Plain(change), images())
    with pytest.raises(BadInput, match=message):
        features_of(Plain(change), images())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: (logits, logits), "the model's output is 'tuple'; allowed: a tensor"),
        (lambda logits: logits[0], r"shape of the model's output is \[3\]; allowed: \[4, K\]"),
        (lambda logits: logits[:, None], r"shape of the model's output is \[4, 1, 3\]"),
        (lambda logits: logits / 0, "images with NaN or infinite output is 4; allowed: 0"),
    ],
)
def test_what_is_no_table_of_logits_is_refused(change: Callable[[Tensor], object], message: str) -> None:
    """A tuple, one image's row, another dimension, infinity: said as such."""
    with pytest.raises(BadInput, match=message):
        head_of(Plain(change), images())


def test_no_images_and_no_batch_are_refused() -> None:
    """Nothing can be found by a forward pass of nothing."""
    for call in (head_of, features_of):
        with pytest.raises(BadInput, match="number of images is 0"):
            call(Plain(), images(0))
    with pytest.raises(BadInput, match="batch_size is 0"):
        features_of(Plain(), images(), 0)


def test_features_that_are_not_finite_are_refused() -> None:
    """A head that clips what enters it gives finite logits of an infinite feature: the image is counted."""

    class Clipped(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.clamp(-1, 1))

    x = torch.randn(4, 8)
    x[1, 2] = torch.inf
    with pytest.raises(BadInput, match="features are not finite for 1 of 4 images"):
        features_of(Clipped(8, K), x)

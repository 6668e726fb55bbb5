"""Any network as a classifier: what is found in it, and that a built-in one is the same to the last bit."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from rayunlearn.errors import BadInput
from rayunlearn.inversion.deep_inversion import BatchNormStatistics, InversionSettings, deep_inversion
from rayunlearn.models.adapted import Adapted, Found, found_in
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier, spec_for, version_model
from rayunlearn.models.feature_layer import features_of
from rayunlearn.models.layers import first_layers, layers, weights_of_modules
from rayunlearn.models.sources import FORMS, Source, make
from rayunlearn.task import Input, Task
from tests.models import own_networks
from tests.models.own_networks import Small

OWN = "tests.models.own_networks"


def task(*shape: int, classes: int = 3) -> Task:
    """Of images of this shape."""
    channels = shape[0]
    mean, std = (0.5,) * channels, (0.25,) * channels
    return Task(input=Input(shape=shape, mean=mean, std=std), num_classes=classes)  # type: ignore[arg-type]


def small(**arguments: Any) -> ClassifierSpec:
    """Of a `Small` for images that are not square."""
    return spec_for(task(1, 12, 16), f"{OWN}:Small", arguments=json.dumps(arguments))


def test_head_and_maps_are_found_by_what_they_do() -> None:
    """Not the auxiliary head, which has as many outputs; of each size the last module."""
    found = found_in(Small(), (1, 12, 16))
    assert found == Found(
        head="classify", features=12, num_classes=3, maps={"stem": (12, 16), "features": (6, 8)}
    )
    assert found_in(Small(), (1, 12, 16), head="classify") == found
    with pytest.raises(BadInput, match="--head is 'auxiliary'; allowed: 'classify'"):
        found_in(Small(), (1, 12, 16), head="auxiliary")


@pytest.mark.parametrize("answer", ["mapping", "object", "tensor"])
def test_an_adapted_network_is_a_classifier(answer: str) -> None:
    """Logits, features, head and maps are those of the network's own modules, whatever it returns."""
    model = build_classifier(small(answer=answer), 3).eval()
    assert isinstance(model, Adapted)
    x = torch.randn(5, 1, 12, 16)
    stem = model.net.stem(x)
    deep = model.net.features(stem.clone())
    features = deep.mean(dim=(2, 3))
    assert model.head is model.net.classify and model.head_name == "net.classify"
    assert torch.equal(model(x), model.net.classify(features))
    assert torch.equal(model.features(x), features) and torch.equal(features_of(model, x), features)
    logits, (first, second) = model.forward_with_maps(x)
    assert torch.equal(logits, model(x)) and torch.equal(first, stem) and torch.equal(second, deep)
    (gradient,) = torch.autograd.grad(first.square().sum() + logits.sum(), model.net.stem[0].weight)
    assert gradient.abs().sum() > 0
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_dropout_is_off_in_eval_and_on_in_training() -> None:
    """And a network that draws in eval mode is refused."""
    model = version_model(small(), build_classifier(small(), 0).state_dict())
    x = torch.randn(4, 1, 12, 16)
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))
    with pytest.raises(BadInput, match="the network's answer is 'another one each time'"):
        found_in(own_networks.Noisy(), (1, 8, 8))


def test_a_built_in_network_through_the_adapter_keeps_its_bits() -> None:
    """Logits, features, maps and inverted images at one configuration; other weights, for control, differ."""
    fields = {
        "width": 0.1, "in_channels": 1, "image_size": 8, "num_classes": 3, "mean": [0.5], "std": [0.25],
    }  # fmt: skip
    plain = build_classifier(ClassifierSpec.from_dict({"name": "allcnn", **fields}), 5).eval()
    spec = spec_for(task(1, 8, 8), f"{OWN}:allcnn", arguments=json.dumps(fields))
    assert spec.source is not None and spec.source.head == "head"
    weights = {f"net.{name}": value for name, value in plain.state_dict().items()}
    adapted, other = version_model(spec, weights), build_classifier(spec, 6).eval()
    x = torch.randn(6, 1, 8, 8)
    assert torch.equal(adapted(x), plain(x)) and not torch.equal(other(x), plain(x))
    assert torch.equal(adapted.features(x), plain.features(x))
    # all eight maps there, here the last one of each size
    sizes = {m.shape[-1]: m for m in plain.forward_with_maps(x)[1]}
    maps = adapted.forward_with_maps(x)[1]
    assert [m.shape[-1] for m in maps] == list(sizes) == [8, 4, 2]
    assert all(torch.equal(m, sizes[m.shape[-1]]) for m in maps)
    settings = InversionSettings(iterations=5, min_confidence=0.0)
    labels = torch.tensor([0, 1, 2, 2])
    made = [deep_inversion(m, labels, settings, seed=1).images for m in (plain, adapted, other)]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert [tuple(f"net.{n}" for n in layer) for layer in layers(plain.spec)] == layers(spec)


def test_a_copy_is_a_network_of_its_own() -> None:
    """As methods copy a version, train the copy and edit its head."""
    model = build_classifier(small(), 0).eval()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.head.weight.zero_()
    x = torch.randn(2, 1, 12, 16)
    assert model.head.weight.abs().sum() > 0
    assert torch.equal(twin(x), twin.head.bias.expand(2, -1)) and not torch.equal(model(x), twin(x))


def test_the_spec_travels_as_json() -> None:
    """Source, arguments, digest, head, maps and an input that is not square; unknown fields are refused."""
    spec = small(wide=4)
    assert spec.shape == (1, 12, 16) and spec.image_size == (12, 16) and spec.imports == (OWN,)
    said = json.loads(json.dumps(spec.to_dict()))
    assert ClassifierSpec.from_dict(said) == spec
    assert said["source"] == {
        "factory": f"{OWN}:Small", "arguments": '{"wide":4}', "head": "classify",
        "maps": ["stem", "features"], "digest": spec.source.digest,
    }  # fmt: skip
    assert len(said["source"]["digest"]) == 64
    with pytest.raises(BadInput, match="source"):
        ClassifierSpec.from_dict({**said, "source": {**said["source"], "code": "x"}})
    with pytest.raises(BadInput, match="source is None|name is"):
        ClassifierSpec.from_dict({**said, "source": None})


def test_layers_in_order_of_execution() -> None:
    """Not of definition: the head is none, a module whose parts do not run is one layer, a token is none."""
    assert layers(small()) == [
        ("net.stem.0", "net.stem.1"), ("net.features.0", "net.features.1"), ("net.auxiliary",)
    ]  # fmt: skip
    spec = spec_for(task(1, 8, 8), f"{OWN}:Tokens")
    assert spec.source is not None and spec.source.maps == ("patches",)
    assert layers(spec) == [("net.patches", "net.norm"), ("net.attention",), ("net.wide",)]
    assert first_layers(spec, 2) == ["net.patches", "net.norm", "net.attention"]
    model = build_classifier(spec, 0)
    kept = weights_of_modules(model, ["net.attention"])
    assert kept.keys() == {n for n in model.state_dict() if n.startswith("net.attention.")} and len(kept) == 4


@pytest.mark.parametrize("kind", ["1d", "sync"])
def test_batchnorm_of_other_kinds_has_statistics(kind: str) -> None:
    """The distance is the closed form of the layer's input; one that tracks none is left out."""
    torch.manual_seed(0)
    net = own_networks.flat(kind).eval()
    x = torch.randn(7, 1, 8, 8)
    entered = net[1](x.flatten(1))
    norm = net[2]
    expected = (entered.mean(0) - norm.running_mean).norm() + (entered.var(0) - norm.running_var).norm()
    with BatchNormStatistics(net) as statistics:
        net(x) if kind == "1d" else norm._forward_pre_hooks and _entered(statistics, norm, entered)
        assert statistics.take().item() == pytest.approx(expected.item(), rel=1e-5)
    assert BatchNormStatistics(own_networks.flat("untracked")).layers == []


def _entered(statistics: BatchNormStatistics, norm: nn.Module, entered: torch.Tensor) -> None:
    """SyncBatchNorm runs on GPUs alone: its hook is called as it would be there."""
    statistics._observe(norm, (entered,))


def test_a_network_without_batchnorm_is_inverted_by_the_fallback() -> None:
    """Of a transformer: noise on its weights reaches parameters inside the adapter."""
    spec = spec_for(task(1, 8, 8), f"{OWN}:Tokens")
    model = build_classifier(spec, 0).eval()
    assert not BatchNormStatistics(model).layers
    settings = InversionSettings(iterations=3, min_confidence=0.0)
    labels = torch.tensor([0, 1, 2])
    made = deep_inversion(model, labels, settings, seed=1)
    assert made.images.shape == (3, 1, 8, 8) and bool(made.images.isfinite().all())
    other = deep_inversion(model, labels, settings, seed=2)
    assert not torch.equal(made.images, other.images)


@pytest.mark.parametrize(
    ("name", "arguments", "of", "said"),
    [
        ("Small", {"num_classes": 4}, task(1, 8, 8), "--classes is 3; allowed: 4, the outputs of the head"),
        ("Small", {"answer": "probabilities"}, task(1, 8, 8), "linear layers that ran.*'net.classify"),
        ("Small", {"channels": 3}, task(1, 8, 8), "--input is '1,8,8'; allowed: what the net"),
        ("Small", {"depth": 3}, task(1, 8, 8), "arguments of .*:Small is .*depth.*TypeError"),
        ("one_logit", {}, task(1, 8, 8, classes=2), "'one logit'; allowed: one logit for each.*two out"),
        ("no_network", {}, task(1, 8, 8), r"gives is 'int'; allowed: a torch\.nn\.Module"),
        ("nothing", {}, task(1, 8, 8), "model is .*:nothing'; allowed: a function or class of"),
        ("Small", {}, task(1, 4, 8), "--input is '1,4,8'; allowed: 8 to 384 pixels"),
    ],
)
def test_what_is_no_classifier_is_refused(name: str, arguments: Any, of: Task, said: str) -> None:
    """By a sentence that says what to change."""
    with pytest.raises(BadInput, match=said):
        spec_for(of, f"{OWN}:{name}", arguments=json.dumps(arguments))


@pytest.mark.parametrize("name", ["torchvision:no_such", "tests.no_such:make", "a b:c", "torchvision:", ":x"])
def test_a_factory_that_is_none(name: str) -> None:
    """Neither a form, nor a module, nor a name in it."""
    with pytest.raises(BadInput, match="model is"):
        Source(factory=name, head="x") and make(name, "{}")


def test_torchvision_is_a_source_without_weights_of_its_own() -> None:
    """Seven classes, images that are not square; weights of somebody else are refused."""
    name = "torchvision:resnet18"
    spec = spec_for(task(3, 24, 32, classes=7), name, arguments='{"num_classes": 7}')
    assert spec.source is not None and (spec.source.head, spec.imports) == ("fc", ("torchvision.models",))
    assert spec.source.maps == ("relu", "layer1", "layer2", "layer3")
    with pytest.raises(BadInput, match="argument 'weights' of torchvision:resnet18"):
        make(name, '{"weights": "DEFAULT"}')
    assert "timm:NAME" in FORMS


def test_timm_is_a_source_where_it_is_installed() -> None:
    """One channel, stated as an argument of its own."""
    pytest.importorskip("timm")
    arguments = '{"num_classes": 3, "in_chans": 1}'
    spec = spec_for(task(1, 28, 40), "timm:test_resnet", arguments=arguments)
    assert spec.source is not None and spec.source.head == "fc"
    with pytest.raises(BadInput, match="argument 'pretrained'"):
        make("timm:test_resnet", '{"pretrained": true}')

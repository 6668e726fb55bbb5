"""Claims about classifiers."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import CLASSIFIERS, ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_into, version_id, weights_from_bytes, weights_to_bytes
from tests.models.untrained import spec, untrained
from tests.waiting import HANG_S


@pytest.mark.parametrize(
    ("name", "sizes", "one_channel", "three_channels"),
    [
        ("allcnn", (8, 28, 32), 1_369_258, 1_370_986),
        ("lenet", (28, 32), 61_706, 62_006),
        ("lenet5_bn", (28, 32), 61_720, 62_024),
        ("resnet9", (8, 28, 32), 2_439_114, 2_440_266),
        ("preactresnet18", (8, 28), 11_171_018, 11_172_170),
        ("resnet50", (8, 28), 23_519_690, 23_520_842),
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
    expected = {"allcnn": 8, "lenet": 2, "lenet5_bn": 2, "resnet9": 4, "preactresnet18": 5, "resnet50": 5}
    assert len(maps) == expected[name]
    assert all((m >= 0).all() and m.requires_grad for m in maps)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_weights_survive_as_bytes(name: str) -> None:
    """A model in mid-training comes back from safetensors with its id, answers and BatchNorm counters."""
    trained, images = untrained(name, 3, 32)
    trained.train()(images)
    trained(images)
    data = weights_to_bytes(trained.eval().state_dict())
    back = build_classifier(trained.spec, seed=1).eval()
    fresh = version_id(back.state_dict())
    load_into(back, weights_from_bytes(data))
    assert version_id(back.state_dict()) == version_id(trained.state_dict()) != fresh
    assert torch.equal(back(images), trained(images))
    norms = [m for m in back.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    expected = {"allcnn": 8, "lenet": 0, "lenet5_bn": 2, "resnet9": 8, "preactresnet18": 17, "resnet50": 53}
    assert len(norms) == expected[name]
    for norm in norms:
        assert norm.num_batches_tracked.dtype == torch.int64 and norm.num_batches_tracked == 2
    if norms:  # the control: a counter is part of the id
        norms[-1].num_batches_tracked += 1
        assert version_id(back.state_dict()) != version_id(trained.state_dict())


SEALED = """
import sys
from rayunlearn.access import seal
seal()
import torch
from rayunlearn.models.classifiers import CLASSIFIERS
from tests.models.untrained import untrained
for name in CLASSIFIERS:
    model, images = untrained(name, 3, 28)
    assert model(images).shape == (3, 10), name
    assert model.forward_with_maps(images)[1], name
try:
    import torchvision
except ImportError as error:
    print(error)
"""


def test_every_classifier_is_built_in_a_sealed_process() -> None:
    """After the seal each one is built and run; importing torchvision, the control, is refused there."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SEALED],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "import of torchvision" in done.stdout and "in a sealed process" in done.stdout


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
        ("std", (0.0,)), ("std", 0.5), ("class_names", ("cat",)), ("class_names", ("cat",) * 10),
        ("class_names", tuple(range(10))), ("class_names", "abcdefghij"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field, value):
    """A field out of range is refused by its name."""
    with pytest.raises(BadInput) as error:
        spec(**{field: value})
    assert error.value.thing == field


def test_names_of_classes_travel_where_there_are_some():
    """They come back as they were; a spec without them is written as it was before there were any."""
    named = spec(class_names=tuple("abcdefghij"))
    assert ClassifierSpec.from_dict(json.loads(json.dumps(named.to_dict()))) == named
    assert set(named.to_dict()) - set(spec().to_dict()) == {"class_names"}


def test_unknown_names_get_the_nearest():
    """A misspelt classifier, an unknown field and a missing one are refused with what is allowed."""
    with pytest.raises(BadInput, match="'allcnn'"):
        spec(name="alcnn")
    with pytest.raises(BadInput, match="'width'"):
        ClassifierSpec.from_dict(spec().to_dict() | {"widht": 1})
    with pytest.raises(BadInput, match="missing.*std"):
        ClassifierSpec.from_dict({k: v for k, v in spec().to_dict().items() if k != "std"})

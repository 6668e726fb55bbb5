"""What is declared of data sets and stated of models, without a look at any image."""

from __future__ import annotations

from typing import Any

import pytest

from rayunlearn.data.datasets import load_dataset
from rayunlearn.errors import BadInput
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.task import TASKS, Input, Task

DECLARED = {
    # what the loaders had in themselves before it was declared, and what every stored version has
    "digits": ((1, 8, 8), (0.3053,), (0.3760,), 10),
    "mnist": ((1, 28, 28), (0.1307,), (0.3081,), 10),
    "cifar10": ((3, 32, 32), (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), 10),
    "svhn": ((3, 32, 32), (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970), 10),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_declared_is_what_versions_have(name: str) -> None:
    """Shape, mean, std and classes, to the last bit: the models that were trained by them live on."""
    task = TASKS[name]
    assert (task.input.shape, task.input.mean, task.input.std, task.num_classes) == DECLARED[name]


def test_the_loader_goes_by_the_declaration() -> None:
    """The digits, which are always there: the images are normalised by what is declared of them."""
    data, task = load_dataset("digits"), TASKS["digits"]
    assert tuple(data.images.shape[1:]) == task.input.shape and data.class_names == task.class_names
    assert (data.mean, data.std, data.num_classes) == (task.input.mean, task.input.std, task.num_classes)
    low, high = task.input.pixel_range
    assert float(data.images.min()) == pytest.approx(low) and float(data.images.max()) == pytest.approx(high)


def test_a_spec_of_a_task_is_what_versions_recorded() -> None:
    """A version that was stored before there were tasks reads, and is the same spec."""
    stored = {
        "name": "allcnn", "width": 0.25, "in_channels": 1, "image_size": 8, "num_classes": 10,
        "mean": [0.3053], "std": [0.376],
    }  # fmt: skip
    old = ClassifierSpec.from_dict(stored)
    assert old.to_dict() == stored and old.input == TASKS["digits"].input
    new = ClassifierSpec.of_task(TASKS["digits"], "allcnn", 0.25)
    assert new.to_dict() == {**stored, "class_names": list("0123456789")}
    assert new.task == TASKS["digits"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"shape": (1, 8)}, "shape is (1, 8); allowed: channels, height and width"),
        ({"shape": (1, 0, 8)}, "shape is (1, 0, 8)"),
        ({"shape": (1, 8.0, 8)}, "shape is (1, 8.0, 8)"),
        ({"mean": (0.1, 0.2)}, "mean is (0.1, 0.2); allowed: 1 numbers"),
        ({"std": (0.0,)}, "std is (0.0,); allowed: numbers above 0"),
        ({"mean": (float("nan"),)}, "mean is (nan,); allowed: a tuple, each a finite number"),
    ],
)
def test_an_input_that_is_none(changes: dict[str, Any], said: str) -> None:
    """It is refused by name, with its value and what is allowed; unchanged, for control, it is taken."""
    fields: dict[str, Any] = {"shape": (1, 8, 8), "mean": (0.5,), "std": (0.5,)}
    Input(**fields)
    with pytest.raises(BadInput) as caught:
        Input(**{**fields, **changes})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_classes": 1}, "num_classes is 1; allowed: a whole number >= 2"),
        ({"class_names": ("a",)}, "class_names is ('a',); allowed: 2 different texts"),
        ({"class_names": ("a", "a")}, "class_names is ('a', 'a')"),
        ({"class_names": ("a", 2)}, "class_names is ('a', 2)"),
    ],
)
def test_a_task_that_is_none(changes: dict[str, Any], said: str) -> None:
    """So are classes that are too few, and names that are not one for each."""
    fields: dict[str, Any] = {"input": TASKS["digits"].input, "num_classes": 2, "class_names": ("a", "b")}
    Task(**fields)
    with pytest.raises(BadInput) as caught:
        Task(**{**fields, **changes})
    assert said in str(caught.value)

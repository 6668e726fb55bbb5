"""Settings that a lineage's original has fixed, which no later job, sweep or audit can set otherwise.

The architecture and the images' shape are those of the version. What the original was trained on is known
from the settings of the lineage's first run: another split would test on what the original has learned from.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from typing import Any

from rayunlearn.errors import BadInput
from rayunlearn.held_out import stated_fraction
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import Version
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import DataSettings, Recipe
from rayunlearn.settings import to_json
from rayunlearn.task import TASKS, Task

OF_THE_DATA = ("dataset", "test_fraction", "train_per_class", "mislabelling")
"""Settings of the data that say which images the original was trained on, with which labels."""
RECORDED = ("preprocessing", "mean", "std", "class_names")
"""Settings of the data that are recorded with every version: they need not be stated again."""
OF_THE_MODEL = ("name", "width")
OF_THE_IMAGES = ("in_channels", "image_size", "num_classes", "mean", "std")
"""What the dataset gives a model's spec."""
ROUNDING = 1e-6
"""By which two statistics of the same images may differ, relative to the larger."""


def require_fixed(
    reader: LedgerReader,
    original: Version,
    recipe: Recipe,
    spec: ClassifierSpec,
    *,
    of_the_model: Collection[str] = OF_THE_MODEL,
) -> None:
    """Refuse a recipe that says otherwise than the original of a lineage.

    Args:
        reader: of the runs.
        original: the lineage's first version.
        recipe: to serve, search or audit by.
        spec: of a classifier for the recipe's data.
        of_the_model: settings of the model that are looked at.

    Raises:
        BadInput: naming the first such setting, its value, and what the lineage has.
    """
    for thing, value, fixed in _differences(reader, original, recipe, spec, of_the_model):
        allowed = (
            f"{fixed!r}, as the original of lineage {original.lineage!r} has it; another takes another "
            "lineage or another --storage"
        )
        raise BadInput(thing, value, allowed)


def _differences(
    reader: LedgerReader,
    original: Version,
    recipe: Recipe,
    spec: ClassifierSpec,
    of_the_model: Collection[str],
) -> Iterator[tuple[str, Any, Any]]:
    """(setting, the recipe's value, the original's)."""
    set_now = json.loads(to_json(recipe))
    began_with = _first_data(reader, original.lineage)
    if began_with is not None and not _never_its_data(began_with["dataset"], original):
        unset = json.loads(to_json(DataSettings()))  # of a setting that came later
        now, then_set = (_plainly(told) for told in (set_now["data"], {**unset, **began_with}))
        for name in OF_THE_DATA:
            value, fixed = now[name], then_set[name]
            if value != fixed:
                yield f"data.{name}", value, fixed
    for name in RECORDED:
        value, fixed = set_now["data"][name], original.model.get(name)
        if value is None or name == "class_names" and fixed is None:  # begun before names were recorded
            continue
        if not (_same(value, fixed) if name in ("mean", "std") else value == fixed):
            yield f"data.{name}", value, fixed
    for name in of_the_model:
        if set_now["model"][name] != original.model[name]:
            yield f"model.{name}", set_now["model"][name], original.model[name]
    given = spec.to_dict()
    source: dict[str, Any] = {} if spec.source is None else spec.source.to_dict()
    began_as: dict[str, Any] = original.model.get("source") or {}
    for name in ("arguments", "head"):
        if name in source and name in began_as and source[name] != began_as[name]:
            yield f"model.{name}", source[name], began_as[name]
    for name in OF_THE_IMAGES:
        if not _same(given[name], original.model[name]):
            thing = f"{name} of the images of data.dataset {recipe.data.dataset!r}"
            if recipe.model.task is not None:
                thing = f"{name} that is stated of the model"
            yield thing, given[name], original.model[name]
    then = original.model.get("class_names")  # versions from before names were recorded have none
    if spec.class_names and then and list(spec.class_names) != list(then):
        yield f"classes of data.dataset {recipe.data.dataset!r}", list(spec.class_names), list(then)


def _never_its_data(dataset: str, original: Version) -> bool:
    """Whether a lineage that began without data had a dataset's name only because its recipe had one.

    A name of which nothing is declared was stated for the lineage. One of which is declared what the model
    contradicts cannot be that of the model's data.
    """
    declared = TASKS.get(dataset)
    if original.data_hash is not None or declared is None:
        return False
    return differing(ClassifierSpec.from_dict(original.model).task, declared) is not None


def _plainly(told: dict[str, Any]) -> dict[str, Any]:
    return {**told, "test_fraction": stated_fraction(told["dataset"], told["test_fraction"])}


def _first_data(reader: LedgerReader, lineage: str) -> dict[str, Any] | None:
    """The settings of the data that the lineage's first run began with; None before there was one."""
    columns = ["event", "lineage", "config"]
    for row in reader.rows("runs", columns=columns, lineage=lineage, event="started"):
        found: dict[str, Any] | None = json.loads(row["config"]).get("data")
        return found
    return None


def differing(model: Task, data: Task) -> str | None:
    """How the images and classes of a dataset differ from those of a model; None where they do not.

    Mean and std are the model's, whatever the data.

    >>> from rayunlearn.task import TASKS
    >>> digits, mnist = TASKS["digits"], TASKS["mnist"]
    >>> differing(mnist, digits)
    'the shape is (1, 8, 8), and the model has (1, 28, 28)'
    """
    pairs: dict[str, tuple[Any, Any]] = {
        "shape": (data.input.shape, model.input.shape),
        "number of classes": (data.num_classes, model.num_classes),
    }
    if data.class_names and model.class_names:
        pairs["names of the classes"] = (data.class_names, model.class_names)
    for name, (theirs, ours) in pairs.items():
        if theirs != ours:
            return f"the {name} is {theirs}, and the model has {ours}"
    return None


def _same(a: Any, b: Any) -> bool:
    """Whether two fields of a spec are the same; statistics that were computed may be rounded otherwise."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(
            math.isclose(x, y, rel_tol=ROUNDING, abs_tol=ROUNDING) for x, y in zip(a, b, strict=True)
        )
    return bool(a == b)

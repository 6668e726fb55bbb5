"""What callers give, checked: each error names the argument, its value and what is allowed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.methods.registry import METHODS, method_named
from rayunlearn.models.adapted import INSIDE
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.models.given import Anew, Make, copied, held, spec_of
from rayunlearn.models.weights import Weights, require_weights
from rayunlearn.recipes import Recipe, load_recipe
from rayunlearn.settings import override
from rayunlearn.task import Input

SMALL = 28
"""Pixels: lower or narrower images are served by the recipe `digits` by default, others by `cifar10`."""


@contextmanager
def arguments(where: str) -> Iterator[None]:
    """Inside, an error that speaks of a flag of the command line speaks of the argument instead."""
    try:
        yield
    except BadInput as error:
        if not error.thing.startswith("--") and not error.where.startswith("--"):
            raise
        thing = error.thing.removeprefix("--")
        inside = error.where.removeprefix("--").replace("set", "settings", 1)
        raise BadInput(thing, error.value, error.allowed, where=inside or where) from error


@dataclass(frozen=True, kw_only=True, eq=False)
class Version:
    """A model that was given, as a run takes it.

    Attributes:
        given: the module itself; it is not changed.
        spec: of it as a classifier.
        weights: of the classifier, copies on CPU.
        inside: what comes before the module's own names among the weights'.
        make: builds the network anew, of one that is none of this package's; else None.
        key: that it is held under; else None.
    """

    given: nn.Module
    spec: ClassifierSpec
    weights: Weights
    inside: str = ""
    make: Make | None = None
    key: str | None = None

    @property
    def device(self) -> str:
        """Where the given module's first parameter is."""
        return str(next(self.given.parameters()).device)

    def with_weights(self, weights: Mapping[str, Tensor]) -> nn.Module:
        """A copy of the given module with these weights, in eval mode, on its device."""
        model = copied(self.given)
        own = model.state_dict()
        found = {name.removeprefix(self.inside): value for name, value in weights.items()}
        model.load_state_dict({name: found.get(name, value) for name, value in own.items()})
        return model.eval()


@contextmanager
def version_of(model: object, images: object, make: object = None) -> Iterator[Version]:
    """A given model as a run takes it; a network of the caller's own is held inside.

    Args:
        model: a classifier of this package, or a torch module that gives logits.
        images: an `Input`; None where the model is one of this package's, which knows.
        make: builds the network anew; None draws the weights of a copy anew.

    Raises:
        BadInput: naming what is wrong.
    """
    if not isinstance(model, nn.Module):
        raise BadInput("model", model, "a torch.nn.Module that gives logits for a batch of images")
    if images is not None and not isinstance(images, Input):
        raise BadInput("input", images, "rayunlearn.Input(shape=(C, H, W), mean=..., std=...)")
    if make is not None and not callable(make):
        raise BadInput("make", make, "a function without arguments that builds the network, or None")
    if next(model.parameters(), None) is None:
        raise BadInput("model", type(model).__name__, "a module with parameters")
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    require_weights(weights, "model")
    if isinstance(model, Classifier):
        if images is not None and images != model.spec.input:
            allowed = f"None, or what the model itself says: {model.spec.input}"
            raise BadInput("input", images, allowed)
        if make is not None:
            raise BadInput("make", make, "None for a model of this package, whose spec says how it is built")
        yield Version(given=model, spec=model.spec, weights=weights)
        return
    if images is None:
        allowed = "rayunlearn.Input(shape=(C, H, W), mean=..., std=...): a module does not say what it takes"
        raise BadInput("input", None, allowed)
    build = Anew(model) if make is None else make
    with ExitStack() as stack:
        key = stack.enter_context(held(build))
        with arguments("unlearn()"):
            spec = spec_of(key, copied(model).cpu(), images)
        named = {f"{INSIDE}{name}": value for name, value in weights.items()}
        try:
            version_model(spec, named)
        except BadInput as error:
            allowed = f"a function that builds a network with the model's weights by their names ({error})"
            raise BadInput("make", make, allowed) from error
        yield Version(given=model, spec=spec, weights=named, inside=INSIDE, make=build, key=key)


def class_numbers(name: str, value: object) -> tuple[int, ...]:
    """Different class numbers, in order.

    Raises:
        BadInput: they are none.
    """
    allowed = "class numbers, different whole numbers of at least 0, as [3] or [0, 3]"
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise BadInput(name, value, allowed)
    listed = value.tolist() if isinstance(value, Tensor) else list(value)
    if not all(isinstance(c, int) and not isinstance(c, bool) and c >= 0 for c in listed):
        raise BadInput(name, listed, allowed)
    if len(set(listed)) < len(listed):
        raise BadInput(name, listed, allowed)
    return tuple(sorted(int(c) for c in listed))


def recipe_of(recipe: object, method: object, settings: object, images: Input) -> Recipe:
    """The recipe that is meant, with a method and settings of the caller's own.

    Args:
        recipe: a recipe, its name, or None for the default of such images.
        method: a name, or None for the recipe's.
        settings: dotted paths and values, or None.
        images: that the model takes.

    Raises:
        BadInput: there is no such recipe, method or setting, or the method declares more than weights.
    """
    if recipe is None:
        recipe = "digits" if min(images.shape[1:]) < SMALL else "cifar10"
    if isinstance(recipe, str):
        with arguments("unlearn()"):
            recipe = load_recipe(recipe)
    if not isinstance(recipe, Recipe):
        raise BadInput("recipe", recipe, "the name of a recipe, a rayunlearn.recipes.Recipe, or None")
    if method is not None:
        if not isinstance(method, str):
            raise BadInput("method", method, "the name of a method, or None for the recipe's")
        recipe = replace(recipe, method=method)
    if settings is not None:
        with arguments("unlearn()"):
            recipe = override(recipe, settings_as_text(settings))
    declared = method_named(recipe.method)
    if declared.data_access != {"weights"} or "classes" not in declared.granularity:
        able = [
            each.name
            for each in METHODS.values()
            if each.data_access == {"weights"} and "classes" in each.granularity
        ]
        declares = ", ".join(sorted(declared.data_access))
        allowed = f"a method that forgets classes by the weights alone: {', '.join(able)}"
        raise BadInput("method", recipe.method, f"{allowed}; this one declares {declares}")
    return recipe


def settings_as_text(settings: object) -> list[str]:
    """Settings as `override` takes them.

    Raises:
        BadInput: it is no mapping from dotted paths, or holds what no setting is.
    """
    if not isinstance(settings, Mapping) or not all(isinstance(path, str) for path in settings):
        allowed = 'a mapping from dotted paths, as {"validation.checkpoint_every": 5}, or None'
        raise BadInput("settings", settings, allowed)
    return [f"{path}={_as_text(path, value)}" for path, value in settings.items()]


def _as_text(path: str, value: Any) -> str:
    if isinstance(value, list | tuple) and all(isinstance(v, int | float | str) for v in value):
        return ",".join(str(v) for v in value)
    if value is None or isinstance(value, str | int | float):
        return "none" if value is None else str(value)
    raise BadInput(path, value, "a number, a text, True, False, None, or several in a list", where="settings")


def whole_number(name: str, value: object, least: int = 0) -> int:
    """A whole number that is not too small.

    Raises:
        BadInput: it is something else.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value < math.inf:
        raise BadInput(name, value, f"a whole number of at least {least}")
    return value


def device_of(device: object, default: str, *, here: bool = True) -> str:
    """A device by its name: of this machine, or of whichever does the work.

    Raises:
        BadInput: it is none, or not there.
    """
    if device is None:
        return default
    try:
        found = torch.device(device)  # type: ignore[call-overload]  # whatever it is given, torch says so
        if here:
            torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError, NotImplementedError) as error:
        there = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise BadInput("device", device, f"a device of this machine, as {there}") from error
    return str(found)

"""Recipes by name: settings are plain data, and a run's are recorded whole.

`digits` is the project's own method on the bundled digits, `digits_gkt` the paper's there; `digits_few_shot`
serves requests that give a few examples. `cifar10`, `svhn` and `mnist` are the project's own there: AllCNN,
served by partial restart. The recipes of the papers' experiments are named by dataset and model,
`mnist_lenet` the zero-shot and `mnist_lenet5` the few-shot paper's; each holds the paper's settings of every
method, and `--set method=` chooses. So does a name that ends in a method's: `mnist_lenet_gkt`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from rayunlearn.errors import BadInput, nearest
from rayunlearn.methods.registry import METHODS
from rayunlearn.recipes import few_shot, natural, zero_shot
from rayunlearn.recipes.digits import digits, digits_few_shot, digits_gkt
from rayunlearn.recipes.recipe import AuditSettings, DataSettings, ModelSettings, Recipe, ValidationSettings

__all__ = [
    "RECIPES",
    "AuditSettings",
    "DataSettings",
    "ModelSettings",
    "Recipe",
    "ValidationSettings",
    "digits",
    "digits_few_shot",
    "digits_gkt",
    "load_recipe",
]

RECIPES: dict[str, Callable[[], Recipe]] = {
    "digits": digits,
    "digits_gkt": digits_gkt,
    "digits_few_shot": digits_few_shot,
    **zero_shot.recipes(),
    **few_shot.recipes(),
    **natural.recipes(),
}


def load_recipe(name: str) -> Recipe:
    """The recipe of a name; where a method's name follows, the recipe with that method.

    Raises:
        BadInput: no recipe of that name; the nearest are named.
    """
    if name in RECIPES:
        return RECIPES[name]()
    for known, made in RECIPES.items():
        method = name.removeprefix(f"{known}_")
        if method != name and method in METHODS:
            return replace(made(), method=method)
    raise BadInput("--recipe", name, nearest(name, RECIPES))

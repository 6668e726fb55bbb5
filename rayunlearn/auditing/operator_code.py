"""Where workers find code that a recipe names: a model's factory, and a function that gives data."""

from __future__ import annotations

from typing import Any

from rayunlearn.data.datasets import is_function_of_operator
from rayunlearn.execution.user_code import found_by_workers
from rayunlearn.recipes import Recipe


def code_found_by_workers(recipe: Recipe, address: str | None) -> dict[str, Any]:
    """`found_by_workers` of all code that a recipe names."""
    options = [found_by_workers(recipe.model.name, address)]
    if is_function_of_operator(recipe.data.dataset):
        options.append(found_by_workers(recipe.data.dataset, address, "--data"))
    sent = [module for option in options for module in option.get("runtime_env", {}).get("py_modules", [])]
    return {"runtime_env": {"py_modules": list(dict.fromkeys(sent))}} if sent else {}

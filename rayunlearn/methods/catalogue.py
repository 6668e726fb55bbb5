"""What the registry says of its methods: a list for users, and the zero-shot paper's Table III."""

from __future__ import annotations

from typing import Any

from rayunlearn.methods.registry import METHODS
from rayunlearn.methods.unlearning import Method

REAL_SAMPLES = frozenset({"few_examples", "forget", "retain", "training_log"})
"""Data access that hands over training samples, or what was kept of training on them."""

OF_THE_DATA = frozenset({"forget", "retain", "training_log", "pretrained_generator"})
"""Data access that is made from the dataset."""

TABLE_THREE: dict[str, tuple[str, ...]] = {
    "UNSIR": ("unsir",),
    "Amnesiac": ("amnesiac_rollback", "amnesiac_relabel"),
    "Bad Teacher": ("bad_teacher",),
    "Fisher": ("fisher",),
    "GKT": ("gkt",),
}
"""Columns of Table III, and the methods that stand behind each."""


def described() -> list[dict[str, Any]]:
    """Every method as plain data, in the registry's order."""
    return [
        {
            "name": method.name,
            "data_access": sorted(method.data_access),
            "granularity": sorted(method.granularity),
            "summary": method.summary,
            "source": method.source,
            "settings": method.section,
        }
        for method in METHODS.values()
    ]


def attributes(method: Method) -> dict[str, bool]:
    """The rows of Table III for one method, from what it declares."""
    return {
        "class-level": "classes" in method.granularity,
        "random samples": "samples" in method.granularity,
        "zero-glance": "forget" not in method.data_access,
        "zero samples": not REAL_SAMPLES & method.data_access,
    }


def table_three() -> dict[str, dict[str, bool]]:
    """Table III of the zero-shot paper: column -> row -> whether a method of that column has it."""
    return {
        column: {
            row: any(attributes(METHODS[name])[row] for name in names)
            for row in attributes(METHODS[names[0]])
        }
        for column, names in TABLE_THREE.items()
    }

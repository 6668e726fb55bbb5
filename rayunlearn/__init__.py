"""A Ray-based scheduler for machine unlearning of image classifiers.

`unlearn()`, `audit()` and `load()` are imported when they are used: `import rayunlearn` brings neither Ray
nor torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayunlearn.api.audit import audit
    from rayunlearn.api.load import load
    from rayunlearn.api.unlearn import Result, unlearn
    from rayunlearn.task import Input

from rayunlearn.extras import watch_imports

__version__ = "0.1.0"
__all__ = ["Input", "Result", "__version__", "audit", "load", "unlearn"]

_WHERE = {
    "Input": "rayunlearn.task",
    "Result": "rayunlearn.api.unlearn",
    "audit": "rayunlearn.api.audit",
    "load": "rayunlearn.api.load",
    "unlearn": "rayunlearn.api.unlearn",
}


def __getattr__(name: str) -> Any:
    """What is imported when it is used."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    """All names, those that are not imported yet as well."""
    return sorted({*globals(), *__all__})

watch_imports()

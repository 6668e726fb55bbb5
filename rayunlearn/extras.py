"""Packages that an extra brings, and what is said where one of them is missing.

The package installs without them. Whatever module of rayunlearn imports one that is not there fails with the
sentence of `NotInstalled`; imports of other code, and those that only look whether a package is there, are
none of its business.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from rayunlearn.errors import NotInstalled

EXTRAS: dict[str, str] = {
    "PIL": "images",
    "fastapi": "http",
    "gpytorch": "bayes",
    "jinja2": "report",
    "matplotlib": "report",
    "obstore": "s3",
    "optuna": "optuna",
    "prometheus_client": "http",
    "python_multipart": "http",
    "ray": "ray",
    "rfc3161_client": "evidence",
    "starlette": "http",
    "timm": "timm",
    "torchvision": "images",
    "uvicorn": "http",
    "yaml": "ray",
}
"""Import name of a package -> the extra that brings it."""


def require(*packages: str) -> None:
    """Refuse to begin what needs packages, before any work is done; none of them is imported.

    Raises:
        NotInstalled: one is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise NotInstalled(package, EXTRAS[package])


class _Missing(MetaPathFinder):
    """Asked last, when no other finder has found a module."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Never one: an import of ours ends here with what brings the package."""
        if fullname in EXTRAS and _importer().partition(".")[0] == __package__:
            raise NotInstalled(fullname, EXTRAS[fullname])
        return None


def _importer() -> str:
    """The name of the module whose import statement is being carried out."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def watch_imports() -> None:
    """Have every import in rayunlearn of a package that is missing name its extra."""
    sys.meta_path.append(_Missing())

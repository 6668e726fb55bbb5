"""What is costly to make, kept by what it was made from, outside the repository."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.weights import Weights, weights_from_bytes, weights_to_bytes

FORM = 2
"""Counted up when what makes the models changes, so that nothing made before is taken for them."""


def default_folder() -> Path:
    """$RAYUNLEARN_ZOO, or a folder of the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("RAYUNLEARN_ZOO") or cache / "rayunlearn" / "zoo")


class Cache:
    """A folder of tensors.

    Args:
        folder: made where there is none.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def tensors(self, made_from: Any, make: Callable[[], Mapping[str, Tensor]]) -> Weights:
        """What `make` gives; made once for what it is made from, whose `repr` says all of it."""
        key = hashlib.sha256(repr((FORM, made_from)).encode()).hexdigest()[:32]
        path = self.folder / f"{key}.safetensors"
        if not path.exists():
            parts = path.with_suffix(f".{os.getpid()}")
            parts.write_bytes(weights_to_bytes(make()))
            parts.replace(path)
        return weights_from_bytes(path.read_bytes(), path.name)

    def steps(self, made_from: Any, make: Callable[[], Mapping[str, Weights]]) -> dict[str, Weights]:
        """The same of several models, by name."""
        flat = self.tensors(
            made_from,
            lambda: {f"{step} {name}": t for step, w in make().items() for name, t in w.items()},
        )
        found: dict[str, Weights] = {}
        for key, tensor in flat.items():
            step, name = key.split(" ", 1)
            found.setdefault(step, {})[name] = tensor
        return found

    def images(self, made_from: Any, make: Callable[[], SyntheticSet]) -> SyntheticSet:
        """The same of synthetic images."""

        def tensors() -> Weights:
            made = make()
            return {"images": made.images, "labels": made.labels}

        found = self.tensors(made_from, tensors)
        return SyntheticSet(images=found["images"], labels=found["labels"], requested=len(found["labels"]))

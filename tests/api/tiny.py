"""A request small enough for a test, by unlearn() and as it is served."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import rayunlearn
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import weights_from_bytes
from rayunlearn.serving.scheduler import Outcome
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import Executor, InlineExecutor
from tests.serving.tiny import forget, memory_store, stored_original, tiny_recipe, tiny_scheduler
from tests.stored.models import TINY, stored

IMAGES = rayunlearn.Input(shape=(1, 8, 8), mean=(0.3053,), std=(0.376,))
SHORTER = ("gated_inversion.cycles=2", "gated_inversion.schedule_cycles=2", "inversion.iterations=10")


@functools.cache
def original() -> Classifier:
    """The tiny original of the tests of the service."""
    return stored(TINY)


def given(name: str = "digits", *more: str, **options: Any) -> Any:
    """unlearn() of the tiny original under a tiny recipe."""
    options = {"forget": [3], "recipe": tiny_recipe(name, *more), "progress": False, **options}
    return rayunlearn.unlearn(options.pop("model", original()), **options)


def served(
    name: str = "digits", *more: str, seed: int = 0, opened: Callable[[], Executor] = InlineExecutor
) -> tuple[Store, Outcome]:
    """The same request, served from a storage location."""
    store = memory_store()
    scheduler = tiny_scheduler(
        store, tiny_recipe(name, *more), seed=seed, open_executor=opened, of=stored_original()
    )
    return store, scheduler.serve(forget(3))


def published(store: Store, outcome: Outcome) -> dict[str, Tensor]:
    """The weights that an outcome published."""
    name = f"models/default/{outcome.version}.safetensors"
    return weights_from_bytes(store.get(name), name)


def state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all that a module holds."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def plain(seed: int = 0, classes: int = 4) -> nn.Module:
    """A network as somebody writes it, for images of 8 by 8."""
    with torch.random.fork_rng():  # tests have no other way to seed it
        torch.default_generator.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(8, classes),
        )  # fmt: skip


class Stops:
    """Progress that raises KeyboardInterrupt at the first checkpoint."""

    def phase(self, title: str, phase: str, *, total: int | None = None) -> None:
        """Nothing."""

    def advance(self, n: int = 1, **figures: float) -> None:
        """Now."""
        raise KeyboardInterrupt

    def done(self, note: str = "") -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

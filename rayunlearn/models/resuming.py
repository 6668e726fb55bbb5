"""Trainings that are saved and go on to the same bits: each says what it is made of, and no more."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from rayunlearn.errors import BadInput


class Resumable:
    """A training whose state is attributes of it: modules, optimizers, tensors and plain data.

    Attributes:
        saved: key in the state -> the attribute that it holds, or several.
        device: where saved tensors go back to.
    """

    saved: ClassVar[Mapping[str, str | tuple[str, ...]]]
    device: Any = "cpu"

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on from here to the same bits: tensors and plain data."""
        return {
            key: _copied(getattr(self, names))
            if isinstance(names, str)
            else tuple(_copied(getattr(self, name)) for name in names)
            for key, names in self.saved.items()
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, in a training that was begun alike; the state stays as it is."""
        for key, names in self.saved.items():
            values = (state[key],) if isinstance(names, str) else state[key]
            for name, value in zip((names,) if isinstance(names, str) else names, values, strict=True):
                setattr(self, name, _restored(getattr(self, name), value, self.device))


class Stepped(Resumable):
    """A training of numbered steps, which come one after another."""

    steps: int
    taken: int

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, counted from 1, both included.

        Raises:
            BadInput: they are not the next ones, or more than there are.
            RayUnlearnError: a loss is not finite.
        """
        check_steps(first, last, taken=self.taken, steps=self.steps)
        while self.taken < last:
            self._step()
            self.taken += 1

    def _step(self) -> None:
        raise NotImplementedError


def check_steps(first: int, last: int, *, taken: int, steps: int) -> None:
    """Refuse steps that are not the next ones, or more than there are.

    >>> check_steps(2, 3, taken=0, steps=5)
    Traceback (most recent call last):
    rayunlearn.errors.BadInput: steps is (2, 3); allowed: from 1, at most to 5
    """
    if first != taken + 1 or last > steps:
        raise BadInput("steps", (first, last), f"from {taken + 1}, at most to {steps}")


class MeanLoss:
    """Mean of the losses that were added since it was last taken."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, loss: Tensor) -> None:
        """Count one loss, a scalar."""
        self._sum += float(loss.detach())
        self._count += 1

    def take(self) -> float | None:
        """The mean, None of no loss; it begins anew."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean

    def state_dict(self) -> tuple[float, int]:
        """Sum and number."""
        return self._sum, self._count

    def load_state_dict(self, state: tuple[float, int]) -> None:
        """Go on from what `state_dict` gave."""
        self._sum, self._count = state


def copied_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state, on CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}


def _copied(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return copied_weights(value)
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_copied(inner) for inner in value]
    return copy.deepcopy(value.state_dict()) if hasattr(value, "state_dict") else value


def _restored(now: Any, saved: Any, device: Any) -> Any:
    """What an attribute is that is `now` and was saved: itself where it loads, else what was saved."""
    if saved is not None and hasattr(now, "load_state_dict"):
        now.load_state_dict(copy.deepcopy(saved))
        return now
    if isinstance(saved, Tensor):
        return saved.to(device, copy=True)
    if isinstance(saved, dict):
        known = now if isinstance(now, dict) else {}
        return {key: _restored(known.get(key), inner, device) for key, inner in saved.items()}
    return [_restored(None, inner, device) for inner in saved] if isinstance(saved, list) else saved

"""Runs of three roles: teacher, student, and what makes the images that the student learns from.

The roles exchange messages and share nothing, so they may be objects of this process or handles to actors
on GPUs of their own, with the same weights as a result. What the messages are is the method's to say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.methods.unlearning import Handed, Unlearning, Weights
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.weights import version_id
from rayunlearn.seeds import derive_seed

Build = Callable[[Handed, Any, str], Any]


class CycleSettings(Protocol):
    """What the settings of any method in roles have."""

    @property
    def cycles(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class InRoles:
    """How a method is made of three roles.

    Attributes:
        names: of teacher, student and the source of images, as processes and states are called.
        builders: of each role, in this order, from what it is handed, the settings and the device.
        begin: messages before the first cycle, sent to the three roles under these settings; returns the last
            ones. A run that is loaded gets them as well.
        cycle: messages of a cycle, by its number from 1 on; returns the last one.
    """

    names: tuple[str, str, str]
    builders: tuple[Build, Build, Build]
    begin: Callable[[Any, Any, Any, Any], list[Any]]
    cycle: Callable[[int, Any, Any, Any, Any], Any]


def share_out(handed: Handed) -> tuple[Handed, Handed, Handed]:
    """What teacher, student and source need of what a run is handed.

    The student is not handed the teacher's weights: digests serve to check that it does not start from them.
    """
    return (
        replace(handed, inverted=None),
        replace(handed, inverted=None, weights={}, digests=_digests(handed.weights)),
        replace(handed, weights={}),
    )


def random_student(handed: Handed) -> Classifier:
    """A student with random weights; that they are not the teacher's is checked, not assumed.

    Raises:
        IntegrityError: a matrix is the teacher's.
    """
    model = build_classifier(handed.spec, derive_seed(handed.seed, "student"))
    teacher = handed.digests or _digests(handed.weights)
    for name, parameter in model.named_parameters():
        drawn = parameter.dim() > 1  # biases and BatchNorm's affine parameters start at constants
        if drawn and _digest(name, parameter) == teacher[name]:
            raise IntegrityError(f"the student starts with the teacher's {name}; it must start random")
    return model


def _digests(weights: Weights) -> Mapping[str, str]:
    return {name: _digest(name, weight) for name, weight in weights.items() if weight.dim() > 1}


def _digest(name: str, weight: Tensor) -> str:
    return version_id({name: weight.detach()})


class RunInRoles(Unlearning):
    """All three roles in one process; a step is a cycle.

    Args:
        made: how the method is made of roles.
        handed: what the run is handed.
        settings: of the method.
        device: where every role is.
    """

    def __init__(self, made: InRoles, handed: Handed, settings: CycleSettings, device: str = "cpu") -> None:
        self.made, self.settings = made, settings
        self.steps = settings.cycles
        self.teacher, self.student, self.source = (build(handed, settings, device) for build in made.builders)
        made.begin(settings, self.teacher, self.student, self.source)

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`, both included."""
        for cycle in range(first, last + 1):
            self.made.cycle(cycle, self.settings, self.teacher, self.student, self.source)

    def checkpoint(self) -> Classifier:
        """A copy of the student as it would be published."""
        model: Classifier = self.student.checkpoint()
        return model

    def observe(self, synthetic_loss: float) -> None:
        """The student hears it."""
        self.student.observe(synthetic_loss)

    def report(self) -> dict[str, Any]:
        """Student's and source's figures since the last report."""
        return {**self.student.report(), **self.source.report()}

    def state(self) -> dict[str, Any]:
        """Student and source; the teacher's is its version."""
        _, student, source = self.made.names
        return {student: self.student.state(), source: self.source.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        _, student, source = self.made.names
        self.student.load(state[student])
        self.source.load(state[source])

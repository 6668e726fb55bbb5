"""Gated knowledge transfer as a run: its three roles in one process, and what declares it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.methods.gkt.cycle import run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.methods.unlearning import Handed, Method, Unlearning, Weights
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.models.weights import version_id
from rayunlearn.seeds import derive_seed


def build_teacher(handed: Handed, settings: GKTSettings, device: str = "cpu") -> Teacher:
    """The version to forget from, behind the filter for every class forgotten so far."""
    return Teacher(handed.model(), handed.roles.forget, settings, device)


def build_student(handed: Handed, settings: GKTSettings, device: str = "cpu") -> Student:
    """A student with random weights; that they are not the teacher's is checked, not assumed."""
    model = build_classifier(handed.spec, derive_seed(handed.seed, "student"))
    teacher = handed.digests or _digests(handed.weights)
    for name, parameter in model.named_parameters():
        drawn = parameter.dim() > 1  # biases and BatchNorm's affine parameters start at constants
        if drawn and _digest(name, parameter) == teacher[name]:
            raise IntegrityError(f"the student starts with the teacher's {name}; it must start random")
    return Student(model, settings, device)


def build_run_generator(handed: Handed, settings: GKTSettings, device: str = "cpu") -> Generator:
    """The run's generator, for images of the classifier's shape and pixel range."""
    low, high = handed.spec.pixel_range
    spec = GeneratorSpec(
        z_dim=settings.z_dim,
        width=settings.generator_width,
        channels=handed.spec.in_channels,
        image_size=handed.spec.image_size,
        output=settings.generator_output,
        low=low,
        high=high,
    )
    model = build_generator(spec, derive_seed(handed.seed, "generator"))
    inverted = None if handed.inverted is None else handed.inverted.images
    return Generator(model, settings, handed.seed, inverted, device)


def share_out(handed: Handed) -> tuple[Handed, Handed, Handed]:
    """What the teacher, the student and the generator need of what a run is handed.

    The student is not handed the teacher's weights: digests serve to check that it does not start from them.
    """
    return (
        replace(handed, inverted=None),
        replace(handed, inverted=None, weights={}, digests=_digests(handed.weights)),
        replace(handed, weights={}),
    )


def _digests(weights: Weights) -> dict[str, str]:
    return {name: _digest(name, weight) for name, weight in weights.items() if weight.dim() > 1}


def _digest(name: str, weight: Tensor) -> str:
    return version_id({name: weight.detach()})


class GKTRun(Unlearning):
    """All three roles in one process; a step is a cycle of algorithm 2."""

    def __init__(self, handed: Handed, settings: GKTSettings, device: str = "cpu") -> None:
        self.settings = settings
        self.steps = settings.cycles
        self.teacher = build_teacher(handed, settings, device)
        self.student = build_student(handed, settings, device)
        self.generator = build_run_generator(handed, settings, device)

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`, both included."""
        for cycle in range(first, last + 1):
            run_cycle(cycle, self.settings, self.teacher, self.student, self.generator)

    def checkpoint(self) -> Classifier:
        """A copy of the student as it would be published."""
        return self.student.checkpoint()

    def observe(self, synthetic_loss: float) -> None:
        """The student's plateau schedule hears it."""
        self.student.observe(synthetic_loss)

    def report(self) -> dict[str, Any]:
        """Student's and generator's figures since the last report."""
        return {**self.student.report(), **self.generator.report()}

    def state(self) -> dict[str, Any]:
        """Student and generator; the teacher's is its version."""
        return {"student": self.student.state(), "generator": self.generator.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        self.student.load(state["student"])
        self.generator.load(state["generator"])


def inverted_images(settings: GKTSettings) -> tuple[int, int]:
    """DeepInversion images of each class to retain and to forget that the bank holds."""
    return settings.inverted_per_class, 0


METHOD = Method(
    name="gkt",
    summary="a random student learns from a generator's images that pass a filter for the forget classes",
    source="Zero-Shot Machine Unlearning, section IV.C, algorithm 2",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section="gkt",
    begin=GKTRun,
    inverted=inverted_images,
    roles=("teacher", "student", "generator"),
)


def bank_images(settings: GKTSettings) -> tuple[int, int]:
    """The same, at least one a class.

    Raises:
        BadInput: the settings ask for none.
    """
    if settings.inverted_per_class < 1:
        allowed = "a whole number >= 1, since the method is 'gated_inversion'"
        raise BadInput(f"{settings.section}.inverted_per_class", settings.inverted_per_class, allowed)
    return inverted_images(settings)


GATED_INVERSION = replace(
    METHOD,
    name="gated_inversion",
    summary="gated knowledge transfer that learns from DeepInversion images and replayed batches as well",
    source="this project; from Zero-Shot Machine Unlearning, section IV.C, and docs/log.md",
    section="gated_inversion",
    inverted=bank_images,
)

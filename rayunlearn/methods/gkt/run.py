"""Gated knowledge transfer as a run: how its three roles are built, and what declares it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from rayunlearn.errors import BadInput
from rayunlearn.methods.gkt.cycle import run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.methods.in_roles import InRoles, RunInRoles, random_student
from rayunlearn.methods.unlearning import Handed, Method
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.seeds import derive_seed


def build_teacher(handed: Handed, settings: GKTSettings, device: str = "cpu") -> Teacher:
    """The version to forget from, behind the filter for every class forgotten so far."""
    return Teacher(handed.model(), handed.roles.forget, settings, device)


def build_student(handed: Handed, settings: GKTSettings, device: str = "cpu") -> Student:
    """A student with random weights."""
    return Student(random_student(handed), settings, device)


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


ROLES = InRoles(
    names=("teacher", "student", "generator"),
    builders=(build_teacher, build_student, build_run_generator),
    begin=lambda settings, teacher, student, generator: [],
    cycle=run_cycle,
)


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
    begin=partial(RunInRoles, ROLES),
    inverted=inverted_images,
    roles=ROLES,
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

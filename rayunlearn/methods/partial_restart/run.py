"""A partial restart as a run: how its three roles are built, their messages, and what declares it."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

from rayunlearn.methods.in_roles import InRoles, RunInRoles, random_student
from rayunlearn.methods.partial_restart.settings import KEPT_SHARE, PartialRestartSettings
from rayunlearn.methods.partial_restart.source import Source
from rayunlearn.methods.partial_restart.student import Student
from rayunlearn.methods.partial_restart.teacher import Teacher
from rayunlearn.methods.unlearning import Handed, Method
from rayunlearn.models.layers import first_layers, layers


class TeacherRole(Protocol):
    """Messages of the teacher; a handle to it elsewhere takes the same calls."""

    def kept(self) -> Any: ...  # noqa: D102
    def weigh(self, pictures: Any) -> Any: ...  # noqa: D102
    def label(self, images: Any) -> Any: ...  # noqa: D102


class StudentRole(Protocol):
    """Messages of the student."""

    def keep(self, weights: Any) -> Any: ...  # noqa: D102
    def learn(self, judged: Any) -> Any: ...  # noqa: D102


class SourceRole(Protocol):
    """Messages of the source."""

    def candidates(self) -> Any: ...  # noqa: D102
    def weigh(self, weights: Any) -> Any: ...  # noqa: D102
    def supply(self, cycle: int) -> Any: ...  # noqa: D102


def build_teacher(handed: Handed, settings: PartialRestartSettings, device: str = "cpu") -> Teacher:
    """The version to forget from."""
    return Teacher(handed.model(), handed.roles.forget, _kept(handed, settings), settings, device)


def build_student(handed: Handed, settings: PartialRestartSettings, device: str = "cpu") -> Student:
    """A student with random weights, until the teacher gives it the layers that are kept."""
    return Student(random_student(handed), _kept(handed, settings), settings, device)


def build_source(handed: Handed, settings: PartialRestartSettings, device: str = "cpu") -> Source:
    """The run's pictures."""
    return Source(handed.spec, settings, handed.seed, device)


def _kept(handed: Handed, settings: PartialRestartSettings) -> list[str]:
    """Names of the modules that are kept."""
    there = len(layers(handed.spec))
    return first_layers(handed.spec, round(KEPT_SHARE * there) if settings.kept is None else settings.kept)


def begin(
    settings: PartialRestartSettings, teacher: TeacherRole, student: StudentRole, source: SourceRole
) -> list[Any]:
    """The student gets the layers that are kept, the source the weights of its pictures."""
    return [student.keep(teacher.kept()), source.weigh(teacher.weigh(source.candidates()))]


def run_cycle(
    cycle: int,
    settings: PartialRestartSettings,
    teacher: TeacherRole,
    student: StudentRole,
    source: SourceRole,
) -> Any:
    """Pictures to the teacher, what passes to the student."""
    return student.learn(teacher.label(source.supply(cycle)))


ROLES = InRoles(
    names=("teacher", "student", "source"),
    builders=(build_teacher, build_student, build_source),
    begin=begin,
    cycle=run_cycle,
)

METHOD = Method(
    name="partial_restart",
    summary="the first layers are kept, the others learn anew from the version's answers to drawn pictures",
    source="this project; after EU-k (arXiv 2201.06640), with procedural pictures in place of retain data",
    data_access=frozenset({"weights"}),
    granularity=frozenset({"classes"}),
    section="partial_restart",
    begin=partial(RunInRoles, ROLES),
    roles=ROLES,
    layered=True,
)

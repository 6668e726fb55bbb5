"""Teacher, student and generator of one run, wherever they are.

One interface, three executions of the same roles and the same `run_cycle`, with the same weights:

- `InlineEnsemble`: objects in this process (tests, benchmarks, the inside of the colocated actor);
- `ColocatedEnsemble`: one sealed Ray actor holds an inline ensemble;
- `SplitEnsemble`: three sealed Ray actors, a role each; messages pass from actor to actor, the driver
  sees references only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import torch
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.evaluation.synthetic import Assessment, assess
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.gkt.cycle import run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier, version_model
from rayunlearn.models.generators import GeneratorSpec, build_generator
from rayunlearn.roles import Roles
from rayunlearn.runtime.sealed import Handle, SealedActor
from rayunlearn.runtime.wire import pack, unpack
from rayunlearn.seeds import derive_seed

Job = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """All that the roles of a run are handed: weights and what was made from them; no data.

    Attributes:
        spec: architecture of teacher and student.
        weights: the teacher's state dict.
        roles: which classes are retained, forgotten now and forgotten before.
        settings: of the method.
        seed: of the run.
        inverted: DeepInversion images of the retain classes for the bank, or None.
        stop_set: the synthetic set by which checkpoints are judged.
    """

    spec: ClassifierSpec
    weights: dict[str, Tensor]
    roles: Roles
    settings: GKTSettings
    seed: int
    inverted: Tensor | None
    stop_set: SyntheticSet


class Ensemble(Protocol):
    """The roles of one run."""

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """Results of functions of weights and synthetic images, side by side where there is room."""

    def begin(self, inputs: RunInputs) -> None:
        """Build the roles."""

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`, both included."""

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the student's weights."""

    def state(self) -> dict[str, Any]:
        """The whole state of the run, from which `load` goes on to the same bits."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def close(self) -> None:
        """Let go of processes and resources."""


def build_teacher(inputs: RunInputs, device: str = "cpu") -> Teacher:
    """The version to forget from, behind the filter for every class forgotten so far."""
    model = version_model(inputs.spec, inputs.weights)
    return Teacher(model, inputs.roles.forget, inputs.settings, device)


def build_student(inputs: RunInputs, device: str = "cpu") -> Student:
    """A student with random weights; that they are not the teacher's is checked, not assumed."""
    model = build_classifier(inputs.spec, derive_seed(inputs.seed, "student"))
    for name, parameter in model.named_parameters():
        drawn = parameter.dim() > 1  # biases and BatchNorm's affine parameters start at constants
        if drawn and torch.equal(parameter.detach(), inputs.weights[name]):
            raise IntegrityError(f"the student starts with the teacher's {name}; it must start random")
    return Student(model, inputs.settings, device)


def build_run_generator(inputs: RunInputs, device: str = "cpu") -> Generator:
    """The run's generator, for images of the classifier's shape and pixel range."""
    low, high = inputs.spec.pixel_range
    spec = GeneratorSpec(
        z_dim=inputs.settings.z_dim,
        width=inputs.settings.generator_width,
        channels=inputs.spec.in_channels,
        image_size=inputs.spec.image_size,
        output=inputs.settings.generator_output,
        low=low,
        high=high,
    )
    model = build_generator(spec, derive_seed(inputs.seed, "generator"))
    return Generator(model, inputs.settings, inputs.seed, inputs.inverted, device)


def merge(assessment: Assessment, student: dict[str, Any], generator: dict[str, Any]) -> dict[str, Any]:
    """The columns of a checkpoint record from what each role reports."""
    figures = {**vars(assessment), **student, **generator}
    return {**figures, "forgotten_share": list(assessment.forgotten_share)}


def student_checkpoint(
    student: Student, stop_set: SyntheticSet, roles: Roles
) -> tuple[Assessment, dict[str, Any], dict[str, Tensor]]:
    """The student's assessment, of which it hears, its figures since the last one, and its weights."""
    figures = {"student_loss": student.take_loss(), "student_steps": student.steps}
    assessment = assess(student.checkpoint(), stop_set, roles)
    student.observe(assessment.retain_loss)
    return assessment, figures, student.weights()


class InlineEnsemble:
    """The roles as objects of this process."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """One after another."""
        return [function(*arguments) for function, arguments in jobs]

    def begin(self, inputs: RunInputs) -> None:
        """Build the roles."""
        self.inputs = inputs
        self.teacher = build_teacher(inputs, self.device)
        self.student = build_student(inputs, self.device)
        self.generator = build_run_generator(inputs, self.device)

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`, both included."""
        for cycle in range(first, last + 1):
            run_cycle(cycle, self.inputs.settings, self.teacher, self.student, self.generator)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the student's weights."""
        inputs = self.inputs
        assessment, figures, weights = student_checkpoint(self.student, inputs.stop_set, inputs.roles)
        return merge(assessment, figures, self.generator.report()), weights

    def state(self) -> dict[str, Any]:
        """The whole state of the run; the teacher's is its version."""
        return {"student": self.student.state(), "generator": self.generator.state()}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.student.load(state["student"])
        self.generator.load(state["generator"])

    def close(self) -> None:
        """Nothing to let go of."""


class _ActorEnsemble:
    """What both executions on actors share."""

    def __init__(self, group: PlacementGroup, options: Sequence[dict[str, Any]], threads: int) -> None:
        self.group = group
        self.actors = [
            SealedActor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
                **option,
            ).remote(threads)
            for i, option in enumerate(options)
        ]

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """Side by side, dealt out over the actors in turn."""
        answers = [
            self.actors[i % len(self.actors)].run.remote(function, *pack(arguments))
            for i, (function, arguments) in enumerate(jobs)
        ]
        return [unpack(answer) for answer in ray.get(answers)]

    def gpu_ids(self) -> list[list[str]]:
        """The GPUs assigned to each actor, in the order of the bundles."""
        return list(ray.get([actor.gpu_ids.remote() for actor in self.actors]))

    def close(self) -> None:
        """End the actors and give the placement group back."""
        for actor in self.actors:
            ray.kill(actor)
        ray.util.remove_placement_group(self.group)


class ColocatedEnsemble(_ActorEnsemble):
    """One sealed actor holds all three roles."""

    def begin(self, inputs: RunInputs) -> None:
        """Build the roles in the actor."""
        (actor,) = self.actors
        self.inline = Handle(actor, "ensemble")
        ray.get(actor.create.remote("ensemble", InlineEnsemble))
        ray.get(self.inline.begin(pack(inputs)))

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`, both included."""
        ray.get(self.inline.advance(first, last))

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the student's weights."""
        figures, weights = unpack(ray.get(self.inline.checkpoint()))
        return figures, weights

    def state(self) -> dict[str, Any]:
        """The whole state of the run."""
        state: dict[str, Any] = unpack(ray.get(self.inline.state()))
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ray.get(self.inline.load(pack(state)))


class SplitEnsemble(_ActorEnsemble):
    """Three sealed actors: teacher, student, generator."""

    def begin(self, inputs: RunInputs) -> None:
        """Build each role in its actor; each is handed only what it needs."""
        self.inputs = inputs
        # the student needs the teacher's matrices only to check that it does not start from them
        matrices = {k: v for k, v in inputs.weights.items() if v.dim() > 1}
        self._stop_set = ray.put(pack(inputs.stop_set))
        builders = (build_teacher, build_student, build_run_generator)
        handed = (
            replace(inputs, inverted=None),
            replace(inputs, inverted=None, weights=matrices),
            replace(inputs, weights={}),
        )
        names = ("teacher", "student", "generator")
        ray.get(
            [
                actor.create.remote(name, build, pack(given))
                for actor, name, build, given in zip(self.actors, names, builders, handed, strict=True)
            ]
        )
        self.teacher, self.student, self.generator = (
            Handle(actor, name) for actor, name in zip(self.actors, names, strict=True)
        )

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`: all are submitted at once, and Ray passes the messages on."""
        done = [
            run_cycle(cycle, self.inputs.settings, self.teacher, self.student, self.generator)
            for cycle in range(first, last + 1)
        ]
        ray.get(done[-1])

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the student's weights."""
        student = self.actors[1].apply.remote(
            "student", student_checkpoint, self._stop_set, self.inputs.roles
        )
        (assessment, figures, weights), report = unpack(ray.get([student, self.generator.report()]))
        return merge(assessment, figures, report), weights

    def state(self) -> dict[str, Any]:
        """The whole state of the run, from both roles that have one."""
        student, generator = unpack(ray.get([self.student.state(), self.generator.state()]))
        return {"student": student, "generator": generator}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        ray.get([self.student.load(pack(state["student"])), self.generator.load(pack(state["generator"]))])

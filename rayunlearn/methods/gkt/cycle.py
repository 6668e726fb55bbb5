"""One cycle of algorithm 2, and the messages that its roles exchange."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from rayunlearn.methods.distillation import attention_loss, attention_map, js_divergence, kl_divergence
from rayunlearn.methods.gkt.settings import GKTSettings


@dataclass(frozen=True)
class FilteredBatch:
    """What the teacher hands on of a batch: nothing of the images that the filter refused.

    Attributes:
        images: those that passed, `[M, C, H, W]`.
        logits: the teacher's targets for them, `[M, K]`.
        maps: attention maps, one `[M, P_l]` a layer; empty where no step needs them.
        sizes: how many of the M belong to each student batch, in order.
    """

    images: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class StudentGradients:
    """The student's answer to a generator step: gradients of the adversarial loss.

    Attributes:
        images: gradient for the images that passed, through the student, `[M, C, H, W]`.
        logits: gradient for the teacher's targets, `[M, K]`.
        maps: gradients for the teacher's attention maps, in the order of `FilteredBatch.maps`.
        divergence: what the generator is to maximise, on them: D(T || S), and beta L_at where the
            settings say so; 0.0 where none passed.
    """

    images: Tensor
    logits: Tensor
    maps: tuple[Tensor, ...]
    divergence: float


@dataclass(frozen=True)
class GeneratorGradients:
    """What a generator step gets: the gradient for its images `[B, C, H, W]` and how the batch fared."""

    images: Tensor
    passed: int
    loss: float


class TeacherRole(Protocol):
    """Messages of the teacher; a handle to it elsewhere takes the same calls."""

    def judge(self, images: Any) -> Any: ...  # noqa: D102
    def pull(self, challenge: Any) -> Any: ...  # noqa: D102
    def label(self, images: Any) -> Any: ...  # noqa: D102


class StudentRole(Protocol):
    """Messages of the student."""

    def challenge(self, judged: Any) -> Any: ...  # noqa: D102
    def learn(self, judged: Any) -> Any: ...  # noqa: D102


class GeneratorRole(Protocol):
    """Messages of the generator."""

    def propose(self, cycle: int) -> Any: ...  # noqa: D102
    def update(self, pull: Any) -> Any: ...  # noqa: D102
    def supply(self, cycle: int) -> Any: ...  # noqa: D102


def run_cycle(
    cycle: int,
    settings: GKTSettings,
    teacher: TeacherRole,
    student: StudentRole,
    generator: GeneratorRole,
) -> Any:
    """One cycle of algorithm 2: generator steps against the student, then student steps.

    Images, teacher logits, maps and mask are constant over the cycle's student steps, so they are
    computed once. Returns the last message, which completes when the cycle has.
    """
    for _ in range(settings.generator_steps):
        judged = teacher.judge(generator.propose(cycle))
        generator.update(teacher.pull(student.challenge(judged)))
    return student.learn(teacher.label(generator.supply(cycle)))


def attention_difference(settings: GKTSettings, maps: Sequence[Tensor], features: Sequence[Tensor]) -> Tensor:
    """The run's beta L_at (eq. 8 and 9) of the teacher's maps and the student's feature maps."""
    own = [attention_map(f) for f in features]
    return settings.beta * attention_loss(maps, own, squared=settings.attention == "squared")


def divergence(settings: GKTSettings, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """The run's D(T || S): eq. 7 or JS, over samples or elements."""
    measure = kl_divergence if settings.divergence == "kl" else js_divergence
    value = measure(teacher_logits, student_logits, settings.temperature)
    return value / teacher_logits.shape[1] if settings.divergence_mean == "elements" else value

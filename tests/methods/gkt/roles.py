"""Roles of gated knowledge transfer as tests build them, and the two kinds of settings."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rayunlearn.methods.distillation import attention_map
from rayunlearn.methods.gkt.cycle import FilteredBatch
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.models.generators import GeneratorSpec, build_generator

FORGET = (0, 3)
RETAIN = (1, 2, 4, 5, 6, 7, 8, 9)

PAPER = GKTSettings(
    cycles=6, schedule_cycles=6, batch_size=24, z_dim=16, generator_width=0.1, student_steps=3, epsilon=0.05
)
BANK = replace(
    PAPER,
    divergence_mean="samples",
    temperature=4.0,
    beta=15.0,
    targets="row_minimum",
    student_schedule="one_cycle",
    generator_output="pixel_range",
    generator_gate_weight=1.0,
    generator_bn_weight=0.01,
    inverted_per_class=4,
    replayed_batches=2,
    mixing="cutmix",
)
EITHER = pytest.mark.parametrize("settings", [PAPER, BANK], ids=["paper", "bank"])


def as_bytes(image: Tensor) -> bytes:
    """An image's identity: its bits."""
    return image.detach().contiguous().numpy().tobytes()


def stand_ins(seed: int = 5) -> Tensor:
    """Images `[32, 1, 8, 8]` for the bank in DeepInversion's place."""
    return torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def roles(
    version: Classifier, settings: GKTSettings, seed: int = 0, forget: tuple[int, ...] = FORGET
) -> tuple[Teacher, Student, Generator]:
    """Fresh roles of a run, as the runtime builds them."""
    low, high = version.spec.pixel_range
    spec = GeneratorSpec(
        z_dim=settings.z_dim, width=settings.generator_width, channels=1, image_size=8,
        output=settings.generator_output, low=low, high=high,
    )  # fmt: skip
    inverted = stand_ins() if settings.inverted_per_class else None
    return (
        Teacher(copy.deepcopy(version), forget, settings),
        Student(build_classifier(version.spec, seed + 100), settings),
        Generator(build_generator(spec, seed), settings, seed, inverted),
    )


def judged(teacher: Teacher, images: Tensor, sizes: tuple[int, ...], *, beta: float) -> FilteredBatch:
    """A message with these sizes, its images taken as passed."""
    with torch.no_grad():
        logits, features = teacher.model.forward_with_maps(images)
    maps = tuple(attention_map(f) for f in features) if beta else ()
    return FilteredBatch(images, logits, maps, sizes)

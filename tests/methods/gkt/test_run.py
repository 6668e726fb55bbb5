"""What each role of a run is handed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.methods.gkt.run import build_student
from rayunlearn.methods.in_roles import share_out
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import Classifier, build_classifier
from rayunlearn.roles import Roles
from rayunlearn.seeds import derive_seed
from tests.methods.gkt.roles import PAPER

ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))


def handed(model: Classifier) -> Handed:
    """A run that is to forget class 0 from a model."""
    return Handed(spec=model.spec, weights=dict(model.state_dict()), roles=ROLES, seed=7)


def tensors(of: Any) -> Iterator[Tensor]:
    """All tensors in a dataclass, however deep."""
    if isinstance(of, Tensor):
        yield of
    elif is_dataclass(of):
        for field in fields(of):
            yield from tensors(getattr(of, field.name))
    elif isinstance(of, dict):
        for value in of.values():
            yield from tensors(value)
    elif isinstance(of, (list, tuple)):
        for value in of:
            yield from tensors(value)


def test_the_student_and_the_generator_get_no_weights(version: Classifier) -> None:
    """Not one tensor; the teacher, for control, gets all of them."""
    teacher, student, generator = share_out(handed(version))
    assert list(tensors(student)) == list(tensors(generator)) == []
    assert len(list(tensors(teacher))) == len(version.state_dict())


def test_a_student_that_starts_from_the_teacher_is_refused(version: Classifier) -> None:
    """By digests alone as by weights; the same to a single matrix. One that starts anew is built."""
    whole = handed(version)
    shared = share_out(whole)[1]
    for good in (whole, shared):
        assert not torch.equal(build_student(good, PAPER).model.head.weight, version.head.weight)
    start = build_classifier(version.spec, derive_seed(whole.seed, "student"))
    one = replace(whole, weights={**whole.weights, "head.weight": start.head.weight.detach()})
    for bad in (one, share_out(one)[1]):
        with pytest.raises(IntegrityError, match="the student starts with the teacher's head.weight"):
            build_student(bad, PAPER)

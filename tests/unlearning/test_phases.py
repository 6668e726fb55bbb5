"""The phases as functions of values: by hand, without any store, they make what an attempt makes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rayunlearn.errors import BadInput
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.models.weights import version_id
from rayunlearn.roles import Roles
from rayunlearn.unlearning import phases
from rayunlearn.unlearning.attempt import attempt
from rayunlearn.unlearning.executor import InlineExecutor
from rayunlearn.unlearning.memory import InMemory
from rayunlearn.unlearning.phases import Case, Checkpoint, Granted, Left
from rayunlearn.unlearning.progress import Quiet
from tests.serving.tiny import same_bits, stored_original, tiny_recipe

pytestmark = pytest.mark.usefixtures("few_draws")
ROLES = Roles(retain=tuple(c for c in range(10) if c != 3), target=(3,))


def case(*more: str) -> Case:
    """A short run of the tiny original."""
    spec, weights = stored_original()
    recipe = tiny_recipe("digits_gkt", "gkt.cycles=4", "inversion.iterations=10", *more)
    return Case(spec=spec, weights=weights, roles=ROLES, recipe=recipe, seed=7)


def test_phases_by_hand_make_what_an_attempt_makes() -> None:
    """The same checkpoints, choice and verdict; from a state of the first checkpoint the same second one."""
    of, executor = case(), InlineExecutor()
    kept = InMemory(of)
    found = attempt(of, executor, kept)
    assert found.published and found.choice is not None and found.candidate is not None
    sets = phases.synthesise(of, executor)
    assert sets.keys() == {"check", "stop", "keep"}
    made: list[Checkpoint] = []
    states = []

    def record(checkpoint: Checkpoint) -> None:
        made.append(checkpoint)
        states.append(checkpoint.state())

    steps = phases.prepare(of, executor, sets, of.recipe.method_settings, Granted())
    choice = phases.step(of, executor, steps, record=record, progress=Quiet())
    assert choice == found.choice and [each.figures for each in made] == kept.checkpoints
    chosen = next(each.weights for each in made if each.step == choice.step)
    assert same_bits(chosen, found.candidate)
    verdict, _ = phases.gate(of, executor, chosen, sets)
    assert verdict == found.verdict
    again: list[Checkpoint] = []
    phases.prepare(of, executor, sets, of.recipe.method_settings, Granted())
    left = Left(step=made[0].step, state=states[0], figures=[made[0].figures])
    assert phases.step(of, executor, steps, record=again.append, progress=Quiet(), left=left) == choice
    assert [each.step for each in again] == [4] and same_bits(again[0].weights, made[1].weights)
    other = attempt(replace(of, seed=8), executor, InMemory(of))
    assert other.candidate is not None and not same_bits(other.candidate, found.candidate)


def test_a_bank_that_is_handed_on_is_not_made_again() -> None:
    """The images are taken as they are; without, for control, they are made."""
    of = case("method=gated_inversion", "gated_inversion.inverted_per_class=2")
    bank = SyntheticSet(images=torch.zeros(4, 1, 8, 8), labels=torch.zeros(4, dtype=torch.int64), requested=4)
    assert phases.synthesise(of, InlineExecutor(), bank)["bank"] is bank
    assert len(phases.synthesise(of, InlineExecutor())["bank"].labels) == 18


def test_nothing_but_a_change_passes_for_a_result() -> None:
    """The version itself is told by its id; other weights, for control, are not."""
    of = case()
    kept = InMemory(of)
    assert kept.known(dict(of.weights)) == (
        f"nothing was changed: it is the version before, {version_id(of.weights)[:12]}, bit by bit"
    )
    assert kept.known({name: value + 1 for name, value in of.weights.items()}) is None
    with pytest.raises(BadInput, match="labels to erase"):
        kept.approximation(InlineExecutor())

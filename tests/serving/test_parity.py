from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from rayunlearn.execution.cluster import Placement, open_executor
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.models.weights import weights_from_bytes
from rayunlearn.serving.scheduler import Outcome
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.executor import Executor, InlineExecutor
from tests.serving.tiny import forget, memory_store, rows, same_bits, tiny_recipe, tiny_scheduler

EXECUTIONS: dict[str, Callable[[], Executor]] = {
    "inline": InlineExecutor,
    "colocated": functools.partial(open_executor, Placement.COLOCATED),
    "split": functools.partial(open_executor, Placement.SPLIT),
}
TABLES = ("requests", "runs", "checkpoints", "evaluations", "versions")


@functools.cache
def executed(recipe: str, how: str, seed: int = 0, *more: str) -> tuple[Store, Outcome]:
    """One request served in one of the three ways."""
    store = memory_store()
    scheduler = tiny_scheduler(
        store, tiny_recipe(recipe, *more), seed=seed, open_executor=EXECUTIONS[how], placement=how
    )
    return store, scheduler.serve(forget(0))


def published(store: Store, outcome: Outcome) -> Any:
    """The weights that an outcome published."""
    return weights_from_bytes(store.get(f"models/default/{outcome.version}.safetensors"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("recipe", ["digits", "digits_gkt", "digits_partial_restart"])
@pytest.mark.parametrize("how", ["colocated", "split"])
def test_placements_agree(recipe: str, how: str) -> None:
    """Roles in one actor, or in three, publish the very bits that roles in one process do.

    The ledgers agree row by row in every column that is not declared volatile (time, seconds, placement).
    """
    store, outcome = executed(recipe, how)
    expected_store, expected = executed(recipe, "inline")
    assert outcome == expected and outcome.version is not None
    assert same_bits(published(store, outcome), published(expected_store, expected))
    for table in TABLES:
        found = rows(store, table)
        assert found == rows(expected_store, table) and found, table
    placements = {row["placement"] for row in _all(store, "runs")}
    assert placements == {how}


def test_the_recipes_differ_in_what_travels() -> None:
    """Parity is shown for both kinds: with a bank and no attention maps, and the paper's, the other way."""
    own, paper = tiny_recipe("digits").gated_inversion, tiny_recipe("digits_gkt").gkt
    assert own.learns_from_bank and own.beta == 0
    assert not paper.learns_from_bank and paper.beta > 0


def test_another_seed_gives_another_version() -> None:
    """Negative control: equality is not for want of difference, since another seed changes the weights."""
    _, first = executed("digits", "inline")
    _, second = executed("digits", "inline", 1)
    assert first.version != second.version


def test_another_setting_gives_another_version() -> None:
    """Negative control: a learning rate changed by a thousandth changes the published weights."""
    _, first = executed("digits", "inline")
    _, second = executed("digits", "inline", 0, "gated_inversion.student_lr=3.003e-3")
    assert first.version != second.version


def test_the_same_again_gives_the_same_version() -> None:
    """The same seed in the same process gives the same bits and the same rows a second time."""
    store, first = executed("digits", "inline")
    again_store = memory_store()
    again = tiny_scheduler(again_store, tiny_recipe("digits")).serve(forget(0))
    assert again == first
    assert all(rows(store, table) == rows(again_store, table) for table in TABLES)


def _all(store: Store, table: str) -> list[dict[str, Any]]:
    return LedgerReader(store, [table]).read(table).to_pylist()

"""Runs that lose what they run on: what counts as a loss, how often, and to which bits they go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayTaskError, WorkerCrashedError

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.execution.cluster import NoRoom
from rayunlearn.execution.recovery import MOST_LOSSES, is_loss, outlasting
from rayunlearn.unlearning.executor import InlineExecutor
from tests.serving.tiny import forget, memory_store, rows, tiny_recipe, tiny_scheduler

NO_ROOM = NoRoom("resources", 3, "2")


def raised_elsewhere(cause: Exception) -> Exception:
    """As `ray.get` raises what another process did."""
    raised: Exception = RayTaskError("create", "traceback", cause).as_instanceof_cause()
    return raised


@pytest.mark.parametrize(
    ("error", "loss"),
    [
        (ActorDiedError(), True),
        (WorkerCrashedError(), True),
        (raised_elsewhere(ActorDiedError()), True),  # by an actor that waited for the lost one's answer
        (raised_elsewhere(raised_elsewhere(ActorDiedError())), True),
        (raised_elsewhere(ValueError("a fault of ours")), False),
        (raised_elsewhere(BadInput("a", 1, "2")), False),
        (GetTimeoutError(), False),
        (ValueError("a fault of ours"), False),
        (NO_ROOM, False),
    ],
)
def test_a_loss_is_not_a_fault(error: Exception, loss: bool) -> None:
    """A process that is gone is a loss, also where another one reports it; what was raised is none."""
    assert is_loss(error) is loss


def working(*ends: Exception | None) -> Callable[[], str]:
    """Work that ends as said, once after the other."""
    left = iter(ends)

    def work() -> str:
        error = next(left)
        if error is not None:
            raise error
        return "done"

    return work


class Told:
    """What `outlasting` said and how long it slept; `reached` as given."""

    def __init__(self, reached: Iterator[int]) -> None:
        self.reached = reached
        self.said: list[str] = []
        self.slept: list[float] = []

    def outlasting(self, work: Callable[[], str]) -> str:
        """Call it."""
        return outlasting(
            work, reached=lambda: next(self.reached), tell=self.said.append, sleep=self.slept.append
        )


def test_losses_in_a_row_are_counted() -> None:
    """The pauses double; something new in between begins the count anew; room may come back after a loss."""
    told = Told(iter([0, 0, 0, 0, 1, 1]))
    lost = ActorDiedError()
    assert told.outlasting(working(lost, lost, NO_ROOM, lost, lost, None)) == "done"
    assert told.slept == [1, 2, 4, 1, 2]
    assert len(told.said) == 5 and "goes on from its last checkpoint" in told.said[0]


def test_it_is_given_up() -> None:
    """After so many losses in a row one sentence says so."""
    told = Told(iter([0] * 99))
    with pytest.raises(RayUnlearnError, match=f"{MOST_LOSSES} times in a row$"):
        told.outlasting(working(*[ActorDiedError()] * MOST_LOSSES, None))
    assert sum(told.slept) == 2 ** (MOST_LOSSES - 1) - 1


@pytest.mark.parametrize("error", [NO_ROOM, ValueError("a fault of ours"), RayUnlearnError("refused")])
def test_what_is_no_loss_is_raised(error: Exception) -> None:
    """Too little room at the very start is the user's to mend, and a fault is a fault."""
    told = Told(iter([0]))
    with pytest.raises(type(error)):
        told.outlasting(working(error, None))
    assert told.said == told.slept == []


def test_a_run_goes_on_after_each_loss() -> None:
    """Actors lost at every checkpoint's interval: the version is that of a run that lost nothing."""
    expected, disturbed = memory_store(), memory_store()
    recipe = tiny_recipe("digits", "inversion.iterations=5")
    version = tiny_scheduler(expected, recipe).serve(forget(0)).version

    lost: set[int] = set()

    class Mortal(InlineExecutor):
        def advance(self, first: int, last: int) -> None:
            super().advance(first, last)
            if last not in lost:
                lost.add(last)
                raise ActorDiedError

    assert tiny_scheduler(disturbed, recipe, open_executor=Mortal).serve(forget(0)).version == version
    assert rows(disturbed, "checkpoints") == rows(expected, "checkpoints")
    assert [row["event"] for row in rows(disturbed, "runs")].count("resumed") == len(lost) == 3

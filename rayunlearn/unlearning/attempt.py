"""One attempt at a request, phase by phase, from the version before to what may be published.

Whoever calls keeps what the phases give, in memory or in a storage location, and gives it back to an attempt
that goes on after a process was killed. That is all that differs between a run that is served and one in a
notebook, so both have the same weights, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rayunlearn.errors import BadInput
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.scheduling.gate import Verdict
from rayunlearn.scheduling.stopping import Choice
from rayunlearn.unlearning import judging, phases
from rayunlearn.unlearning.approximation import Approximation, filtered_rows
from rayunlearn.unlearning.executor import Executor
from rayunlearn.unlearning.phases import Case, Checkpoint, Granted, Left, Row, Sets, Weights
from rayunlearn.unlearning.progress import Progress


class Keeper(Protocol):
    """Keeps what the phases of an attempt give; what it has from before is not made again."""

    @property
    def progress(self) -> Progress:
        """Told how far the attempt is."""

    def phase(
        self, name: str, *, total: int | None = None, warning: str | None = None
    ) -> AbstractContextManager[None]:
        """A phase is under way inside; it has ended where the inside did without an error."""

    def granted(self) -> Granted:
        """What the method declares of real data."""

    def bank(self) -> SyntheticSet | None:
        """Images of the classes to retain that the version was handed on with, where the method learns so."""

    def sets(self) -> Mapping[str, SyntheticSet] | None:
        """Synthetic images of an earlier process."""

    def keep_sets(self, sets: Mapping[str, SyntheticSet]) -> None:
        """Keep synthetic images."""

    def approximation(self, executor: Executor) -> Approximation:
        """The making of D', for a request by examples."""

    def rows(self, measure: str) -> Sequence[Mapping[str, Any]]:
        """Rows of evaluations with this measure, of an earlier process."""

    def keep_rows(self, rows: Sequence[Row], of: Weights | None = None) -> None:
        """Keep rows of evaluations without their stamp, of a model or else of the version before."""

    def left(self) -> Left:
        """The steps of an earlier process."""

    def keep_checkpoint(self, made: Checkpoint) -> None:
        """Keep a checkpoint."""

    def steps(self) -> Sequence[int]:
        """Of the checkpoints that were kept."""

    def weights(self, step: int) -> Weights:
        """Of a checkpoint that was kept."""

    def known(self, candidate: Weights) -> str | None:
        """Which earlier version these weights are, in a sentence; None where they are new."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempt:
    """What became of an attempt.

    Attributes:
        refusals: every reason why its result is not to be published; none where all was passed.
        published: whether the result is to be published all the same, or because nothing refuses it.
        choice: what the stopping rule said; None where it was not asked.
        candidate: weights of the chosen checkpoint; None where there is none.
        verdict: of the gate; None where it was not asked.
        sets: what the run was judged by.
        made: D', of a request by examples.
    """

    refusals: tuple[str, ...]
    published: bool = False
    choice: Choice | None = None
    candidate: Weights | None = None
    verdict: Verdict | None = None
    sets: Sets | None = None
    made: Approximation | None = None


def attempt(case: Case, executor: Executor, keeper: Keeper) -> Attempt:
    """Every phase up to the gate.

    Args:
        case: what the run is about.
        executor: does the work; it is not closed here.
        keeper: of what the phases give.
    """
    recipe = case.recipe
    made = None
    try:
        if case.roles.erased:
            made = keeper.approximation(executor)
            sets: Sets = _approximated(case, made, keeper)
        else:
            sets = _synthesised(case, executor, keeper)
    except BadInput as error:  # what the version, or the examples, give is not enough
        return Attempt(refusals=(f"synthesis: {error}",))
    settings = _settings(case, executor, sets, keeper)
    with keeper.phase("prepare"):
        steps = phases.prepare(case, executor, sets, settings, keeper.granted(), made)
    with keeper.phase("unlearn", total=steps):
        choice = phases.step(
            case, executor, steps, record=keeper.keep_checkpoint, progress=keeper.progress,
            left=keeper.left(),
        )  # fmt: skip
    refusals: list[str] = []
    if choice.step is None:
        refusals.append(f"stopping rule: {choice.reason}")
        if not recipe.publish_refused:
            return Attempt(refusals=tuple(refusals), choice=choice, sets=sets, made=made)
        choice = replace(choice, step=max(keeper.steps()))
    assert choice.step is not None, "a checkpoint, chosen or the last"
    candidate = keeper.weights(choice.step)
    if (unchanged := keeper.known(candidate)) is not None:
        refusals.append(f"result: {unchanged}")
        return Attempt(refusals=tuple(refusals), choice=choice, sets=sets, made=made)
    with keeper.phase("gate"):
        verdict, measures = phases.gate(case, executor, candidate, sets)
        if not keeper.rows("chosen_step"):
            keeper.keep_rows(judging.gate_rows(measures, choice, case.roles, recipe.gate), candidate)
    published = True
    if not verdict.passed:
        refusals.append(verdict.said)
        undecided = verdict.outcome == "cannot tell" and recipe.gate.undecided == "publish"
        published = undecided or recipe.publish_refused
    return Attempt(
        refusals=tuple(refusals), published=published, choice=choice, candidate=candidate, verdict=verdict,
        sets=sets, made=made,
    )  # fmt: skip


def unchanged(identity: str) -> str:
    """That a candidate is the version before, whose id this is."""
    return f"nothing was changed: it is the version before, {identity[:12]}, bit by bit"


def _synthesised(case: Case, executor: Executor, keeper: Keeper) -> Sets:
    with keeper.phase("synthesise"):
        kept = keeper.sets()
        if kept is not None:
            return kept
        sets = phases.synthesise(case, executor, keeper.bank())
        keeper.keep_sets(sets)
        return sets


def _approximated(case: Case, made: Approximation, keeper: Keeper) -> Sets:
    """D', and the parts of it that the run is judged by."""
    with keeper.phase("generator", total=made.iterations, warning=made.warning):
        made.train_generator()
    with keeper.phase("sample"):
        made.sample()
    with keeper.phase("filter"):
        filtered = made.filter()
    if not keeper.rows("threshold"):
        keeper.keep_rows(filtered_rows(filtered, case.roles.erased))
    return {"stop": made.held("stop"), "check": made.held("check")}


def _settings(case: Case, executor: Executor, sets: Sets, keeper: Keeper) -> Any:
    """The method's, with the layers that it is to keep where the judge chooses them."""
    settings = case.recipe.method_settings
    if not phases.chooses_layers(case):
        return settings
    rows = keeper.rows("kept_layers")
    if not rows:
        with keeper.phase("layers"):
            rows = phases.choose_layers(case, executor, sets)
            keeper.keep_rows(rows)
    return phases.with_layers(settings, rows)

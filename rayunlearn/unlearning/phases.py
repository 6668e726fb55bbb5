"""The phases of a run: each a function of values that gives values.

A run synthesises what it is judged by, prepares what its method is handed, goes from step to step until the
stopping rule has enough, chooses a checkpoint and has the gate judge it. Nothing here knows of storage, of a
cluster or of a ledger: the executor says where the work is done, and whoever calls keeps what comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rayunlearn.evaluation.judged import Evidence
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.unlearning import Handed, Method, Samples, TrainingLog
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import Weights
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.erasing import layers_to_keep
from rayunlearn.scheduling.gate import GateMeasures, Verdict, judge
from rayunlearn.scheduling.stopping import CheckpointRecord, Choice, choose, should_stop
from rayunlearn.unlearning import judging
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.executor import Executor, RunInputs
from rayunlearn.unlearning.progress import Progress

Row = dict[str, Any]
Sets = Mapping[str, Evidence]


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What a run is about.

    Attributes:
        spec: of the version to forget from.
        weights: of the version.
        roles: who is retained, forgotten now and forgotten before.
        recipe: settings; its method.
        seed: of every draw of the run.
    """

    spec: ClassifierSpec
    weights: Weights
    roles: Roles
    recipe: Recipe
    seed: int

    @property
    def method(self) -> Method:
        """Of the recipe."""
        return method_named(self.recipe.method)

    def record(self, figures: Mapping[str, Any]) -> CheckpointRecord:
        """The stopping rule's view of a checkpoint's figures."""
        return judging.record_of(figures, self.recipe, samples=self.roles.kind == "samples")


@dataclass(frozen=True, kw_only=True, eq=False)
class Granted:
    """What a method is handed of real data, where it declares it; else None.

    Attributes:
        forget: training samples to forget now, single ones or of whole classes.
        retain: the other training samples of the classes to retain.
        training_log: of the original's training.
    """

    forget: Samples | None = None
    retain: Samples | None = None
    training_log: TrainingLog | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Checkpoint:
    """A run at a step.

    Attributes:
        step: how far it is.
        figures: measured on synthetic images, by the names of the ledger's columns.
        weights: as they would be published.
        state: gives the whole state of the run, from which it goes on to the same bits.
    """

    step: int
    figures: Row
    weights: Weights
    state: Callable[[], dict[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Left:
    """What an earlier process left of a run's steps.

    Attributes:
        step: of the state; 0 where there is none.
        state: of the run.
        figures: of checkpoints, with their `step`, in order.
    """

    step: int = 0
    state: dict[str, Any] | None = None
    figures: Sequence[Mapping[str, Any]] = ()


def synthesise(case: Case, executor: Executor, bank: SyntheticSet | None = None) -> dict[str, SyntheticSet]:
    """The synthetic images that a run is judged by and, where its method does, learns from.

    Args:
        case: of the run.
        executor: does the work.
        bank: images to learn from that the version was handed on with; they are not made again.

    Raises:
        BadInput: the version shows too little of a class.
    """
    jobs = judging.synthesis_jobs(case.spec, case.weights, case.roles, case.recipe, case.seed)
    before = {} if bank is None else {"bank": bank}
    jobs = {name: job for name, job in jobs.items() if name not in before}
    return before | dict(zip(jobs, executor.map(list(jobs.values())), strict=True))


def chooses_layers(case: Case) -> bool:
    """Whether the judge says how many first layers the method keeps."""
    return case.method.layered and case.recipe.method_settings.kept is None


def choose_layers(case: Case, executor: Executor, sets: Sets) -> list[Row]:
    """How many layers are kept, and why, as rows of evaluations without their stamp."""
    jobs = judging.layer_jobs(case.spec, case.weights, sets, case.roles, case.recipe, case.seed)
    scales = judging.layer_scales(executor.map(jobs))
    return judging.layer_rows(scales, layers_to_keep(scales), case.roles)


def with_layers(settings: Any, rows: Sequence[Mapping[str, Any]]) -> Any:
    """A method's settings with the layers of these rows."""
    return replace(settings, kept=int(rows[0]["value"]))


def prepare(
    case: Case,
    executor: Executor,
    sets: Sets,
    settings: Any,
    granted: Granted,
    made: Approximation | None = None,
) -> int:
    """Hand the method what it declares; returns the most steps that it takes.

    Args:
        case: of the run.
        executor: is to hold the run.
        sets: of `synthesise`, or the parts of D'.
        settings: of the method.
        granted: of real data, what the method declares.
        made: D', of a request by examples.
    """
    bank = sets.get("bank")
    for part in made.parts("learn") if made is not None else ():
        executor.receive(part)  # one chunk at a time, of however many there are
    few = "few_examples" in case.method.data_access
    return executor.begin(
        RunInputs(
            method=case.method.name,
            settings=settings,
            handed=Handed(
                spec=case.spec,
                weights=case.weights,
                roles=case.roles,
                seed=case.seed,
                forget=granted.forget,
                retain=granted.retain,
                training_log=granted.training_log,
                inverted=bank if isinstance(bank, SyntheticSet) else None,
                examples=made.examples if made is not None and few else None,
            ),
            stop_set=sets["stop"],
            compared=judging.compared(case.recipe),
        )
    )


def advance(executor: Executor, done: int, steps: int, every: int) -> Checkpoint:
    """From one checkpoint to the next, or to the end."""
    last = min(done + every, steps)
    executor.advance(done + 1, last)
    figures, weights = executor.checkpoint()
    return Checkpoint(step=last, figures={"step": last, **figures}, weights=weights, state=executor.state)


def step(
    case: Case,
    executor: Executor,
    steps: int,
    *,
    record: Callable[[Checkpoint], None],
    progress: Progress,
    left: Left | None = None,
) -> Choice:
    """Steps until the stopping rule says stop or the method's end is reached; then its choice.

    Args:
        case: of the run.
        executor: holds the run, which has begun.
        steps: the most that the method takes.
        record: is handed each checkpoint before the next one is begun.
        progress: told how far it is.
        left: of an earlier process.
    """
    left = left or Left()
    every = steps if case.method.fixed_length else case.recipe.validation.checkpoint_every
    done = left.step
    if left.state is not None:
        executor.load(left.state)
        progress.advance(done)
    stopping = case.recipe.stopping
    records = [case.record(figures) for figures in left.figures if figures["step"] <= done]
    while done < steps and should_stop(records, stopping) is None:
        made = advance(executor, done, steps, every)
        record(made)
        records.append(case.record(made.figures))
        forget = {} if case.roles.kind == "samples" else {"forget": records[-1].forget_accuracy}
        progress.advance(made.step - done, retain=records[-1].retain_accuracy, **forget)
        done = made.step
    return choose(records, stopping)


def gate(case: Case, executor: Executor, candidate: Weights, sets: Sets) -> tuple[Verdict, GateMeasures]:
    """Whether a candidate may be published, and what the gate saw of it."""
    jobs = judging.gate_jobs(case.spec, candidate, case.weights, sets, case.roles, case.recipe, case.seed)
    measures = judging.gate_measures(executor.map(jobs), case.roles, case.recipe)
    return judge(measures, case.recipe.gate), measures

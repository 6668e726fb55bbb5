"""A trial of a sweep: one run of the method under settings of its own, checkpoint by checkpoint.

What all trials share (the version's weights, the synthetic sets) lies in the object store once. A trial's
actors live in the trial's own placement group and stay there for the next trial that Tune begins in it. After
each checkpoint its whole state is in the storage location: whoever is told to go on with the trial, after
whatever was killed, reports what was reported before and goes on to the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import ray
from ray import tune
from ray.exceptions import RayError
from ray.util import get_current_placement_group
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.execution.cluster import executor_in
from rayunlearn.execution.executor import Shared
from rayunlearn.execution.placement import Placement
from rayunlearn.execution.remote import fetch, recorded, sentence
from rayunlearn.execution.wire import unpack
from rayunlearn.lineages.runs import States
from rayunlearn.lineages.sweep_files import trial_files
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.recipes import Recipe
from rayunlearn.roles import Roles
from rayunlearn.scheduling.objective import trial_result
from rayunlearn.scheduling.space import Value, assignments
from rayunlearn.scheduling.stopping import CheckpointRecord, should_stop
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from rayunlearn.tuning.search_space import CYCLE, SCORE
from rayunlearn.unlearning.approximation import Approximation
from rayunlearn.unlearning.judging import record_of
from rayunlearn.unlearning.phases import advance
from rayunlearn.unlearning.progress import Quiet


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a trial of a request by examples makes its D' from.

    Attributes:
        spec: of the version.
        weights: of the version, packed, in the object store.
        roles: with the labels to erase.
        examples: of what is to be unlearned.
        whole: the labels to erase are classes to forget as a whole.
        generators: how the names of generators begin that trials share.
    """

    spec: ClassifierSpec
    weights: ray.ObjectRef[Any]
    roles: Roles
    examples: Samples
    whole: bool
    generators: str


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all trials of a sweep have in common.

    Attributes:
        store: the storage location.
        sweep: the sweep's name.
        recipe: whose settings a trial's point changes.
        placement: of a trial's roles.
        threads: torch threads in each.
        seed: of every trial alike, so that trials differ by their settings alone.
        shared: what the runs begin from, in the object store.
        behaviour: of a request by examples; None for one that names classes.
        imports: modules of the code that the model is built by.
    """

    store: Store
    sweep: str
    recipe: Recipe
    placement: Placement
    threads: int
    seed: int
    shared: Shared
    behaviour: Behaviour | None = None
    imports: tuple[str, ...] = ()


class Trial(tune.Trainable):
    """What Tune runs; a step of it is from one checkpoint to the next.

    A step's result holds what the driver records: the checkpoint's `row`, the trial's result so far, whether
    it `ended` by itself, and `failed`, a traceback where it could not go on. What Ray itself reports (a dead
    actor, a lost node) is raised instead: Tune begins the trial again, and it goes on where it was.
    """

    def setup(self, config: dict[str, Value], common: Common) -> None:  # type: ignore[override]
        """Begin the actors in the trial's placement group; the run begins with the first step."""
        self.common = common
        group = get_current_placement_group()
        assert group is not None, "Tune gives each trial one"
        self.executor = executor_in(
            group, common.placement, threads=common.threads, imports=common.imports
        )
        self._take(config)

    def reset_config(self, new_config: dict[str, Value]) -> bool:
        """Take over the actors for another trial."""
        self.executor.reset()
        self._take(new_config)
        return True

    def _take(self, config: dict[str, Value]) -> None:
        self.point = dict(config)
        self.recipe = self.common.recipe
        self.begun = False
        self.done = 0
        self.rows: list[dict[str, Any]] = []
        self.replayed = 0
        self.busy_s = 0.0

    def cleanup(self) -> None:
        """End the actors."""
        self.executor.close()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the state is in the storage location."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the state is in the storage location."""

    def step(self) -> dict[str, Any]:
        """From one checkpoint to the next."""
        try:
            if not self.begun:
                self._begin()
            return self._next()
        except BadInput as error:  # what the settings give is not enough to judge, or to run
            return self._reported(None, ended=True, reason=sentence(error))
        except Exception as error:
            if isinstance(error, RayError):  # a process or a node is gone
                raise
            return self._reported(None, ended=True, reason="it raised", failed=recorded(error))

    def _begin(self) -> None:
        common = self.common
        self.recipe = override(common.recipe, assignments(self.point))
        self.files = trial_files(common.store, common.sweep, self.trial_id)
        began = perf_counter()
        if common.behaviour is not None:
            self._relearn_from(common.behaviour)
        self.steps = self.executor.begin_shared(common.shared, self.recipe.method_settings)
        state = self.files.state()
        if state is not None:
            self.executor.load(state["run"])
            self.done, self.rows = state["step"], state["rows"]
        self.busy_s = perf_counter() - began
        self.begun = True

    def _relearn_from(self, of: Behaviour) -> None:
        """D' under the trial's own settings; trials that agree on the generator's train one between them."""
        weights: dict[str, Tensor] = unpack(fetch(of.weights))
        made = Approximation(
            self.executor, self.files, spec=of.spec, weights=weights, roles=of.roles,
            settings=self.recipe.few_shot, examples=of.examples, seed=self.common.seed, progress=Quiet(),
            shared=States(self.common.store), shared_as=of.generators, whole=of.whole,
        )  # fmt: skip
        made.train_generator()
        made.sample()
        made.filter()
        for part in made.parts("learn"):
            self.executor.receive(part)

    def _next(self) -> dict[str, Any]:
        """The next checkpoint: one that was reported before its process was killed, or a new one."""
        if self.replayed == len(self.rows):
            every = self.recipe.validation.checkpoint_every
            began = perf_counter()
            made = advance(self.executor, self.done, self.steps, every)
            self.busy_s += perf_counter() - began
            self.rows.append(made.figures)
            # student, then state with its row: whatever a kill leaves, the state finds the other
            self.files.put_student(made.step, made.weights)
            self.files.put_state({"step": made.step, "rows": self.rows, "run": made.state()})
            self.done = made.step
        row = self.rows[self.replayed]
        self.replayed += 1
        stop = should_stop(self._records(), self.recipe.stopping)
        return self._reported(row, ended=row["step"] == self.steps or stop is not None)

    def _records(self) -> list[CheckpointRecord]:
        return [record_of(row, self.recipe) for row in self.rows[: self.replayed]]

    def _reported(
        self, row: dict[str, Any] | None, *, ended: bool, reason: str = "", failed: str | None = None
    ) -> dict[str, Any]:
        """The trial's result so far, as Tune and the driver take it."""
        found = trial_result(self.trial_id, self._records(), self.recipe.stopping)
        busy, self.busy_s = self.busy_s, 0.0
        return {
            SCORE: found.score, CYCLE: found.cycles, "step": found.step, "reason": reason or found.reason,
            "row": row, "busy_s": busy, "ended": ended, "failed": failed, "done": ended,
        }  # fmt: skip

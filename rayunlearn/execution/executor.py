"""The run of a method on Ray, with the weights that it has in one process (`rayunlearn.unlearning.executor`).

- `ColocatedExecutor`: one sealed Ray actor holds an inline executor, of any method;
- `SplitExecutor`: three sealed Ray actors, each with a role of gated knowledge transfer; messages pass
  from actor to actor, the driver sees references only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.evaluation.judged import Judge
from rayunlearn.execution.remote import fetch
from rayunlearn.execution.sealed import Handle, SealedActor
from rayunlearn.execution.wire import pack, unpack
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.methods.in_roles import InRoles, share_out
from rayunlearn.methods.registry import method_named
from rayunlearn.unlearning.executor import (
    InlineExecutor,
    Job,
    RunInputs,
    kept_column,
    merge,
    weights_of_checkpoint,
)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What a run begins from, in the object store: settings apart, alike for any number of runs.

    Attributes:
        method: its name.
        parts: references, as the executor that is to hold the run wants them.
    """

    method: str
    parts: tuple[ray.ObjectRef[Any], ...]


class _ActorExecutor:
    """What both executions on actors share.

    Args:
        group: with a bundle for each actor.
        options: of each actor.
        threads: torch threads in each.
        imports: modules of the code that models are built by.
        lent: the group is somebody else's, who gives it back.
    """

    def __init__(
        self, group: PlacementGroup, options: Sequence[dict[str, Any]], threads: int, *,
        imports: Sequence[str] = (), lent: bool = False,
    ) -> None:  # fmt: skip
        self.group, self.lent = group, lent
        self.actors = [
            SealedActor.options(
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i),
                **option,
            ).remote(threads, tuple(imports))
            for i, option in enumerate(options)
        ]

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """Side by side, in order; whichever actor is free takes the next."""
        answers: list[Any] = []
        at_work: dict[Any, Any] = {}
        for i, (function, arguments) in enumerate(jobs):
            if i < len(self.actors):
                actor = self.actors[i]
            else:
                (ended, *_), _ = ray.wait(list(at_work))
                actor = at_work.pop(ended)
            answers.append(actor.run.remote(function, *pack(arguments), on_device=True))
            at_work[answers[-1]] = actor
        return [unpack(answer) for answer in fetch(answers)]

    def everywhere(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Carry out a function in every actor."""
        fetch([actor.run.remote(function, *arguments) for actor in self.actors])

    def gpu_ids(self) -> list[list[str]]:
        """The GPUs assigned to each actor, in the order of the bundles."""
        return list(fetch([actor.gpu_ids.remote() for actor in self.actors]))

    def close(self) -> None:
        """End the actors and give the placement group back."""
        for actor in self.actors:
            ray.kill(actor)
        if not self.lent:
            ray.util.remove_placement_group(self.group)


class ColocatedExecutor(_ActorExecutor):
    """One sealed actor holds the run; others, where there are some, take their share of `map`."""

    def __init__(
        self, group: PlacementGroup, options: Sequence[dict[str, Any]], threads: int, *,
        imports: Sequence[str] = (), lent: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(group, options, threads, imports=imports, lent=lent)
        self.inline = Handle(self.actors[0], "executor")
        self.reset()

    def reset(self) -> None:
        """Forget the run and all that it was given: the next one begins."""
        fetch(self.actors[0].create.remote("executor", InlineExecutor))

    @staticmethod
    def share(inputs: RunInputs) -> Shared:
        """Inputs put into the object store once, for any number of runs."""
        return Shared(method=inputs.method, parts=(ray.put(pack(inputs)),))

    def receive(self, part: UnlearningSet) -> None:
        """Pass a part of what the run is to learn from on to the actor."""
        fetch(self.inline.receive(pack(part)))

    def begin(self, inputs: RunInputs) -> int:
        """Build the run in the actor."""
        return self.begin_shared(self.share(inputs), inputs.settings)

    def begin_shared(self, shared: Shared, settings: Any) -> int:
        """Build a run with settings of its own from inputs in the object store."""
        steps: int = fetch(self.inline.begin_with(*shared.parts, settings))
        return steps

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, both included."""
        fetch(self.inline.advance(first, last))

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the weights as they would be published."""
        figures, weights = unpack(fetch(self.inline.checkpoint()))
        return figures, weights

    def state(self) -> dict[str, Any]:
        """The whole state of the run."""
        state: dict[str, Any] = unpack(fetch(self.inline.state()))
        return state

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        fetch(self.inline.load(pack(state)))


class SplitExecutor(_ActorExecutor):
    """Three sealed actors, each with a role of the method."""

    def receive(self, part: UnlearningSet) -> None:
        """Refused: none of the three learns from samples that others made."""
        raise BadInput("placement", "split", "colocated, for a method that learns from D'")

    @staticmethod
    def share(inputs: RunInputs) -> Shared:
        """Inputs put into the object store once, for any number of runs; each role's part by itself."""
        parts = (*share_out(inputs.handed), inputs.grounds)
        return Shared(method=inputs.method, parts=tuple(ray.put(pack(part)) for part in parts))

    def reset(self) -> None:
        """Nothing: `begin` replaces each role."""

    def begin(self, inputs: RunInputs) -> int:
        """Build each role in its actor; each is handed only what it needs."""
        return self.begin_shared(self.share(inputs), inputs.settings)

    def begin_shared(self, shared: Shared, settings: Any) -> int:
        """Build a run with settings of its own from inputs in the object store."""
        self.settings = settings
        *parts, grounds = shared.parts
        self.made = _in_roles(shared.method)
        fetch(
            [
                actor.create.remote(name, build, part, settings)
                for actor, name, build, part in zip(
                    self.actors, self.made.names, self.made.builders, parts, strict=True
                )
            ]
            + [self.actors[0].create.remote("judge", Judge, grounds)]
        )
        self.teacher, self.student, self.source = (
            Handle(actor, name) for actor, name in zip(self.actors, self.made.names, strict=True)
        )
        self.judge = Handle(self.actors[0], "judge")
        fetch(self.made.begin(settings, self.teacher, self.student, self.source))
        steps: int = settings.cycles
        return steps

    def advance(self, first: int, last: int) -> None:
        """Run cycles `first` to `last`: all are submitted at once, and Ray passes the messages on."""
        done = [
            self.made.cycle(cycle, self.settings, self.teacher, self.student, self.source)
            for cycle in range(first, last + 1)
        ]
        fetch(done[-1])

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the weights as they would be published."""
        candidate = self.actors[1].apply.remote(weights_of_checkpoint, "student")
        # beside the teacher: what it is compared with are the teacher's weights
        assessment, kept = unpack(fetch(self.judge.judge_weights(candidate)))
        heard = self.student.observe(pack(assessment.retain_loss))
        reports = [self.student.report(), self.source.report()]
        _, weights, own, report = unpack(fetch([heard, candidate, *reports]))
        return merge(assessment, own | kept_column(kept), report), weights

    def state(self) -> dict[str, Any]:
        """The whole state of the run, from both roles that have one."""
        states = unpack(fetch([self.student.state(), self.source.state()]))
        return dict(zip(self.made.names[1:], states, strict=True))

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        _, student, source = self.made.names
        fetch([self.student.load(pack(state[student])), self.source.load(pack(state[source]))])


def _in_roles(method: str) -> InRoles:
    made = method_named(method).roles
    assert made is not None, f"{method} has one part; `Service` gives it one process"
    return made

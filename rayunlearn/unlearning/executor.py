"""The run of a method, wherever its parts are; here as an object of this process.

One interface, three executions with the same weights: `InlineExecutor`, and two on sealed Ray actors
(`rayunlearn.execution.executor`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from torch import Tensor

from rayunlearn.evaluation.judged import Evidence, Grounds, Judge
from rayunlearn.evaluation.synthetic import Assessment
from rayunlearn.inversion.unlearning_set import UnlearningSet, joined
from rayunlearn.methods.registry import method_named
from rayunlearn.methods.unlearning import Handed
from rayunlearn.models.classifiers import Classifier

Job = tuple[Callable[..., Any], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """What a run begins from.

    Attributes:
        method: its name.
        settings: of the method.
        handed: all that the method is handed.
        stop_set: what checkpoints are judged by.
        compared: whether what they have kept is measured as well, by coarse images in the stop set.
    """

    method: str
    settings: Any
    handed: Handed
    stop_set: Evidence
    compared: bool = False

    @property
    def grounds(self) -> Grounds:
        """What checkpoints are judged by."""
        handed = self.handed
        return Grounds(
            evidence=self.stop_set, roles=handed.roles, spec=handed.spec,
            version=handed.weights if self.compared else None, seed=handed.seed,
        )  # fmt: skip


class Executor(Protocol):
    """One run, wherever its parts are."""

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """Results of functions of weights and synthetic images, side by side where there is room.

        Each is told its `device` besides.
        """

    def receive(self, part: UnlearningSet) -> None:
        """Take a part of what the run is to learn from; all of them come before `begin`."""

    def begin(self, inputs: RunInputs) -> int:
        """Build the run; returns the most steps that it takes."""

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, both included."""

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the weights as they would be published."""

    def state(self) -> dict[str, Any]:
        """The whole state of the run, from which `load` goes on to the same bits."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""

    def close(self) -> None:
        """Let go of processes and resources."""


class Checkpointed(Protocol):
    """What gives a checkpoint: a run, or the student where it is in a process of its own."""

    def checkpoint(self) -> Classifier: ...  # noqa: D102


def weights_of(model: Classifier) -> dict[str, Tensor]:
    """As they would be published."""
    return {k: v.detach().cpu() for k, v in model.state_dict().items()}


def weights_of_checkpoint(run: Checkpointed) -> dict[str, Tensor]:
    """The same of a checkpoint."""
    return weights_of(run.checkpoint())


def kept_column(kept: dict[str, float] | None) -> dict[str, str | None]:
    """What a checkpoint has kept of its version, as its record has it."""
    return {"kept": None if kept is None else json.dumps(kept)}


def merge(assessment: Assessment, *reports: dict[str, Any]) -> dict[str, Any]:
    """The columns of a checkpoint record from what each part of a run reports."""
    no_generator = {"pass_rate": None, "generator_loss": None, "stalled": False, "recoveries": 0}
    figures: dict[str, Any] = {**no_generator, **vars(assessment)}
    for report in reports:
        figures |= report
    return {**figures, "forgotten_share": list(assessment.forgotten_share)}


class InlineExecutor:
    """The run as an object of this process."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._parts: list[UnlearningSet] = []

    def map(self, jobs: Sequence[Job]) -> list[Any]:
        """One after another."""
        return [function(*arguments, device=self.device) for function, arguments in jobs]

    def receive(self, part: UnlearningSet) -> None:
        """Take a part of what the run is to learn from."""
        self._parts.append(part)

    def begin_with(self, inputs: RunInputs, settings: Any) -> int:
        """Build the run with other settings than its inputs have."""
        return self.begin(replace(inputs, settings=settings))

    def begin(self, inputs: RunInputs) -> int:
        """Build the run."""
        handed = inputs.handed
        if self._parts:
            handed, self._parts = replace(handed, approximated=joined(self._parts)), []
        self.run = method_named(inputs.method).begin(handed, inputs.settings, self.device)
        self.judge = Judge(inputs.grounds, self.device)
        return self.run.steps

    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, both included."""
        self.run.advance(first, last)

    def checkpoint(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Figures since the last checkpoint, and the weights as they would be published."""
        model = self.run.checkpoint()
        assessment, kept = self.judge.judge(model)
        self.run.observe(assessment.retain_loss)
        return merge(assessment, self.run.report() | kept_column(kept)), weights_of(model)

    def state(self) -> dict[str, Any]:
        """The whole state of the run."""
        return self.run.state()

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.run.load(state)

    def close(self) -> None:
        """Nothing to let go of."""

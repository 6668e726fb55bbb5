"""What every method is: a declaration, what it is handed, and a run that goes step by step.

A method is a `Method`: what it may be handed, what it can forget, and how a run of it begins. A run is an
`Unlearning`: it can be advanced, looked at, saved and loaded, and knows nothing of stopping, of
placement or of where its data came from. The scheduler drives any of them the same way.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput, RayUnlearnError
from rayunlearn.inversion.deep_inversion import SyntheticSet
from rayunlearn.inversion.unlearning_set import UnlearningSet
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, version_model
from rayunlearn.models.resuming import MeanLoss, Resumable, Stepped
from rayunlearn.models.weights import Weights
from rayunlearn.roles import Roles
from rayunlearn.seeds import generator

if TYPE_CHECKING:
    from rayunlearn.methods.in_roles import InRoles



@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Real images that a run is handed.

    Attributes:
        images: normalised, `[N, C, H, W]`.
        labels: `[N]` int64.
        ids: `[N]` int64, their indices in the dataset: with its hash, a sample's identity.
    """

    images: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str) -> Samples:
        """The same, with images and labels on a device."""
        return Samples(images=self.images.to(device), labels=self.labels.to(device), ids=self.ids)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingLog:
    """What the original's training wrote down, step by step.

    Attributes:
        sample_ids: S tensors `[B]` int64, each step's batch as indices in the dataset.
        updates: `[S, P]`, the change that each step made to all trainable parameters, flattened in the
            order of `Classifier.parameters()`.
    """

    sample_ids: Sequence[Tensor]
    updates: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Handed:
    """All that a run of a method is handed. What the method does not declare is None.

    Attributes:
        spec: architecture.
        weights: of the version to forget from.
        roles: which classes are retained, forgotten now and forgotten before.
        seed: of the run.
        forget: the training samples to forget.
        retain: the training samples to retain, or the part of them that is still there.
        training_log: of the original's training.
        inverted: DeepInversion images of the version, no data: made from the weights alone.
        examples: of what is to be unlearned, with the labels that the version was taught.
        approximated: samples of a generator that was trained on the version's weights, to relearn from.
        digests: of the version's matrices by name (`version_id` of each), for a process that is not handed
            the weights.
    """

    spec: ClassifierSpec
    weights: Weights
    roles: Roles
    seed: int
    forget: Samples | None = None
    retain: Samples | None = None
    training_log: TrainingLog | None = None
    inverted: SyntheticSet | None = None
    examples: Samples | None = None
    approximated: UnlearningSet | None = None
    digests: Mapping[str, str] | None = None

    def model(self, device: str = "cpu") -> Classifier:
        """The version to forget from, in eval mode; a new one at each call."""
        return version_model(self.spec, self.weights).to(device)


class Unlearning(ABC):
    """One run of a method, in one process.

    Attributes:
        steps: the most that it takes, counted from 1: cycles, epochs or optimizer steps, as the method's
            documentation says.
    """

    steps: int

    @abstractmethod
    def advance(self, first: int, last: int) -> None:
        """Take steps `first` to `last`, both included."""

    @abstractmethod
    def checkpoint(self) -> Classifier:
        """A copy of the model as it would be published now, in eval mode."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Figures since the last report, by the names of the ledger's checkpoint columns."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on from here to the same bits: tensors and plain data."""

    @abstractmethod
    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`, in a run that was begun alike."""

    def observe(self, synthetic_loss: float) -> None:  # noqa: B027
        """Hear the loss on synthetic retain images at a checkpoint; most methods do not act on it."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method declares; the scheduler hands it this and nothing else.

    Attributes:
        name: as recipes and the ledger call it.
        summary: what it does, in half a sentence.
        source: paper and section.
        data_access: all that it is handed, of `rayunlearn.scheduling.requests.DATA_ACCESS`.
        granularity: what it can forget: "classes", "samples".
        section: the recipe's section that holds its settings.
        begin: a run, from what is handed, the settings and the device.
        inverted: DeepInversion images that it learns from, of each class to retain and to forget.
        fixed_length: it has one result, its last; otherwise any checkpoint may be published.
        roles: how a run is made of parts that may be in processes of their own; None where it has one part.
        layered: its settings name the first layers to be kept as `kept`, or None, and the judge chooses.
    """

    name: str
    summary: str
    source: str
    data_access: frozenset[str]
    granularity: frozenset[str]
    section: str
    begin: Callable[[Handed, Any, str], Unlearning]
    inverted: Callable[[Any], tuple[int, int]] = lambda settings: (0, 0)
    fixed_length: bool = False
    roles: InRoles | None = None
    layered: bool = False


def required(handed: Handed, name: str, method: str) -> Any:
    """A part of what is handed that the method cannot do without.

    Raises:
        BadInput: it was not handed, or holds nothing.
    """
    part = getattr(handed, name)
    if part is None or (isinstance(part, Samples | UnlearningSet) and len(part) == 0):
        found = None if part is None else "no sample"
        raise BadInput(f"{name} of what {method!r} is handed", found, "what the method declares")
    return part


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Optimizer steps on one loss.

    Attributes:
        steps: how many.
        optimizer: over the model's trainable parameters, made when the stage begins.
        loss: a scalar, from the model and the step's number in the stage, from 0; a function of these
            alone, so that a run that is loaded goes on to the same bits.
        train_mode: BatchNorm takes the batch's statistics, and its running ones move.
        rate: share of the optimizer's learning rate at a step of the stage.
        clip_norm: largest norm of the gradient.
    """

    steps: int
    optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
    loss: Callable[[Classifier, int], Tensor]
    train_mode: bool = True
    rate: Callable[[int], float] | None = None
    clip_norm: float | None = None


class StagedTraining(Stepped, Unlearning):
    """Stages of optimizer steps, one after another; a step of the run is a step of the optimizer.

    Args:
        model: changed in place.
        stages: at least one, each of at least one step.
    """

    saved = {
        "taken": "taken", "model": "model", "optimizer": "_optimizer", "rates": "_rates", "loss": "_loss"
    }  # fmt: skip

    def __init__(self, model: Classifier, stages: Sequence[Stage]) -> None:
        if not stages or any(stage.steps < 1 for stage in stages):
            found = [stage.steps for stage in stages]
            raise BadInput("steps of the stages", found, "at least one stage, each of at least one step")
        self.model = model
        self.stages = tuple(stages)
        self.steps = sum(stage.steps for stage in stages)
        self.taken = 0
        self._optimizer: torch.optim.Optimizer | None = None
        self._rates: list[float] = []
        self._loss = MeanLoss()

    def _at(self, taken: int) -> tuple[Stage, int]:
        """The stage that comes after so many steps, and the step's number in it."""
        for stage in self.stages:
            if taken < stage.steps:
                return stage, taken
            taken -= stage.steps
        raise AssertionError("advance() has checked the number of steps")

    def _begin(self, stage: Stage) -> None:
        self._optimizer = stage.optimizer([p for p in self.model.parameters() if p.requires_grad])
        self._rates = [group["lr"] for group in self._optimizer.param_groups]

    def _step(self) -> None:
        stage, step = self._at(self.taken)
        if step == 0:
            self._begin(stage)
        assert self._optimizer is not None, "a stage begins with its optimizer"
        if stage.rate is not None:
            for group, lr in zip(self._optimizer.param_groups, self._rates, strict=True):
                group["lr"] = lr * stage.rate(step)
        self.model.train(stage.train_mode)
        loss = stage.loss(self.model, step)
        if not bool(torch.isfinite(loss)):
            raise RayUnlearnError(f"the loss is {float(loss.detach())} at step {self.taken + 1}")
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if stage.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), stage.clip_norm)
        self._optimizer.step()
        self._loss.add(loss)

    def checkpoint(self) -> Classifier:
        """A copy of the model, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def report(self) -> dict[str, Any]:
        """Mean loss since the last report and the steps taken."""
        return {"student_loss": self._loss.take(), "student_steps": self.taken}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from a `state`."""
        if state["taken"]:
            self._begin(self._at(state["taken"] - 1)[0])
        super().load(state)


class Edit(Resumable, Unlearning):
    """A method that changes the weights at once: one step, without an optimizer.

    Args:
        model: before the edit.
        change: gives the edited copy.
    """

    steps = 1
    saved = {"model": "model"}

    def __init__(self, model: Classifier, change: Callable[[Classifier], Classifier]) -> None:
        self.model = model
        self.change = change

    def advance(self, first: int, last: int) -> None:
        """Make the edit."""
        if (first, last) != (1, 1):
            raise BadInput("steps", (first, last), "(1, 1): an edit is one step")
        self.model = self.change(self.model)

    def checkpoint(self) -> Classifier:
        """A copy of the model, in eval mode."""
        return copy.deepcopy(self.model).eval()

    def report(self) -> dict[str, Any]:
        """No optimizer step was taken."""
        return {"student_loss": None, "student_steps": 0}


def batches_per_epoch(n: int, batch_size: int) -> int:
    """Batches in an epoch over `n` samples, the last one incomplete.

    A single left-over sample joins the batch before: BatchNorm has no statistics for one.

    >>> [batches_per_epoch(n, 4) for n in (1, 4, 5, 6, 8)]
    [1, 1, 1, 2, 2]
    """
    return max(1, n // batch_size + (n % batch_size > 1))


def batch_ids(n: int, batch_size: int, step: int, seed: int) -> Tensor:
    """The batch of a step (from 0) when epochs over `n` samples follow each other, `[B]` int64.

    An epoch's permutation depends on the seed and the epoch's number alone; its last batch is what is
    left over.
    """
    per_epoch = batches_per_epoch(n, batch_size)
    epoch, index = divmod(step, per_epoch)
    order = torch.randperm(n, generator=generator(seed, "epoch", epoch))
    return order[index * batch_size :] if index == per_epoch - 1 else order[index * batch_size :][:batch_size]

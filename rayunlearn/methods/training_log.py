"""The log that rollback undoes: which samples each training step took, and what it changed.

A log holds every parameter once a step, S * P float32 values: 190 MB for the default recipe of digits
(560 steps, 86 thousand parameters). It is data: it holds what the samples taught. After a rollback the
version's log is what `remaining` leaves. A step that stayed in it would be undone again by the next
request, and would keep what had to be forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from rayunlearn.errors import BadInput
from rayunlearn.methods.training import StepInfo
from rayunlearn.methods.unlearning import TrainingLog

LOG_TENSORS = ("batch_sizes", "sample_ids", "updates")


def flat_parameters(model: nn.Module) -> Tensor:
    """A copy `[P]` of the trainable parameters, one after another in the order of `parameters()`."""
    parameters = [p.detach() for p in model.parameters() if p.requires_grad]
    return nn.utils.parameters_to_vector(parameters)


class TrainingRecorder:
    """Writes the log of one training, as the `on_step` of `train_classifier`.

    An update is the parameters' difference over a step, rounded to float32, so that the initial weights
    plus all updates give the trained weights up to rounding. The training itself is not disturbed.

    Args:
        model: the model to be trained, before its first step.
        dataset_ids: `[N]` int64, the index in the dataset of each image trained on.
    """

    def __init__(self, model: nn.Module, dataset_ids: Tensor) -> None:
        self._dataset_ids = dataset_ids
        self._before = flat_parameters(model)
        self._sample_ids: list[Tensor] = []
        self._updates: list[Tensor] = []

    def __call__(self, info: StepInfo) -> None:
        """Write down a step.

        Raises:
            BadInput: it is not the one after the last.
        """
        if info.step != len(self._updates):
            raise BadInput("step to log", info.step, f"{len(self._updates)}: a log holds every step")
        after = flat_parameters(info.model)
        self._sample_ids.append(self._dataset_ids[info.sample_ids])
        self._updates.append((after - self._before).cpu())
        self._before = after

    def log(self) -> TrainingLog:
        """Everything so far, from the first step.

        Raises:
            BadInput: there was no step.
        """
        if not self._updates:
            raise BadInput("steps logged", 0, "at least 1")
        return TrainingLog(sample_ids=tuple(self._sample_ids), updates=torch.stack(self._updates))


def steps_with(log: TrainingLog, ids: Tensor) -> Tensor:
    """Which steps took at least one of the samples `ids` `[N]`: a mask `[S]`."""
    return torch.tensor([bool(torch.isin(batch, ids).any()) for batch in log.sample_ids], dtype=torch.bool)


def remaining(log: TrainingLog, ids: Tensor) -> TrainingLog:
    """The log without the steps that took any of the samples `ids`: that of a version rolled back."""
    kept = (~steps_with(log, ids)).nonzero().flatten()
    return TrainingLog(sample_ids=tuple(log.sample_ids[i] for i in kept.tolist()), updates=log.updates[kept])


def log_to_tensors(log: TrainingLog) -> dict[str, Tensor]:
    """The log as named tensors, for safetensors; `log_from_tensors` gives it back."""
    return {
        "batch_sizes": torch.tensor([len(batch) for batch in log.sample_ids], dtype=torch.int64),
        "sample_ids": torch.cat([*log.sample_ids, torch.empty(0, dtype=torch.int64)]),
        "updates": log.updates,
    }


def log_from_tensors(tensors: Mapping[str, Tensor]) -> TrainingLog:
    """The log that `log_to_tensors` was given.

    Raises:
        BadInput: other tensors, or sizes that do not fit each other.
    """
    if sorted(tensors) != sorted(LOG_TENSORS):
        raise BadInput("tensors of a training log", sorted(tensors), f"exactly {', '.join(LOG_TENSORS)}")
    sizes, ids, updates = (tensors[name] for name in LOG_TENSORS)
    if updates.dim() != 2 or len(updates) != len(sizes) or int(sizes.sum()) != len(ids):
        found = {name: list(tensors[name].shape) for name in LOG_TENSORS}
        allowed = "[S], [sum of batch_sizes] and [S, P]"
        raise BadInput("shapes of a training log", found, allowed)
    return TrainingLog(sample_ids=ids.split(sizes.tolist()), updates=updates)

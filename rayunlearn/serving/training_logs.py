"""The log of an original's training in storage, for methods that declare it.

It is training data in another form: it holds what every sample taught, and no sealed process can open it.
"""

from __future__ import annotations

from torch import Tensor

from rayunlearn.errors import BadInput
from rayunlearn.methods.training_log import log_from_tensors, log_to_tensors, remaining
from rayunlearn.methods.unlearning import TrainingLog
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes
from rayunlearn.storage.store import Store


def keep_log(store: Store, lineage: str, log: TrainingLog) -> None:
    """Keep the log of a lineage's original, in the place of one before."""
    store.put(_name(lineage), weights_to_bytes(log_to_tensors(log)))


def load_log(store: Store, lineage: str) -> TrainingLog:
    """The log as earlier requests left it.

    Raises:
        BadInput: the lineage's original was trained without one.
    """
    if not store.exists(_name(lineage)):
        allowed = "a lineage whose original this method's recipe trained: the log is written then or never"
        raise BadInput("training log of lineage", lineage, allowed)
    return log_from_tensors(weights_from_bytes(store.get(_name(lineage)), _name(lineage)))


def drop_steps(store: Store, lineage: str, ids: Tensor) -> None:
    """Throw away what the samples `ids` [N] taught; doing it twice changes nothing."""
    keep_log(store, lineage, remaining(load_log(store, lineage), ids))


def _name(lineage: str) -> str:
    return f"logs/{lineage}.safetensors"

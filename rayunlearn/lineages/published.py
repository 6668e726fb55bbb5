"""A published version's weights, read back from where they are stored."""

from __future__ import annotations

from torch import Tensor

from rayunlearn.errors import IntegrityError
from rayunlearn.ledger.lineage import Version
from rayunlearn.models.weights import require_weights, version_id, weights_from_bytes
from rayunlearn.storage.store import Store


def load_version(store: Store, version: Version) -> dict[str, Tensor]:
    """A version's weights, checked against its id.

    Raises:
        IntegrityError: the stored bytes are not that version's.
        BadInput: they are, and no model can calculate with them (`require_weights`).
    """
    weights = weights_from_bytes(store.get(version.path), version.path)
    if version_id(weights) != version.version:
        raise IntegrityError(f"{version.path} does not hold version {version.version}")
    require_weights(weights, version.path)
    return weights

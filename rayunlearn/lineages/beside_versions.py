"""What is stored beside a version for the next request of its lineage; it goes when the version does."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from rayunlearn.storage.store import Store


def name_beside(kind: str, lineage: str, version: str, made_by: Any) -> str:
    """Where a thing of a kind is stored beside a version.

    Args:
        kind: a folder, as "banks".
        lineage: of the version.
        version: its id.
        made_by: the settings by which it was made, plain data: what was made otherwise is not found.
    """
    told = json.dumps(made_by, sort_keys=True)
    return f"{kind}/{lineage}/{version}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.safetensors"


def purge_beside(store: Store, kind: str, lineage: str, keep: str) -> None:
    """Throw away what is stored beside any version of a lineage but one."""
    for name in store.list(f"{kind}/{lineage}"):
        if not name.startswith(f"{kind}/{lineage}/{keep}-"):
            store.delete(name)

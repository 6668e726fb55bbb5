"""Small files beside the rows of a reproduction: seconds, machines, the seeds of the moons."""

from __future__ import annotations

import json
from typing import Any

from rayunlearn.errors import IntegrityError
from rayunlearn.storage.store import Store


def read_json(store: Store, name: str, kind: type | tuple[type, ...]) -> Any:
    """What a side file holds.

    Args:
        store: of the reproduction.
        name: of the file.
        kind: what its JSON has to be, as `isinstance` takes it.

    Raises:
        IntegrityError: it is no JSON, or JSON of another kind.
    """
    try:
        value = json.loads(store.get(name))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{name} in {store.where} is damaged ({error}); delete it to go on") from error
    if not isinstance(value, kind):
        what = f"{value!r:.60}, which no run wrote"
        raise IntegrityError(f"{name} in {store.where} holds {what}; delete it to go on")
    return value

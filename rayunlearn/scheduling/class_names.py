"""Classes by their names: a name in a request becomes the number that the lineage's model has for it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.requests import Request

NEAR = 5
"""Names that an error lists at most."""


def numbered_classes(request: Request, class_names: Sequence[str] | None) -> Request:
    """The request with every class of its target as a number.

    A text in a target is always a name, and a number always a number: a class that is called "3" need not be
    class 3.

    Args:
        request: of any kind.
        class_names: of the lineage's classes 0, 1, ...; None where nobody has said them.

    Raises:
        BadInput: the classes have no names, none has such a name, or a class is there by name and by number.

    >>> numbered_classes(Request(request_id="r", names=("cat",), target=(5,)), ["dog", "cat"]).target
    (1, 5)
    """
    if not request.names:
        return request
    where = f"request {request.request_id!r}"
    if class_names is None:
        allowed = f"numbers: nothing says the names of the classes of lineage {request.lineage!r}"
        raise BadInput("target class", list(request.names), allowed, where=where)
    numbers = {name: number for number, name in enumerate(class_names)}
    for name in request.names:
        if name not in numbers:
            raise BadInput("target class", name, near(name, class_names), where=where)
        if numbers[name] in request.target:
            allowed = f"each class once; {numbers[name]} is the same class"
            raise BadInput("target class", name, allowed, where=where)
    return replace(request, target=(*request.target, *(numbers[name] for name in request.names)), names=())


def near(name: str, class_names: Sequence[str]) -> str:
    """At most `NEAR` names, the nearest to a wrong one, and of how many.

    >>> near("dgo", ["cat", "dog"])
    "'dog', 'cat' (nearest of 2)"
    """
    by_lower = {known.lower(): known for known in reversed(class_names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=NEAR, cutoff=0.0)
    return ", ".join(repr(by_lower[known]) for known in close) + f" (nearest of {len(class_names)})"

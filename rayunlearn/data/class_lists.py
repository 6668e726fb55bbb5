"""Names of classes that two sources say: labels go by the names, not by the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rayunlearn.data.raw import tell
from rayunlearn.errors import BadInput

LIST_FILE = "classes.txt"
"""In a folder of images: the names of the classes 0, 1, ..., one a line."""
_SHOWN = 20


def places(own: Sequence[str], known: Sequence[str], thing: str, name: str) -> list[int]:
    """For each class of one source its number among the known ones, by its name.

    Tells of another order. A source may lack classes.

    Args:
        own: names of the source's classes 0, 1, ...
        known: names of the data set's.
        thing: the source, for messages.
        name: of the data set, for messages.

    Raises:
        BadInput: a name is not known.
    """
    unknown = [class_name for class_name in own if class_name not in known]
    if unknown:
        allowed = f"those that are known already: {', '.join(known[:_SHOWN])}"
        raise BadInput(f"names of classes in {thing}", unknown[:_SHOWN], allowed, where=name)
    if tuple(own) != tuple(known[: len(own)]):
        tell(f"{name}: {thing} has its classes in another order; its labels were taken by their names")
    return [known.index(class_name) for class_name in own]


def checked_names(names: object, thing: str, name: str) -> tuple[str, ...]:
    """Names of classes that a file or an object says.

    Raises:
        BadInput: they are no different texts in a list.
    """
    found = tuple(names) if isinstance(names, list | tuple) else ()
    plain = all(isinstance(class_name, str) for class_name in found)
    if not plain or not found or len(set(found)) < len(found):
        raise BadInput(thing, names, "different texts, in a list", where=name)
    return found


def listed_in(folder: Path, name: str) -> tuple[str, ...] | None:
    """The names in a folder's class list; None where it has none.

    Raises:
        BadInput: it is no text of different names.
    """
    file = folder / LIST_FILE
    if not file.is_file():
        return None
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise BadInput("file", str(file), f"UTF-8 text (byte {error.start} is not)", where=name) from error
    return checked_names([line for line in lines if line], f"names in {file.name}", name)

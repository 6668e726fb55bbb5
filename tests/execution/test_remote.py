"""What another process raised is raised here as itself, and told in one sentence."""

from __future__ import annotations

import pickle
import warnings

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from rayunlearn.errors import BadInput, DataWarning, RayUnlearnError, StorageHeld
from rayunlearn.execution.remote import (
    MOST_RECORDED,
    caught,
    fetch,
    fetch_told,
    is_loss,
    original,
    recorded,
    sentence,
    telling,
)

OURS = BadInput("gkt.epsilon", -1, "a number > 0")
TOLD = "gkt.epsilon is -1; allowed: a number > 0"


def elsewhere(cause: Exception) -> Exception:
    """As `ray.get` raises what another process did."""
    text = f"\x1b[36mray::f()\x1b[39m\n  File x, line 1\n{cause!r}"
    raised: Exception = RayTaskError("f", text, cause).as_instanceof_cause()
    return raised


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OURS, TOLD),
        (elsewhere(OURS), TOLD),
        (elsewhere(elsewhere(OURS)), TOLD),
        (elsewhere(ValueError("one\ntwo")), "ValueError: one"),
        (StorageHeld("held by\nanother"), "held by\nanother"),
        (ValueError(), "ValueError"),
        (ValueError("\x1b[31mred\x1b[0m"), "ValueError: red"),
        (UnicodeError("no \udcff"), "UnicodeError: no \\udcff"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_an_error_is_a_sentence(error: Exception, said: str) -> None:
    """Ours as it is, of others the class and the first line, wherever it was raised."""
    assert sentence(error) == said


def test_the_record_has_every_process_and_no_escape_codes() -> None:
    """The end of it, where it is long; text that no table takes is escaped."""
    try:
        raise original(elsewhere(OURS)) from elsewhere(OURS)
    except BadInput as error:
        told = recorded(error)
    assert "ray::f()" in told and TOLD in told and "\x1b" not in told
    long = recorded(ValueError("x" * MOST_RECORDED + "\udcff end"))
    assert len(long) == MOST_RECORDED and long.endswith("\\udcff end\n")


def test_a_loss_stays_a_loss() -> None:
    """Also where it was met by another process."""
    assert is_loss(ActorDiedError()) and is_loss(elsewhere(ActorDiedError()))
    assert not is_loss(elsewhere(OURS)) and not is_loss(OURS)


class Private(Exception):
    """Does not survive being pickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")

    def __reduce__(self) -> tuple[object, ...]:
        raise pickle.PicklingError("never")


@ray.remote
def raising(name: str) -> None:
    """Raises, in its own process."""
    if name == "ours":
        raise OURS
    if name == "private":
        raise Private(1, 2)
    raise {"value": ValueError("no number"), "held": StorageHeld("by another")}[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("ours", BadInput, TOLD), ("value", ValueError, "ValueError: no number"),
        ("held", StorageHeld, "by another"), ("private", Exception, "Private isn't serializable"),
    ],
)  # fmt: skip
def test_through_ray(cluster: None, name: str, kind: type[Exception], said: str) -> None:
    """By a real worker: the class, the sentence, and the worker's traceback on record."""
    with pytest.raises(kind) as caught:
        fetch(raising.remote(name))
    assert not isinstance(caught.value, RayTaskError) or name == "private"
    assert said in sentence(caught.value) and "Traceback" not in sentence(caught.value)
    assert "raising" in recorded(caught.value) and (name != "private" or "1 and 2" in recorded(caught.value))
    assert isinstance(caught.value, RayUnlearnError) == (name in ("ours", "held"))


def warned(number: int) -> int:
    """Something of two kinds to be known, and an answer."""
    for _ in range(2):
        warnings.warn(DataWarning(f"{number} files"), stacklevel=1)
    warnings.warn(FutureWarning("old"), stacklevel=1)
    return number + 1


def test_warnings_of_data_are_caught_and_others_are_not() -> None:
    """Each of them, also what was said before; whatever else was warned of goes its way."""
    with pytest.warns(FutureWarning, match="old") as others:
        assert caught(lambda: warned(3)) == (4, ["3 files", "3 files"])
    assert len(others) == 1


@pytest.mark.slow
def test_what_another_process_warns_of_is_said_here(cluster: None) -> None:
    """Its output is seen by nobody; an error of it is still its own."""
    said: list[str] = []
    assert fetch_told(ray.remote(telling(warned)).remote(5), said.append) == 6
    assert said == ["5 files", "5 files"]
    with pytest.raises(TypeError):
        fetch_told(ray.remote(telling(warned)).remote("x"), said.append)

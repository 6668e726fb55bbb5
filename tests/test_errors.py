"""Errors a user can meet, and the table of exit codes."""

from __future__ import annotations

import pickle

import pytest

from rayunlearn.errors import (
    AccessDenied,
    BadInput,
    ExitCode,
    ImportDenied,
    IntegrityError,
    Interrupted,
    NotInstalled,
    NotVerified,
    RayUnlearnError,
    StorageHeld,
    nearest,
    shown,
)


def test_the_table_of_exit_codes_is_fixed() -> None:
    """Scripts of users depend on these numbers: a change here is a breaking change."""
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "INTERNAL": 1,
        "BAD_INPUT": 2,
        "NOTHING_ADMISSIBLE": 3,
        "PARTIAL": 4,
        "STORAGE_HELD": 5,
        "INTERRUPTED": 6,
        "OUTPUT_LOST": 7,
        "NOT_VERIFIED": 8,
    }


@pytest.mark.parametrize(
    ("error", "code", "also"),
    [
        (BadInput("x", 1, "2"), 2, ValueError),
        (StorageHeld("held"), 5, RayUnlearnError),
        (Interrupted("stopped"), 6, RayUnlearnError),
        (IntegrityError("torn"), 1, RayUnlearnError),
        (NotInstalled("ray", "ray"), 2, ModuleNotFoundError),
        (NotVerified("stamp", "none"), 8, RayUnlearnError),
        (AccessDenied("no"), 1, RayUnlearnError),
        (ImportDenied("no"), 1, ImportError),
        (RayUnlearnError("other"), 1, Exception),
    ],
)
def test_every_error_has_its_exit_code(error: RayUnlearnError, code: int, also: type[Exception]) -> None:
    """The code of the table, and the built-in kind that callers may catch; it crosses a process whole."""
    assert error.exit_code == code
    assert isinstance(error, RayUnlearnError) and isinstance(error, also)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.exit_code == code


def test_a_refusal_does_not_pass_for_a_missing_file() -> None:
    """Libraries catch OSError where a file may be missing; a sealed process must stop there instead.

    A refused import may pass for a package that is not installed, and is a refusal all the same.
    """
    assert not isinstance(AccessDenied("no"), (OSError, ImportError))
    assert isinstance(ImportDenied("no"), AccessDenied)


def test_every_error_is_in_that_table() -> None:
    """No kind of error is added without an exit code in the test above."""
    kinds = {BadInput, StorageHeld, Interrupted, IntegrityError, NotInstalled, NotVerified, AccessDenied}
    known = RayUnlearnError.__subclasses__()
    assert {kind for kind in known if kind.__module__ == "rayunlearn.errors"} == kinds


def test_bad_input_names_thing_value_and_allowed() -> None:
    """In one sentence, with the place before it; the value by its repr, so that '1' is not 1."""
    error = BadInput("gkt.epsilon", "1", "a number", where="--set")
    assert str(error) == "--set: gkt.epsilon is '1'; allowed: a number"
    assert str(BadInput("gkt.epsilon", 1, "a number")) == "gkt.epsilon is 1; allowed: a number"
    again = pickle.loads(pickle.dumps(error))
    assert (again.thing, again.value, again.allowed, again.where) == ("gkt.epsilon", "1", "a number", "--set")


def test_nearest_names() -> None:
    """The best matches first, at most n; where nothing is near, all of them in order."""
    names = ["gkt.epsilon", "gkt.beta", "gkt.batch_size", "train.batch_size"]
    assert nearest("gkt.batchsize", names).startswith("'gkt.batch_size'")
    assert nearest("gkt.batchsize", names, n=1) == "'gkt.batch_size' (nearest of 4)"
    assert nearest("zzz", names) == "'gkt.batch_size', 'gkt.beta', 'gkt.epsilon', 'train.batch_size'"
    assert nearest("x", []) == ""


def test_a_value_is_shown_in_reading_length() -> None:
    """Also one of more digits than Python turns into text; the value itself is kept whole."""
    for value in ("x" * 10**6, [10**5000], 10**5000):
        error = BadInput("x", value, "2")
        assert len(str(error)) < 1100 and error.value is value
    assert shown("short") == "'short'"


def test_of_many_names_the_nearest_are_told() -> None:
    """A list of hundreds is no help; of few, all are told where none is near."""
    many = [f"section.setting_{number}" for number in range(200)]
    assert nearest("zzz", many).count("'") == 6 and nearest("zzz", many).endswith("(nearest of 200)")
    assert nearest("zzz", many[:9]).count("'") == 18

"""Classes by their names in requests."""

from __future__ import annotations

import json

import pytest

from rayunlearn.errors import BadInput
from rayunlearn.scheduling.class_names import NEAR, near, numbered_classes
from rayunlearn.scheduling.requests import Rejected, Request, check, differences, parse_requests

NAMES = ("airplane", "cat", "dog", "deer")


def parsed(**body: object) -> Request | Rejected:
    """The request of one line."""
    (entry,) = parse_requests(json.dumps({"request_id": "r", **body}), "f")
    return entry


def test_names_become_the_numbers_that_the_model_has() -> None:
    """Names and numbers may be mixed; the result is the request that names the same classes by number."""
    entry = parsed(target=["dog", 0])
    assert isinstance(entry, Request) and entry.names == ("dog",)
    assert numbered_classes(entry, NAMES) == parsed(target=[0, 2])
    assert numbered_classes(entry, NAMES[::-1]) == parsed(target=[0, 1])  # the order of another lineage


def test_a_request_with_names_is_read_back() -> None:
    """What the inbox writes is what it reads."""
    entry = parsed(target=["dog", 0, "cat"])
    assert isinstance(entry, Request)
    (again,) = parse_requests(json.dumps(entry.to_dict()), "f")
    assert again == entry
    other = Request(request_id="r", target=(0,))
    assert differences(entry, other) == "target [0, 'cat', 'dog'] rather than [0]"


def test_a_text_is_a_name_and_a_number_a_number() -> None:
    """A class that is called "3" is found by its name, be it class 3 or not."""
    entry = parsed(target=["3"])
    assert isinstance(entry, Request)
    assert numbered_classes(entry, ("3", "0")).target == (0,)


@pytest.mark.parametrize(
    ("target", "names", "said"),
    [
        (["dgo"], NAMES, r"target class is 'dgo'; allowed: 'dog', .* \(nearest of 4\)"),
        (["cat"], None, "numbers: nothing says the names of the classes of lineage 'default'"),
        (["cat", 1], NAMES, "target class is 'cat'; allowed: each class once; 1 is the same class"),
    ],
)
def test_a_name_that_means_no_class_is_refused(target: list[object], names: object, said: str) -> None:
    """With the names that are near; a lineage without names says so."""
    entry = parsed(target=target)
    assert isinstance(entry, Request)
    with pytest.raises(BadInput, match=said):
        numbered_classes(entry, names)  # type: ignore[arg-type]


def test_at_most_five_names_are_listed() -> None:
    """Of a thousand classes the five nearest, whatever their case; the right one is the first."""
    many = [f"class {i:04}" for i in range(1000)]
    said = near("CLASS 0417", many)
    assert said.count("'class") == NEAR and said.startswith("'class 0417'") and "nearest of 1000" in said


@pytest.mark.parametrize(
    "body",
    [
        {"target": ["cat"], "kind": "samples"},
        {"target": ["cat", "cat"]},
        {"target": [" "]},
        {"target": ["x" * 201]},
        {"target": ["\ud800"]},
        {"target": "cat"},
        {"target": []},
        {"target": ["cat", True]},
        {"target": [0], "names": ["cat"]},
    ],
)
def test_what_is_no_name_is_rejected(body: dict[str, object]) -> None:
    """A sample has no name; a name is a text that is not blank; there is no field of names."""
    assert isinstance(parsed(**body), Rejected)


def test_nothing_is_served_by_a_name() -> None:
    """A name that nobody turned into a number is refused where requests are checked; its number is not."""
    entry = parsed(target=["cat"])
    assert isinstance(entry, Request)
    with pytest.raises(BadInput, match="classes by their numbers"):
        check(entry, num_classes=4, forgotten=[], served_ids=())
    check(numbered_classes(entry, NAMES), num_classes=4, forgotten=[], served_ids=())

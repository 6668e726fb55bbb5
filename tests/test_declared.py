"""What methods declare stands in a file, which is what the registry says."""

from __future__ import annotations

import pytest

from rayunlearn import declared
from rayunlearn.errors import BadInput
from rayunlearn.methods import catalogue, registry


def test_the_file_is_what_the_registry_says() -> None:
    """`python -m rayunlearn methods --json > rayunlearn/methods/declared.json` makes it so again."""
    assert declared.described() == catalogue.described()
    fewer = catalogue.described()[1:]
    assert declared.described() != fewer, "negative control: a method that the registry has not"


@pytest.mark.parametrize(
    ("check", "given"),
    [
        ("require_granularity", ("gkt", "samples")),
        ("require_granularity", ("gtk", "classes")),
        ("require_access", ("fisher", ("weights",))),
    ],
)
def test_both_refuse_by_the_same_sentence(check: str, given: tuple[object, ...]) -> None:
    """With the registry and without torch; negative control: what is allowed passes."""
    with pytest.raises(BadInput) as by_file:
        getattr(declared, check)(declared.declarations(), *given)
    with pytest.raises(BadInput) as by_registry:
        getattr(registry, check)(*given)
    assert str(by_file.value) == str(by_registry.value)
    declared.require_granularity(declared.declarations(), "gkt", "classes")
    declared.require_access(declared.declarations(), "fisher", ("weights", "retain"))

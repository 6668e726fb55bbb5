"""Rows that a benchmark goes on from."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rows import check_processor
from rayunlearn.errors import BadInput


def result(instruction_set: str | None) -> dict[str, Any]:
    """As a row's storage has it; what was run before instruction sets were recorded has none."""
    machine = {"cpu": "c", "gpu": "none"} | ({"instruction_set": instruction_set} if instruction_set else {})
    return {"row": "digits-gkt", "seed": 2, "machine": machine}


def test_rows_of_this_processor_are_gone_on_from() -> None:
    """All of one CPU and instruction set."""
    check_processor([result("AVX512"), result("AVX512")], "c, AVX512")


@pytest.mark.parametrize("other", ["AVX2", None])
def test_a_row_of_another_processor_is_named(other: str | None) -> None:
    """With what it was run on, and what to do."""
    with pytest.raises(BadInput) as error:
        check_processor([result("AVX512"), result(other)], "c, AVX512")
    assert error.value.thing == "processor of digits-gkt, seed 2"
    assert "c, AVX512, this one's; name another --storage" in str(error.value)

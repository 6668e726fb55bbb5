"""A pytest plugin that writes down how far each comparison of numbers was from failing: `-p tests.margins`.

pytest explains an assertion that holds by its values (`0.97 > (0.99 - 0.05)`); what is read off here is the
explanation. Lines of JSON go to the file that `RAYUNLEARN_TEST_MARGINS` names.
"""

from __future__ import annotations

import ast
import json
import operator
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FILE = "RAYUNLEARN_TEST_MARGINS"

ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}  # fmt: skip
TENSOR = re.compile(r"tensor\((-?[\d.]+(?:e[-+]?\d+)?)\.?(?:, dtype=[\w.]+)?\)")


class Comparison(NamedTuple):
    """One comparison that held, `low < high`.

    Attributes:
        left: what is written on the left, the figure as a rule.
        low: what was to be less. Of `x == approx(y)` it is |x - y|.
        high: what was to be more. Of `x == approx(y)` it is the tolerance.
    """

    left: float
    low: float
    high: float


def comparisons(explanation: str) -> Iterator[Comparison | None]:
    """Each side of `and`; None where it is no claim of less or more, but `<=`, `>=`, `==` or words.

    A bound that may be reached, as by `<=`, is one that holds by construction: no figure has to keep away
    from it. Of a chain (`a < b < c`) pytest explains the last link alone.

    >>> list(comparisons("(0.75 > (0.5 - 0.25) and 3 <= 4)"))
    [Comparison(left=0.75, low=0.25, high=0.75), None]
    >>> list(comparisons("0.5 == 0.25 ± 0.5"))
    [Comparison(left=0.5, low=0.25, high=0.5)]
    """
    head = TENSOR.sub(r"\1", re.split(r"\n +\+ +(?:where|and) ", explanation)[0]).replace("\n", " ").strip()
    if " and " in head and head.startswith("(") and head.endswith(")"):
        head = head[1:-1]
    for clause in head.split(" and "):
        try:
            yield _comparison(clause)
        except (SyntaxError, ValueError):
            yield None


def _comparison(clause: str) -> Comparison | None:
    near = re.match(r"(\S+) == (\S+) ± (\S+)", clause)
    if near:
        left, right, tolerance = (_value(ast.parse(part, mode="eval").body) for part in near.groups())
        return Comparison(left, abs(left - right), tolerance)
    node = ast.parse(clause.strip(), mode="eval").body
    if not isinstance(node, ast.Compare) or len(node.ops) != 1:
        return None
    left, right = _value(node.left), _value(node.comparators[0])
    if isinstance(node.ops[0], ast.Gt):
        return Comparison(left, right, left)
    return Comparison(left, left, right) if isinstance(node.ops[0], ast.Lt) else None


def _value(node: ast.expr) -> float:
    """Of a number or of arithmetic on numbers."""
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        return ARITHMETIC[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"{ast.unparse(node)} is no number")


def _write(**row: Any) -> None:
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(row) + "\n")


def pytest_assertion_pass(item: pytest.Item, lineno: int, orig: str, expl: str) -> None:
    """Write down each claim of less or more, by its place in the test."""
    claims = [re.sub(r"\s+", " ", claim).strip() for claim in orig.split(" and ")]
    for i, found in enumerate(comparisons(expl)):
        if found is not None:
            claim = claims[i] if i < len(claims) else orig
            _write(test=item.nodeid, line=lineno, claim=claim, **found._asdict())


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how each test ended, once: pytest-xdist tells it to its workers as well."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or not report.passed):
        _write(test=report.nodeid, outcome=report.outcome, said=str(report.longrepr or "")[-2000:])

"""A pytest plugin that writes down how far each comparison of numbers was from failing: `-p tests.margins`.

pytest explains an assertion that holds by its values (`0.97 > (0.99 - 0.05)`); what is read off here is the
explanation. Of `torch.allclose` and `torch.testing.assert_close`, which say yes or no, it is the largest
difference in units of what they allow, against 1. Lines of JSON go to the file that `RAYUNLEARN_TEST_MARGINS`
names.
"""

from __future__ import annotations

import ast
import json
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from _pytest.assertion import rewrite

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


running = ""
"""The test that is being called."""


def closeness(actual: Any, expected: Any, rtol: float, atol: float) -> float:
    """Largest of |a - e| / (atol + rtol |e|) over two tensors; 0 where they are equal, or are no tensors.

    >>> import torch
    >>> closeness(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 2.0]), rtol=1.0, atol=2.0)
    0.25
    """
    if not hasattr(actual, "detach") or not hasattr(expected, "detach"):
        return 0.0
    apart = (actual.detach() - expected.detach()).abs().double()
    allowed = atol + rtol * expected.detach().abs().double()
    differing = apart > 0
    shares = apart[differing] / allowed.expand_as(apart)[differing]
    return float(shares.max()) if len(shares) else 0.0


def _noting(
    function: Callable[..., Any], defaults: Callable[[Any], tuple[float, float]]
) -> Callable[..., Any]:
    """The function, whose answer in a test is written down with how near it was to the other one."""

    @wraps(function)
    def noted(actual: Any, expected: Any, *given: Any, **named: Any) -> Any:
        answer = function(actual, expected, *given, **named)
        asked = sys._getframe(1)
        if running and Path(asked.f_code.co_filename).name.startswith("test_"):
            tolerances = dict(zip(("rtol", "atol"), defaults(actual), strict=True))
            tolerances |= dict(zip(tolerances, given, strict=False))
            tolerances |= {k: v for k, v in named.items() if k in tolerances}
            near = closeness(actual, expected, **tolerances)
            low, high = (1.0, near) if answer is False else (near, 1.0)
            _write(test=running, line=asked.f_lineno, claim=function.__name__, left=near, low=low, high=high)
        return answer

    return noted


def pytest_configure(config: pytest.Config) -> None:
    """Listen to torch's comparisons; it is imported here, after tests/conftest.py has set its arithmetic."""
    import torch

    if config.getini("enable_assertion_pass_hook"):
        # Bytecode of tests that a plain run left does not explain what holds: here it has another name.
        rewrite.PYC_TAIL = f".explained{rewrite.PYC_TAIL}"
    exact = {torch.float64: (1e-7, 1e-7)}
    torch.allclose = _noting(torch.allclose, lambda _: (1e-5, 1e-8))
    torch.testing.assert_close = _noting(
        torch.testing.assert_close, lambda actual: exact.get(getattr(actual, "dtype", None), (1.3e-6, 1e-5))
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Know which test asks."""
    global running
    running = item.nodeid
    try:
        return (yield)
    finally:
        running = ""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Write down how each test ended, once: pytest-xdist tells it to its workers as well."""
    if "PYTEST_XDIST_WORKER" not in os.environ and (report.when == "call" or not report.passed):
        _write(test=report.nodeid, outcome=report.outcome, said=str(report.longrepr or "")[-2000:])

"""What a malformed input may end in, and the judge: a clear error, or the acceptance of what is valid."""

from __future__ import annotations

import re
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput, RayUnlearnError, printable

LONGEST = 3000
"""Characters of an error that can still be read as one sentence."""
_BAD_INPUT = re.compile(r"\S.* is .+; allowed: .*\S", re.DOTALL)


class Ending(StrEnum):
    """How the reading of a case ended."""

    REFUSED = "refused"
    """With an error that says what is wrong."""
    ACCEPTED = "accepted"
    """And rightly: an independent look finds it valid."""
    UNCLEAR = "unclear"
    """Refused by an error that does not say what is wrong, or cannot be shown."""
    WRONG = "wrongly accepted"
    TRACEBACK = "traceback"


GOOD = (Ending.REFUSED, Ending.ACCEPTED)


@dataclass
class Answer:
    """What a reader made of a case that may have several parts, as the lines of a file.

    Attributes:
        refusals: reasons of the parts that were refused.
        wrong: what was accepted and should not have been.
    """

    refusals: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of input.

    Attributes:
        name: in the table.
        cases: malformed inputs, and some valid ones.
        read: reads a case as the project does and compares what was accepted with what is valid by an
            independent look; raises what the project raises.
    """

    name: str
    cases: st.SearchStrategy[Any]
    read: Callable[[Any], Answer]

    def judge(self, case: Any) -> tuple[Ending, str]:
        """How a case ends, and what is to be said of that."""
        try:
            answer = self.read(case)
        except RayUnlearnError as error:
            answer = Answer(refusals=[_told(error)])
        except Exception:  # the very thing that is looked for
            return Ending.TRACEBACK, printable(traceback.format_exc(limit=-4))
        if answer.wrong:
            return Ending.WRONG, printable("; ".join(answer.wrong))
        unclear = [f"{why}: {text[:200]}" for text in answer.refusals if (why := _unclear(text))]
        if unclear:
            return Ending.UNCLEAR, printable("; ".join(unclear))
        return (Ending.REFUSED if answer.refusals else Ending.ACCEPTED), "; ".join(answer.refusals)


@dataclass
class Tally:
    """The endings of many cases of a kind.

    Attributes:
        endings: how many ended how.
        findings: the first of the bad ones: the ending, the case, what was said.
    """

    endings: Counter[Ending] = field(default_factory=Counter)
    findings: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """All of them."""
        return self.endings.total()

    @property
    def is_good(self) -> bool:
        """Whether every case ended in a clear error or a right acceptance."""
        return self.cases == sum(self.endings[ending] for ending in GOOD)


def tally(kind: Kind, cases: int, root: int, *, findings: int = 10) -> Tally:
    """Judge so many cases of a kind, drawn by a seed; fewer only where there are no more that differ."""
    found = Tally()

    @seed(root)
    @settings(
        max_examples=cases, phases=[Phase.generate], database=None, deadline=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(kind.cases)
    def run(case: Any) -> None:
        ending, said = kind.judge(case)
        found.endings[ending] += 1
        if ending not in GOOD and len(found.findings) < findings:
            found.findings.append((ending, _shown(case), said))

    run()
    return found


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for one case."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder).resolve()


def _told(error: RayUnlearnError) -> str:
    text = str(error)
    if isinstance(error, BadInput) and not (error.thing and error.allowed):
        return ""
    return text


def _unclear(text: str) -> str | None:
    """Why a refusal says too little, or cannot be shown; None where it is clear."""
    if not text.strip():
        return "says nothing"
    if len(text) > LONGEST:
        return f"{len(text)} characters"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "cannot be printed"
    return None


def unclear_bad_input(texts: Sequence[str]) -> list[str]:
    """Of the texts of refused requests those that do not name a thing, its value and what is allowed."""
    return [text for text in texts if not _BAD_INPUT.search(text)]


def _shown(case: Any) -> str:
    try:
        return repr(case)[:2000]
    except ValueError:
        return "(a whole number of more digits than Python turns into text)"

"""For the site: doctests of docstrings become code blocks. Markdown would take `>>>` for quotations."""

from __future__ import annotations

import re
from typing import Any

import griffe

DOCTEST = re.compile(r"^([ \t]*)(>>> .*(?:\n[ \t]*\S.*)*)", re.MULTILINE)


class DoctestFences(griffe.Extension):
    """Puts a fence around each doctest, up to the next empty line."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change a docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = DOCTEST.sub(r"\1```pycon\n\1\2\n\1```", obj.docstring.value)

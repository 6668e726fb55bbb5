"""Pages as a browser takes them apart."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would make of a page: its tags with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.words += data.split()

    @property
    def text(self) -> str:
        """The text with single spaces."""
        return " ".join(self.words)


def pictures(page: Page, alt: str) -> dict[str, bytes]:
    """Pictures whose alternative text matches: text -> bytes."""
    found = {}
    for tag, attributes in page.tags:
        if tag == "img" and re.search(alt, attributes["alt"] or ""):
            data = (attributes["src"] or "").split("base64,")[1]
            found[attributes["alt"] or ""] = base64.b64decode(data)
    return found

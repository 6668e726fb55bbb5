"""The page to watch: it asks nobody but the front door, and shows what others wrote as text."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.http.conftest import Running
from tests.http.test_answers import asks, is_refused


def test_events_follow_the_queue(served: Running) -> None:
    """The first has what is there, the next comes when something changes; a role is wanted."""
    with served.client("boss") as boss:
        boss.post("/v1/requests", json=asks("seen"))
        with boss.stream("GET", "/v1/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            states = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: "))
            assert [one["request_id"] for one in next(states)["requests"]] == ["seen"]
            boss.delete("/v1/requests/seen")
            cancelling = next(states)
            assert cancelling["requests"][0]["cancelling"] is True and cancelling["counts"] == {"waiting": 1}
            boss.post("/v1/requests", json=asks("later"))
            assert [one["request_id"] for one in next(states)["requests"]] == ["later", "seen"]
    with served.client("platform") as platform:
        assert is_refused(platform.get("/v1/events"), 403, "role", "allowed: 'read' or 'admin'")
    assert Inbox(Store.open(served.storage, create=False)).is_cancelling("seen")


class Parts(HTMLParser):
    """What a page loads, and what it holds of scripts and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note addresses, and what the policy would refuse."""
        given = dict(attrs)
        self.loads += [str(given[name]) for name in ("src", "href", "action") if name in given]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)


def parts(text: str) -> Parts:
    """Of a page."""
    found = Parts()
    found.feed(text)
    return found


def test_the_page_asks_nobody_else(served: Running) -> None:
    """It loads files of the front door, and its policy allows no others; nothing is inline."""
    with served.client() as nobody:
        page = nobody.get("/")
        found = parts(page.text)
        assert found.loads == ["/watch.css", "/watch.js"] and found.inline == []
        policy = page.headers["content-security-policy"]
        assert "script-src 'self'" in policy and "unsafe" not in policy and "default-src 'none'" in policy
        kinds = [nobody.get(address).headers["content-type"] for address in found.loads]
        assert kinds == ["text/css; charset=utf-8", "text/javascript; charset=utf-8"]
    planted = parts("<script>1</script><img src='//evil.example/x' onerror='1'>")
    assert planted.inline == ["script", "onerror"], "negative control"
    assert planted.loads == ["//evil.example/x"], "negative control"


WRITES_MARKUP = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?:"
)


@pytest.mark.parametrize("name", ["watch.js", "watch.html", "watch.css"])
def test_nothing_is_written_as_markup(name: str) -> None:
    """Nor does any file name another site; negative control: a line that does is found."""
    text = resources.files("rayunlearn.http").joinpath(name).read_text()
    assert WRITES_MARKUP.search(text) is None
    assert WRITES_MARKUP.search("cell.innerHTML = one.reason") is not None

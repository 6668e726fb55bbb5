"""What documents and comments refer to is there: files, headings, entries of the log.

What the README and the results say in figures: `tests/benchmarks/test_result_pages.py`.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CITED = re.compile(r"docs/log\.md(?:`\))?,\s+(\d+(?:(?:,| and| to)\s+\d+)*)")


def anchors(text: str) -> set[str]:
    """The names that GitHub gives a page's headings."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page to what is not there; those to elsewhere are not followed."""
    found = []
    for link in LINK.findall(text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text() if name else text)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    """Files and their headings."""
    assert broken(page, page.read_text()) == []


def test_a_link_to_nowhere_is_found() -> None:
    """A file or a heading that is missing; here, and in another file."""
    text = "# One two\n[a](#one-two) [b](#three) [c](log.md) [d](none.md) [e](log.md#none)"
    assert broken(ROOT / "docs" / "index.md", text) == ["#three", "none.md", "log.md#none"]


def test_the_log_has_what_is_cited_of_it() -> None:
    """Each number that a file gives beside the log's name is an entry's."""
    entries = set(re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "log.md").read_text(), re.MULTILINE))
    assert len(entries) > 50
    folders = ("rayunlearn", "papers", "jobs", "benchmarks", "tests")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    cited = {
        (number, str(file.relative_to(ROOT)))
        for file in (*files, *PAGES)
        for numbers in CITED.findall(re.sub(r"\n\s*#?\s*", " ", file.read_text()))
        for number in re.findall(r"\d+", numbers)
    }
    assert len(cited) > 20
    assert {(number, file) for number, file in cited if number not in entries} == set()


def listed(entries: list[Any]) -> list[str]:
    """The pages of a site's navigation, at any depth."""
    found: list[str] = []
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            found += listed(value) if isinstance(value, list) else [value]
    return found


def left_out(site: dict[str, Any], pages: list[str]) -> list[str]:
    """Pages that the site neither lists nor leaves out by name."""
    known = [pattern.lstrip("/") for key in ("not_in_nav", "exclude_docs") for pattern in site[key].split()]
    return [
        page for page in pages
        if page not in listed(site["nav"]) and not any(fnmatch(page, pattern) for pattern in known)
    ]  # fmt: skip


def test_the_site_lists_what_is_there() -> None:
    """Each page once, and no other; what CI does not build keeps its files. A page more is found."""
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents]
    assert left_out(site, pages) == []
    assert left_out(site, [*pages, "how-to/new.md"]) == ["how-to/new.md"]
    named = listed(site["nav"])
    assert len(named) == len(set(named)) and set(named) <= set(pages)


def test_the_modules_of_the_site_are_there() -> None:
    """Each `:::` names a module of the package."""
    text = "".join(page.read_text() for page in (ROOT / "docs" / "reference" / "api").glob("*.md"))
    modules = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    paths = [ROOT / module.replace(".", "/") for module in modules]
    assert len(paths) > 20
    files = [(path.with_suffix(".py"), path / "__init__.py") for path in paths]
    assert [str(one) for one, other in files if not one.is_file() and not other.is_file()] == []

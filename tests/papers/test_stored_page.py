"""A page's results as JSON, and what a later run does with them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from papers.stored_page import from_json, of_other_settings, run_of, to_json, together
from rayunlearn.errors import BadInput


def result(key: str, seed: int, target: tuple[int, ...] = (0,), value: float = 0.5, **more) -> dict:
    """One request of a row and seed."""
    figures = [
        {"subject": "gold", "measure": "retain_accuracy", "classes": [1, 2], "value": value},
        {"subject": "gold", "measure": "anamnesis_index", "classes": [0], "value": None},
    ]
    return {
        "row": key[:3], "key": key, "seed": seed, "target": list(target), "figures": figures, **more
    }  # fmt: skip


def test_what_is_written_is_read() -> None:
    """Figures come back as they were, in a line a result; results without figures too."""
    moons = {"key": "moons-1", "seed": 0, "rows": [1]}
    results = [result("row-1", 0), result("row-1", 1, value=1 / 3), moons]
    text = to_json("A page", {"cpu": "one"}, results)
    assert from_json(text, "page.json") == results
    assert len(text.splitlines()) == len(results) + 2
    assert json.loads(text)["page"] == "A page" and json.loads(text)["machine"] == {"cpu": "one"}


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", '{"results": 3}', '{"results": [{"seed": 0}]}', '{"results": [3]}',
        '{"results": [{"key": "a", "seed": 0, "figures": {"columns": ["x"], "rows": [[1, 2]]}}]}',
    ],
)  # fmt: skip
def test_another_file_is_refused_by_name(text: str) -> None:
    """It is not taken for a page without results, which would be written over it."""
    with pytest.raises(BadInput, match="page.json"):
        from_json(text, "page.json")


def test_fresh_results_replace_stored_ones_of_their_row_and_seed() -> None:
    """The others stay; all are in the order of rows and seeds, a sequence's requests in their own."""
    stored = [result("b", 0), result("a", 1, (2,)), result("a", 1, (0,)), result("a", 0, value=0.1)]
    fresh = [result("a", 0, value=0.9), result("a", 2)]
    found = together(stored, fresh, ["a", "b"])
    assert [(r["key"], r["seed"], r["target"]) for r in found] == [
        ("a", 0, [0]), ("a", 1, [2]), ("a", 1, [0]), ("a", 2, [0]), ("b", 0, [0])
    ]  # fmt: skip
    assert found[0]["figures"][0]["value"] == 0.9
    assert run_of(found) == {("a", 0), ("a", 1), ("a", 2), ("b", 0)}


def test_results_of_other_settings_are_named() -> None:
    """They are not shown beside settings that they are not of; each row and seed is named once."""
    stored = [result("gkt-1", 0, (0,)), result("gkt-1", 0, (2,)), result("gkt-2", 0)]
    assert [r["key"] for r in together(stored, [], ["gkt-2"])] == ["gkt-2"]
    assert of_other_settings(stored, ["gkt-2"]) == ["gkt, seed 0"]


def test_every_stored_result_is_in_the_index() -> None:
    """`docs/results/README.md` links each page and each benchmark's figures, and nothing else."""
    folder = Path(__file__).resolve().parents[2] / "docs" / "results"
    pages = {path.name for path in folder.glob("*.md")} - {"README.md"}
    figures = {path.name for path in folder.glob("*.json") if path.with_suffix(".md").name not in pages}
    linked = re.findall(r"^\| \[[^]]+\]\(([^)]+)\)", (folder / "README.md").read_text(), re.MULTILINE)
    tables = {path.name for path in folder.glob("*.parquet")}
    assert sorted(linked) == sorted(pages | figures | tables)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b'{"results": ' + b"[" * 100_000, b'{"results": [{"key": [1], "seed": 0}]}',
     b'{"results": [{"key": "k", "seed": true}]}'],
    ids=["no text", "nested", "key", "seed"],
)  # fmt: skip
def test_bytes_that_are_no_page_are_refused(content: bytes) -> None:
    """With the file's name; negative control: a result with a key and a seed is read."""
    with pytest.raises(BadInput, match=r"^page\.json is "):
        from_json(content, "page.json")
    assert from_json(b'{"results": [{"key": "k", "seed": 1}]}', "page.json") == [{"key": "k", "seed": 1}]

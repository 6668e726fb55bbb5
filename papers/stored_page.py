"""What a page shows as JSON, from which a later run goes on, also one on another machine or storage.

A result is found again by its row's key, which changes with any setting, and its seed: what a page has is
not run again, and what it has of other settings cannot be shown beside the ones it lists.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from papers.results import Result
from rayunlearn.errors import BadInput

NEEDED = ("key", "seed")
"""Of every result that can be found again."""


def to_json(title: str, facts: Mapping[str, str], results: Sequence[Result]) -> str:
    """What a page shows: a line for each result, its figures as columns and rows."""
    lines = [json.dumps({**result, **_in_columns(result.get("figures", []))}) for result in results]
    head = json.dumps({"page": title, "machine": facts})[:-1]
    return f'{head}, "results": [\n' + ",\n".join(lines) + "\n]}\n"


def from_json(text: str | bytes, where: str) -> list[dict[str, Any]]:
    """The results that `to_json` wrote, equal to those it was given.

    Args:
        text: of the file, or its bytes.
        where: what an error calls it.

    Raises:
        BadInput: it is something else.
    """
    allowed = f"a page's results, each with {' and '.join(NEEDED)}; move it away to begin anew"
    try:
        results = [{**result, **_in_rows(result)} for result in json.loads(text)["results"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadInput(where, text[:80], allowed) from error
    for result in results:
        if type(result.get("key")) is not str or type(result.get("seed")) is not int:
            raise BadInput(where, result.get("row", "a result without a row"), allowed)
    return results


def together(stored: Sequence[Result], fresh: Sequence[Result], keys: Sequence[str]) -> list[Result]:
    """All results of the page, in the order of its rows' keys and then of seeds; fresh ones win."""
    run = run_of(fresh)
    every = [r for r in stored if (r["key"], r["seed"]) not in run] + list(fresh)
    return sorted(
        (r for r in every if r["key"] in keys), key=lambda r: (keys.index(r["key"]), r["seed"])
    )  # stable: the requests of a sequence stay in order


def run_of(results: Sequence[Result]) -> set[tuple[str, int]]:
    """Row and seed of each result."""
    return {(result["key"], result["seed"]) for result in results}


def of_other_settings(stored: Sequence[Result], keys: Collection[str]) -> list[str]:
    """Rows and seeds of stored results that belong to none of the page's rows as they are set now."""
    found = ((r.get("row", r["key"]), r["seed"]) for r in stored if r["key"] not in keys)
    return [f"{row}, seed {seed}" for row, seed in dict.fromkeys(found)]


def _in_columns(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    if not figures:
        return {}
    columns = list(dict.fromkeys(key for figure in figures for key in figure))
    rows = [[figure.get(column) for column in columns] for figure in figures]
    return {"figures": {"columns": columns, "rows": rows}}


def _in_rows(result: Mapping[str, Any]) -> dict[str, Any]:
    figures = result.get("figures")
    if not figures:
        return {}
    return {"figures": [dict(zip(figures["columns"], row, strict=True)) for row in figures["rows"]]}

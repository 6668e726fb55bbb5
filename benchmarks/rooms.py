"""The rooms of the package, drawn from its imports: `python -m benchmarks.rooms`.

A room is a folder or a file of the first level; the picture leaves the files out. A room stands one row above
the highest room that it imports, so that every arrow leads down. Imports that another path implies are left
out. Below each name stand its lines of code, and rooms that import Ray are coloured.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

PACKAGE = Path(__file__).parents[1] / "rayunlearn"
PICTURE = Path(__file__).parents[1] / "docs" / "explanation" / "rooms.png"
INK, PALE, RAY = "#222222", "#f3f1ea", "#f0c987"
WIDTH, HEIGHT = 1.7, 0.62


def room_of(path: Path, package: Path) -> str:
    """The folder or file of the first level that a file of the package belongs to."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def imported(tree: ast.Module) -> set[str]:
    """First-level names of the package, and `ray`, that a file imports anywhere."""
    found = set()
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "ray":
                found.add("ray")
            elif parts[0] == "rayunlearn" and len(parts) > 1:
                found.add(parts[1])
    return found


def rooms(package: Path = PACKAGE) -> tuple[dict[str, set[str]], dict[str, int], set[str]]:
    """Room -> rooms that it imports, room -> lines, and the rooms that import Ray."""
    below: dict[str, set[str]] = {}
    lines: dict[str, int] = {}
    ray: set[str] = set()
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        if room in {"__init__", "__main__"}:
            continue
        text = path.read_text()
        found = imported(ast.parse(text))
        below.setdefault(room, set()).update(found - {room, "ray", "__version__"})
        lines[room] = lines.get(room, 0) + len(text.splitlines())
        if "ray" in found:
            ray.add(room)
    return {room: of & below.keys() for room, of in below.items()}, lines, ray


def rows(below: Mapping[str, set[str]]) -> list[list[str]]:
    """Rooms from the lowest row up: each above all that it imports.

    >>> rows({"a": set(), "b": {"a"}, "c": {"a"}, "d": {"c"}})
    [['a'], ['b', 'c'], ['d']]

    Raises:
        ValueError: rooms import each other.
    """
    left, found = {room: set(of) for room, of in below.items()}, []
    while left:
        lowest = sorted(room for room, of in left.items() if not of & left.keys())
        if not lowest:
            raise ValueError(f"these rooms import each other: {', '.join(sorted(left))}")
        found.append(lowest)
        for room in lowest:
            del left[room]
    return found


def arrows(below: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Imports that no other path implies.

    >>> arrows({"a": set(), "b": {"a"}, "c": {"a", "b"}})
    [('b', 'a'), ('c', 'b')]
    """
    reach: dict[str, set[str]] = {}
    for row in rows(below):
        for room in row:
            reach[room] = below[room].union(*(reach[of] for of in below[room]))
    return [
        (room, of)
        for room in sorted(below)
        for of in sorted(below[room])
        if not any(of in reach[other] for other in below[room] - {of})
    ]


def placed(
    laid: list[list[str]], between: list[tuple[str, str]], width: float
) -> dict[str, tuple[float, float]]:
    """Where each room stands: a row's rooms in the order of the middle of what they are joined to."""
    places = {
        room: ((i + 0.5) * width / len(row), number * 1.25 + 0.6)
        for number, row in enumerate(laid)
        for i, room in enumerate(row)
    }

    def middle(room: str) -> float:
        joined = [b if a == room else a for a, b in between if room in (a, b)]
        return sum(places[other][0] for other in joined) / max(1, len(joined))

    for _ in range(12):
        for row in laid:
            for i, room in enumerate(sorted(row, key=middle)):
                places[room] = ((i + 0.5) * width / len(row), places[room][1])
    return places


def draw(package: Path, out: Path) -> None:
    """The picture, as PNG."""
    every, lines, ray = rooms(package)
    folders = {room for room in every if (package / room).is_dir()}  # files of the first level know nothing
    below = {room: every[room] & folders for room in folders}
    laid = rows(below)
    across = max(len(row) for row in laid)
    figure = Figure(figsize=(across * WIDTH * 1.12, len(laid) * 1.25))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    lines_between = arrows(below)
    places = placed(laid, lines_between, across * WIDTH * 1.12)
    for above, under in lines_between:
        (x, y), (x2, y2) = places[above], places[under]
        # an arrow past other rows bends around the rooms that stand in between
        bend = 0.0 if y - y2 < 2 else 0.18 * (1 if x2 >= x else -1)
        axes.annotate(
            "", xytext=(x, y - HEIGHT / 2), xy=(x2, y2 + HEIGHT / 2), zorder=0,
            arrowprops={
                "arrowstyle": "-|>", "color": "#9a958a", "lw": 0.9, "shrinkA": 0, "shrinkB": 0,
                "connectionstyle": f"arc3,rad={bend}",
            },
        )  # fmt: skip
    for room, (x, y) in places.items():
        colour = RAY if room in ray else PALE
        axes.text(
            x, y, f"{room}\n{lines[room]:,}", ha="center", va="center", fontsize=10, color=INK,
            bbox={"boxstyle": "round,pad=0.45", "facecolor": colour, "edgecolor": INK, "linewidth": 0.8},
        )  # fmt: skip
    axes.set_xlim(0, across * WIDTH * 1.12)
    axes.set_ylim(0, len(laid) * 1.25)
    figure.savefig(out, dpi=110)


def main(
    package: Annotated[Path, tyro.conf.arg(help="the package's folder, of any checkout")] = PACKAGE,
    out: Annotated[Path, tyro.conf.arg(help="where the picture goes")] = PICTURE,
) -> None:
    """Draw the rooms, and print each with its lines and what it imports."""
    draw(package, out)
    below, lines, _ = rooms(package)
    for row in reversed(rows(below)):
        for room in row:
            print(f"{room}: {lines[room]} lines; imports {', '.join(sorted(below[room])) or 'none'}")
    print(json.dumps({"lines": sum(lines.values()), "rooms": len(lines), "arrows": len(arrows(below))}))


if __name__ == "__main__":
    tyro.cli(main)

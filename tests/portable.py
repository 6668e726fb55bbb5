"""The learned tests on other arithmetic and from other root seeds: `make portable`.

A setting of tests/arithmetic.py with a root seed is one run of pytest: the first setting with every root
seed, each other one with one of them, or all pairs (`--cross`). Shown are which tests failed where, and of
each claim of less or more its mean and standard deviation over the runs, and its margin: how many standard
deviations the mean is from failing. A margin below three is a failure, too, where there are six root seeds at
least to measure it by, those of earlier commands (`--also FOLDER`) among them.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests import arithmetic, margins
from tests.margins import Comparison

HERE = Path(__file__).parent
TESTS = (
    "-m", "learned and not slow and not ray",  # a process of Ray has this one's root seed no more
    # No other file is imported, which takes longer than many a test.
    *(str(path) for path in sorted(HERE.rglob("test_*.py")) if "mark.learned" in path.read_text()),
)  # fmt: skip
LEAST_MARGIN = 3.0
LEAST_ROOTS = 6
"""From fewer root seeds a spread says little, and none is judged: a setting moves a figure less."""


Key = tuple[str, int, str]
"""A claim: test, line, text."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What pytest said under one setting and one root seed.

    Attributes:
        name: setting and root seed.
        outcomes: passed, failed or skipped, by test.
        closest: of each claim the comparison nearest to failing: a loop asserts the same line often.
        said: why a test failed.
    """

    name: str
    outcomes: dict[str, str] = field(default_factory=dict)
    closest: dict[Key, Comparison] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> str:
        """The root seed."""
        return self.name.split()[-1]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A comparison over all runs.

    Attributes:
        mean: of what is on its left.
        spread: standard deviation of that.
        margin: how far from failing, in standard deviations; infinity where there is no spread.
    """

    test: str
    line: int
    text: str
    mean: float
    spread: float
    margin: float


def read(name: str, lines: Iterable[str]) -> Run:
    """A run from the lines that tests/margins.py wrote."""
    run = Run(name=name)
    for row in map(json.loads, lines):
        if "outcome" in row:
            run.outcomes[row["test"]] = row["outcome"]
            run.said[row["test"]] = row["said"]
            continue
        key = row["test"], row["line"], row["claim"]
        found = Comparison(row["left"], row["low"], row["high"])
        if key not in run.closest or found.high - found.low < run.closest[key].high - run.closest[key].low:
            run.closest[key] = found
    return run


def margin(found: Sequence[Comparison]) -> float:
    """Mean distance from the bound in standard deviations of it, or that of its logarithms where it is more.

    Errors, distances and other positive figures spread over orders of magnitude, so that they are judged by
    the ratio to their bound.
    """
    distances = [c.high - c.low for c in found]
    least = 1e-12 * max(c.high for c in found)  # what is compared by `approx` may be equal
    ratios = [math.log(c.high / max(c.low, least)) for c in found] if all(c.high > 0 for c in found) else []
    by_ratio = _in_deviations(ratios) if ratios and all(c.low >= 0 for c in found) else -math.inf
    return max(_in_deviations(distances), by_ratio)


def _in_deviations(values: Sequence[float]) -> float:
    apart = statistics.stdev(values)
    return statistics.mean(values) / apart if apart else math.inf


def claims(runs: Sequence[Run]) -> list[Claim]:
    """Of every comparison that was made in two runs at least, the narrowest first."""
    found = []
    for key in sorted(set().union(*(run.closest for run in runs))):
        own = [run.closest[key] for run in runs if key in run.closest]
        if len(own) >= 2:
            mean, spread = (of([c.left for c in own]) for of in (statistics.mean, statistics.stdev))
            test, line, text = key
            found.append(Claim(test=test, line=line, text=text, mean=mean, spread=spread, margin=margin(own)))
    return sorted(found, key=lambda claim: claim.margin)


def run_pytest(setting: str, root: int, arguments: Sequence[str], folder: Path) -> Run:
    """One run of pytest, and what it said."""
    name = f"{setting} {root}"
    file = folder / f"{setting}-{root}.jsonl"
    file.unlink(missing_ok=True)
    threads = arithmetic.SETTINGS[setting].threads
    workers = max(1, min(4, (os.cpu_count() or 1) // threads))
    environment = {
        **os.environ, arithmetic.SETTING: setting, arithmetic.ROOT_SEED: str(root), margins.FILE: str(file),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "pytest", "-q", "--tb=short", "--durations=25", "-p", "tests.margins", "-o",
        "enable_assertion_pass_hook=true", "-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder",
        *arguments,
    ]  # fmt: skip
    ended = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    (folder / f"{setting}-{root}.log").write_text(ended.stdout)
    print(f"{name}: {ended.stdout.strip().splitlines()[-1]}", flush=True)
    if ended.returncode not in (0, 1) or not file.exists():  # 1: some test failed
        sys.exit(ended.stdout[-3000:])
    return read(name, file.read_text().splitlines())


def kept_in(folder: Path) -> list[Run]:
    """Runs of which an earlier command has kept what they said, in its `--folder`."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        sys.exit(f"--also: no run is kept in {folder}")
    return [read(" ".join(file.stem.rsplit("-", 1)), file.read_text().splitlines()) for file in files]


def table(runs: Sequence[Run]) -> str:
    """Tests by runs, in Markdown: how many of a test's cases failed, and `.` where none did."""
    cases: Mapping[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for run in runs:
        for test, outcome in run.outcomes.items():
            cases[test.split("[")[0]][run.name] += outcome == "failed"
    lines = [
        "| test | " + " | ".join(run.name for run in runs) + " |",
        "|---" * (len(runs) + 1) + "|",
    ]
    for test, failed in sorted(cases.items()):
        lines.append(f"| {test} | " + " | ".join(str(failed[run.name] or ".") for run in runs) + " |")
    return "\n".join(lines)


def margins_table(found: Sequence[Claim]) -> str:
    """Claims in Markdown."""
    lines = ["| test | claim | mean | standard deviation | margin |", "|---|---|---|---|---|"]
    for claim in found:
        text = claim.text.replace("|", "\\|")
        figures = f"{claim.mean:.4g} | {claim.spread:.2g} | {claim.margin:.1f}"
        lines.append(f"| {claim.test}:{claim.line} | `{text}` | {figures} |")
    return "\n".join(lines)


def report(runs: Sequence[Run]) -> tuple[str, bool]:
    """The page, and whether every test held with its margin."""
    failed = {
        (test, run.name): run.said[test]
        for run in runs for test, outcome in run.outcomes.items() if outcome == "failed"
    }  # fmt: skip
    found = claims(runs)
    roots = len({run.root for run in runs})
    narrow = [claim for claim in found if claim.margin < LEAST_MARGIN] if roots >= LEAST_ROOTS else []
    spread = [claim for claim in found if claim.margin != math.inf]
    margins_said = (
        f"{len(narrow)} of {len(found)} claims with a margin under {LEAST_MARGIN:g} deviations"
        if roots >= LEAST_ROOTS
        else f"margins not judged: {LEAST_ROOTS} root seeds are needed (--also)"
    )
    parts = [
        f"{len({t for run in runs for t in run.outcomes})} tests, {len(runs)} runs from {roots} root seeds, "
        f"{len(failed)} failures, {margins_said}.",
        table(runs),
    ]
    if narrow:
        parts += ["Too narrow:", margins_table(narrow)]
    parts += ["Claims that differ between runs, the narrowest first:", margins_table(spread)]
    parts += [f"{test} under {name}:\n```\n{said}\n```" for (test, name), said in failed.items()]
    return "\n\n".join(parts) + "\n", not failed and not narrow


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, show, and end with 1 where something did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.portable", description=__doc__)
    choices = list(arithmetic.SETTINGS)
    parser.add_argument("--settings", nargs="+", default=choices, choices=choices, help="arithmetic")
    parser.add_argument("--roots", nargs="+", type=int, default=[0, 1, 2], help="root seeds")
    parser.add_argument("--cross", action="store_true", help="each setting with each root seed")
    parser.add_argument("--folder", type=Path, help="where logs are kept (default: a temporary folder)")
    parser.add_argument("--also", nargs="+", type=Path, default=[], help="folders of earlier runs")
    parser.add_argument("--out", type=Path, help="a Markdown file for the tables (default: shown)")
    parser.add_argument("--brief", action="store_true", help="show failures alone")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=TESTS, help="its arguments, at the end")
    asked: Any = parser.parse_args(arguments)
    folder = asked.folder or Path(tempfile.mkdtemp(prefix="portable-"))
    folder.mkdir(parents=True, exist_ok=True)
    cells = list(itertools.product(asked.settings, asked.roots))
    if not asked.cross:
        cells = [(setting, asked.roots[i % len(asked.roots)]) for i, setting in enumerate(asked.settings)]
        cells = list(dict.fromkeys([*itertools.product(asked.settings[:1], asked.roots), *cells]))
    earlier = [kept for also in asked.also for kept in kept_in(also)]
    runs = earlier + [run_pytest(setting, root, asked.pytest, folder) for setting, root in cells]
    page, held = report(runs)
    if asked.out:
        asked.out.write_text(page)
    elif not (asked.brief and held):
        print(page)
    print(page.split("\n", 1)[0])
    sys.exit(not held)


if __name__ == "__main__":
    main()

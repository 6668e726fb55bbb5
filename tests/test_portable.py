"""`make portable`: what it makes of pytest's runs, and that its settings change what they say they change."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from tests import arithmetic, margins
from tests.margins import Comparison, comparisons
from tests.portable import LEAST_ROOTS, claims, kept_in, margin, read, report

TEST = "tests/a.py::test_a"


def lines(*rows: dict[str, object]) -> list[str]:
    """As the plugin writes them."""
    return [json.dumps(row) for row in rows]


def held(left: float, bound: float = 0.5) -> dict[str, object]:
    """`x > bound` that held."""
    return {"test": TEST, "line": 3, "claim": "x > bound", "left": left, "low": bound, "high": left}


def ended(outcome: str = "passed") -> dict[str, object]:
    """How the test ended."""
    return {"test": TEST, "outcome": outcome, "said": "assert 0.4 > 0.5" if outcome == "failed" else ""}


@pytest.mark.parametrize(
    ("explanation", "found"),
    [
        ("0.25 > 0.125", [Comparison(0.25, 0.125, 0.25)]),
        ("0.25 < 0.125", [Comparison(0.25, 0.25, 0.125)]),
        ("0.25 >= 0.125", [None]),
        ("(3 > 1 and -1.5 < (2 * 0.25))", [Comparison(3, 1, 3), Comparison(-1.5, -1.5, 0.5)]),
        ("0.5 > 0.25\n +  where 0.5 = max([0.5, 0.1])", [Comparison(0.5, 0.25, 0.5)]),
        ("tensor(0.5000) > 0.25", [Comparison(0.5, 0.25, 0.5)]),
        ("tensor(0.5000, dtype=torch.float64) < 1", [Comparison(0.5, 0.5, 1)]),
        ("0.5 == 0.25 ± 0.5", [Comparison(0.5, 0.25, 0.5)]),
        ("(True and 2 > 1)", [None, Comparison(2, 1, 2)]),
        ("'a' == 'a'", [None]),
        ("inf > 0", [None]),
        ("AllCNN(\n  (head): Linear()\n) is not None", [None]),
    ],
)
def test_comparisons_are_read_off_pytests_explanations(
    explanation: str, found: list[Comparison | None]
) -> None:
    """Numbers compared by size, in the order of the assertion; everything else is no comparison."""
    assert list(comparisons(explanation)) == found


def test_a_margin_is_in_standard_deviations() -> None:
    """0.6 and 0.8 in turn against 0.5: the mean distance 0.2 is 1.83 standard deviations of 0.11.

    The logarithm of the ratio is 0.33 in the mean, 2.07 standard deviations of 0.16, and that is the margin.
    """
    runs = [read(str(i), lines(held(0.6 + 0.2 * (i % 2)), ended())) for i in range(6)]
    (claim,) = claims(runs)
    assert (claim.mean, claim.spread) == (pytest.approx(0.7), pytest.approx(0.1095, rel=1e-3))
    ratios = [math.log(0.6 / 0.5), math.log(0.8 / 0.5)] * 3
    assert claim.margin == pytest.approx(mean(ratios) / stdev(ratios)) == pytest.approx(2.07, rel=1e-2)
    page, all_held = report(runs)
    assert not all_held and "Too narrow:" in page and "`x > bound`" in page
    wide = [read(str(i), lines(held(0.9 + 0.2 * (i % 2)), ended())) for i in range(6)]
    assert report(wide)[1]


def test_of_a_loop_the_closest_counts() -> None:
    """A line that is asserted several times in a run has the distance of the worst."""
    run = read("a", lines(held(0.9), held(0.6), held(0.7), ended()))
    assert [found.left for found in run.closest.values()] == [0.6]


def test_errors_are_judged_by_their_ratio_to_the_bound() -> None:
    """1e-9 to 1e-6 under 1e-3 is far from it by any spread; a negative bound leaves the distance alone."""
    errors = [Comparison(10.0**-k, 10.0**-k, 1e-3) for k in (6, 7, 8, 9, 6, 7)]
    assert margin(errors) > 100  # of the distance, which hardly varies
    controls = [Comparison(x, 1e-3, x) for x in (0.01, 0.2, 0.02, 0.3, 0.01, 0.1)]
    ratios = [math.log(c.low / c.high) for c in controls]
    assert margin(controls) == pytest.approx(-mean(ratios) / stdev(ratios)) == pytest.approx(2.54, rel=0.01)
    signed = [Comparison(x, -1.0, x) for x in (0.0, 1.0, 0.0, 1.0)]
    assert margin(signed) == pytest.approx(1.5 / stdev([1, 2, 1, 2]))
    equal = [Comparison(1.0, 0.0, 1e-6)] * 6
    assert margin(equal) == math.inf


def test_few_root_seeds_judge_no_margin() -> None:
    """Of five none, whatever the settings; of six it is. A figure without a spread is beyond all margins."""
    narrow = [lines(held(0.6 + 0.2 * (i % 2)), ended()) for i in range(LEAST_ROOTS)]
    few = [read(f"{setting} {i}", of) for setting in ("default", "avx2") for i, of in enumerate(narrow[:-1])]
    page, all_held = report(few)
    assert all_held and "not judged: 6 root seeds" in page
    assert not report([read(f"default {i}", of) for i, of in enumerate(narrow)])[1]
    same = [read(f"default {i}", lines(held(0.500001), ended())) for i in range(LEAST_ROOTS)]
    assert claims(same)[0].margin == math.inf and report(same)[1]


def test_earlier_runs_are_judged_with(tmp_path: Path) -> None:
    """By setting and root seed as their files are named; a folder without any is refused."""
    for name in ("no-onednn-7", "default-3"):
        rows = lines(held(0.75), ended())
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    runs = kept_in(tmp_path)
    assert [(run.name, run.root) for run in runs] == [("default 3", "3"), ("no-onednn 7", "7")]
    assert [found.left for run in runs for found in run.closest.values()] == [0.75, 0.75]
    with pytest.raises(SystemExit, match="no run is kept"):
        kept_in(tmp_path / "none")


def test_a_failure_is_shown_where_it_was() -> None:
    """In the row of the test, the column of the run, and with what was said."""
    runs = [read("default 0", lines(held(0.9), ended())), read("avx2 0", lines(ended("failed")))]
    page, all_held = report(runs)
    assert not all_held
    assert f"| {TEST} | . | 1 |" in page and "under avx2 0:\n```\nassert 0.4 > 0.5" in page


def test_what_torch_compares_is_written_down(tmp_path: Path) -> None:
    """By a run of pytest: a tolerance used to a quarter, one that is exceeded, one not needed."""
    (tmp_path / "test_close.py").write_text(
        """
import torch
def test_near():
    one = torch.ones(2)
    torch.testing.assert_close(one + torch.tensor([0.0, 0.25]), one, rtol=0, atol=1.0)
    assert not torch.allclose(one + 0.5, one, atol=0.1, rtol=0)
    assert torch.allclose(one, one)
"""
    )
    file = tmp_path / "margins.jsonl"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.margins", "-p", "no:cacheprovider"]
    ended = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path / "test_close.py")],
        env={**os.environ, margins.FILE: str(file)} | {"PYTHONPATH": os.getcwd()}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    rows = [row for row in map(json.loads, file.read_text().splitlines()) if "claim" in row]
    found = [(row["claim"], row["low"], row["high"]) for row in rows]
    assert found == [
        ("assert_close", pytest.approx(0.25), 1.0), ("allclose", 1.0, pytest.approx(5.0)),
        ("allclose", 0.0, 1.0),
    ]  # fmt: skip


def asked(code: str, **environment: str) -> str:
    """What a process prints that has read tests/conftest.py under these variables."""
    of_these_tests = {"OMP_NUM_THREADS", arithmetic.SETTING, arithmetic.ROOT_SEED}
    of_these_tests |= {name for setting in arithmetic.SETTINGS.values() for name in setting.environment}
    ended = subprocess.run(
        [sys.executable, "-c", f"import tests.conftest\n{code}"], capture_output=True, text=True, check=False,
        env={k: v for k, v in os.environ.items() if k not in of_these_tests} | environment,
    )  # fmt: skip
    return ended.stdout.strip() or ended.stderr


def test_a_root_seed_changes_every_draw_of_the_package() -> None:
    """By the name under which modules took the function, too; 0 changes nothing."""
    code = "from rayunlearn.models import classifiers; print(classifiers.derive_seed(0, 'a'))"
    seeds = [asked(code, **{arithmetic.ROOT_SEED: str(root)}) for root in (0, 1, 2)]
    plain = "from rayunlearn.seeds import derive_seed; print(derive_seed(0, 'a'))"
    bare = subprocess.run([sys.executable, "-c", plain], capture_output=True, text=True, check=True)
    assert seeds[0] == bare.stdout.strip() and len(set(seeds)) == 3


@pytest.mark.parametrize("setting", sorted(arithmetic.SETTINGS))
def test_a_setting_is_in_force(setting: str) -> None:
    """Threads, oneDNN and ATen's instruction set are what the setting says once torch is loaded."""
    code = (
        "import torch; print(torch.get_num_threads(), torch.backends.mkldnn.enabled, "
        "torch.backends.cpu.get_cpu_capability())"
    )
    wanted = arithmetic.SETTINGS[setting]
    threads, onednn, capability = asked(code, **{arithmetic.SETTING: setting}).split(maxsplit=2)
    assert (threads, onednn) == (str(wanted.threads), str(wanted.onednn))
    limit = wanted.environment.get("ATEN_CPU_CAPABILITY")
    assert limit is None or capability == limit.upper()


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [(arithmetic.SETTING, "avx", "allowed: default, avx2"), (arithmetic.ROOT_SEED, "-1", "a whole number")],
)
def test_what_there_is_not_is_refused(variable: str, value: str, said: str) -> None:
    """Named with what is allowed, in place of tests that ran as ever."""
    answer = asked("", **{variable: value})
    assert f"{variable} is '{value}'" in answer and said in answer

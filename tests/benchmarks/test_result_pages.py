"""The README and the pages of results say what the stored files hold, figure by figure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytest

from rayunlearn.methods.registry import METHODS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
README = ROOT / "README.md"
DIGITS = RESULTS / "forgetting-digits.md"
MOST_LINES = 150
NAMES = {
    "original": "original", "unlearned": "**unlearned**", "gold": "gold (retrained)",
    "mask_logit": "masked logit", "delete_head_row": "deleted row", "gaussian_head": "Gaussian head",
}  # fmt: skip


def stored(name: str) -> Any:
    """A benchmark's file."""
    return json.loads((RESULTS / name).read_text())


def rows_under(text: str, head: str) -> list[str]:
    """The rows of the one table whose head begins so."""
    (table,) = re.findall(rf"^{re.escape(head)}.*\n\|[-: |]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return str(table).splitlines()


def cells(*values: object) -> str:
    """A row of a table."""
    return "| " + " | ".join(map(str, values)) + " |"


def spread(of: dict[str, float], digits: int = 2) -> str:
    """Mean ± standard deviation."""
    return f"{of['mean']:.{digits}f} ± {of['std']:.{digits}f}"


def few_shot(subject: str, measure: str) -> list[float]:
    """Test figures of LeNet5 and class 9 from 3 %, with the examples learned from, in %."""
    found = []
    for result in stored("few-shot-table-4-cpu.json")["results"]:
        if result["row"] == "mnist-lenet5_bn-class-few_shot-examples-0.03":
            figures = [dict(zip(result["figures"]["columns"], row, strict=True))
                       for row in result["figures"]["rows"]]  # fmt: skip
            found += [
                100 * f["value"] for f in figures
                if (f["subject"], f["measure"], f["split"]) == (subject, measure, "test")
            ]  # fmt: skip
    return found


def readme_rows() -> list[str]:
    """The README's table of results, made from the stored files."""
    digits = stored("digits.json")["figures"]
    made = []
    for key, said in (("digits/1", "one class"), ("digits/3", "three classes, one after another")):
        own, gold = digits[key]["unlearned"], digits[key]["gold"]
        (right, _), n = own["forget_pooled"], digits[key]["runs"]
        probe = f"{own['probe']['mean']:.1f} ({gold['probe']['mean']:.1f})"
        made.append(
            cells("digits", said, n, spread(own["retain"]), spread(gold["retain"]), f"{right:.0f}", probe)
        )
    last = stored("sequence.json")["methods"]["gated_inversion"][6]
    made.append(
        cells("digits", "seven classes, one after another", last["n"], f"{last['unlearned']:.2f}",
              f"{last['gold']:.2f}", f"{last['forget']:.0f}",
              f"{last['probe']:.1f} ({last['probe_gold']:.1f})")
    )  # fmt: skip
    natural = {row["setup"]: row for row in stored("natural.json")["rows"]
               if (row["seed"], row["forget"], row["method"]) == (0, [0], "partial_restart")}  # fmt: skip
    for setup, said in (("mnist-lenet", "MNIST, LeNet"), ("cifar10-allcnn", "CIFAR-10, AllCNN")):
        row = natural[setup]
        gold_probe = mean(gold["probe"]["1"] for gold in row["golds"])
        made.append(
            cells(said, "one class", 1, f"{row['d_r']:.2f}", f"{mean(g['d_r'] for g in row['golds']):.2f}",
                  f"{row['d_f']:.0f}", f"{100 * row['probe']['1']:.0f} ({100 * gold_probe:.0f})")
        )  # fmt: skip
    own, gold = (few_shot(subject, "retain_accuracy") for subject in ("unlearned", "gold"))
    made.append(
        cells("MNIST, LeNet5", "class 9, from 3 % of its images", len(own),
              f"{mean(own):.2f} ± {stdev(own):.2f}", f"{mean(gold):.2f} ± {stdev(gold):.2f}",
              f"{max(few_shot('unlearned', 'forget_accuracy')):.0f}", "–")
    )  # fmt: skip
    return made


def digits_rows() -> list[str]:
    """The table of three requests, made from the stored file."""
    made = []
    for request in ("1", "2", "3"):
        entry = stored("digits.json")["figures"][f"digits/{request}"]
        for subject, name in NAMES.items():
            of = entry[subject]
            right, count = of["forget_pooled"]
            made.append(
                cells(request if subject == "original" else "", name, spread(of["retain"]),
                      f"{right:.0f} of {count}", spread(of["probe"], 1),
                      ", ".join(f"{index:.2f}" for index in of.get("ain", ())) or "–")
            )  # fmt: skip
    return made


def interval_rows() -> list[str]:
    """Gold less unlearned, made from the stored file."""
    found = stored("digits.json")["figures"]
    gaps = {request: found[f"digits/{request}"]["retain_gap_points"] for request in "123"}
    return [
        cells(r, f"{of['mean']:.2f}", f"{of['low']:.2f} to {of['high']:.2f}") for r, of in gaps.items()
    ]


def zero_shot_rows() -> list[str]:
    """Three methods on every class, made from the stored file."""
    names = {"gated_inversion": "**default**", "ispf": "ISPF", "delete": "DELETE on DeepInversion images"}
    found = stored("zero_shot.json")["methods"]
    return [
        cells(name, f"{of['mean_gap']:.2f}", f"{of['worst_gap']:.2f}",
              f"{of['forget']:.1f}" if of["forget"] else 0, f"{of['probe']:.1f}",
              f"{of['refused']} of {of['n']}")
        for name, of in ((names[method], found[method]) for method in names)
    ]  # fmt: skip


def sequence_rows() -> list[str]:
    """Seven requests, made from the stored file."""
    found = stored("sequence.json")["methods"]["gated_inversion"]
    return [
        cells("gap to gold, points of D_r", *(f"{of['gap']:.2f}" for of in found)),
        cells("probe of D_f, % (gold)", *(f"{of['probe']:.1f} ({of['probe_gold']:.1f})" for of in found)),
    ]


def sweep_rows() -> list[str]:
    """Three searches, made from the stored file."""
    made = []
    for seed, of in enumerate(stored("sweep.json")["seeds"]):
        full, asha, rho = of["full"], of["asha"], of["spearman"]
        shares = (full["best_retain"], full["winner_retain"], asha["winner_retain"])
        count = f"{full['admissible']} admissible" if seed == 0 else full["admissible"]
        made.append(
            cells(seed, *(f"{100 * share:.1f}" for share in shares), f"{100 * of['cycles_share']:.0f} %",
                  f"{100 * of['default_retain']:.1f}", f"{rho['rho']:.2f} ({count})")
        )  # fmt: skip
    return made


TABLES: dict[str, tuple[Path, str, Callable[[], list[str]]]] = {
    "readme": (README, "| data | forgotten | n |", readme_rows),
    "digits": (DIGITS, "| after request | model |", digits_rows),
    "interval": (DIGITS, "| after request | gold less unlearned |", interval_rows),
    "zero_shot": (DIGITS, "| method | mean gap", zero_shot_rows),
    "sequence": (DIGITS, "| after request | 1 |", sequence_rows),
    "sweep": (RESULTS / "search-and-time.md", "| seed | best of 16", sweep_rows),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_the_stored_figures(name: str) -> None:
    """Row by row; negative control: another last digit of the first figure is found."""
    page, head, made = TABLES[name]
    text, expected = page.read_text(), made()
    assert rows_under(text, head) == expected
    figure = next(iter(re.findall(r"\d+\.\d", expected[0])))
    forged = text.replace(expected[0], expected[0].replace(figure, f"{figure[:-1]}{9 - int(figure[-1])}", 1))
    assert rows_under(forged, head) != expected


def test_the_readme_names_every_method_beside_its_data() -> None:
    """Each of the registry once, methods of one line with the same data access, baselines apart."""
    lines = rows_under(README.read_text(), "| data | methods |")
    named = [re.findall(r"`(\w+)`", line) for line in lines]
    assert sorted(name for line in named for name in line) == sorted(METHODS)
    for line in named:
        assert len({METHODS[name].data_access for name in line}) == 1, line
    assert sorted(named[-1]) == ["delete_head_row", "gaussian_head", "mask_logit"]


def test_the_readme_is_a_page() -> None:
    """At most 150 lines, and a picture of less than 300 KB."""
    assert len(README.read_text().splitlines()) <= MOST_LINES
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README.read_text())
    assert (ROOT / picture).stat().st_size < 300_000

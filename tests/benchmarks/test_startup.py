"""What the benchmark of the start counts and claims."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import startup


def test_processes_are_counted_by_themselves() -> None:
    """One that computes and holds more has more of both."""
    idle = startup.call(("-c", "pass"))
    busy = startup.call(("-c", "held = bytearray(b'x') * 200_000_000; sum(range(3_000_000))"))
    assert 0 < idle["cpu_s"] < busy["cpu_s"] and 0 < idle["peak_mb"] < busy["peak_mb"] - 100


def test_the_claims_are_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ratios are the last line, figures are stored, and a claim that does not hold is exit code 1."""
    calls = {startup.PASS: ("-c", "pass"), "import rayunlearn": ("-c", "import rayunlearn")}
    monkeypatch.setattr(startup, "CALLS", calls | {"rayunlearn --help": ("-m", "rayunlearn", "--help")})
    monkeypatch.setattr(startup, "MOST_HELP_S", 0.0)
    assert startup.main(1, tmp_path / "startup.json") == 1
    out = capsys.readouterr().out
    ratios = json.loads(out.splitlines()[-1])["cpu_ratio"]
    assert 1 < ratios["import rayunlearn"] < ratios["rayunlearn --help"]
    stored = json.loads((tmp_path / "startup.json").read_text())
    assert len(stored["turns"]) == 1 and stored["machine"]["python"]
    assert stored["claims"]["rayunlearn --help: under 0 s of CPU"] is False
    assert "NO  rayunlearn --help" in out and stored["claims"]["import rayunlearn: under 0.2 s of CPU"]

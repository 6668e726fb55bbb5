"""The picture of a report: what is missing is named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from benchmarks import report_picture


def test_a_missing_browser_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With those that are looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"^error: browser is none; allowed: one of chromium, "):
        report_picture.main()


def test_a_missing_report_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By its path, or where none was asked for and none is stored."""
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.chdir(tmp_path)
    for report in (None, tmp_path / "none.html"):
        with pytest.raises(SystemExit, match=f"^error: --report is {report}; allowed: a report"):
            report_picture.main(report)


@pytest.mark.skipif(not any(map(shutil.which, report_picture.BROWSERS)), reason="no Chromium is installed")
def test_the_picture_is_of_the_page(tmp_path: Path) -> None:
    """A red page gives a red picture of the size that was asked for; a blue one does not."""
    for colour, shown in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        page, out = tmp_path / f"{colour}.html", tmp_path / f"{colour}.png"
        page.write_text(f"<body style='background: {colour}'>")
        report_picture.main(page, out, width=600, height=400)
        picture = Image.open(out).convert("RGB")
        assert picture.size == (900, 600)
        assert picture.getpixel((450, 300)) == shown

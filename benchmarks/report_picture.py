"""A picture of a report, for the README: `python -m benchmarks.report_picture` after `make run`.

A headless Chromium opens the report as a reader would. What it draws is cut to the top of the page, with the
table of all requests and the first request's curves, and saved with few colours.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import tyro
from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MOST_BYTES = 300_000


def main(
    report: Path | None = None,
    out: Path = Path("docs/report.png"),
    width: int = 1180,
    height: int = 1030,
) -> None:
    """Take the picture.

    Args:
        report: a page; by default the newest of the storage location `storage`.
        out: where the picture is stored.
        width: of the window, in CSS pixels.
        height: how much of the page is shown, in CSS pixels.
    """
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"error: browser is none; allowed: one of {', '.join(BROWSERS)} on the PATH")
    pages = [report] if report else sorted(Path("storage/reports").glob("*.html"))
    if not pages or not pages[-1].is_file():
        sys.exit(f"error: --report is {report}; allowed: a report, as `make run` leaves in storage/reports")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        subprocess.run(
            [browser, *(["--no-sandbox"] if os.geteuid() == 0 else []), "--headless", "--hide-scrollbars",
             "--force-device-scale-factor=1.5",
             f"--user-data-dir={folder}/profile", f"--window-size={width},{height}", f"--screenshot={shot}",
             pages[-1].resolve().as_uri()],
            check=True, capture_output=True, timeout=120,
        )  # fmt: skip
        picture = Image.open(shot).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    picture.save(out, optimize=True)
    size = out.stat().st_size
    print(f"{out}: {picture.width} x {picture.height} pixels, {size / 1000:.0f} kB")
    if size > MOST_BYTES:
        sys.exit(f"error: {out} has {size} bytes; allowed: at most {MOST_BYTES}")


if __name__ == "__main__":
    tyro.cli(main)

"""The wheel: what it holds, that it serves a request in an environment of its own, and what it does alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

from rayunlearn.errors import ExitCode
from rayunlearn.extras import EXTRAS
from tests.serving.tiny import BANK, environment
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = Path(sysconfig.get_paths()["purelib"])
SETTINGS = (*BANK, "audit.enabled=false")
COPIED = "sklearn"
"""A package of which a sealed process opens more than code: that must lie in the environment itself."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, built from a copy; setuptools is the one that is here."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "rayunlearn", source / "rayunlearn", ignore=shutil.ignore_patterns("__pycache__"))
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, source)
    (made,) = out.iterdir()
    return made


def pip(*arguments: str | Path) -> None:
    """pip of this environment, without asking any registry."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *map(str, arguments)]
    # a checkout on PYTHONPATH would count as installed
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


class Place:
    """An environment with nothing in it but packages of this one, of which one is copied."""

    def __init__(self, folder: Path, without: set[str]) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = folder / "venv" / "bin" / "python"
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "venv" / "lib" / version / "site-packages"
        for path in PACKAGES.iterdir():
            ours = "rayunlearn" in path.name  # as installed for these tests, which is not what is tested
            if ours or path.suffix == ".pth" or path.name in {*without, "__pycache__"}:
                continue
            if path.name == COPIED:
                shutil.copytree(path, site / path.name)
            else:
                (site / path.name).symlink_to(path)

    def install(self, wheel: Path) -> None:
        """Install the wheel alone."""
        pip("--python", self.python, "install", "--no-deps", "--no-index", wheel)

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """A program of the environment, in a folder of its own, with nothing of this tree at hand."""
        program, *rest = map(str, arguments)
        clean = {k: v for k, v in environment().items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(self.python.with_name(program)), *rest], cwd=self.folder, env=clean, text=True,
            capture_output=True, timeout=HANG_S, check=False,
        )  # fmt: skip


def test_the_wheel_holds_the_package_and_its_data(wheel: Path) -> None:
    """Every module and every other file of rayunlearn/, and nothing of tests, jobs and benchmarks."""
    with ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    here = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "rayunlearn").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert any(name.endswith(".jinja") for name in here) and held == here


@pytest.mark.ray
def test_the_wheel_serves_a_request(wheel: Path, tmp_path: Path) -> None:
    """A request is added, served and told by the script `rayunlearn`; before, there is no such package."""
    place = Place(tmp_path, set())
    assert "No module named 'rayunlearn'" in place.run("python", "-c", "import rayunlearn").stderr
    place.install(wheel)
    where = place.run("python", "-c", "import rayunlearn; print(rayunlearn.__file__)").stdout
    assert where.startswith(str(tmp_path))
    added = place.run("rayunlearn", "request", "add", "--target", "0", "--id", "r1", "--storage", "s")
    assert added.returncode == ExitCode.OK, added.stdout + added.stderr
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    served = place.run("rayunlearn", "serve", "--storage", "s", *settings)
    assert served.returncode == ExitCode.OK, served.stdout + served.stderr
    assert "Report: " in served.stdout and "\x1b" not in served.stdout
    told = json.loads(place.run("rayunlearn", "status", "--storage", "s", "--json").stdout)
    assert [(r["request_id"], r["status"]) for r in told["requests"]] == [("r1", "served")]
    assert (told["scheduler"], told["under_way"]) == (None, [])


def test_the_wheel_without_any_extra(wheel: Path, tmp_path: Path) -> None:
    """What needs no extra works; what needs one names it, as a command and as an import."""
    place = Place(tmp_path, set(EXTRAS))
    place.install(wheel)
    listed = place.run("rayunlearn", "methods", "--json")
    assert listed.returncode == ExitCode.OK and len(json.loads(listed.stdout)) > 5, listed.stderr
    assert place.run("rayunlearn", "--help").returncode == ExitCode.OK
    keys = place.run("rayunlearn", "key", "new", "--name", "log", "--out", "log.key")
    assert keys.returncode == ExitCode.OK, keys.stdout + keys.stderr
    added = place.run("rayunlearn", "request", "add", "--target", "3", "--id", "r1", "--storage", "s")
    assert added.returncode == ExitCode.OK, added.stdout + added.stderr
    told = place.run("rayunlearn", "status", "--storage", "s")
    assert told.returncode == ExitCode.OK and "1 waiting" in told.stdout, told.stdout + told.stderr
    (tmp_path / "c.evidence.json").write_text("{}")
    verified = place.run("rayunlearn", "verify", "c.evidence.json", "--key", "log.key.pub")
    assert verified.stdout.startswith("FALSE: ") and verified.returncode == ExitCode.NOT_VERIFIED
    for extra, words in {
        "ray": ("serve",), "s3": ("status", "--storage", "s3://bucket/x"), "report": ("report", "r1")
    }.items():  # fmt: skip
        ended = place.run("rayunlearn", *words)
        assert ended.returncode == ExitCode.BAD_INPUT and "Traceback" not in ended.stderr
        assert f"pip install 'rayunlearn[{extra}]' brings it" in ended.stdout
    imported = place.run("python", "-c", "import rayunlearn.cli.job")
    assert imported.stderr.rstrip().endswith("pip install 'rayunlearn[ray]' brings it")
    assert not os.path.exists(tmp_path / "storage")

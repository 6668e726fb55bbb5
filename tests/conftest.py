"""What every test runs under: one thread, a quiet local Ray without tokens, patient hypothesis.

Bits are promised on one CPU configuration. A test that compares them makes both sides under this environment,
in its subprocesses and Ray's workers as well, and compares with none that were stored.
"""

from __future__ import annotations

import copy
import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from tests import arithmetic
from tests.longest import LONGEST

# Before any test imports Ray. Without RAY_AUTH_MODE a local `ray.init()` writes ~/.ray/auth_token and turns
# token authentication on for later clusters; `ray.train.report` waits for the health check (2 s by default).
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
# Bitwise claims hold at equal threads, and Ray gives an actor of one CPU one thread. torch's own setting
# counts for the thread that sets it; tests start more.
ARITHMETIC = arithmetic.chosen()
os.environ |= {"OMP_NUM_THREADS": str(ARITHMETIC.threads), **ARITHMETIC.environment}

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from rayunlearn import seeds  # noqa: E402

if ROOT_SEED := arithmetic.root_seed():  # before any other module of the package takes the function
    seeds.derive_seed = functools.partial(seeds.derive_seed, ROOT_SEED)

from rayunlearn.data.datasets import LabelledImages, load_dataset  # noqa: E402
from rayunlearn.models.classifiers import Classifier  # noqa: E402
from tests.stored.models import DIGITS, stored, trained_on_half  # noqa: E402

pytest_plugins = ["tests.local_ray", "tests.local_s3"]

torch.set_num_threads(ARITHMETIC.threads)
torch.backends.mkldnn.set_flags(ARITHMETIC.onednn)

# No deadline: CI machines are shared. In CI the examples are the same each time; at a desk they are new.
IN_CI = bool(os.environ.get("CI"))
settings.register_profile("rayunlearn", deadline=None, derandomize=IN_CI, print_blob=True)
settings.load_profile("rayunlearn")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m slow`, leave out files that name no such test: their import takes longer than many tests."""
    if config.getoption("markexpr") != "slow" or collection_path.suffix != ".py":
        return None
    return True if "mark.slow" not in collection_path.read_text() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process waits at the end for one that began late."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


class TrainVersion(Protocol):
    """What the fixture `digits_version` gives."""

    def __call__(self, without: tuple[int, ...] = ()) -> Classifier:
        """A copy of the version trained on all digits but these, in eval mode."""


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gate's probe draws twice instead of twenty times, which takes more than the rest of a tiny run.

    For tests that serve again and again and ask whether one run ends as another does, not what it is worth.
    """
    from rayunlearn.evaluation import synthetic  # not of all tests

    monkeypatch.setattr(synthetic, "PROBE_DRAWS", 2)


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """What a test draws without a seed of its own does not depend on the tests that ran before it."""
    torch.manual_seed(ROOT_SEED)


@pytest.fixture(autouse=True)
def _own_python_path() -> Iterator[None]:
    """A command that has workers find code names its folder in the environment: of its test alone."""
    before = os.environ.get("PYTHONPATH")
    yield
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with room for 64 KiB, which only the system's administrator may have."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def digits_data() -> LabelledImages:
    """scikit-learn's digits; tests train on every other one and measure on the rest."""
    return load_dataset("digits")


@pytest.fixture(scope="session")
def digits_version(digits_data: LabelledImages) -> TrainVersion:
    """A small AllCNN of the digits `[::2]`: the stored one, or trained without some classes (3 s)."""

    @functools.cache
    def trained(without: tuple[int, ...]) -> Classifier:
        return trained_on_half(digits_data, without) if without else stored(DIGITS)

    return lambda without=(): copy.deepcopy(trained(without))


@pytest.fixture
def version(digits_version: TrainVersion) -> Classifier:
    """A copy of the version trained on all digits: to forget from, to invert, to change at will."""
    return digits_version()

"""Data access as an enforced contract: what a method may be handed, and a seal on its processes.

A method declares a set of `DataAccess`; the scheduler hands it that and nothing else. The processes of
a run that declares no data are sealed besides: an audit hook and an import guard refuse every way by
which Python code opens a dataset. The seal guards against code that reads data by mistake or by habit
(a loader called for its class names, a cache on disk); it is not a sandbox against hostile native code.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType

from rayunlearn.errors import AccessDenied


class DataAccess(StrEnum):
    """What a method can be handed."""

    WEIGHTS = "weights"
    TRAINING_LOG = "training_log"
    FEW_EXAMPLES = "few_examples"
    FORGET = "forget"
    RETAIN = "retain"
    PRETRAINED_GENERATOR = "pretrained_generator"


SEALED_MODULES = frozenset(
    {
        "rayunlearn.data",
        "rayunlearn.results",
        "sklearn.datasets",
        "torchvision.datasets",
        "torch.utils.data.datapipes",
        "torchaudio.datasets",
        "tensorflow_datasets",
        "datasets",
        "h5py",
        "lmdb",
        "pandas",
        "PIL",
        "cv2",
        "imageio",
        "sqlite3",
    }
)
"""Modules that load datasets, or that read files by native code which raises no audit event."""

SEALED_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.spawn"}
)
"""Ways to start a process, which the hook would not follow."""

_sealed = False


def is_sealed() -> bool:
    """Whether this process has been sealed."""
    return _sealed


def seal(readable: Iterable[str | Path] = ()) -> None:
    """Seal this process for good: from here on it has no path to real data.

    Files can be opened for reading only below Python's own folders, the operating system's, and
    `readable`; datasets that libraries bundle there are refused by name. Sealing twice changes nothing.
    """
    global _sealed
    if _sealed:
        return
    roots = _code_roots() + [os.path.realpath(p) for p in readable]
    datasets = _bundled_datasets()
    sys.meta_path.insert(0, _ImportGuard())
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and _is_sealed_module(name):
            del sys.modules[name]
    sys.addaudithook(_make_hook(roots, datasets))
    _sealed = True


def _is_sealed_module(name: str) -> bool:
    return any(name == m or name.startswith(f"{m}.") for m in SEALED_MODULES)


class _ImportGuard(importlib.abc.MetaPathFinder):
    """Refuses the modules that load datasets."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if _is_sealed_module(fullname):
            raise AccessDenied(f"import of {fullname} in a sealed process: this run declares no data access")
        return None


def _code_roots() -> list[str]:
    """Folders whose files are code or belong to the machine."""
    roots = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    roots |= {str(Path(__file__).parent), "/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64"}
    # Ray keeps its sessions, logs and shipped working directories here
    roots.add(os.environ.get("RAY_TMPDIR") or str(Path(tempfile.gettempdir()) / "ray"))
    return [os.path.realpath(r) for r in roots if r]


def _bundled_datasets() -> list[str]:
    """Folders of datasets inside the code's own folders."""
    found = []
    for package, inside in (("sklearn", ("datasets",)), ("torchvision", ("datasets",))):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            found.append(os.path.realpath(os.path.join(place, *inside)))
    for variable in ("RAYUNLEARN_DATA", "SCIKIT_LEARN_DATA"):
        if os.environ.get(variable):
            found.append(os.path.realpath(os.environ[variable]))
    return found


def _make_hook(roots: list[str], datasets: list[str]):  # type: ignore[no-untyped-def]
    code_suffixes = (".py", ".pyc", ".so")

    def below(path: str, folders: list[str]) -> bool:
        return any(path == f or path.startswith(f.rstrip("/") + "/") for f in folders)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in SEALED_EVENTS:
            raise AccessDenied(f"{event} in a sealed process: this run declares no data access")
        if event != "open":
            return
        path, mode, flags = args
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a file descriptor that is open already
        reads = "r" in mode or "+" in mode if isinstance(mode, str) else (int(flags) & 3) != os.O_WRONLY  # type: ignore[call-overload]
        if not reads:
            return
        real = os.path.realpath(os.fsdecode(path))
        bundled = below(real, datasets) and not real.endswith(code_suffixes)
        if bundled or not below(real, roots):
            raise AccessDenied(f"open of {real} in a sealed process: this run declares no data access")

    return hook

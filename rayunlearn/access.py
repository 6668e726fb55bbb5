"""Data access as an enforced contract: what a method may be handed, and a seal on its processes.

A method declares its data access (`rayunlearn.methods.registry`); the scheduler hands it that and nothing
else. The processes of a run are sealed besides: an audit hook and an import guard refuse every way by which
Python code opens a dataset, here, over the network or by a Ray task elsewhere. The seal guards against code
that reads data by mistake or by habit (a loader called for its class names, a cache on disk, a download); it
is not a sandbox against hostile code. Decision 5 says what it refuses and what it does not.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from rayunlearn.data_root import folders_named
from rayunlearn.errors import AccessDenied, BadInput, ImportDenied

SEALED_MODULES = frozenset(
    {
        "rayunlearn.data",
        "rayunlearn.evidence",  # it signs: a process that runs methods has no use for it
        "rayunlearn.ledger",
        "rayunlearn.reports",
        "rayunlearn.storage",
        "sklearn.datasets",
        "torchvision.datasets",
        "torchvision.io",
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
        # not pyarrow itself nor its json, which Ray imports in every worker: see NATIVE_READERS
        *(f"pyarrow.{m}" for m in ("csv", "dataset", "feather", "fs", "orc", "parquet")),
        *(f"pyarrow._{m}" for m in ("csv", "dataset", "feather", "fs", "orc", "parquet")),
        "obstore",
        "pyarrow.flight",
        "pyarrow._flight",
        "polars",
        "duckdb",
        # start a process without an audit event
        "multiprocessing.popen_spawn_posix",
        "multiprocessing.popen_forkserver",
    }
)
"""Modules that load datasets or sign, or that read files or start processes without an audit event."""

SEALED_EVENTS = frozenset(
    {
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "os.forkpty",
        "os.spawn",
        "sqlite3.connect",
        "socket.connect",
        "socket.bind",
        "socket.sendto",
        "socket.sendmsg",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
    }
)
"""Ways to start a process, which the hook would not follow, to open a file past it, and to another machine.

Ray's own connections are native and raise no event.
"""

SUBMISSIONS = (
    ("ray.remote_function", "RemoteFunction._remote", "submission of a Ray task"),
    ("ray.actor", "ActorClass._remote", "creation of a Ray actor"),
    ("ray.actor", "ActorMethod._remote", "call of a Ray actor"),
    ("ray", "get_actor", "look-up of a Ray actor"),
)
"""Ways to have a process that is not sealed do something: module, name, and what it is in words."""

NATIVE_READERS = (
    ("pyarrow.lib", "OSFile", 0, "path"),
    ("pyarrow.lib", "MemoryMappedFile", 0, "path"),
    ("pyarrow.lib", "memory_map", 0, "path"),
    ("pyarrow.lib", "input_stream", 0, "source"),
    ("pyarrow.ipc", "RecordBatchFileReader", 0, "source"),
    ("pyarrow.ipc", "RecordBatchStreamReader", 0, "source"),
    ("pyarrow._json", "read_json", 0, "input_file"),
    ("pyarrow._json", "open_json", 0, "input_file"),
    ("safetensors", "safe_open", 0, "filename"),
    ("torch", "from_file", 0, "filename"),
    ("torch", "UntypedStorage.from_file", 0, "filename"),
    ("torch._C", "PyTorchFileReader", 0, "name"),
    ("torch._C", "import_ir_module", 1, "filename"),
)
"""Readers by native code in modules that a run needs: module, name, and where its path is.

They are made to raise Python's own audit event before they open a file.
"""

STOOD_IN = ("torchvision.datasets", "torchvision.io")
"""What libraries of networks import at once, and networks do not need: it has readers past every audit."""
_WITH_CODE = frozenset({"PIL", "torch"})
"""What such libraries may hold on to: their readers open files as Python does, or are in `NATIVE_READERS`."""

_sealed = False


def seal(readable: Iterable[str | Path] = ()) -> None:
    """Seal this process for good: from here on it has no path to real data.

    Files can be opened for reading only below Python's own folders, the operating system's, and
    `readable`; datasets that libraries bundle there are refused by name. No socket can be connected, no
    process started and no Ray task or actor called. Sealing twice changes nothing.
    Seal before such a module is imported: code that holds one already keeps its native readers.
    """
    global _sealed
    if _sealed:
        return
    roots = _code_roots() + [os.path.realpath(p) for p in readable]
    datasets = _bundled_datasets()
    for reader in NATIVE_READERS:
        _audit_native_reader(*reader)
    for submission in SUBMISSIONS:
        _refuse_submission(*submission)
    sys.meta_path.insert(0, _ImportGuard())
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and _is_sealed_module(name):
            del sys.modules[name]
    sys.addaudithook(_make_hook(roots, datasets))
    _sealed = True


def readable_when_sealed(path: str | Path) -> bool:
    """Whether a sealed process could read a file of this path: what it must not see is kept elsewhere."""
    real = os.path.realpath(path)
    return any(real == root or real.startswith(root.rstrip("/") + "/") for root in _code_roots())


def import_code(names: Iterable[str]) -> None:
    """Import modules of networks' code in a process that is to be sealed, without what opens datasets.

    What the seal refuses to import is refused now, but for the modules of `STOOD_IN`: others stand for them,
    which have every name and can do nothing.

    Raises:
        BadInput: a module that cannot be imported so.
    """
    if _sealed:
        return
    finders = [_StandIns(), _ImportGuard(_WITH_CODE)]
    for name in names:
        sys.meta_path[:0] = finders
        try:
            importlib.import_module(name)
        except Exception as error:  # another's code may fail in any way
            allowed = f"one that is imported without any data ({type(error).__name__}: {error})"
            raise BadInput("module of the model's code", name, allowed) from error
        finally:
            for finder in finders:
                sys.meta_path.remove(finder)
            for stood_in in [n for n, module in sys.modules.items() if isinstance(module, _StandIn)]:
                del sys.modules[stood_in]


class _Nothing(type):
    """The type of what a stand-in holds: it has every attribute, and cannot be made or called."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})

    def __call__(cls, *args: Any, **options: Any) -> Any:
        raise AccessDenied(f"{cls.__name__} in a sealed process: this run declares no data access")


class _StandIn(ModuleType):
    """Stands for a module that opens datasets, while code is imported that never uses it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds stand-ins for the modules of `STOOD_IN` and all that is in them."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if any(fullname == name or fullname.startswith(f"{name}.") for name in STOOD_IN):
            return importlib.machinery.ModuleSpec(fullname, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


def _is_sealed_module(name: str) -> bool:
    return any(name == m or name.startswith(f"{m}.") for m in SEALED_MODULES)


def _audit_native_reader(module: str, name: str, position: int, keyword: str) -> None:
    """Make a native reader raise the audit event `open`, wherever it has been imported to."""
    *owners, attribute = name.split(".")
    holder: Any = importlib.import_module(module)
    for owner in owners:
        holder = getattr(holder, owner)
    original = getattr(holder, attribute)

    @functools.wraps(original)
    def audited(*args: Any, **kwargs: Any) -> Any:
        path = args[position] if len(args) > position else kwargs.get(keyword)
        if isinstance(path, (str, bytes, os.PathLike)):
            sys.audit("open", os.fspath(path), "rb", os.O_RDONLY)
        return original(*args, **kwargs)

    setattr(holder, attribute, audited)
    for imported in list(sys.modules.values()):
        if isinstance(imported, ModuleType) and vars(imported).get(attribute) is original:
            setattr(imported, attribute, audited)


def _refuse_submission(module: str, name: str, what: str) -> None:
    """Have a way into another process raise, in a process of Ray's; elsewhere Ray is not imported for it."""
    if module not in sys.modules:
        return
    *owners, attribute = name.split(".")
    holder: Any = sys.modules[module]
    for owner in owners:
        holder = getattr(holder, owner)

    def refused(*args: Any, **kwargs: Any) -> Any:
        raise AccessDenied(f"{what} in a sealed process: this run declares no data access")

    setattr(holder, attribute, refused)


class _RefusingLoader(importlib.abc.Loader):
    """Stands for a sealed module: it can be asked for (torch looks whether some exist), not loaded."""

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        raise ImportDenied(f"import of {spec.name} in a sealed process: this run declares no data access")

    def exec_module(self, module: ModuleType) -> None:
        raise AssertionError("create_module() has refused")


class _ImportGuard(importlib.abc.MetaPathFinder):
    """Refuses the modules that load datasets, but for some."""

    def __init__(self, without: Iterable[str] = ()) -> None:
        self.without = frozenset(without)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if _is_sealed_module(fullname) and fullname.partition(".")[0] not in self.without:
            return importlib.machinery.ModuleSpec(fullname, _RefusingLoader())
        return None


def _code_roots() -> list[str]:
    """Folders whose files are code or belong to the machine."""
    roots = {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
    roots |= {str(Path(__file__).parent), "/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64"}
    # asked here in any case: the first time it tries out a file, which the seal would refuse to libraries
    temporary = Path(tempfile.gettempdir())
    # Ray keeps its sessions, logs and shipped working directories here
    roots.add(os.environ.get("RAY_TMPDIR") or str(temporary / "ray"))
    return [os.path.realpath(r) for r in roots if r]


def _bundled_datasets() -> list[str]:
    """Folders of datasets inside the code's own folders."""
    found = []
    for package, inside in (("sklearn", ("datasets",)), ("torchvision", ("datasets",))):
        spec = importlib.util.find_spec(package)
        for place in (spec.submodule_search_locations or []) if spec else []:
            found.append(os.path.realpath(os.path.join(place, *inside)))
    named = [*folders_named(), os.environ.get("SCIKIT_LEARN_DATA")]
    return [*found, *(os.path.realpath(folder) for folder in named if folder)]


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
        if os.path.dirname(real).endswith((".dist-info", ".egg-info")):
            return  # what importlib.metadata reads of installed packages, wherever they are
        if real.endswith(code_suffixes):
            return  # imports, and the source lines that a traceback shows
        if below(real, datasets) or not below(real, roots):
            raise AccessDenied(f"open of {real} in a sealed process: this run declares no data access")

    return hook

"""The tree is the architecture: who may import whom, where Ray is, and what no file may do.

Each rule is a function from a parsed source to findings. It is run over the tree, where it must find nothing,
and over planted sources, where it must find what was planted (the negative controls at the end).
"""

from __future__ import annotations

import ast
import copy
import functools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.longest import LONGEST
from tests.packages import DISTRIBUTION, extras_of
from tests.parts import ALLOWED, LONG_FUNCTIONS, RAY_IS_IMPORTED_IN, WITHOUT_RAY
from tests.waiting import HANG_S

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "rayunlearn"

CLOCK_AND_IO = {"glob", "io", "os", "pathlib", "random", "shutil", "socket", "subprocess", "tempfile", "time"}
FORBIDDEN_OUTSIDE: dict[str, set[str]] = {
    # Part of rayunlearn -> top-level modules from outside that it may not import.
    "scheduling": CLOCK_AND_IO | {"obstore", "pandas", "pyarrow", "sklearn", "torch", "torchvision"},
    "evidence": {"numpy", "obstore", "pandas", "pyarrow", "ray", "safetensors", "torch", "torchvision"},
    "unlearning": {"obstore", "pandas", "pyarrow", "ray", "shutil", "socket", "subprocess", "tempfile"},
}

FORBIDDEN_CALLS: dict[str, set[str]] = {
    # Part of rayunlearn -> names that it may not call: the last part of a dotted name, or the whole of it.
    "scheduling": {"open", "print", "datetime.now", "datetime.utcnow", "datetime.today", "date.today"},
    "methods": {"open", "print", "time.sleep"},
    "inversion": {"open", "print", "time.sleep"},
    "evaluation": {"open", "print", "time.sleep"},
    "surrogates": {"open", "print", "time.sleep"},
    "unlearning": {"open", "print", "time.sleep"},
}

FORBIDDEN_FILE_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}
MAX_LINES = 60


@dataclass(frozen=True, kw_only=True)
class Source:
    """One Python file: its path from the repository's root, its text and its tree."""

    path: str
    text: str
    tree: ast.Module = field(repr=False)

    @classmethod
    def of(cls, path: str, text: str) -> Source:
        """The file of this path and text; neither need exist."""
        return cls(path=path, text=text, tree=ast.parse(text, path))

    @property
    def module(self) -> str:
        """The dotted name: `rayunlearn/models/__init__.py` is `rayunlearn.models`."""
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def part(self) -> str:
        """The part of rayunlearn that the file belongs to: a package or a file of the first level."""
        return part_of(self.module)

    def at(self, node: ast.AST, finding: str) -> str:
        """A finding with the place in the form that editors open."""
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {finding}"


def part_of(module: str) -> str:
    """`rayunlearn.models.weights` -> `models`; `rayunlearn` -> the empty name."""
    return module.split(".")[1] if "." in module else ""


@functools.cache
def sources_below(folder: str) -> tuple[Source, ...]:
    """Every Python file below a folder of the repository; parsed once, for there are many rules."""
    paths = sorted((ROOT / folder).rglob("*.py"))
    return tuple(Source.of(path.relative_to(ROOT).as_posix(), path.read_text()) for path in paths)


def sources(*folders: str) -> list[Source]:
    """Every Python file below these folders."""
    return [source for folder in folders for source in sources_below(folder)]


def imports(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Each imported module in full, with its node: at the top, in functions, under TYPE_CHECKING, by name.

    `from rayunlearn import models` and `from . import models` are imports of `rayunlearn.models`.
    """
    is_package = source.path.endswith("__init__.py")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = source.module.split(".")
                above = above[: len(above) - node.level + is_package]
                base = ".".join([*above, base] if base else above)
            if base == PACKAGE:
                for alias in node.names:
                    yield node, f"{base}.{alias.name}"
            else:
                yield node, base
        elif isinstance(node, ast.Call):
            match dotted(node.func).split(".")[-1], node.args:
                case "import_module" | "__import__", [ast.Constant(value=str(name)), *_]:
                    yield node, name


def dotted(node: ast.expr) -> str:
    """`a.b.c` of such an expression; what is neither a name nor an attribute counts as an empty name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def calls(source: Source) -> Iterator[tuple[ast.Call, str]]:
    """Each call with the dotted name of what is called."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def names_itself(name: str, wanted: set[str]) -> bool:
    """Whether a dotted name is one of these or ends in a dotted one, as `datetime.datetime.now` does."""
    return any(name == want or ("." in want and name.endswith(f".{want}")) for want in wanted)


# The rules.


def ray_elsewhere(source: Source) -> list[str]:
    """Ray is imported in four rooms alone."""
    if source.part in RAY_IS_IMPORTED_IN:
        return []
    return [
        source.at(node, f"imports {name}; Ray belongs into {', '.join(sorted(RAY_IS_IMPORTED_IN))}")
        for node, name in imports(source)
        if name.split(".")[0] == "ray"
    ]


def wrong_direction(source: Source) -> list[str]:
    """A part of rayunlearn imports only the parts that the table lists for it, and nothing above it."""
    if source.part not in ALLOWED:
        return [f"{source.path}:1: part {source.part!r} of rayunlearn is not in the table ALLOWED"]
    found = []
    for node, name in imports(source):
        top = name.split(".")[0]
        if top in {"jobs", "benchmarks", "papers", "tests"}:
            found.append(source.at(node, f"imports {name}, which stands above rayunlearn"))
        elif top == PACKAGE and name != PACKAGE:
            part = part_of(name)
            # `from rayunlearn import __version__` names no part.
            if part in ALLOWED and part != source.part and part not in ALLOWED[source.part]:
                allowed = ", ".join(sorted(ALLOWED[source.part])) or "nothing"
                found.append(source.at(node, f"imports {name}; {source.module} may import {allowed}"))
        elif top in FORBIDDEN_OUTSIDE.get(source.part, set()):
            found.append(source.at(node, f"imports {name}; {source.part} works without it"))
    return found


def forbidden_calls(source: Source) -> list[str]:
    """Algorithms do not print, sleep or open files; decisions do not read a clock either."""
    wanted = FORBIDDEN_CALLS.get(source.part, set())
    return [source.at(node, f"calls {name}") for node, name in calls(source) if names_itself(name, wanted)]


def undeclared_packages(source: Source, declared: set[str]) -> list[str]:
    """What is imported from outside is declared in pyproject.toml, in the extra that the file is for."""
    known = set(sys.stdlib_module_names) | {PACKAGE, "papers", "jobs", "benchmarks", "tests"}
    found = []
    for node, name in imports(source):
        top = name.split(".")[0]
        if top not in known and DISTRIBUTION.get(top, top) not in declared:
            found.append(source.at(node, f"imports {top}, which pyproject.toml does not declare"))
    return found


def bare_excepts(source: Source) -> list[str]:
    """No `except:`, which also swallows the signals that a job is stopped by."""
    return [
        source.at(node, "bare except")
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def bad_file(source: Source) -> list[str]:
    """A file has a name that claims something."""
    if source.path.rsplit("/", 1)[-1] in FORBIDDEN_FILE_NAMES:
        return [f"{source.path}:1: a file is named for what is in it"]
    return []


def long_function(source: Source) -> list[str]:
    """A function has at most 60 lines besides its docstring, or was looked at twice."""
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
            lines = (node.end_lineno or node.lineno) - node.lineno + 1 - documented
            if lines > MAX_LINES and f"{source.path}:{node.name}" not in LONG_FUNCTIONS:
                found.append(source.at(node, f"{node.name} has {lines} lines; at most {MAX_LINES}"))
    return found


def unpickling(source: Source) -> list[str]:
    """Nothing is unpickled: no pickle reader, no allow_pickle=True, torch.load with weights_only=True."""
    readers = {
        f"{module}.{name}"
        for module in ("pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve")
        for name in ("load", "loads", "Unpickler", "open")
    } | {"pandas.read_pickle", "pd.read_pickle"}
    found = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            found += [
                source.at(node, f"imports {node.module}.{alias.name}")
                for alias in node.names
                if f"{node.module}.{alias.name}" in readers | {"torch.load"}
            ]
    for node, name in calls(source):
        given = {
            keyword.arg: keyword.value.value
            for keyword in node.keywords
            if keyword.arg and isinstance(keyword.value, ast.Constant)
        }
        if name in readers:
            found.append(source.at(node, f"calls {name}"))
        if given.get("allow_pickle") is True:
            found.append(source.at(node, "allow_pickle=True"))
        if given.get("weights_only") is False:
            found.append(source.at(node, "weights_only=False"))
        elif name == "torch.load" and given.get("weights_only") is not True:
            found.append(source.at(node, "torch.load without weights_only=True"))
    return found


def default_generators(source: Source) -> list[str]:
    """torch's default generators are the process's: seeds alone touches them, one thread at a time."""
    if source.part == "seeds":
        return []
    whose = ("", "random.", "cuda.", "default_generator.")
    wanted = {f"torch.{of}{name}" for of in whose for name in ("manual_seed", "manual_seed_all", "fork_rng")}
    return [source.at(node, f"calls {name}") for node, name in calls(source) if name in wanted]


# The tree keeps the rules.


@pytest.mark.parametrize("rule", [ray_elsewhere, wrong_direction, forbidden_calls, default_generators])
def test_rayunlearn_keeps_the_rule(rule: Callable[[Source], list[str]]) -> None:
    """No file of rayunlearn breaks a rule about imports and calls."""
    assert [finding for source in sources(PACKAGE) for finding in rule(source)] == []


@pytest.mark.parametrize("rule", [bare_excepts, bad_file, long_function])
def test_every_file_keeps_the_rule(rule: Callable[[Source], list[str]]) -> None:
    """No file anywhere has a bare except, a name that claims nothing or a function that is too long."""
    everything = sources(PACKAGE, "papers", "jobs", "benchmarks", "tests")
    assert [finding for source in everything for finding in rule(source)] == []


def test_the_longest_files_are_there() -> None:
    """A file that was renamed would be begun last without a word."""
    assert [name for name in LONGEST if not (ROOT / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)


def test_nothing_is_unpickled() -> None:
    """No file that users run can unpickle."""
    files = sources(PACKAGE, "papers", "jobs", "benchmarks")
    assert [finding for source in files for finding in unpickling(source)] == []


def test_every_package_is_declared() -> None:
    """Whatever a file imports is a dependency, or in an extra that the file is for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements}

    users = names(project["dependencies"])
    extras = {extra: names(wanted) for extra, wanted in project["optional-dependencies"].items()}
    findings = []
    for source in sources(PACKAGE, "papers", "jobs", "benchmarks"):
        found = extras_of(source.path)
        findings += undeclared_packages(source, users.union(*(extras[extra] for extra in found)))
    assert findings == []


def test_the_table_has_no_cycle() -> None:
    """The table of allowed imports can be laid out in layers: nothing imports what imports it."""
    left = dict(ALLOWED)
    while left:
        lowest = [part for part, below in left.items() if not below & left.keys()]
        assert lowest, f"these import each other: {sorted(left)}"
        for part in lowest:
            del left[part]


def without_types(tree: ast.Module) -> ast.Module:
    """The file without what only a type checker imports."""

    class Drop(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
            return node.orelse if dotted(node.test).endswith("TYPE_CHECKING") else self.generic_visit(node)

    return Drop().visit(copy.deepcopy(tree))


def circles(files: Sequence[Source]) -> set[str]:
    """Modules that import each other, directly or through others, and those that import such a circle."""
    modules = {source.module for source in files}
    left = {}
    for source in files:
        found = set()
        for node in ast.walk(without_types(source.tree)):
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= {name if name in modules else node.module for name in names}
            elif isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
        left[source.module] = found & modules
    while lowest := [module for module, below in left.items() if not below & left.keys()]:
        for module in lowest:
            del left[module]
    return set(left)


def test_no_circle_of_files() -> None:
    """No two files import each other, by however many others; planted ones are found, but not by types."""
    assert circles(sources(PACKAGE)) == set()
    a, b = "rayunlearn/a.py", "rayunlearn/b.py"
    to_b, to_a = "from rayunlearn import b", "def f():\n    from rayunlearn.a import g"
    assert circles([Source.of(a, to_b), Source.of(b, to_a)]) == {"rayunlearn.a", "rayunlearn.b"}
    for_types = "if TYPE_CHECKING:\n    from rayunlearn.a import g"
    assert circles([Source.of(a, to_b), Source.of(b, for_types)]) == set()


IMPORT_WITHOUT_RAY = """
import importlib, importlib.abc, json, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"{blocked[0]} is blocked: {name}", name=name)

blocked = sys.argv[1].split(",")
sys.meta_path.insert(0, Block())
failed = {}
for name in sys.argv[2:]:
    try:
        importlib.import_module(name)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
assert not any(name.split(".")[0] in blocked for name in sys.modules)
print(json.dumps(failed))
"""


def failed_imports_without_ray(
    modules: Sequence[str], folder: Path = ROOT, *, blocked: Sequence[str] = ("ray",)
) -> dict[str, str]:
    """Import these one after another in an interpreter where Ray is blocked: module -> why it failed.

    Args:
        modules: by their names.
        folder: that they are in.
        blocked: packages that cannot be imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_RAY, ",".join(blocked), *modules],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    failed = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(failed, dict)
    return failed


def test_rooms_without_ray_import_without_it() -> None:
    """Every module of a room that does without Ray imports in an interpreter where Ray is blocked."""
    outside = [source.module for source in sources(PACKAGE) if source.part in WITHOUT_RAY]
    modules = [module for module in outside if not module.endswith("__main__")]
    assert modules
    assert failed_imports_without_ray(modules) == {}


# Negative controls: what is planted is found.


def test_blocking_ray_works(tmp_path: Path) -> None:
    """A planted module that imports Ray, directly or through another, fails where Ray is blocked."""
    (tmp_path / "planted_direct.py").write_text("from ray import tune\n")
    (tmp_path / "planted_through.py").write_text("import planted_direct\n")
    (tmp_path / "planted_clean.py").write_text("import json\n")
    failed = failed_imports_without_ray(["planted_direct", "planted_through", "planted_clean"], tmp_path)
    assert failed.keys() == {"planted_direct", "planted_through"}
    assert "ray is blocked" in failed["planted_direct"]


def undeclared(source: Source) -> list[str]:
    """The rule on declared packages, for a project that declares torch and scikit-learn alone."""
    return undeclared_packages(source, {"torch", "scikit-learn"})


MODELS = "rayunlearn/models/planted.py"
METHODS = "rayunlearn/methods/planted.py"
SCHEDULING = "rayunlearn/scheduling/planted.py"
SERVING = "rayunlearn/serving/planted.py"
LINEAGES = "rayunlearn/lineages/planted.py"
UNLEARNING = "rayunlearn/unlearning/planted.py"


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (ray_elsewhere, MODELS, "import ray"),
        (ray_elsewhere, MODELS, "import ray.train as t"),
        (ray_elsewhere, MODELS, "from ray.util import placement_group"),
        (ray_elsewhere, MODELS, "def f():\n    import ray"),
        (ray_elsewhere, MODELS, "if TYPE_CHECKING:\n    from ray import ObjectRef"),
        (ray_elsewhere, MODELS, "importlib.import_module('ray.train')"),
        (ray_elsewhere, "rayunlearn/recipes.py", "__import__('ray')"),
        (wrong_direction, MODELS, "from rayunlearn.data.splits import split"),
        (wrong_direction, MODELS, "from rayunlearn import ledger"),
        (wrong_direction, MODELS, "from ..methods import training"),
        (wrong_direction, MODELS, "from .. import scheduling"),
        (wrong_direction, "rayunlearn/models/__init__.py", "from ..data import datasets"),
        (wrong_direction, METHODS, "import rayunlearn.evaluation.accuracy"),
        (wrong_direction, METHODS, "def f():\n    from rayunlearn.execution import sealed"),
        (wrong_direction, SCHEDULING, "import torch"),
        (wrong_direction, SCHEDULING, "from pyarrow import parquet"),
        (wrong_direction, SCHEDULING, "from rayunlearn.seeds import derive_seed"),
        (wrong_direction, SCHEDULING, "from pathlib import Path"),
        (wrong_direction, "rayunlearn/settings.py", "from rayunlearn.storage import store"),
        (wrong_direction, LINEAGES, "from rayunlearn.serving import service"),
        (wrong_direction, "rayunlearn/tuning/planted.py", "from rayunlearn.data import datasets"),
        (wrong_direction, "rayunlearn/storage/planted.py", "from rayunlearn.ledger.ledger import Ledger"),
        (wrong_direction, SERVING, "from papers import run"),
        (wrong_direction, "rayunlearn/evidence/planted.py", "from rayunlearn.storage.store import Store"),
        (wrong_direction, "rayunlearn/evidence/planted.py", "def f():\n    import torch"),
        (wrong_direction, "rayunlearn/methods/planted.py", "from rayunlearn.evidence.keys import SigningKey"),
        (ray_elsewhere, LINEAGES, "import ray"),
        (ray_elsewhere, UNLEARNING, "def f():\n    import ray"),
        (wrong_direction, UNLEARNING, "def f():\n    from rayunlearn.ledger.ledger import Ledger"),
        (wrong_direction, UNLEARNING, "from rayunlearn.lineages import runs"),
        (wrong_direction, UNLEARNING, "if TYPE_CHECKING:\n    from rayunlearn.data.splits import Split"),
        (wrong_direction, UNLEARNING, "import pyarrow as pa"),
        (wrong_direction, SERVING, "import jobs.sequential_unlearn"),
        (wrong_direction, "rayunlearn/novelty/planted.py", ""),
        (forbidden_calls, SCHEDULING, "datetime.now(UTC)"),
        (forbidden_calls, SCHEDULING, "datetime.datetime.now()"),
        (forbidden_calls, METHODS, "print('loss')"),
        (forbidden_calls, UNLEARNING, "open('run', 'w')"),
        (forbidden_calls, METHODS, "with open('x') as f: pass"),
        (default_generators, METHODS, "torch.manual_seed(0)"),
        (default_generators, MODELS, "with torch.random.fork_rng(devices=[]): pass"),
        (default_generators, SERVING, "torch.default_generator.manual_seed(seed)"),
        (undeclared, MODELS, "import torchmetrics"),
        (undeclared, MODELS, "def f():\n    import ray"),
        (bare_excepts, SERVING, "try:\n    pass\nexcept:\n    pass"),
        (bad_file, "rayunlearn/models/utils.py", ""),
        (long_function, MODELS, "def f():\n" + "    f()\n" * 60),
        (unpickling, MODELS, "pickle.load(f)"),
        (unpickling, MODELS, "from pickle import loads"),
        (unpickling, MODELS, "cloudpickle.loads(b)"),
        (unpickling, MODELS, "np.load(f, allow_pickle=True)"),
        (unpickling, MODELS, "torch.load(f, weights_only=False)"),
        (unpickling, MODELS, "torch.load(f)"),
    ],
)
def test_what_is_planted_is_found(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    """Each rule finds one breach in a source that breaks it once, and names the file."""
    findings = rule(Source.of(path, text))
    assert len(findings) == 1
    assert findings[0].startswith(f"{path}:")


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    [
        (ray_elsewhere, SERVING, "import ray"),
        (ray_elsewhere, MODELS, "import rayunlearn.errors\nimport raylib"),
        (wrong_direction, MODELS, "from rayunlearn import __version__\nfrom . import weights"),
        (wrong_direction, METHODS, "from rayunlearn.inversion import filtration\nimport torch"),
        (wrong_direction, SCHEDULING, "import datetime\nfrom rayunlearn.errors import BadInput"),
        (wrong_direction, SERVING, "from ..results.ledger import Ledger\nfrom ..recipes import digits"),
        (wrong_direction, UNLEARNING, "from rayunlearn.recipes import Recipe\nimport torch"),
        (forbidden_calls, SCHEDULING, "record.now\nself.open_requests()\nfile.open()"),
        (forbidden_calls, MODELS, "open('weights')"),
        (default_generators, "rayunlearn/seeds.py", "torch.default_generator.manual_seed(seed)"),
        (default_generators, MODELS, "torch.Generator().manual_seed(seed)"),
        (undeclared, MODELS, "import torch, sklearn.svm, json\nfrom rayunlearn import seeds"),
        (bare_excepts, SERVING, "try:\n    pass\nexcept Exception:\n    raise"),
        (bad_file, MODELS, "\n" * 1_000),
        (long_function, MODELS, "def f():\n" + "    f()\n" * 59),
        (unpickling, MODELS, "torch.load(f, weights_only=True)\njson.load(f)\nnp.load(f)"),
    ],
)
def test_what_is_allowed_is_not_found(rule: Callable[[Source], list[str]], path: str, text: str) -> None:
    """No rule finds anything in a source that keeps it."""
    assert rule(Source.of(path, text)) == []

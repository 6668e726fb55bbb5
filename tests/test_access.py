"""The seal, from outside: a subprocess tries every way to data before it seals itself, and after."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from rayunlearn.access import SEALED_MODULES
from tests.waiting import HANG_S

# Each is tried in turn; {data} holds files of every kind, {bundled} scikit-learn's own digits file.
READS = {
    "open": "open(data + '/a.csv').read()",
    "open for update": "open(data + '/a.csv', 'r+').read()",
    "os.open": "os.read(os.open(data + '/a.csv', os.O_RDONLY), 9)",
    "Path.read_text": "pathlib.Path(data, 'a.csv').read_text()",
    "a link in an allowed folder": "open(allowed + '/link.csv').read()",
    "the temporary folder": "open(tmp + '/b.csv').read()",
    "the bundled digits file": "open(bundled, 'rb').read()",
    "sklearn load_digits": "load('sklearn.datasets').load_digits()",
    "sklearn load_files": "load('sklearn.datasets').load_files(data + '/files')",
    "torchvision MNIST": "load('torchvision.datasets').MNIST(data + '/mnist')",
    "torchvision ImageFolder": "load('torchvision.datasets').ImageFolder(data + '/files')[0]",
    "torchvision read_image": "load('torchvision.io').read_image(data + '/files/x/a.png')",
    "PIL": "load('PIL.Image').open(data + '/files/x/a.png').load()",
    "load_dataset": "load('rayunlearn.data.datasets').load_dataset('digits')",
    "the ledger": "load('rayunlearn.ledger.ledger')",
    "the storage": "load('rayunlearn.storage.store')",
    "np.load": "np.load(data + '/a.npy')",
    "np.load mmap": "np.load(data + '/a.npy', mmap_mode='r')",
    "np.fromfile": "np.fromfile(data + '/a.npy')",
    "np.loadtxt": "np.loadtxt(data + '/a.csv')",
    "torch.load zip": "torch.load(data + '/a.pt')",
    "torch.load mmap": "torch.load(data + '/a.pt', mmap=True)",
    "torch.load legacy": "torch.load(data + '/old.pt')",
    "torch's zip reader": "torch._C.PyTorchFileReader(data + '/a.pt')",
    "torch.jit.load": "torch.jit.load(data + '/a.jit')",
    "torch.from_file": "torch.from_file(data + '/a.npy', size=8, dtype=torch.uint8)",
    "torch storage": "torch.UntypedStorage.from_file(data + '/a.npy', False, 8)",
    "safetensors load_file": "load('safetensors.torch').load_file(data + '/a.safetensors')",
    "safetensors safe_open": "load('safetensors').safe_open(data + '/a.safetensors', 'pt')",
    "parquet": "load('pyarrow.parquet').read_table(data + '/a.parquet')",
    "pyarrow dataset": "load('pyarrow.dataset').dataset(data + '/a.parquet').to_table()",
    "pyarrow csv": "load('pyarrow.csv').read_csv(data + '/a.csv')",
    "pyarrow json": "load('pyarrow.json').read_json(data + '/a.json')",
    "pyarrow file": "load('pyarrow').OSFile(data + '/a.csv').read()",
    "pyarrow memory_map": "load('pyarrow').memory_map(data + '/a.csv').read()",
    "pyarrow input_stream": "load('pyarrow').input_stream(data + '/a.csv').read()",
    "pyarrow ipc": "load('pyarrow').ipc.open_file(data + '/a.arrow').read_all()",
    "pandas": "load('pandas').read_csv(data + '/a.csv')",
    "obstore": "load('obstore').get(load('obstore.store').LocalStore(data), 'a.csv').bytes()",
    "sqlite3": "load('sqlite3').connect(data + '/a.db').execute('select * from t').fetchall()",
    "subprocess": "subprocess.run(['cat', data + '/a.csv'], check=True, capture_output=True)",
    "os.system": "os.system('cat ' + data + '/a.csv > ' + os.devnull)",
    "os.fork": "os.waitpid(os.fork() or os._exit(0), 0)",
    "multiprocessing spawn": "run_child('spawn')",
}

WORK = {
    "imports": """
for name in ("methods.training", "methods.distillation", "methods.gkt.cycle", "methods.gkt.generator",
             "methods.gkt.student", "methods.gkt.teacher", "methods.trivial", "inversion.deep_inversion",
             "evaluation.synthetic", "evaluation.accuracy", "models.weights", "models.generators", "recipes"):
    importlib.import_module("rayunlearn." + name)
""",
    "training": """
from rayunlearn.methods.training import TrainSettings, train_classifier
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
spec = ClassifierSpec(name="allcnn", width=0.05, in_channels=1, image_size=8, num_classes=3,
                      mean=(0.3,), std=(0.4,))
model = build_classifier(spec, 0)
x, y = torch.randn(32, 1, 8, 8), torch.arange(32) % 3
train_classifier(model, x, y, TrainSettings(epochs=2, batch_size=16), seed=0)
""",
    "inversion and a cycle": """
from rayunlearn.roles import Roles
from rayunlearn.inversion.deep_inversion import InversionSettings, deep_inversion
from rayunlearn.methods.gkt.cycle import run_cycle
from rayunlearn.methods.gkt.generator import Generator
from rayunlearn.methods.gkt.settings import GKTSettings
from rayunlearn.methods.gkt.student import Student
from rayunlearn.methods.gkt.teacher import Teacher
from rayunlearn.models.generators import GeneratorSpec, build_generator
deep_inversion(model, torch.tensor([0, 1]), InversionSettings(iterations=2, min_confidence=0.0), seed=0)
settings = GKTSettings(batch_size=8, z_dim=4, student_steps=2, epsilon=1.0)
maker = build_generator(GeneratorSpec(channels=1, image_size=8, z_dim=4, width=0.05), 0)
run_cycle(0, settings, Teacher(model, (0,), settings), Student(build_classifier(spec, 1), settings),
          Generator(maker, settings, 0))
""",
    "a linear probe": """
from rayunlearn.evaluation.probe import ProbeSettings, linear_probe
linear_probe(model, x, y, x, y, [0], ProbeSettings(), 0)
""",
    "the temporary folder's name": """
import tempfile
tempfile.gettempdir()
""",
    "weights in memory": """
from rayunlearn.models.weights import version_id, weights_from_bytes, weights_to_bytes
state = weights_from_bytes(weights_to_bytes(model.state_dict()))
assert version_id(state) == version_id(model.state_dict())
buffer = io.BytesIO()
torch.save(state, buffer)
buffer.seek(0)
assert version_id(torch.load(buffer, weights_only=True)) == version_id(state)
""",
    "arrow in memory": """
import pyarrow
sink = pyarrow.BufferOutputStream()
table = pyarrow.table({"a": [1, 2]})
with pyarrow.ipc.new_stream(sink, table.schema) as writer:
    writer.write_table(table)
assert pyarrow.ipc.open_stream(sink.getvalue()).read_all() == table
""",
    "writing": """
with open(data + "/written", "w") as file:
    file.write("x")
""",
    "reading what was granted": "assert open(allowed + '/granted.txt').read() == 'granted'",
    "reading code and the system": "open(torch.__file__).read() and open('/proc/self/status').read()",
    "a traceback through a script elsewhere": """
import traceback
try:
    fails()
except ValueError:
    assert "raise ValueError" in traceback.format_exc()
""",
}

SCRIPT = '''
import importlib, io, json, multiprocessing, os, pathlib, subprocess, sys, warnings
warnings.simplefilter("ignore")
load = importlib.import_module

def nothing():
    pass

def fails():
    raise ValueError("planted")

def run_child(method):
    child = multiprocessing.get_context(method).Process(target=nothing)
    child.start()
    child.join()

def attempt(code, run, names):
    """"ok", or the error's type and text."""
    try:
        run(code, names)
    except Exception as error:
        kinds = [kind.__name__ for kind in type(error).__mro__]
        return f"{'AccessDenied' if 'AccessDenied' in kinds else kinds[0]}: {error}"
    return "ok"

def main():
    task = json.load(sys.stdin)
    names = globals() | task["paths"]
    seen = {}
    if task["try_before"]:
        import numpy, torch
        names.update(np=numpy, torch=torch)
        seen["before"] = {name: attempt(code, eval, names) for name, code in task["reads"].items()}
    from rayunlearn import access
    from rayunlearn.access import seal
    assert not access._sealed
    seal([task["paths"]["allowed"]])
    seal()
    assert access._sealed
    import numpy, torch
    torch.set_num_threads(1)
    names.update(np=numpy, torch=torch)
    seen["work"] = {name: attempt(code, exec, names) for name, code in task["work"].items()}
    seen["after"] = {name: attempt(code, eval, names) for name, code in task["reads"].items()}
    print(json.dumps(seen))

if __name__ == "__main__":
    main()
'''


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders with a real file of every kind."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet
    import safetensors.torch
    import sklearn
    from PIL import Image

    data = tmp_path_factory.mktemp("data")
    allowed = tmp_path_factory.mktemp("allowed")
    tmp = tmp_path_factory.mktemp("tmp")
    tensors = {"a": torch.ones(3)}
    table = pa.table({"a": [1, 2]})
    (data / "a.csv").write_text("1\n2\n")
    (tmp / "b.csv").write_text("1\n2\n")
    (data / "a.json").write_text('{"a": 1}\n')
    (allowed / "granted.txt").write_text("granted")
    (allowed / "link.csv").symlink_to(data / "a.csv")
    (data / "files" / "x").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(data / "files" / "x" / "a.png")
    np.save(data / "a.npy", np.arange(4.0))
    torch.save(tensors, data / "a.pt")
    torch.save(tensors, data / "old.pt", _use_new_zipfile_serialization=False)
    with warnings.catch_warnings():  # deprecated, and still a reader
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(data / "a.jit"))
    safetensors.torch.save_file(tensors, data / "a.safetensors")
    pyarrow.parquet.write_table(table, data / "a.parquet")
    with pa.ipc.new_file(str(data / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    make_database = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('create table t (a)')"
    subprocess.run([sys.executable, "-c", make_database, str(data / "a.db")], check=True)
    raw = data / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 2), ("t10k", 1)):
        sizes = b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        images = b"\0\0\x08\x03" + sizes + bytes(784 * count)
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(count)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(images)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    bundled = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    (tmp / "script.py").write_text(SCRIPT)
    folders = {"data": data, "allowed": allowed, "tmp": tmp, "bundled": bundled}
    return {name: str(path) for name, path in folders.items()}


def run(paths: dict[str, str], *, try_before: bool) -> dict[str, dict[str, str]]:
    """What a process met: `before` (if tried) and `after` its seal, and in its ordinary `work`."""
    task = {"paths": paths, "reads": READS, "work": WORK, "try_before": try_before}
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, str(Path(paths["tmp"]) / "script.py")],
        input=json.dumps(task),
        env={
            **os.environ, "PYTHONPATH": str(root), "RAYUNLEARN_DATA": paths["data"], "OMP_NUM_THREADS": "1",
            "RAY_TMPDIR": str(Path(paths["tmp"]) / "ray"),
        },
        cwd=paths["tmp"],
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    answer: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.fixture(scope="module")
def fresh(paths: dict[str, str]) -> dict[str, dict[str, str]]:
    """A process that seals itself first of all, as a run's processes do."""
    return run(paths, try_before=False)


@pytest.fixture(scope="module")
def late(paths: dict[str, str]) -> dict[str, dict[str, str]]:
    """A process that reads everything, then seals itself and tries again with all modules imported."""
    return run(paths, try_before=True)


@pytest.mark.parametrize("name", READS)
def test_a_sealed_process_has_no_path_to_data(name: str, fresh: dict[str, dict[str, str]]) -> None:
    """Every way ends in AccessDenied, and not in some other failure."""
    assert fresh["after"][name].startswith("AccessDenied: "), fresh["after"][name]
    assert "sealed process" in fresh["after"][name]


@pytest.mark.parametrize("name", READS)
def test_the_same_ways_work_before_the_seal(name: str, late: dict[str, dict[str, str]]) -> None:
    """The control: the file is there and the call is right, so the refusals are the seal's."""
    assert late["before"][name] == "ok"


@pytest.mark.parametrize("name", READS)
def test_a_late_seal_refuses_what_is_imported_again(name: str, late: dict[str, dict[str, str]]) -> None:
    """With all modules imported before, every way that starts at an import by name is refused as well."""
    assert late["after"][name].startswith("AccessDenied: "), late["after"][name]


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("process", ["fresh", "late"])
def test_ordinary_work_goes_on(process: str, name: str, request: pytest.FixtureRequest) -> None:
    """Imports of every method, training, inversion, a cycle, weights and tables in memory, granted files."""
    assert request.getfixturevalue(process)["work"][name] == "ok"


def test_sealed_modules_of_ours_exist() -> None:
    """A room that was renamed would be open without a word; negative control: a name of old."""
    ours = [name for name in SEALED_MODULES if name.startswith("rayunlearn.")]
    assert len(ours) >= 5 and all(importlib.util.find_spec(name) for name in ours)
    assert importlib.util.find_spec("rayunlearn.results") is None

"""A network of one's own is served: forgotten from, published, exported under its own names, gone on with."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rayunlearn.cli.model_flags import ModelFlags
from rayunlearn.cli.models_command import ExportOptions, run_models
from rayunlearn.errors import BadInput, ExitCode
from rayunlearn.execution import sealed
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.lineages.fixed_settings import require_fixed
from rayunlearn.lineages.published import load_version
from rayunlearn.models.checkpoints import load_checkpoint
from rayunlearn.models.classifiers import ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_weights_file, version_id
from rayunlearn.recipes import Recipe
from rayunlearn.scheduling.requests import Rejected, parse_requests
from rayunlearn.settings import override
from rayunlearn.storage.store import Store
from tests.models.own_networks import Small
from tests.serving.tiny import ROOT, environment, forget, memory_store, tiny_recipe, tiny_scheduler

FLAGS = ModelFlags(
    model="tests.models.own_networks:Small", model_args='{"num_classes": 4, "wide": 5}', input="1,8,12",
    mean="0.3", std="0.4", classes=4,
)  # fmt: skip


def recipe(*more: str) -> Recipe:
    """The tiny recipe with the network of these flags."""
    quick = tiny_recipe("digits", "inversion.iterations=10", "publish_refused=true")
    return override(quick, [*FLAGS.assignments(), *more])


def spec() -> ClassifierSpec:
    """As the flags state it."""
    settings = recipe().model
    assert settings.task is not None
    return settings.spec(settings.task)


@pytest.mark.usefixtures("few_draws")
def test_two_requests_are_served_one_after_another(tmp_path: Path) -> None:
    """Inline, by the recipe's own method; every version has the source, and is exported by its own names."""
    torch.manual_seed(0)
    given = {f"module.{name}": value for name, value in Small(4, wide=5).state_dict().items()}
    torch.save({"state_dict": given}, tmp_path / "o.pt")
    model = build_classifier(spec(), 0)
    _, said = load_checkpoint(tmp_path / "o.pt", model.net)  # type: ignore[arg-type]
    assert said == "o.pt: taken from 'state_dict'; 'module.' taken off every name"
    store = Store.open(tmp_path / "storage", sync=False)
    scheduler = tiny_scheduler(store, recipe(), of=(spec(), dict(model.state_dict())))
    for target in (1, 3):
        outcome = scheduler.serve(forget(target))
        assert outcome.version is not None, outcome
    chain = versions(LedgerReader(store), "default")
    assert [v.classes_forgotten for v in chain] == [(), (1,), (1, 3)]
    assert {json.dumps(v.model) for v in chain} == {json.dumps(spec().to_dict())}
    out = tmp_path / "v.safetensors"
    export = ExportOptions(version=chain[2].version[:12], out=out, storage=str(tmp_path / "storage"))
    assert run_models(export) == ExitCode.OK
    back = Small(4, wide=5).eval()
    back.load_state_dict(load_weights_file(out))
    served = build_classifier(spec(), 0).eval()
    served.load_state_dict(load_version(store, chain[2]))
    x = torch.randn(3, 1, 8, 12)
    assert torch.equal(back(x)["logits"], served(x))
    assert version_id(load_version(store, chain[1])) != version_id(load_version(store, chain[2]))


def test_a_lineage_keeps_to_its_network() -> None:
    """Other arguments, or another network, are refused by name; the same, for control, go on."""
    store = memory_store()
    tiny_scheduler(store, recipe(), of=(spec(), dict(build_classifier(spec(), 0).state_dict())))
    reader = LedgerReader(store)
    (original,) = versions(reader, "default")
    require_fixed(reader, original, recipe(), spec())
    for change, said in (
        ('model.arguments={"num_classes": 4, "wide": 6}', r"model\.arguments is .*wide.:6"),
        ("model.name=tests.models.own_networks:flat", r"model\.name is 'tests\.models\.own_networks:flat'"),
    ):
        other = recipe(change)
        task = other.model.task
        assert task is not None
        with pytest.raises(BadInput, match=said):
            require_fixed(reader, original, other, other.model.spec(task) if "wide" in said else spec())


SEALED = """
import sys
import torch
from rayunlearn.access import import_code, seal
import_code(sys.argv[2:])
seal()
from rayunlearn.models.sources import make
from rayunlearn.errors import AccessDenied, ImportDenied
net = make(sys.argv[1], '{"num_classes": 3}')
print("made", sum(p.numel() for p in net.parameters()) > 0)
for module in ("torchvision.datasets", "torchvision.io", "rayunlearn.data.datasets", "PIL.Image"):
    try:
        __import__(module)
        print("imported", module)
    except ImportDenied:
        print("refused", module)
import torchvision
try:
    torchvision.datasets.MNIST("anywhere")
    print("opened")
except (AttributeError, AccessDenied) as error:
    print("denied", type(error).__name__)
"""


def in_a_sealed_process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Make a network where no data can be read."""
    return subprocess.run(
        [sys.executable, "-c", SEALED, *arguments], cwd=ROOT, env=environment(), text=True,
        capture_output=True,
    )  # fmt: skip


def test_torchvision_builds_a_network_in_a_sealed_process() -> None:
    """Imported before the seal, without its datasets and readers; these are refused after it as ever."""
    ended = in_a_sealed_process("torchvision:resnet18", "torchvision.models")
    assert ended.stdout.split("\n")[:-1] == [
        "made True", "refused torchvision.datasets", "refused torchvision.io",
        "refused rayunlearn.data.datasets", "refused PIL.Image", "denied AccessDenied",
    ], ended.stderr  # fmt: skip


def test_what_was_not_imported_before_the_seal_is_refused_after_it() -> None:
    """The control: torchvision brings its datasets along, and the error says so."""
    ended = in_a_sealed_process("torchvision:resnet18")
    assert ended.returncode != 0 and "import of torchvision." in ended.stderr and "made" not in ended.stdout


def test_code_that_needs_data_to_be_imported_is_refused(tmp_path: Path) -> None:
    """A module that reads data at its top: refused by name before the process is sealed."""
    (tmp_path / "reads_data.py").write_text("from rayunlearn.data.datasets import load_dataset\n")
    text = "from rayunlearn.access import import_code; import_code(['reads_data'])"
    env = environment(PYTHONPATH=f"{tmp_path}:{ROOT}")
    ended = subprocess.run([sys.executable, "-c", text], env=env, text=True, capture_output=True)
    assert "module of the model's code is 'reads_data'" in ended.stderr and "ImportDenied" in ended.stderr


def test_a_request_never_names_code() -> None:
    """A field for a model is refused; the request without it, for control, is taken."""
    (refused,) = parse_requests('{"request_id": "a", "target": [1], "model": "os:system"}', "requests.jsonl")
    assert isinstance(refused, Rejected) and "field of request 'a' is 'model'" in refused.reason
    (taken,) = parse_requests('{"request_id": "a", "target": [1]}', "requests.jsonl")
    assert not isinstance(taken, Rejected)


def test_a_process_that_refuses_code_says_so_at_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not lost, which would be tried again; without such code, for control, it answers."""
    monkeypatch.setattr(sealed, "seal", lambda: None)
    monkeypatch.setattr(sealed.SealedProcess, "gpu_ids", lambda self: [])
    process = sealed.SealedProcess(torch.get_num_threads(), ["no_such_module"])
    for call in (lambda: process.run(abs, -1), lambda: process.create("a", dict)):
        with pytest.raises(BadInput, match="module of the model's code is 'no_such_module'"):
            call()
    assert sealed.SealedProcess(torch.get_num_threads(), ["tests.models.own_networks"]).run(abs, -1) == 1

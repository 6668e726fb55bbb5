"""load(): a version of a storage location, an exported file, weights for a network of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import rayunlearn
from rayunlearn.cli.models_command import ExportOptions, run_models
from rayunlearn.errors import BadInput
from rayunlearn.ledger.ledger import LedgerReader
from rayunlearn.ledger.lineage import versions
from rayunlearn.models.classifiers import Classifier
from rayunlearn.models.weights import version_id, weights_to_bytes
from rayunlearn.storage.store import Store
from tests.api.tiny import original, plain, state
from tests.serving.tiny import forget, same_bits, stored_original, tiny_recipe, tiny_scheduler

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage location with an original and a version after it."""
    folder = tmp_path_factory.mktemp("storage")
    recipe = tiny_recipe("digits_gkt", "publish_refused=true", "gkt.cycles=2", "inversion.iterations=10")
    scheduler = tiny_scheduler(Store.open(folder, sync=False), recipe, of=stored_original())
    assert scheduler.serve(forget(3)).version is not None
    return folder


def test_versions_of_a_storage_location(storage: Path) -> None:
    """The newest by default, an earlier one by the beginning of its id; each says how it is built."""
    first, second = versions(LedgerReader(Store.open(storage)), "default")
    newest, before = rayunlearn.load(storage), rayunlearn.load(str(storage), version=first.version[:12])
    assert isinstance(newest, Classifier) and not newest.training
    assert version_id(newest.state_dict()) == second.version
    assert version_id(before.state_dict()) == first.version and before.spec == stored_original()[0]


def test_an_exported_version(storage: Path, tmp_path: Path) -> None:
    """A file of `models export`, which says what it is; with other weights in it, it is refused."""
    (_, second), out = versions(LedgerReader(Store.open(storage)), "default"), tmp_path / "v.safetensors"
    run_models(ExportOptions(version=second.version[:12], out=out, storage=str(storage)))
    found = rayunlearn.load(out)
    assert version_id(found.state_dict()) == second.version
    told = {"classifier": json.dumps(second.model), "version": second.version}
    out.write_bytes(weights_to_bytes(dict(original().state_dict()), told))
    with pytest.raises(BadInput, match="source is .*with the weights of version"):
        rayunlearn.load(out)


def test_weights_for_a_network(tmp_path: Path) -> None:
    """A checkpoint as training programs write it; the network itself is left as it was."""
    net, other, path = plain(), plain(1), tmp_path / "own.pt"
    torch.save({"state_dict": {f"module.{n}": v for n, v in other.state_dict().items()}}, path)
    before = state(net)
    found = rayunlearn.load(path, network=net)
    assert same_bits(state(found), state(other)) and same_bits(state(net), before)
    assert type(found) is type(net) and not found.training
    with pytest.raises(BadInput, match="network is None; allowed: the torch.nn.Module that the weights"):
        rayunlearn.load(path)


BAD = [
    ({"source": 3}, "source is 3; allowed: a folder"),
    ({"source": "nowhere"}, "source is 'nowhere'; allowed: a storage location or a file that is there"),
    ({"version": 3}, "version is 3; allowed: a text"),
    ({"version": "zz"}, "version is 'zz'; allowed: the id of a version"),
    ({"lineage": "other"}, "lineage is 'other'; allowed: one of .*: default"),
    ({"network": 3}, "network is 3; allowed: the torch.nn.Module"),
]


@pytest.mark.parametrize(("wrong", "said"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_bad_input_is_told(storage: Path, wrong: dict[str, Any], said: str) -> None:
    """Each error names the argument, its value and what is allowed."""
    options = {"source": storage, **wrong}
    with pytest.raises(BadInput, match=said):
        rayunlearn.load(options.pop("source"), **options)


def test_a_published_version_can_be_forgotten_from(storage: Path) -> None:
    """What is loaded goes into unlearn() as it is; classes that are gone are named."""
    with pytest.raises(BadInput, match=r"forget is \[3\]; allowed: classes not forgotten already"):
        rayunlearn.unlearn(rayunlearn.load(storage), forget=[3], forgotten=[3], recipe="digits")

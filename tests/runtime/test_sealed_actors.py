from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from rayunlearn.errors import AccessDenied
from rayunlearn.evaluation.stand_ins import StandInSettings
from rayunlearn.evaluation.synthetic import balanced_labels
from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.results.ledger import Ledger
from rayunlearn.results.store import Store
from rayunlearn.roles import Roles
from rayunlearn.runtime.sealed import SealedActor, invert, measure, probe_stand_in
from rayunlearn.runtime.wire import pack, unpack
from tests.results.ledgers import row_of
from tests.runtime.tiny import original

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("cluster")]
ROLES = Roles(retain=tuple(range(1, 10)), target=(0,))


@pytest.fixture(scope="module")
def actor(cluster: None) -> Iterator[Any]:
    """A process of an unlearning run."""
    actor = SealedActor.remote(1)
    yield actor
    ray.kill(actor)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage location with an audit in its ledger and weights beside it."""
    store = Store.open(tmp_path / "storage")
    Ledger(store).append("audits", [row_of("audits")])
    store.put("models/default/x.safetensors", b"weights")
    return tmp_path / "storage"


def ask(actor: Any, function: Callable[..., Any], *arguments: Any) -> Any:
    """A function's answer from the sealed process."""
    return unpack(ray.get(actor.run.remote(function, *pack(arguments))))


# Planted functions are defined within the tests, so that they travel by value, as a method's code could.


def test_the_digits_cannot_be_loaded(actor: Any) -> None:
    """scikit-learn's loader fails in a sealed process, and the driver learns why."""

    def planted() -> int:
        from sklearn.datasets import load_digits

        return len(load_digits().target)

    with pytest.raises(AccessDenied, match=r"sklearn\.datasets in a sealed process"):
        ask(actor, planted)


def test_the_project_s_own_loader_is_refused(actor: Any) -> None:
    """`load_dataset` of this project fails in a sealed process."""

    def planted() -> int:
        from rayunlearn.data.datasets import load_dataset

        return len(load_dataset("digits").labels)

    with pytest.raises(AccessDenied, match=r"rayunlearn\.data.* in a sealed process"):
        ask(actor, planted)


def test_the_bundled_file_cannot_be_opened(actor: Any) -> None:
    """The digits' file itself cannot be opened either, below Python's own folders though it is."""
    import sklearn

    bundled = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    assert bundled.is_file()

    def planted(path: str) -> int:
        import gzip

        with gzip.open(path) as file:
            return len(file.read())

    with pytest.raises(AccessDenied, match=r"open of .*digits\.csv\.gz"):
        ask(actor, planted, str(bundled))


def test_the_storage_cannot_be_opened(actor: Any, storage: Path) -> None:
    """Neither audits nor weights of the storage location can be opened by path, in any of four ways."""

    def by_open(path: str) -> int:
        with open(path, "rb") as file:
            return len(file.read())

    def by_os(path: str) -> int:
        import os

        return os.open(path, os.O_RDONLY)

    def by_numpy(path: str) -> int:
        import numpy

        return len(numpy.fromfile(path, dtype="uint8"))

    def by_torch(path: str) -> int:
        return len(torch.load(path))

    (audit,) = sorted((storage / "ledger" / "audits").iterdir())
    for path in (audit, storage / "models" / "default" / "x.safetensors"):
        for planted in (by_open, by_os, by_numpy, by_torch):
            with pytest.raises(AccessDenied, match=rf"open of .*{path.name}"):
                ask(actor, planted, str(path))


def test_the_ledger_s_reader_is_refused(actor: Any, storage: Path) -> None:
    """A reader of the ledger cannot even be imported, so nothing reads audits through it."""

    def planted(root: str) -> int:
        from rayunlearn.results.ledger import LedgerReader
        from rayunlearn.results.store import Store

        return LedgerReader(Store.open(root, create=False), ["audits"]).read("audits").num_rows

    with pytest.raises(AccessDenied, match=r"rayunlearn\.results.* in a sealed process"):
        ask(actor, planted, str(storage))


def test_no_other_process_can_be_started(actor: Any) -> None:
    """A process that is told to start another, which the seal would not follow, refuses."""

    def planted() -> bytes:
        import subprocess

        return subprocess.check_output(["cat", "/etc/hostname"])

    with pytest.raises(AccessDenied, match="in a sealed process"):
        ask(actor, planted)


def test_what_a_run_computes_works(actor: Any) -> None:
    """Inversion, assessment and stand-ins work in the sealed process and give this process's bits."""
    spec, weights = original()
    labels = balanced_labels(ROLES, per_retain_class=2, per_forget_class=4)
    settings = InversionSettings(iterations=5, min_confidence=0)
    made = ask(actor, invert, spec, weights, labels, settings, 7)
    assert torch.equal(made.images, invert(spec, weights, labels, settings, 7).images)
    assert ask(actor, measure, spec, weights, made, ROLES) == measure(spec, weights, made, ROLES)
    given = (spec, weights, made, made, ROLES, StandInSettings(steps=3), 7)
    assert tuple(ask(actor, probe_stand_in, *given)) == probe_stand_in(*given)


def test_a_refusal_does_not_end_the_process(actor: Any) -> None:
    """After a refused access the same process goes on to compute."""

    def planted() -> int:
        return open("/root/.profile-of-nobody").read().count("x")

    with pytest.raises(AccessDenied):
        ask(actor, planted)
    assert ask(actor, lambda: 7) == 7

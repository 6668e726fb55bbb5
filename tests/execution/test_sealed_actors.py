from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from rayunlearn.errors import AccessDenied, RayUnlearnError
from rayunlearn.evaluation.stand_ins import StandInSettings
from rayunlearn.evaluation.synthetic import balanced_labels
from rayunlearn.execution.sealed import SealedActor
from rayunlearn.execution.train_run import train_run
from rayunlearn.execution.wire import pack, unpack
from rayunlearn.inversion.deep_inversion import InversionSettings
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.roles import Roles
from rayunlearn.storage.store import Store
from rayunlearn.unlearning.work import invert, measure, probe_stand_in
from tests.ledger.ledgers import row_of
from tests.serving.tiny import original

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
        from rayunlearn.ledger.ledger import LedgerReader
        from rayunlearn.storage.store import Store

        return LedgerReader(Store.open(root, create=False), ["audits"]).read("audits").num_rows

    with pytest.raises(AccessDenied, match=r"rayunlearn\.ledger.* in a sealed process"):
        ask(actor, planted, str(storage))


def test_no_other_process_can_be_started(actor: Any) -> None:
    """A process that is told to start another, which the seal would not follow, refuses."""

    def planted() -> bytes:
        import subprocess

        return subprocess.check_output(["cat", "/etc/hostname"])

    with pytest.raises(AccessDenied, match="in a sealed process"):
        ask(actor, planted)


@ray.remote
class Librarian:
    """An actor that is not sealed, under a name."""

    def digits(self) -> int:
        """How many there are."""
        from sklearn.datasets import load_digits

        return len(load_digits().target)


def test_nobody_else_can_be_asked_for_data(actor: Any, cluster: None) -> None:
    """No Ray task is submitted, no actor created, found or called, by whatever way; the control does all."""
    librarian: Any = Librarian.options(name="librarian", namespace="sealed").remote()  # type: ignore[attr-defined]

    def by_task() -> int:
        def load() -> int:
            from sklearn.datasets import load_digits

            return len(load_digits().target)

        return int(ray.get(ray.remote(load).remote()))

    def by_options() -> int:
        return int(ray.get(ray.remote(lambda: 1797).options(num_cpus=0).remote()))

    def by_actor() -> int:
        class Loader:
            def load(self) -> int:
                return 1797

        return int(ray.get(ray.remote(Loader).remote().load.remote()))  # type: ignore[attr-defined]

    def by_name() -> int:
        return int(ray.get(ray.get_actor("librarian", namespace="sealed").digits.remote()))

    def by_handle(handle: Any) -> int:
        return int(ray.get(handle.digits.remote()))

    assert by_task() == by_options() == by_actor() == by_name() == by_handle(librarian) == 1797
    for planted in (by_task, by_options, by_actor, by_name):
        with pytest.raises(AccessDenied, match="Ray (task|actor) in a sealed process"):
            ask(actor, planted)
    with pytest.raises(AccessDenied, match="call of a Ray actor in a sealed process"):
        unpack(ray.get(actor.run.remote(by_handle, librarian)))
    ray.kill(librarian)


def test_nothing_comes_over_the_network(actor: Any, cluster: None) -> None:
    """Neither HTTP nor a bare socket nor a look-up of a name; the control, this process, gets an answer."""
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    port = int(served.server_address[1])

    def by_http(port: int) -> int:
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=9) as answer:
            return int(answer.status)

    def by_socket(port: int) -> int:
        import socket

        with socket.create_connection(("127.0.0.1", port), timeout=9) as open_socket:
            open_socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return 200 if b"200" in open_socket.recv(64) else 0

    def by_datagram(port: int) -> int:
        import socket

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as open_socket:
            return 200 if open_socket.sendto(b"x", ("127.0.0.1", port)) else 0

    def by_listening(port: int) -> int:
        import socket

        with socket.socket() as open_socket:
            open_socket.bind(("127.0.0.1", 0))
            return 200

    def by_name(port: int) -> int:
        import socket

        return 200 if socket.getaddrinfo("localhost", port) else 0

    ways = (by_http, by_socket, by_datagram, by_listening, by_name)
    assert [way(port) for way in ways] == [200] * len(ways)
    for way in ways:
        with pytest.raises(AccessDenied, match=r"socket\.\w+ in a sealed process"):
            ask(actor, way, port)
    served.shutdown()


def test_a_worker_is_sealed_before_it_unpacks(cluster: None, tmp_path: Path) -> None:
    """What a sealed worker is given is unpacked behind the seal; one that is not sealed opens the file."""
    secret = tmp_path / "secret"
    secret.write_text("data")

    class Opening:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.read_text, (secret,)

    for workers in (1, 2):
        def ran(sealed: bool, workers: int = workers) -> Any:
            return train_run(
                "reading", lambda given, shard: given, Opening(), tmp_path / "t", workers=workers,
                cpus_per_worker=0.5, gpus_per_worker=0, threads=1, sealed=sealed,
            )  # fmt: skip

        assert ran(False) == "data"
        with pytest.raises(RayUnlearnError, match="open of .*secret in a sealed process"):
            ran(True)


def test_what_a_run_computes_works(actor: Any) -> None:
    """Inversion, assessment and stand-ins work in the sealed process and give this process's bits."""
    spec, weights = original()
    labels = balanced_labels(ROLES, per_retain_class=2, per_forget_class=4)
    settings = InversionSettings(iterations=5, min_confidence=0)
    made = ask(actor, invert, spec, weights, labels, settings, 7)
    assert torch.equal(made.images, invert(spec, weights, labels, settings, 7).images)
    assert ask(actor, measure, spec, weights, made, ROLES) == measure(spec, weights, made, ROLES)
    given = (spec, weights, made, (made,), ROLES, StandInSettings(steps=3), 7)
    assert tuple(ask(actor, probe_stand_in, *given)) == probe_stand_in(*given)


def test_a_refusal_does_not_end_the_process(actor: Any) -> None:
    """After a refused access the same process goes on to compute."""

    def planted() -> int:
        return open("/root/.profile-of-nobody").read().count("x")

    with pytest.raises(AccessDenied):
        ask(actor, planted)
    assert ask(actor, lambda: 7) == 7

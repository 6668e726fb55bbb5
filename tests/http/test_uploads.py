"""Examples that are uploaded: streamed, checked by what they hold, and safe with their request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from rayunlearn.auditing.training import classifier_spec
from rayunlearn.errors import BadInput
from rayunlearn.http.uploads import reference_of, tensors_id
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.models.weights import version_id
from rayunlearn.serving.examples import handed_over
from rayunlearn.storage.inbox import Inbox
from rayunlearn.storage.store import Store
from tests.http.conftest import Running, start, token_file
from tests.http.test_answers import asks, is_refused, waiting
from tests.ledger.ledgers import row_of
from tests.serving.tiny import tiny_recipe

if TYPE_CHECKING:
    import httpx

SHAPE = (1, 8, 8)


def tensors(n: int = 3, label: int = 3) -> dict[str, np.ndarray]:
    """Examples with one label."""
    images = np.random.default_rng(0).normal(size=(n, *SHAPE)).astype(np.float32)
    return {"images": images, "labels": np.full(n, label), "ids": np.arange(n)}


def test_a_reference_is_that_of_torch() -> None:
    """The same digest by numpy; negative control: of one other bit it is another."""
    found = tensors()
    by_torch = version_id({name: torch.from_numpy(array) for name, array in found.items()})
    assert tensors_id(found) == by_torch
    assert reference_of(save(found), SHAPE, (3,)) == f"sha256:{by_torch}"
    found["images"][0, 0, 0, 0] += 1
    assert tensors_id(found) != by_torch


def changed(**more: Any) -> bytes:
    """The examples with other tensors; None leaves one out."""
    found = {**tensors(), **more}
    return save({name: array for name, array in found.items() if array is not None})


BAD = [
    (b"", "allowed: safetensors bytes"),
    (b"\x80\x04pickled" * 9, "allowed: safetensors bytes"),
    (save(tensors())[:-1], "allowed: safetensors bytes"),
    (changed(ids=None), r"tensors of the examples is \['images', 'labels'\]; allowed: images, labels and"),
    (changed(code=np.zeros(1)), "tensors of the examples is"),
    (changed(images=tensors()["images"].astype(np.float64)), "examples is .*; allowed: finite images"),
    (changed(images=tensors()["images"][:, :, :4]), r"allowed: finite images \[n, 1, 8, 8\] as float32"),
    (changed(images=np.full((3, *SHAPE), np.nan, np.float32)), "allowed: finite images"),
    (changed(labels=np.full(2, 3)), "allowed: finite images"),
    (changed(labels=np.full(3, 3, np.int32)), "allowed: finite images"),
    (save(tensors(0)), "allowed: finite images"),
    (save(tensors(label=4)), r"labels of the examples is \[4\]; allowed: the labels .* \[3\]"),
]


@pytest.mark.parametrize(("data", "said"), BAD)
def test_other_content_is_refused(data: bytes, said: str) -> None:
    """Whatever the bytes are called; negative control: what is right has a reference."""
    with pytest.raises(BadInput, match=said):
        reference_of(data, SHAPE, (3,))
    assert reference_of(save(tensors()), SHAPE, (3,)).startswith("sha256:")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A front door over a location whose default lineage has an original of digits."""
    folder = tmp_path_factory.mktemp("uploads")
    store = Store.open(folder / "storage", sync=False)
    spec = json.dumps(classifier_spec(tiny_recipe("digits").data, "allcnn", 0.125).to_dict())
    published = row_of(
        "versions", lineage="default", event="published", parent=None, run_id=None, request_ids=[], model=spec
    )
    Ledger(store).append("versions", [published])
    running = start(
        folder / "storage", "--tokens", str(token_file(folder)), "--upload-mb", "1", "--rate", "1000"
    )
    yield running
    running.end()


def upload(running: Running, name: str, data: bytes, **more: Any) -> httpx.Response:
    """The answer to a request with examples."""
    body = asks(name, kind="examples", data_access=["weights", "few_examples"], **more)
    with running.client("platform") as platform:
        parts = {"request": (None, json.dumps(body)), "examples": ("../../x.safetensors", data)}
        return platform.post("/v1/requests", files=parts)


def test_examples_are_safe_with_their_request(begun: Running) -> None:
    """The job finds them as it would those of the command; the same again is the same; others are refused."""
    data = save(tensors())
    answer = upload(begun, "e1", data)
    assert answer.status_code == 201, answer.text
    found = Inbox(Store.open(begun.storage, create=False)).find("e1")
    assert found is not None and found.examples == data
    assert answer.json()["examples"] == reference_of(data, SHAPE, (3,))
    examples = handed_over(found, answer.json()["examples"])
    assert torch.equal(examples.images, torch.from_numpy(tensors()["images"]))
    assert upload(begun, "e1", data).status_code == 201
    assert is_refused(upload(begun, "e1", save(tensors(4))), 409, "id_taken", "examples")
    assert not list(begun.storage.parent.rglob("x.safetensors")), "the name of the file says nothing"


def test_uploads_are_refused(begun: Running) -> None:
    """Too many bytes, other content, a lineage without a version, parts that are missing or are too many."""
    assert is_refused(upload(begun, "bad", bytes(2 * 2**20)), 413, "body_size", "allowed: 1048576")
    assert is_refused(upload(begun, "bad", b"\x80code"), 400, "bad_input", "allowed: safetensors bytes")
    other = upload(begun, "bad", save(tensors()), lineage="cats")
    assert is_refused(other, 400, "bad_input", "lineage is 'cats'; allowed: a lineage with a version")
    parts: list[dict[str, Any]] = [
        {"request": (None, "{}")},
        {"examples": ("x", b"x")},
        {"request": ("x", b"{}"), "examples": (None, "x")},
        {"request": (None, "{}"), "examples": ("x", b"x"), "more": ("y", b"y")},
    ]
    with begun.client("platform") as platform:
        for each in parts:
            assert is_refused(platform.post("/v1/requests", files=each), 400, "bad_input", ""), each
        broken = {"Content-Type": "multipart/form-data"}
        assert is_refused(platform.post("/v1/requests", content=b"x", headers=broken), 400, "bad_input", "")
        body = json.dumps(asks("bad"))
        classes = platform.post("/v1/requests", files={"request": (None, body), "examples": ("x", b"x")})
    assert is_refused(classes, 400, "bad_input", "examples is 'uploaded'; allowed: None; kind is 'classes'")
    assert waiting(begun, "bad") is None


def test_the_process_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    """Not even once it has answered; negative control: the command `methods` imports torch."""
    pytest.importorskip("uvicorn", reason="needs the extra http")
    from tests.test_architecture import failed_imports_without_ray

    modules = [f"rayunlearn.http.{name}" for name in ("app", "door", "serving", "uploads", "metrics")]
    modules.append("rayunlearn.cli.http_command")
    assert failed_imports_without_ray(modules, blocked=("ray", "torch", "torchvision")) == {}
    failed = failed_imports_without_ray(["rayunlearn.cli.methods_command"], blocked=("torch",))
    assert "rayunlearn.cli.methods_command" in failed

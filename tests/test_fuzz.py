"""Malformed inputs of every kind end in a clear error: `benchmarks.fuzz` in small numbers, and its judge."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from benchmarks.fuzz import data, requests, stored
from benchmarks.fuzz.__main__ import KINDS, checked
from benchmarks.fuzz.kinds import GOOD, Answer, Ending, Kind, tally
from rayunlearn.errors import BadInput, IntegrityError
from rayunlearn.models.weights import weights_from_bytes, weights_to_bytes

FEW = settings(max_examples=60, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
"""The same cases each time; `benchmarks.fuzz --seed` looks for others."""


@pytest.mark.filterwarnings("ignore:Casting complex", "ignore:Validating sparse")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_every_case_ends_in_a_clear_error_or_is_accepted_rightly(kind: Kind) -> None:
    """No traceback, no wrong acceptance, no error that says nothing."""

    @FEW
    @given(kind.cases)
    def judged(case: Any) -> None:
        ending, text = kind.judge(case)
        assert ending in GOOD, text

    judged()


SEVEN = data.Picture((), data.tile(7), np.full((1, 4, 4), 7))
SHARDS = (
    data.Shard("train.parquet", tuple(range(data.TRAIN)), data.CLASSES),
    data.Shard(
        "test-00000-of-00001-0a1b.parquet",
        tuple(range(data.TRAIN, data.TRAIN + data.TEST)),
        data.CLASSES[::-1],
    ),
)

NOTHING_WRONG = {
    "requests in Python": requests.VALID[0],
    "request lines": "\n".join(json.dumps(valid) for valid in requests.VALID),
    "request files": (requests.FILE, None),
    "inbox files": [("r1.json", json.dumps(requests.inbox_file(requests.VALID[0])).encode())],
    "flags of request add": (["--target", "3", "--id", "r1", "--priority", "5"], "ascii"),
    "settings of recipes": ("digits", ["gkt.epsilon=0.02", "stopping.patience=3"]),
    "search spaces": ("digits_gkt", ["gkt.beta=quniform(0,1,0.25)"]),
    "ledger files": stored.Tampered(1, stored.ledgers()[1].files),
    "claims": ({"claims/000000000002.json": b"{}"}, False),
    "weights files": weights_to_bytes(stored.classifier().state_dict()),
    "marks of a storage": json.dumps(stored.MARK).encode(),
    "names in a storage": ("a/b", "put"),
    "addresses of a storage": ("a/b", True),
    "pages of a reproduction": json.dumps({"results": [stored.RESULT]}),
    "image files": SEVEN,
    "Parquet folders": SHARDS,
    "folders of examples": (("1/a", 0), ("cat/b.png", 1), (".f", None)),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_valid_is_accepted(kind: Kind) -> None:
    """Who refuses everything has no bad case either: what nothing was changed in is accepted."""
    assert kind.judge(NOTHING_WRONG[kind.name]) == (Ending.ACCEPTED, "")


CHANGED = {
    "requests in Python": {**requests.VALID[0], "priority": True},
    "request lines": '{"request_id": "a", "request_id": "a", "target": [1]}',
    "request files": (b"\xef\xbb\xbf\xff" + requests.FILE, None),
    "inbox files": [("r2.json", json.dumps(requests.inbox_file(requests.VALID[0])).encode())],
    "flags of request add": (["--target", "3", "--deadline", "tomorröw 日"], "ascii"),
    "settings of recipes": ("digits", ["model.width=nan"]),
    "search spaces": ("digits_gkt", ["gkt.beta=quniform(0,1e300,1e-300)"]),
    "ledger files": stored.Tampered(
        0, {name: data for name, data in stored.ledgers()[0].files.items() if "plans" not in name}
    ),
    "claims": ({"claims/000000000002.json": b"{}"}, True),
    "weights files": weights_to_bytes(
        {**stored.classifier().state_dict(), "more": stored.classifier().head.bias}
    ),
    "marks of a storage": b'{"format": true}',
    "names in a storage": ("a/../../outside/x", "put"),
    "addresses of a storage": ("s3://key:secret@bucket/a", True),
    "pages of a reproduction": '{"results": ' + "[" * 60_000 + "]" * 60_000 + "}",
    "image files": data.Picture((), SEVEN.content[:-20], SEVEN.seen),
    "Parquet folders": (*SHARDS, data.Shard("training-set.parquet", SHARDS[1].images, data.CLASSES)),
    "folders of examples": (("1/0/a", 0),),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_is_malformed_is_refused(kind: Kind) -> None:
    """One case of each kind that must not pass, whatever hypothesis draws."""
    ending, text = kind.judge(CHANGED[kind.name])
    assert ending == Ending.REFUSED and text


def test_a_full_disk_below_the_console_is_told() -> None:
    """What was asked is done all the same, and refused is what would be refused with room."""
    kind = requests.BY_FLAGS
    assert kind.judge((["--target", "3", "--id", "r1"], requests.FULL)) == (Ending.ACCEPTED, "")
    ending, text = kind.judge((["--priority", "x"], requests.FULL))
    assert ending == Ending.REFUSED and "priority" in text


# the judge is not blind


def as_pillow_does(content: bytes, place: str, name: str) -> np.ndarray:
    """What Pillow makes of an image on its own."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            grid = np.asarray(image.convert("L" if image.mode == "L" else "RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise BadInput("image", "damaged", "a whole one") from error
    return grid.reshape(*grid.shape[:2], -1).transpose(2, 0, 1)


@pytest.mark.parametrize(
    ("kind", "where", "careless"),
    [
        (data.IMAGES, "benchmarks.fuzz.data.decode", as_pillow_does),
        (data.PARQUET, "rayunlearn.data.parquet._numbers", lambda *shard: None),
        (data.PARQUET, "rayunlearn.data.parquet._require_complete", lambda *shards: None),
        (data.PARQUET, "benchmarks.fuzz.data.tell_doubles", lambda *parts: None),
        (
            data.EXAMPLES, "rayunlearn.data.image_folder.files_below",
            lambda folder: folder.glob("*/*.png"),
        ),
    ],
    ids=["pixels", "names", "series", "doubles", "files"],
)  # fmt: skip
def test_a_reader_that_is_careless_is_found(
    kind: Kind, where: str, careless: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that takes images as they come, labels by their numbers, a part of a series, or png files alone."""
    monkeypatch.setattr(where, careless)
    assert tally(kind, 150, 0).endings[Ending.WRONG] > 0


def planted(read: Callable[[int], Answer]) -> Kind:
    """A kind of input whose cases are 0 to 9."""
    return Kind(name="planted", cases=st.integers(0, 9), read=read)


def refuses(error: Exception) -> Callable[[int], Answer]:
    """A reader that refuses everything with an error."""

    def read(case: int) -> Answer:
        raise error

    return read


@pytest.mark.parametrize(
    ("read", "ending"),
    [
        (refuses(BadInput("x", 1, "2")), Ending.REFUSED),
        (refuses(IntegrityError("x was edited")), Ending.REFUSED),
        (lambda case: Answer(), Ending.ACCEPTED),
        (lambda case: Answer(refusals=["f:1: x is 1; allowed: 2"]), Ending.REFUSED),
        (refuses(KeyError("x")), Ending.TRACEBACK),
        (refuses(AssertionError()), Ending.TRACEBACK),
        (lambda case: Answer(refusals=["x is 1; allowed: 2"], wrong=["y"]), Ending.WRONG),
        (refuses(IntegrityError("")), Ending.UNCLEAR),
        (refuses(BadInput("x", 1, "")), Ending.UNCLEAR),
        (refuses(IntegrityError("x" * 5000)), Ending.UNCLEAR),
        (refuses(IntegrityError("\ud800")), Ending.REFUSED),  # says it escaped
        (lambda case: Answer(refusals=["\ud800"]), Ending.UNCLEAR),
    ],
)
def test_the_judge_tells_the_endings_apart(read: Callable[[int], Answer], ending: Ending) -> None:
    """A planted reader's cases are all counted as what it does, and no check holds that should not."""
    found = tally(planted(read), 10, 0)
    assert found.endings == {ending: found.cases} and found.is_good == (ending in GOOD)
    assert bool(found.findings) == (ending not in GOOD)
    checks = checked({"planted": found}, 5)
    names = {
        Ending.TRACEBACK: "no traceback", Ending.WRONG: "no wrong acceptance",
        Ending.UNCLEAR: "every refusal says what is wrong",
    }  # fmt: skip
    assert {e: checks[name] for e, name in names.items()} == {e: e != ending for e in names}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("blocks.0.1.weight", lambda value: value.to(torch.int8)),
        ("blocks.0.1.weight", lambda value: value.to(torch.float8_e4m3fn)),
        ("blocks.1.0.running_var", lambda value: -value),
        ("blocks.1.0.num_batches_tracked", lambda value: value.bool()),
    ],
    ids=["int8", "fp8", "variance", "counter"],
)
def test_the_judge_of_weights_sees_what_a_cast_hides(
    name: str, change: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that casts whatever it is given accepts wrongly; the project's own refuses."""
    state = stored.classifier().state_dict()
    data = weights_to_bytes({**state, name: change(state[name])})
    assert stored.WEIGHTS.judge(data)[0] == Ending.REFUSED
    monkeypatch.setattr(stored, "load_weights_file", lambda path: weights_from_bytes(path.read_bytes()))
    monkeypatch.setattr(stored, "load_into", lambda model, state, where: model.load_state_dict(state))
    assert stored.WEIGHTS.judge(data)[0] == Ending.WRONG


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": ".", "target": [1]},
        {"request_id": "a\n", "target": [1]},
        {"request_id": "a", "target": [True]},
        {"request_id": "a", "target": [1.0]},
        {"request_id": "a", "target": [1, 1]},
        {"request_id": "a", "target": [1], "examples": ""},
        {"request_id": "a", "target": [1], "kind": "examples"},
        {"request_id": "a", "target": [1], "deadline": "2026-01-01T00:00:00"},
    ],
)
def test_the_oracle_of_requests_finds_what_is_none(body: dict[str, Any]) -> None:
    """It is written apart from the code that it judges, and must not be laxer."""
    assert requests.invalid(body)


def test_the_oracle_of_requests_accepts_what_is_one() -> None:
    """Negative control."""
    assert [requests.invalid(valid) for valid in requests.VALID] == [None] * len(requests.VALID)

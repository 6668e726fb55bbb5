"""Requests: in Python, as lines, in files, in the inbox, and by flags."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jsonschema
import torch
from hypothesis import strategies as st
from obstore.store import MemoryStore

from benchmarks.fuzz.kinds import Answer, Kind, scratch, unclear_bad_input
from benchmarks.fuzz.mutations import (
    NASTY,
    OBJECTS,
    TEXTS,
    json_text,
    mangled,
    mangled_mapping,
    mangled_text,
    written,
)
from rayunlearn.__main__ import main
from rayunlearn.cli.console import carry_out
from rayunlearn.errors import ExitCode
from rayunlearn.ledger.ledger import Ledger, LedgerReader
from rayunlearn.ledger.lineage import request_events
from rayunlearn.ledger.status import standings
from rayunlearn.methods.unlearning import Samples
from rayunlearn.models.classifiers import ClassifierSpec
from rayunlearn.models.weights import version_id, weights_to_bytes
from rayunlearn.scheduling.requests import EXAMPLES_PREFIX, Rejected, Request, parse_requests
from rayunlearn.serving.examples import keep_examples, load_examples, referred_to, require_fitting
from rayunlearn.serving.intake import Intake, Row, drain, read_requests, take_in
from rayunlearn.storage.inbox import REQUESTS, Inbox
from rayunlearn.storage.store import Store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
NOON_TEXT = NOON.isoformat()
_NAME = r"^(?!\.{1,2}$)[A-Za-z0-9._-]{1,128}$(?!\n)"
_TIME = {"type": ["string", "null"]}
_NUMBER = {"type": "integer", "minimum": 0, "maximum": 2147483647}
_CLASS_NAME = {
    "type": "string", "maxLength": 200, "pattern": r"\S", "not": {"pattern": "[\x00\ud800-\udfff]"}
}  # fmt: skip
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "anyOf": [  # a sample has no name
        {"properties": {"kind": {"enum": ["classes", "examples"]}}},
        {"properties": {"target": {"items": {"type": "integer"}}}},
    ],
    "required": ["request_id", "target"],
    "properties": {
        "request_id": {"type": "string", "pattern": _NAME},
        "lineage": {"type": "string", "pattern": _NAME},
        "kind": {"enum": ["classes", "samples", "examples"]},
        "target": {
            "type": "array", "minItems": 1, "uniqueItems": True,
            "items": {"anyOf": [_NUMBER, _CLASS_NAME]},
        },
        "received_at": _TIME,
        "deadline": _TIME,
        "data_access": {
            "type": "array", "minItems": 1, "uniqueItems": True,
            "items": {
                "enum": [
                    "few_examples", "forget", "pretrained_generator", "retain", "training_log", "weights",
                ]
            },
        },
        "examples": {"type": ["string", "null"]},
        "whole_classes": {"type": "boolean"},
        "priority": {"type": "integer", "minimum": -1000, "maximum": 1000},
        "method": {"type": ["string", "null"], "pattern": _NAME},
    },
}  # fmt: skip
"""A request, said once more and in another way than the project does."""
_VALIDATOR = jsonschema.Draft4Validator(SCHEMA)

VALID: tuple[dict[str, Any], ...] = (
    {"request_id": "r1", "target": [3]},
    {
        "request_id": "r2", "lineage": "digits", "kind": "samples", "target": [17, 254],
        "data_access": ["weights", "forget", "retain"], "deadline": "2026-01-31T12:00:00Z", "priority": 5,
        "received_at": "2026-01-01T00:00:00+02:00", "method": "fisher", "examples": None,
        "whole_classes": False,
    },
    {
        "request_id": "r3", "kind": "examples", "target": [9], "examples": "nines", "whole_classes": True,
        "data_access": ["weights", "few_examples"], "method": "few_shot",
    },
)  # fmt: skip


def invalid(body: Any) -> str | None:
    """Why a JSON value is no request, by the schema and by what a schema cannot say; None where it is one."""
    error = jsonschema.exceptions.best_match(_VALIDATOR.iter_errors(body))
    if error is not None:
        return str(error.message)[:200]
    examples = body.get("kind", "classes") == "examples"
    said = body.get("examples")
    if examples != (said is not None) or (said is not None and not said.strip()):
        return "examples of this kind of request"
    if said is not None and (any(0xD800 <= ord(c) < 0xE000 for c in said) or "\0" in said):
        return "examples that cannot be a path"
    if body.get("whole_classes") and not examples:
        return "whole classes without examples"
    times = [datetime.fromisoformat(t) if (t := body.get(n)) else None for n in ("received_at", "deadline")]
    if any(t is not None and t.tzinfo is None for t in times):
        return "a time without its offset"
    received_at, deadline = times
    return "deadline before receipt" if received_at and deadline and deadline < received_at else None


def faults(request: Request, body: Any) -> list[str]:
    """Why a request should not have been accepted, or is not what was asked."""
    if why := invalid(body):
        return [why]
    said = request.to_dict()
    for name in ("target", "data_access"):
        in_order = sorted(body.get(name, []), key=lambda thing: (isinstance(thing, str), thing))
        body = {**body, name: in_order} if name in body else body
    for name in ("received_at", "deadline"):
        at = body.get(name)
        body = {**body, name: datetime.fromisoformat(at).astimezone(UTC).isoformat() if at else None}
    return [f"{name} became {said[name]!r}"[:200] for name in body if said[name] != body[name]]


# requests in Python


def _in_python(body: Mapping[str, Any]) -> Answer:
    times = {}
    for name in ("received_at", "deadline"):
        with contextlib.suppress(TypeError, ValueError):
            times[name] = datetime.fromisoformat(body[name]) if name in body else None
    given = {**body, **times}
    request = Request(**{"request_id": "r", "target": [1], **given})
    written = {k: v.isoformat() if isinstance(v, datetime) else v for k, v in request.to_dict().items()}
    (again,) = parse_requests(json.dumps(written), "again")
    late = request.received_at and request.deadline and request.deadline < request.received_at
    same = late or (isinstance(again, Request) and again == request)
    return Answer(wrong=[] if same else [f"it is not read back: {again}"])


IN_PYTHON = Kind(
    name="requests in Python",
    cases=st.sampled_from(VALID).flatmap(lambda valid: mangled_mapping(valid, OBJECTS, keys=False)),
    read=_in_python,
)


# requests as lines of text

LINES = st.sampled_from(VALID).flatmap(mangled_mapping).flatmap(json_text)


def _entries_answer(entries: Sequence[Request | Rejected], lines: Sequence[str]) -> Answer:
    answer = Answer()
    if len(entries) != len(lines):
        answer.wrong.append(f"{len(entries)} entries of {len(lines)} lines")
    ids = [entry.request_id for entry in entries if isinstance(entry, Request)]
    if len(set(ids)) < len(ids):
        answer.wrong.append("an id twice")
    for entry, line in zip(entries, lines, strict=False):
        if isinstance(entry, Rejected):
            answer.refusals.append(entry.reason)
        else:
            pairs: Any = json.loads(line, object_pairs_hook=list)
            keys = [key for key, _ in pairs]
            answer.wrong += ["a field twice"] * (len(set(keys)) < len(keys))
            answer.wrong += faults(entry, json.loads(line))
    answer.wrong += [f"no sentence: {text[:200]}" for text in unclear_bad_input(answer.refusals)]
    return answer


def _said_lines(text: str) -> list[str]:
    return [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()]


AS_LINES = Kind(
    name="request lines",
    cases=st.lists(LINES, min_size=1, max_size=3).map("\n".join),
    read=lambda text: _entries_answer(parse_requests(text, "f"), _said_lines(text)),
)


# files of requests

FILE = "\n".join(json.dumps(valid) for valid in VALID).encode() + b"\n"
_HUGE_LINE = b'{"request_id": "r", "target": [' + b"1, " * 40_000 + b"1]}"
FILES = (
    mangled(FILE)
    | st.lists(LINES, max_size=3).map(lambda ls: "\n".join(ls).encode("utf-8", "surrogatepass"))
    | st.binary(max_size=80)
    | st.just(_HUGE_LINE)
    | st.sampled_from(["utf-16", "utf-32", "utf-8-sig"]).map(lambda code: FILE.decode().encode(code))
)


def _in_file(case: tuple[bytes, str | None]) -> Answer:
    data, name = case
    with scratch() as folder:
        path = folder / "requests.jsonl"
        path.write_bytes(data)
        entries = read_requests(path if name is None else f"{folder}/{name}")
        if name is not None and not Path(f"{folder}/{name}").samefile(path):
            return Answer(wrong=["another file was read"])
        pairs = zip(entries, _said_lines(data.decode()), strict=True)
        # examples are looked for from where the file is
        bare = [
            _relative(entry, folder, line) if isinstance(entry, Request) else entry for entry, line in pairs
        ]
        return _entries_answer(bare, _said_lines(data.decode()))


def _relative(entry: Request, folder: Path, line: str) -> Request:
    said = json.loads(line).get("examples")
    if entry.examples is None or Path(entry.examples) != folder / said:
        return entry
    return Request(**{**{f.name: getattr(entry, f.name) for f in fields(Request)}, "examples": said})


IN_FILES = Kind(
    name="request files",
    cases=st.tuples(FILES, st.none() | st.none() | st.none() | TEXTS.filter(lambda t: ".." not in t)),
    read=_in_file,
)


# files of the inbox


SPEC = ClassifierSpec(
    name="allcnn", width=0.25, in_channels=1, image_size=8, num_classes=10, mean=(0.5,), std=(0.5,)
)
HANDED = {"images": torch.zeros(2, 1, 8, 8), "labels": torch.tensor([9, 9]), "ids": torch.arange(2)}
"""Examples of the label 9."""


def inbox_file(body: Mapping[str, Any], examples: Mapping[str, torch.Tensor] = HANDED) -> dict[str, Any]:
    """What an inbox keeps of a request, with the examples of one that has some."""
    if body.get("kind") != "examples":
        return {"added_at": NOON_TEXT, "request": dict(body), "examples": None}
    with_reference = {**body, "examples": EXAMPLES_PREFIX + version_id(examples)}
    data = base64.b64encode(weights_to_bytes(examples)).decode()
    return {"added_at": NOON_TEXT, "request": with_reference, "examples": data}


@st.composite
def handed(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Examples of which one tensor is of another shape, type or value."""
    name = draw(st.sampled_from(sorted(HANDED)))
    whole = HANDED[name]
    odd = [whole[:1], whole[:0], whole[None], whole.reshape(-1), whole[0, ...], whole + 1, -whole]
    return HANDED | {name: draw(st.sampled_from([*odd, whole.double(), whole.float() / 0, whole.bool()]))}


@st.composite
def inbox_contents(draw: st.DrawFn) -> tuple[str, bytes]:
    """A file of the inbox and its name, changed in its frame, its request or its bytes."""
    valid = draw(st.sampled_from(VALID))
    where = draw(st.sampled_from(["request", "frame", "text", "bytes", "examples"]))
    frame = inbox_file(draw(mangled_mapping(valid)) if where == "request" else valid)
    if where == "examples":
        frame = inbox_file(VALID[2], draw(handed()))
    frame = draw(mangled_mapping(frame)) if where == "frame" else frame
    text = draw(json_text(frame)) if where == "text" else written(frame)
    data = text.encode("utf-8", "surrogatepass")
    data = draw(mangled(data)) if where == "bytes" else data
    name = draw(st.sampled_from([valid["request_id"], valid["request_id"], "r1", "a.b", "-", "x" * 128]))
    return f"{name}.json", data


def taken_in(store: Store) -> Intake:
    """The inbox of a store taken in, for models of ten classes that one method serves."""
    reader = LedgerReader(store)

    def check(entries: Any, received: Any) -> tuple[Intake, list[Row]]:
        return take_in(
            reader, entries, method="gkt", num_classes=10, check_samples=lambda roles, head: None,
            read_examples=lambda request: _examples(store, request),
            config_hash="c0", now=NOON, received=received,
        )  # fmt: skip

    return drain(Inbox(store), reader, Ledger(store), check, now=NOON + timedelta(hours=1))


def _examples(store: Store, request: Request) -> str:
    found = referred_to(store, Inbox(store), request)
    require_fitting(found, SPEC, request.target)
    return keep_examples(store, found)


def _in_inbox(contents: Sequence[tuple[str, bytes]]) -> Answer:
    store = Store(MemoryStore(), "memory")
    Inbox(store).add(Request(request_id="good", target=(1,)), now=NOON)
    for name, data in contents:
        store.put(f"{REQUESTS}/{name}", data)
    before = standings(store)
    intake = taken_in(store)
    answer = Answer(refusals=[bad.reason for bad in intake.rejected])
    if Inbox(store).entries() or Ledger(store).verify() < 1:
        answer.wrong.append("something still waits")
    if "good" not in request_events(LedgerReader(store)):
        answer.wrong.append("the good request was lost")
    if len(standings(store)) != len(before):
        answer.wrong.append("a file has left no record")
    given = {name.removesuffix(".json"): data for name, data in contents}
    for request in intake.pending:
        if request.request_id != "good":
            body = json.loads(given[request.request_id])
            answer.wrong += faults(request, body["request"]) + sorted(body.keys() - inbox_file({}).keys())
            if request.examples is not None:
                answer.wrong += _odd_examples(load_examples(store, request.examples), request.target)
    answer.wrong += [f"no sentence: {text[:200]}" for text in unclear_bad_input(answer.refusals)]
    return answer


def _odd_examples(found: Samples, target: Sequence[int]) -> list[str]:
    labels = found.labels.tolist()
    whole = len(found.images) == len(labels) == len(found.ids) > 0 and set(labels) <= set(target)
    sound = found.images.shape[1:] == (1, 8, 8) and bool((found.images.abs() < 1e30).all())
    return [] if whole and sound else ["examples that no model can be shown"]


IN_INBOX = Kind(
    name="inbox files",
    cases=st.lists(inbox_contents(), min_size=1, max_size=3, unique_by=lambda file: file[0]),
    read=_in_inbox,
)


# flags of `request add`

FULL = "/dev/full"
"""In the place of an encoding: a disk without room."""

FLAGS = (
    ["--target", "3"],
    ["--id", "r1"],
    ["--lineage", "digits"],
    ["--kind", "samples"],
    ["--deadline", "2026-01-31T12:00:00Z"],
    ["--priority", "5"],
    ["--method", "fisher"],
    ["--data-access", "weights", "retain", "forget"],
    ["--examples", "nines"],
    ["--whole-classes"],
    ["--file", "requests.jsonl"],
)


@st.composite
def arguments(draw: st.DrawFn) -> tuple[list[str], str]:
    """Arguments after `request add`: some flags, and in most cases one word that was changed.

    With the encoding of the console, which may lack what is to be shown; or with one whose disk is full.
    """
    flags = draw(st.lists(st.sampled_from(FLAGS), max_size=4))
    words = [word for flag in (draw(st.sampled_from([[], [FLAGS[0]]])) + flags) for word in flag]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(words)))
        new = draw(st.sampled_from(NASTY) | mangled_text(words[at] if at < len(words) else "3"))
        words = words[:at] + [_as_argument(new)] + words[at + draw(st.integers(0, 1)) :]
    encoding = draw(st.sampled_from(["utf-8", "ascii", "latin-1", "cp1252", "koi8-r", "utf-16", FULL]))
    return [word for word in words if not word.startswith("--storage")], encoding


def _as_argument(text: str) -> str:
    """A text as a program is handed it: without NUL, and bytes that are no UTF-8 as Python marks them."""
    return os.fsdecode(text.replace("\0", "").encode("utf-8", "surrogatepass"))


def _by_flags(case: tuple[Sequence[str], str]) -> Answer:
    words, encoding = case
    out: io.TextIOWrapper[Any]
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8" if encoding == FULL else encoding) for _ in range(2))
    if encoding == FULL:
        out = open(FULL, "w")  # noqa: SIM115
    with scratch() as folder, contextlib.chdir(folder):
        (folder / "requests.jsonl").write_bytes(FILE)
        Store.open("s", sync=False)
        argv = ["rayunlearn", "request", "add", *words, "--storage", "s"]
        redirected = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
        with patch.object(sys, "argv", argv), redirected[0], redirected[1]:
            try:
                code = carry_out(main)
            except SystemExit as end:  # the parser's own answer: usage, or help
                code = end.code if isinstance(end.code, int) else 2
        if sorted(os.listdir(folder)) != ["requests.jsonl", "s"]:
            return Answer(wrong=[f"left {sorted(os.listdir(folder))}"])
        waiting = Inbox(Store.open("s", create=False)).entries()
    answer = Answer(wrong=[f"waits: {w.entry.reason}" for w in waiting if isinstance(w.entry, Rejected)])
    streams = [err] if encoding == FULL else [out, err]
    said = re.sub(r"\s+", " ", "".join(_content(stream) for stream in streams))
    if "Traceback" in said:
        answer.wrong.append(said)
    lost = code == ExitCode.OUTPUT_LOST
    if lost and "No space left" not in said:
        answer.wrong.append("lost output, and did not say so")
    if code == 0 or lost:
        asked_for_help = not waiting and ("--help" in said or lost)  # it also names the flag that prints it
        if not waiting and not asked_for_help:
            answer.wrong.append("exit code 0, and nothing was added")
        for w in waiting:
            if isinstance(w.entry, Request):
                answer.wrong += faults(w.entry, w.entry.to_dict()) + _unasked(w.entry, words)
    else:
        answer.refusals.append(said[-2000:])
    return answer


def _content(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def _unasked(request: Request, words: Sequence[str]) -> list[str]:
    """Values of a request that stand nowhere among the words."""
    if any(word.startswith("--file") for word in words):
        return []
    said = " ".join(words)
    names = {*request.data_access, *request.names, request.lineage} - {"default", "weights"}
    wrong = [f"{name} was not asked" for name in names if name not in said]
    numbers = set()
    for word in said.replace("=", " ").split(" "):
        with contextlib.suppress(ValueError):  # whatever Python takes for a whole number, ١٢ for 12
            numbers.add(int(word))
    return wrong + [
        f"{i} was not asked" for i in {*request.target, request.priority} - {0} if i not in numbers
    ]


BY_FLAGS = Kind(name="flags of request add", cases=arguments(), read=_by_flags)

KINDS = (IN_PYTHON, AS_LINES, IN_FILES, IN_INBOX, BY_FLAGS)

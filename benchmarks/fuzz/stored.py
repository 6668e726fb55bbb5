"""What lies in files: ledger, claims, weights, the mark of a storage location; and the names of all of it."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from obstore.store import MemoryStore
from torch import Tensor

from benchmarks.fuzz.kinds import Answer, Kind, scratch
from benchmarks.fuzz.mutations import TEXTS, VALUES, json_text, mangled, mangled_mapping, mangled_text
from papers.stored_page import from_json
from rayunlearn.errors import BadInput, IntegrityError, RayUnlearnError
from rayunlearn.ledger.chain import named_link, read_link
from rayunlearn.ledger.ledger import HEAD, Ledger, LedgerReader, verify
from rayunlearn.ledger.schemas import ALL_TABLES
from rayunlearn.models.classifiers import Classifier, ClassifierSpec, build_classifier
from rayunlearn.models.weights import load_into, load_weights_file, version_id, weights_to_bytes
from rayunlearn.storage import s3
from rayunlearn.storage.lease import Holder, Lease, Pace
from rayunlearn.storage.store import MARKER, NotStored, Store

NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
Files = dict[str, bytes]


def in_memory(files: Mapping[str, bytes]) -> Store:
    """A store in memory that holds these files."""
    store = Store(MemoryStore(), "memory")
    for name, data in files.items():
        store.put(name, data)
    return store


# the ledger


@dataclass(frozen=True)
class Whole:
    """A ledger as it should be.

    Attributes:
        files: of its store.
        head_before: HEAD as it was an entry earlier, where a crash may have left it.
        rows: table -> all rows.
    """

    files: Files
    head_before: bytes
    rows: Mapping[str, list[Any]]

    @property
    def last_link(self) -> str:
        """The link of the last entry."""
        return max(name for name in self.files if named_link(name))

    @property
    def last_entry(self) -> str:
        """The entry that it commits."""
        return read_link(in_memory(self.files), named_link(self.last_link) or 0).entry


@functools.cache
def ledgers() -> tuple[Whole, ...]:
    """A short ledger, and one of which a part is compacted."""
    return _ledger(5), _ledger(12, compact_at=4)


def _ledger(entries: int, **more: Any) -> Whole:
    store, head = in_memory({}), b""
    ledger = Ledger(store, **more)
    for number in range(1, entries + 1):
        head = store.get(HEAD) if number > 1 else b""
        asked = {
            "request_id": f"r{number}", "lineage": "default", "kind": "classes", "target": [number],
            "received_at": NOON, "data_access": ["weights"], "event": "received", "at": NOON,
        }  # fmt: skip
        said = {"event": "wait", "lineage": "default", "request_ids": [f"r{number}"], "why": "w", "at": NOON}
        ledger.append(*(("requests", [asked]) if number % 2 else ("plans", [said, said])))
    return Whole({name: store.get(name) for name in store.list()}, head, _rows(store))


def _rows(store: Store) -> dict[str, list[Any]]:
    reader = LedgerReader(store, ALL_TABLES)
    return {table: reader.read(table).to_pylist() for table in ("requests", "plans")}


@dataclass(frozen=True, repr=False)
class Tampered:
    """A ledger of `ledgers`, by its number, and its files after some changes."""

    which: int
    files: Files

    def __repr__(self) -> str:
        """What differs."""
        was = ledgers()[self.which].files
        new = {n: d[:300] for n, d in self.files.items() if was.get(n) != d}
        return f"Tampered({self.which}, changed={new}, removed={sorted(was.keys() - self.files.keys())})"


@st.composite
def tampered(draw: st.DrawFn) -> Tampered:
    """One of the ledgers after up to three changes."""
    which = draw(st.integers(0, 1))
    whole = ledgers()[which]
    files, names = dict(whole.files), sorted(whole.files)
    for _ in range(draw(st.integers(0, 3))):
        name, other = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        change = draw(
            st.sampled_from(
                ["bytes", "bytes", "bytes", "fields", "remove", "rename", "swap", "copy", "add", "lag"]
            )
        )
        if change == "bytes" and name in files:
            files[name] = draw(mangled(files[name]))
        elif change == "fields" and whole.files[name].startswith(b"{"):
            body = json.loads(whole.files[name])
            files[name] = draw(json_text(draw(mangled_mapping(body)))).encode("utf-8", "surrogatepass")
        elif change == "remove":
            files.pop(name, None)
        elif change == "rename" and name in files:
            files[_other_name(draw, name)] = files.pop(name)
        elif change == "swap" and name in files and other in files:
            files[name], files[other] = files[other], files[name]
        elif change == "copy" and name in files:
            files[other] = files[name]
        elif change == "add":
            files[_other_name(draw, name)] = draw(st.sampled_from([b"", b"{}", whole.files[name]]))
        elif change == "lag":
            files[HEAD] = whole.head_before
    return Tampered(which, files)


def _other_name(draw: st.DrawFn, name: str) -> str:
    """A name near another one that a store allows."""
    number = f"{draw(st.integers(0, 14)):012d}"
    folder, _, last = name.rpartition("/")
    return draw(
        st.sampled_from(
            [
                f"{folder}/{number}.{last.rpartition('.')[2]}",
                f"ledger/runs/{number}.parquet",
                f"{name}.tmp",
                f"{name}x",
            ]
        )
    )


def _ledger_read(case: Tampered) -> Answer:
    whole, files, answer = ledgers()[case.which], case.files, Answer()
    changed = {name for name, data in whole.files.items() if files.get(name) != data}
    by_a_crash = _left_by_a_crash(whole, files)
    try:
        verify(in_memory(files))
        answer.wrong += [f"{n} was changed, and the ledger verifies" for n in sorted(changed - by_a_crash)]
        answer.wrong += ["what is read is not what was appended"] * (
            _rows(in_memory(files)) != whole.rows and whole.last_link not in by_a_crash
        )
    except IntegrityError as error:
        answer.refusals.append(str(error))
    for table, rows in whole.rows.items():
        try:
            read = LedgerReader(in_memory(files), ALL_TABLES).read(table).to_pylist()
        except RayUnlearnError as error:
            answer.refusals.append(str(error))
        else:  # a reader does not look at what it does not read, so some may be missing
            left = iter(rows)
            answer.wrong += [f"{table} has rows that nobody appended"] * (
                not all(row in left for row in read)
            )
    store = in_memory(files)
    try:
        tail = Ledger(store).append("plans", [])
    except RayUnlearnError as error:
        answer.refusals.append(str(error))
    else:
        answer.wrong += ["opening it lost entries"] * (
            tail < len(whole.rows["requests"]) + len(whole.rows["plans"]) // 2 and not changed
        )
    return answer


def _left_by_a_crash(whole: Whole, files: Files) -> set[str]:
    """What a crash in the last append would have left, too: HEAD behind, no link, no whole entry."""
    if files.get(HEAD) != whole.head_before:
        return set()
    return {HEAD} if whole.last_link in files else {HEAD, whole.last_link, whole.last_entry}


LEDGER = Kind(name="ledger files", cases=tampered(), read=_ledger_read)


# claims

HOLDER = {"host": "elsewhere", "pid": 7, "since": "noon", "system": None, "began": None}


@st.composite
def claims(draw: st.DrawFn) -> tuple[Files, bool]:
    """Files of claims, and whether somebody renews the highest of them."""
    files = {}
    for _ in range(draw(st.integers(0, 2))):
        token = draw(st.integers(0, 3) | st.sampled_from([10**12 - 1, 10**12, 10**15 - 1]))
        holder = draw(st.just({**HOLDER}) | mangled_mapping(HOLDER))
        data = draw(json_text(holder)).encode("utf-8", "surrogatepass")
        files[f"claims/{token:012d}.json"] = draw(mangled(data, most=1))
        beat = draw(mangled_mapping({"renewals": 1, "released": False}, VALUES))
        files[f"claims/{token:012d}.heartbeat.json"] = draw(
            mangled(draw(json_text(beat)).encode("utf-8", "surrogatepass"), most=1)
        )
    for name in draw(st.lists(st.sampled_from(["x", "1.json", "0.heartbeat.json", "-1.json"]), max_size=2)):
        files[f"claims/{name}"] = draw(st.binary(max_size=9))
    return files, draw(st.booleans())


def _claimed(case: tuple[Files, bool]) -> Answer:
    files, alive = case
    store = in_memory(files)
    beats = itertools.count()
    highest = max((int(n[7:].partition(".")[0]) for n in files if _is_claim(n)), default=0)

    def sleep(_: float) -> None:
        if alive and highest:
            store.put(f"claims/{highest:012d}.heartbeat.json", b"%d" % next(beats))

    pace = Pace(clock=lambda: 0.0, sleep=sleep)
    here = Holder(host="here", pid=1, since="now", system=None, began=None)
    released = files.get(f"claims/{highest:012d}.heartbeat.json") == b'{"renewals": null, "released": true}'
    lease = Lease.take(store, pace=pace, holder=here)
    lease.check()
    lease.release()
    wrong = ["a live holder was replaced"] * (alive and highest > 0 and not released)
    return Answer(wrong=wrong + ["its token is not the highest"] * (lease.token <= highest))


def _is_claim(name: str) -> bool:
    number = name.removeprefix("claims/").partition(".")[0]
    return number.isdigit() and 12 <= len(number) <= 15 and name.endswith(".json")


CLAIMS = Kind(name="claims", cases=claims(), read=_claimed)


# weights


@functools.cache
def classifier() -> Classifier:
    """What the weights are for; small."""
    spec = ClassifierSpec(
        name="lenet5_bn", width=0.25, in_channels=1, image_size=32, num_classes=3, mean=(0.5,), std=(0.5,)
    )
    return build_classifier(spec, 0)


WEIGHTS_AS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
TYPES = (
    *sorted(WEIGHTS_AS, key=str), torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8,
    torch.int64, torch.uint16, torch.uint64, torch.bool, torch.complex64,
)  # fmt: skip
"""Of tensors in a file; what no weights are stored as but codes are."""


@st.composite
def weights(draw: st.DrawFn) -> bytes:
    """A file of weights: names, shapes, types or values changed, or its bytes."""
    state = dict(classifier().state_dict())
    for name in draw(st.lists(st.sampled_from(sorted(state)), max_size=2, unique=True)):
        change = draw(
            st.sampled_from(["value", "value", "shape", "name", "drop", "add", "type", "type", "layout"])
        )
        if change == "value":
            value = draw(st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e30, -1e-30]))
            state[name] = state[name].clone()
            if state[name].is_floating_point() and state[name].numel():
                state[name].reshape(-1)[draw(st.integers(0, state[name].numel() - 1))] = value
        elif change == "shape":
            state[name] = draw(
                st.sampled_from([state[name][None], state[name].reshape(-1)[:1], torch.zeros(0)])
            )
        elif change == "name":
            state[draw(mangled_text(name))] = state.pop(name)
        elif change == "drop":
            del state[name]
        elif change == "add":
            state[draw(TEXTS)] = torch.ones(1)
        elif change == "type":
            kind = draw(st.sampled_from(TYPES))
            large = kind == torch.float64 and draw(st.booleans())
            state[name] = state[name].to(kind) * 1e300 if large else state[name].to(kind)
        else:
            state[name] = draw(st.sampled_from([state[name].to_sparse(), state[name].to("meta")]))
    data = _written(state, as_pickle=draw(st.integers(0, 3)) == 0)
    return draw(mangled(data)) if draw(st.booleans()) else data


def _written(state: Mapping[str, Tensor], *, as_pickle: bool) -> bytes:
    if not as_pickle:
        with contextlib.suppress(UnicodeEncodeError, BadInput, NotImplementedError):  # what it does not write
            return weights_to_bytes(state)
    sink = io.BytesIO()
    torch.save(dict(state), sink)
    return sink.getvalue()


def _fits(given: torch.dtype, own: torch.dtype) -> bool:
    """Whether a cast from a file's type to the model's keeps what the numbers mean."""
    if own.is_floating_point:
        return given in WEIGHTS_AS
    return not given.is_floating_point and not given.is_complex and given != torch.bool


def _weights_read(data: bytes) -> Answer:
    with scratch() as folder:
        path = folder / "weights"
        path.write_bytes(data)
        state = load_weights_file(path)
        own = classifier().state_dict()
        model = build_classifier(classifier().spec, 0)
        load_into(model, state, str(path))
    got = model.state_dict()
    wrong = [f"{name} is not finite" for name, value in got.items() if not bool(torch.isfinite(value).all())]
    wrong += [f"{name} was not in the model" for name in state.keys() ^ own.keys()]
    wrong += [
        f"{name} was {value.dtype}"
        for name, value in state.items()
        if name in own and not _fits(value.dtype, own[name].dtype)
    ]
    wrong += [
        f"{name} is below 0"
        for name, value in got.items()
        if name.rpartition(".")[2] in ("running_var", "num_batches_tracked") and bool((value < 0).any())
    ]
    if not wrong and len(version_id(got)) != 64:
        wrong.append("no id")
    return Answer(wrong=wrong)


WEIGHTS = Kind(name="weights files", cases=weights(), read=_weights_read)


# the mark of a storage location

MARK = {"format": 1, "written_by": "rayunlearn"}


def _marked(data: bytes) -> Answer:
    with scratch() as folder:
        (folder / MARKER).write_bytes(data)
        Store.open(folder, create=False)
    body = json.loads(data)
    good = isinstance(body, dict) and type(body.get("format")) is int and body["format"] == 1
    return Answer(wrong=[] if good else ["no mark of format 1"])


MARKS = Kind(
    name="marks of a storage",
    cases=mangled_mapping(MARK)
    .flatmap(json_text)
    .map(lambda t: t.encode("utf-8", "surrogatepass"))
    .flatmap(lambda data: st.just(data) | mangled(data)),
    read=_marked,
)


# names and addresses

NAMES = ("a", "a/b", "models/default/0.safetensors", "runs/run-r1-a1-5a1/state.json", "link/x", "file")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def _named(case: tuple[str, str]) -> Answer:
    name, call = case
    with scratch() as folder:
        (folder / "outside").mkdir()
        (folder / "outside" / "x").write_bytes(b"theirs")
        store = Store.open(folder / "root", sync=False)
        os.symlink(folder / "outside", folder / "root" / "link")
        os.symlink(folder / "outside" / "x", folder / "root" / "file")
        before = _tree(folder / "outside")
        try:
            if call == "get":
                with contextlib.suppress(NotStored):
                    return Answer(wrong=[f"read {store.get(name)!r}"])
            elif call in ("put", "create"):
                getattr(store, call)(name, b"ours")
                if store.get(name) != b"ours" or not (folder / "root" / name).is_file():
                    return Answer(wrong=["it is not where it should be"])
            else:
                getattr(store, call)(name)
        finally:
            after = _tree(folder / "outside")
            left = sorted(os.listdir(folder))
        if after != before or left != ["outside", "root"]:
            return Answer(wrong=["something outside was changed"])
    listed = name.removesuffix("/") if call == "list" else name  # a slash at the end asks for a folder
    plain = all(
        part not in ("", ".", "..") and len(part) <= 200 and part.isascii() for part in listed.split("/")
    )
    fine = (plain and name.isprintable() and name != MARKER) or (call == "list" and not listed)
    return Answer(wrong=[] if fine else ["no plain name"])


STORE_NAMES = Kind(
    name="names in a storage",
    cases=st.tuples(
        TEXTS
        | st.sampled_from(NAMES)
        | st.sampled_from(NAMES).flatmap(mangled_text)
        | st.sampled_from(
            ["x/" * 3000 + "x", "/".join(["y" * 200] * 30), "z" * 201, "../root/a", "a/../../outside/x"]
        ),
        st.sampled_from(["put", "create", "get", "delete", "exists", "list", "local_path", "address"]),
    ),
    read=_named,
)

ADDRESSES = (
    "s3://bucket/prefix",
    "s3://a-b.c/team/a",
    "s3://bucket",
    "s3://key:secret@bucket/a",
    "gs://x",
    "s3:/b",
)


def _opened(case: tuple[str, bool]) -> Answer:
    text, create = case
    if s3.is_address(text):
        bucket, prefix = s3.parse_address(text)
        again = s3.parse_address(f"s3://{bucket}/{prefix}")
        plain = "@" not in text and ".." not in prefix.split("/") and text.startswith(f"s3://{bucket}")
        return Answer(
            wrong=[] if plain and again == (bucket, prefix) else [f"bucket {bucket!r}, prefix {prefix!r}"]
        )
    if os.path.isabs(text) or ".." in text:
        create = False
    with scratch() as folder, contextlib.chdir(folder):
        (folder / "file").write_bytes(b"")
        store = Store.open(text, create=create, sync=False)
        inside = store.local_path(MARKER).resolve().is_relative_to(folder)
    return Answer(wrong=[] if inside else ["it lies elsewhere"])


STORES = Kind(
    name="addresses of a storage",
    cases=st.tuples(
        TEXTS
        | st.sampled_from(ADDRESSES).flatmap(mangled_text)
        | st.sampled_from(
            ["a", "a/b", "file", "file/x", "a" * 300, "b/" * 3000, "ä ö", "s3://b/" + "c/" * 600]
        ),
        st.booleans(),
    ),
    read=_opened,
)


# pages of a reproduction

RESULT = {"row": "a", "key": "k", "seed": 0, "figures": {"columns": ["value"], "rows": [[0.5]]}}


def _page(text: str) -> Answer:
    found, said = from_json(text, "page.json"), json.loads(text)["results"]
    typed = all(type(r["key"]) is str and type(r["seed"]) is int for r in said)
    return Answer(wrong=[] if typed and len(found) == len(said) else ["results that cannot be found again"])


PAGES = Kind(
    name="pages of a reproduction",
    cases=mangled_mapping(RESULT).flatmap(json_text).map(lambda result: f'{{"results": [{result}]}}'),
    read=_page,
)

KINDS = (LEDGER, CLAIMS, WEIGHTS, MARKS, STORE_NAMES, STORES, PAGES)

"""A log with two certificates, and every way in which `benchmarks.front_door` tampers with them."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

from obstore.store import MemoryStore

from rayunlearn.errors import NotVerified
from rayunlearn.evidence.canonical import entry_bytes, row_digest, written_row
from rayunlearn.evidence.envelope import Envelope
from rayunlearn.evidence.history import KeyHistory, hand_over
from rayunlearn.evidence.keys import COSIGNS, SigningKey
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.statement import Evidence, ShownEntry, Statement, subjects_of
from rayunlearn.evidence.tree import Tree, leaf_hash
from rayunlearn.evidence.verification import Given, verify
from rayunlearn.evidence.weights_digest import weights_digest
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.ledger.transparency import log_of
from rayunlearn.reports.certificate import certificate, to_html, to_json
from rayunlearn.storage.store import Store

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MADE_AT = NOON + timedelta(days=1)
ORIGIN = "erasure.example.org/ledger"
Rows = list[tuple[str, dict[str, Any]]]


def model_file(value: float) -> bytes:
    """A safetensors file with one tensor of four numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<4f", *[value] * 4)


MODELS = [model_file(float(number)) for number in range(3)]
IDS = [weights_digest(BytesIO(data))[1] for data in MODELS]


def story() -> Rows:
    """Rows of two served requests, one after another, and a purge."""
    rows: Rows = [("versions", _version(0))]
    for number in (1, 2):
        name, run_id = f"r{number}", f"run-{number}"
        at = NOON + timedelta(hours=number)
        request = {
            "request_id": name, "lineage": "default", "kind": "classes", "target": [number],
            "received_at": at, "deadline": at + timedelta(days=30), "data_access": ["weights"],
            "whole_classes": False, "at": at,
        }  # fmt: skip
        run = {
            "run_id": run_id, "lineage": "default", "request_ids": [name], "method": "gkt",
            "placement": "split", "parent_version": IDS[number - 1], "config": '{"method":"gkt","cycles":80}',
            "config_hash": "c0ffee", "seed": 2**60 + number, "attempt": 1, "code": "0.1.0+0123", "at": at,
        }  # fmt: skip
        measured = {
            "run_id": run_id, "lineage": "default", "version": IDS[number], "dataset": "synthetic",
            "dataset_hash": IDS[number - 1], "split": "check", "classes": [0, 3], "parameters": "{}",
            "value": 0.96875, "sum": 62.0, "count": 64, "seed": 1, "censored": False, "at": at,
        }  # fmt: skip
        audited = measured | {"dataset": "digits", "split": "test", "measure": "accuracy", "value": 0.984375}
        rows += [
            ("requests", request | {"event": "received"}),
            ("requests", request | {"event": "planned", "run_id": run_id}),
            ("runs", run | {"event": "started"}),
            ("runs", run | {"event": "phase", "phase": "unlearn", "seconds": 12.5}),
            ("evaluations", measured | {"measure": "retain_accuracy", "subject": "unlearned"}),
            ("versions", _version(number)),
            ("runs", run | {"event": "published", "version": IDS[number]}),
            ("requests", request | {"event": "served", "run_id": run_id, "at": at + timedelta(minutes=1)}),
            ("audits", audited | {"subject": "unlearned", "sum": 63.0}),
            ("audits", audited | {"subject": "gold", "value": 1.0, "sum": 64.0}),
        ]
    return [*rows, ("versions", _version(0) | {"event": "purged", "at": NOON + timedelta(hours=3)})]


def _version(number: int) -> dict[str, Any]:
    at = NOON + timedelta(hours=number)
    return {
        "version": IDS[number], "parent": IDS[number - 1] if number else None, "lineage": "default",
        "path": f"models/default/{IDS[number]}.safetensors", "request_ids": [f"r{number}"] if number else [],
        "run_id": f"run-{number}" if number else None, "classes_forgotten": list(range(1, number + 1)),
        "samples_forgotten": [], "model": "{}", "event": "published", "created_at": at, "at": at,
    }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Made:
    """A log and the certificates of its requests, each with its files."""

    tree: Tree
    note: Note
    evidence: Mapping[str, Evidence]
    files: Mapping[str, Mapping[str, bytes]]


def made(key: SigningKey, entries: int, rows: Rows | None = None, earlier: tuple[int, ...] = ()) -> Made:
    """Certificates of r1 and r2 in a log of so many entries.

    Their own entries are spread over the log; all others are one row of `checkpoints` each. The leaves are
    what the ledger's entries would be; the ledger itself, with its files, is not written.

    Args:
        key: that signs.
        entries: of the log, at least as many as there are rows.
        rows: of the two requests; `story()` by default.
        earlier: sizes from which the certificates have consistency proofs.
    """
    rows = story() if rows is None else rows
    store = Store(MemoryStore(), "memory")
    ledger = Ledger(store)
    for table, row in rows:
        ledger.append(table, [row])
    own = log_of(store, keep=range(1, len(rows) + 1)).kept
    places = {seq: 1 + (seq - 1) * (entries - 1) // max(len(rows) - 1, 1) for seq in own}
    at = {place: seq for seq, place in places.items()}
    tree = Tree(_leaf(place, own, at) for place in range(1, entries + 1))
    note = Note(text=Checkpoint(origin=ORIGIN, size=entries, root=tree.root()).text).signed(key)
    evidence, files = {}, {}
    for name in ("r1", "r2"):
        told = certificate(store, name, made_at=MADE_AT, methods={}, sealed={"split"})
        numbers = [entry["number"] for entry in told["ledger"]["entries"]]
        for entry in told["ledger"]["entries"]:
            entry["number"] = places[entry["number"]]
        stem = f"certificate-{name}"
        files[name] = {f"{stem}.html": to_html(told).encode(), f"{stem}.json": to_json(told).encode()}
        kept = {f"models/default/{IDS[n]}.safetensors": hashlib.sha256(MODELS[n]).hexdigest() for n in (1, 2)}
        subjects, roles = subjects_of(told, files[name], kept)
        shown = [ShownEntry.of(places[n], own[n].table, own[n].rows, told, tree) for n in numbers]
        statement = Statement(
            certificate=told, subjects=subjects, roles=roles, checkpoint=note, entries=tuple(shown),
            earlier={size: tuple(tree.consistency(size)) for size in earlier},
        )  # fmt: skip
        evidence[name] = Evidence(envelope=statement.signed(key))
    return Made(tree=tree, note=note, evidence=evidence, files=files)


def _leaf(place: int, own: Mapping[int, Any], at: Mapping[int, int]) -> bytes:
    if place in at:
        entry = own[at[place]]
        return leaf_hash(entry_bytes(place, entry.table, entry.digests))
    row = written_row({"run_id": "run-1", "step": place, "retain_correct": 60, "retain_count": 64})
    return leaf_hash(entry_bytes(place, "checkpoints", [row_digest(row)]))


@dataclass(frozen=True, kw_only=True)
class Tampering:
    """Something that is not as it should be, and what an auditor holds who is shown it."""

    name: str
    data: bytes
    given: Given

    def found(self) -> str | None:
        """The kind under which it is found; None where it passes for true."""
        try:
            for _ in verify(self.data, self.given):
                pass
        except NotVerified as error:
            return error.kind
        return None


def tamperings(key: SigningKey, entries: int) -> Iterator[Tampering]:
    """Every tampering, each with all else as it should be.

    Args:
        key: the log's; its holder is among those who tamper.
        entries: of the logs that are made; small, since many are.
    """
    log = made(key, entries, earlier=(entries // 2,))
    old = Note(text=Checkpoint(origin=ORIGIN, size=entries // 2, root=log.tree.root(entries // 2)).text)
    given = Given(keys=KeyHistory(keys=((key.verifier, None),)), earlier=old.signed(key))
    for name, evidence in log.evidence.items():
        held = replace(given, files=log.files[name])
        yield from _controls(name, evidence, held)
        yield from _by_others(name, evidence, log, held)
        yield from _by_the_operator(name, evidence, held, key)
        yield from _keys(name, evidence, held, key)
        yield from _models(name, evidence, given)
    yield from _logs(log, given, key, entries)


CONTROL = "control: nothing is changed in"


def _controls(name: str, evidence: Evidence, held: Given) -> Iterator[Tampering]:
    """What is as it should be: with the files and without, with models, with a witness."""
    witness, number = SigningKey.new("witness.example.org", COSIGNS), int(name[1:])
    note = Statement.from_payload(evidence.envelope.payload).checkpoint.cosigned(witness, 1)
    models = {"before": BytesIO(MODELS[number - 1]), "after": BytesIO(MODELS[number])}
    data, cosigned = evidence.to_json(), replace(evidence, checkpoint=note).to_json()
    yield Tampering(name=f"{CONTROL} {name}", data=data, given=held)
    yield Tampering(name=f"{CONTROL} {name} alone", data=data, given=replace(held, files={}))
    yield Tampering(name=f"{CONTROL} {name}, models", data=data, given=replace(held, models=models))
    cosigned_held = replace(held, witnesses=[witness.verifier])
    yield Tampering(name=f"{CONTROL} {name}, witness", data=cosigned, given=cosigned_held)


def _by_others(name: str, evidence: Evidence, log: Made, held: Given) -> Iterator[Tampering]:
    """By someone who has no key: in the payload, the files, or one certificate for the other."""
    payload, data = evidence.envelope.payload, evidence.to_json()
    for number in range(20):
        at = number * len(payload) // 20
        flipped = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :]
        changed = replace(evidence, envelope=replace(evidence.envelope, payload=flipped))
        yield Tampering(name=f"{name}: bit of the payload at {at}", data=changed.to_json(), given=held)
    for share in (0, 1, 50, 99):
        part = data[: len(data) * share // 100]
        yield Tampering(name=f"{name}: {share} % of the file", data=part, given=held)
    other = "r2" if name == "r1" else "r1"
    yield Tampering(name=f"{name}: the other's evidence", data=log.evidence[other].to_json(), given=held)
    for file, content in held.files.items():
        swapped = log.files[other][file.replace(name, other)]
        for what, bad in (("appended to", content + b" "), ("cut off", content[:-1]), ("swapped", swapped)):
            files = {**held.files, file: bad}
            yield Tampering(name=f"{file}: {what}", data=data, given=replace(held, files=files))


def _restated(evidence: Evidence, key: SigningKey, change: Callable[[Any], Any]) -> bytes:
    body = json.loads(evidence.envelope.payload)
    change(body)
    envelope = Envelope.signed(evidence.envelope.payload_type, json.dumps(body).encode(), [key])
    return replace(evidence, envelope=envelope).to_json()


_CLAIMS = (
    ("status",), ("reason",), ("request", "id"), ("request", "lineage"), ("request", "kind"),
    ("request", "target"), ("request", "whole_classes"), ("request", "examples"), ("request", "data_access"),
    ("request", "received_at"), ("request", "deadline"), ("request", "closed_at"), ("run", "run_id"),
    ("run", "method"), ("run", "config_hash"), ("run", "config"), ("run", "code_version"), ("run", "seeds"),
    ("attempts",), ("versions", "before"), ("versions", "after"), ("purged", "versions"),
    ("measures", "synthetic"), ("measures", "real"),
)  # fmt: skip
"""What a certificate says that its rows say, too."""


def _by_the_operator(name: str, evidence: Evidence, held: Given, key: SigningKey) -> Iterator[Tampering]:
    """By who has the key: claims beside the log, and entries beside the tree. The files are not given."""
    alone = replace(held, files={})

    def signed(what: str, change: Callable[[Any], Any]) -> Tampering:
        return Tampering(name=f"{name}: {what}", data=_restated(evidence, key, change), given=alone)

    body = json.loads(evidence.envelope.payload)
    for path in _CLAIMS:
        value = body["predicate"]["certificate"]
        for step in path:
            value = value[step]
        for place, changed in _changed(value):
            told = ".".join((*path, *place))
            yield signed(f"claim {told}", _set(("predicate", "certificate", *path), changed))
    for number, entry in enumerate(body["predicate"]["log"]["entries"]):
        at: tuple[str | int, ...] = ("predicate", "log", "entries", number)
        zeros = base64.b64encode(bytes(32)).decode()
        yield signed(f"number of entry {number}", _set((*at, "seq"), entry["seq"] + 1))
        yield signed(f"table of entry {number}", _set((*at, "table"), "plans"))
        yield signed(f"proof of entry {number}", _set((*at, "proof"), [zeros, *entry["proof"][1:]]))
        yield signed(f"proof of entry {number} cut off", _set((*at, "proof"), entry["proof"][:-1]))
        yield signed(f"digest in entry {number}", _set((*at, "rows"), ["0" * 64]))
        row = entry["shown"]["0"] | {"lineage": "another"}
        yield signed(f"row of entry {number}", _set((*at, "shown"), {"0": row}))
        others = [e for e in body["predicate"]["log"]["entries"] if e != entry]
        yield signed(f"entry {number} left out", _set(at[:-1], others))
    for number, subject in enumerate(body["subject"]):
        if subject["annotations"]["role"] != "certificate":
            changed = {"rayunlearnWeightsV1": "0" * 64}
            yield signed(f"subject {number}", _set(("subject", number, "digest"), changed))


def _changed(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """A value with one thing in it changed, for a few of the things in it."""
    if isinstance(value, dict):
        for key in value:
            if key in ("version", "path", "published_at", "request_ids", "classes_forgotten", "purged_at",
                       "value", "sum", "count", "run", "cycles", "outcome", "version_before", "seed",
                       "figures", "unlearned", "gold"):  # fmt: skip
                for inner, changed in _changed(value[key], (key,)):
                    yield (*place, *inner), {**value, key: changed}
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        for inner, changed in _changed(value[0], ("0",)):
            yield (*place, *inner), [changed, *value[1:]]
    elif isinstance(value, bool):
        yield place, not value
    elif isinstance(value, int | float):
        yield place, value + 1
    elif isinstance(value, str) and "T" in value and value[:2] == "20":
        yield place, (datetime.fromisoformat(value) + timedelta(seconds=1)).isoformat()
    elif isinstance(value, str):
        yield place, value + "x"
    elif isinstance(value, list):
        yield place, [*value, *value[:1]] if value else ["x"]
    elif place or value is None:
        yield place, "2026-01-01T00:00:00+00:00"


def _set(path: tuple[str | int, ...], value: Any) -> Callable[[Any], Any]:
    def change(body: Any) -> None:
        for step in path[:-1]:
            body = body[step]
        body[path[-1]] = value

    return change


def _keys(name: str, evidence: Evidence, held: Given, key: SigningKey) -> Iterator[Tampering]:
    """Other keys, keys that were handed over, and checkpoints that are not the log's."""
    other, third = SigningKey.new(ORIGIN), SigningKey.new(ORIGIN)
    renamed, witness = SigningKey.new("another.example.org"), SigningKey.new("witness.example.org", COSIGNS)
    data, text = evidence.to_json(), Statement.from_payload(evidence.envelope.payload).checkpoint.text

    def keys(*which: SigningKey) -> KeyHistory:
        return KeyHistory(keys=tuple((each.verifier, None) for each in which))

    def nothing(body: Any) -> None:
        """The same statement."""

    late, early = hand_over(key, other, MADE_AT - timedelta(days=1)), hand_over(key, other, MADE_AT)
    forged = Envelope.signed(early.payload_type, early.payload, [third, other])
    half = Envelope.signed(early.payload_type, early.payload, [key])
    cosigned = Note(text=text).cosigned(witness, 1)
    moved = replace(cosigned, text=text.replace(ORIGIN, ORIGIN + "x"))
    for what, changed, auditor in (
        ("pinned: another key", data, replace(held, keys=keys(other))),
        ("pinned: another name", data, replace(held, keys=keys(renamed))),
        ("signed by another key", _restated(evidence, other, nothing), held),
        ("signed after the hand-over", data, replace(held, keys=keys(key).extended(late))),
        ("signed before it took over", _restated(evidence, other, nothing),
         replace(held, keys=keys(key).extended(hand_over(key, other, MADE_AT + timedelta(days=1))))),
        ("hand-over forged", replace(evidence, rotations=(forged,)).to_json(), held),
        ("hand-over signed by one key", replace(evidence, rotations=(half,)).to_json(), held),
        ("handed over twice", replace(evidence, rotations=(hand_over(key, third, MADE_AT),)).to_json(),
         replace(held, keys=keys(key).extended(hand_over(key, other, MADE_AT + timedelta(days=1))))),
        ("no cosignature", data, replace(held, witnesses=[witness.verifier])),
        ("cosignature of another text", replace(evidence, checkpoint=moved).to_json(),
         replace(held, witnesses=[witness.verifier])),
        ("cosignature of another key", replace(evidence, checkpoint=cosigned).to_json(),
         replace(held, witnesses=[SigningKey.new("witness.example.org", COSIGNS).verifier])),
        ("no stamp", data, replace(held, authority=b"")),
    ):  # fmt: skip
        yield Tampering(name=f"{name}: {what}", data=changed, given=auditor)
    for what, note in (
        ("not signed by the log", Note(text=text).signed(other)),
        ("of another log", Note(text=text.replace(ORIGIN, "another.example.org")).signed(key)),
        ("with another root", Note(text=text.replace(text.split("\n")[2], "A" * 43 + "=")).signed(key)),
        ("with another size", Note(text=text.replace(text.split("\n")[1], "7", 1)).signed(key)),
        ("no checkpoint", Note(text="nothing\n").signed(key)),
    ):
        change = _set(("predicate", "log", "checkpoint"), str(note))
        signed = _restated(evidence, key, change)
        yield Tampering(name=f"{name}: checkpoint {what}", data=signed, given=replace(held, files={}))


def _models(name: str, evidence: Evidence, given: Given) -> Iterator[Tampering]:
    """Model files that are not what the certificate names."""
    number = int(name[1:])
    right = {"before": MODELS[number - 1], "after": MODELS[number]}
    data = evidence.to_json()
    for when, file in right.items():
        wrong = right["after" if when == "before" else "before"]
        for what, bad in (
            ("another version", wrong), ("a bit", file[:-1] + bytes([file[-1] ^ 1])), ("cut off", file[:-1]),
            ("appended to", file + b"\0" * 4), ("renamed tensor", file.replace(b'"w"', b'"v"')),
            ("none", b""),
        ):  # fmt: skip
            held = replace(given, models={when: BytesIO(bad)})
            yield Tampering(name=f"{name}: model {when}, {what}", data=data, given=held)


def _logs(log: Made, given: Given, key: SigningKey, entries: int) -> Iterator[Tampering]:
    """Logs that were written anew, forked or cut off, each signed by the right key and whole by itself."""
    held = replace(given, earlier=log.note)
    for number, (table, row) in enumerate(story()):
        column = next(c for c in ("phase", "reason", "run_id", "model", "lineage") if c in row)
        rows = story()
        rows[number] = table, row | {column: '{"a":1}' if column == "model" else "rewritten"}
        try:
            forged = made(key, entries, rows, earlier=(entries // 2,)).evidence["r1"]
        except (KeyError, TypeError, AssertionError, ValueError):
            continue  # no certificate can be made of such a ledger
        yield Tampering(name=f"log: {table} of entry {number} rewritten", data=forged.to_json(), given=held)
    for size in range(entries // 2, entries, max(entries // 16, 1)):
        data = made(key, size).evidence["r1"].to_json()
        yield Tampering(name=f"log: cut off at {size}", data=data, given=held)
        longer = made(key, 2 * entries - size + 1).evidence["r1"].to_json()
        yield Tampering(name=f"log: forked, {2 * entries - size + 1} entries", data=longer, given=held)
        proof = log.tree.consistency(size)
        data = log.evidence["r1"].to_json()
        wrong = replace(given, proof=[*proof, bytes(32)])
        yield Tampering(name=f"log: another proof, from {size}", data=data, given=wrong)

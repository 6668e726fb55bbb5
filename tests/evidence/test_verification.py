"""A certificate is verified from its file and a key alone; each kind of lie is found and named."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from importlib import resources
from io import BytesIO
from typing import Any

import jsonschema
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from rayunlearn.errors import BadInput, NotVerified
from rayunlearn.evidence.envelope import Envelope
from rayunlearn.evidence.history import KeyHistory, hand_over
from rayunlearn.evidence.notes import Checkpoint, Note
from rayunlearn.evidence.statement import PREDICATE, STATEMENT, Evidence, Statement
from rayunlearn.evidence.verification import KINDS
from rayunlearn.ledger.ledger import Ledger
from rayunlearn.ledger.transparency import log_of
from rayunlearn.reports.attested import checkpoint_now, keep_rotation
from tests.evidence.bundles import (
    KEY,
    MADE_AT,
    NEXT,
    OTHER,
    PINNED,
    given,
    made,
    restated,
    served,
    shown,
    told,
)
from tests.ledger.ledgers import row_of
from tests.reports.demo_ledger import REQUEST_IDS, demo_store
from tests.reports.two_requests import BYTES, IDS, story

SCHEMA = "erasure-certificate-v1.schema.json"


def refused(evidence: Evidence | bytes, kind: str, **held: Any) -> str:
    """The sentence with which a certificate is refused, which must be of this kind."""
    with pytest.raises(NotVerified) as caught:
        shown(evidence, given(**held))
    assert caught.value.kind == kind, str(caught.value)
    return str(caught.value)


def statement_of(evidence: Evidence) -> Statement:
    """What was signed."""
    return Statement.from_payload(evidence.envelope.payload)


@pytest.mark.parametrize(("request_id", "entries"), [("r0", 11), ("r1", 12)])
def test_a_true_certificate_is_shown_true(request_id: str, entries: int) -> None:
    """Signature, files, checkpoint, entries and claims; every entry that the certificate names is shown."""
    evidence, files = served(request_id)
    lines = shown(evidence, given(files))
    assert lines[0] == f"signature of {KEY.verifier.name}, key id {KEY.verifier.id}"
    assert [line.split(":")[0] for line in lines[1:3]] == [f"file {name}" for name in files]
    assert lines[3].startswith("checkpoint of log.example.org/ledger: 19 entries, root ")
    assert lines[4].startswith(f"{entries} entries that the certificate rests on are in the log")
    assert lines[5].endswith(f"are those of {entries} rows of these entries")


def test_certificates_of_a_whole_job_are_shown_true() -> None:
    """Of a ledger with audits, refusals and rejected lines, whatever became of the request."""
    store = demo_store()
    for request_id in REQUEST_IDS:
        evidence, files = made(store, request_id)
        assert len(shown(evidence, given(files))) == 6, request_id


def test_the_statement_is_in_toto_and_signed_as_dsse() -> None:
    """Types, subjects and signature, read and checked without this package (the DSSE example among them)."""
    evidence, files = served("r1")
    body = json.loads(evidence.to_json())["envelope"]
    payload = base64.b64decode(body["payload"])
    kind = body["payloadType"]
    assert kind == "application/vnd.in-toto+json"
    message = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    (signature,) = body["signatures"]
    public = Ed25519PublicKey.from_public_bytes(KEY.verifier.public)
    public.verify(base64.b64decode(signature["sig"]), message)
    statement = json.loads(payload)
    assert (statement["_type"], statement["predicateType"]) == (STATEMENT, PREDICATE)
    digests = {s["annotations"]["role"]: s["digest"] for s in statement["subject"]}
    assert digests["version before"] == {"rayunlearnWeightsV1": IDS[1]}, "purged: its file is gone"
    assert digests["version after"]["rayunlearnWeightsV1"] == IDS[2]
    assert len(digests["version after"]["sha256"]) == 64
    assert {s["name"] for s in statement["subject"]} >= set(files)


def test_the_predicate_is_what_its_schema_says() -> None:
    """Of a served and of a pending request; without a key, or with another one, it is not."""
    schema = json.loads(resources.files("rayunlearn.evidence").joinpath(SCHEMA).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = jsonschema.Draft202012Validator(schema).is_valid
    pending, _ = made(told(story()[:3]))
    for evidence in (served()[0], served("r1")[0], pending):
        predicate = json.loads(evidence.envelope.payload)["predicate"]
        assert schema["$id"] == PREDICATE and valid(predicate)
        assert not valid({"log": predicate["log"]}) and not valid(predicate | {"more": 1})
        assert not valid(predicate | {"log": predicate["log"] | {"checkpoint": "x"}})
    assert shown(pending, given())


def test_no_row_of_another_request_is_shown() -> None:
    """An entry with rows of two requests gives the row of its own and a digest of the other's."""
    rows = story()
    evidence, _ = served()
    rows_shown = [row for e in statement_of(evidence).entries for row in e.rows.values()]
    assert "r1" not in {row.get("request_id") for row in rows_shown}
    store = told(rows[:1])
    ledger = Ledger(store)
    ledger.append("requests", [rows[1][1], rows[1][1] | {"request_id": "somebody"}])
    for table, row in rows[2:9]:
        ledger.append(table, [row])
    evidence, files = made(store, "r0")
    assert b"somebody" not in evidence.envelope.payload
    entry = next(e for e in statement_of(evidence).entries if e.seq == 2)
    assert len(entry.digests) == 2 and list(entry.rows) == [0]
    assert shown(evidence, given(files))


# Somebody without the key changes what was signed.

NOBODYS = ((KEY.verifier.id, b""),)


def signed_by_another(evidence: Evidence) -> Evidence:
    """The same statement in another's envelope."""
    return restated(evidence, lambda body: None, OTHER)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("signature", lambda e: replace(e, envelope=replace(e.envelope, payload=e.envelope.payload + b" "))),
        ("signature", signed_by_another),
        ("signature", lambda e: replace(e, envelope=replace(e.envelope, signatures=NOBODYS))),
        ("format", lambda e: replace(e, envelope=replace(e.envelope, payload_type="application/json"))),
        ("checkpoint", lambda e: replace(e, checkpoint=Note(text="x\n1\n" + "A" * 43 + "=\n").signed(KEY))),
    ],
)
def test_what_was_signed_cannot_be_changed(kind: str, change: Callable[[Evidence], Evidence]) -> None:
    """Payload, type, key and checkpoint; negative control: unchanged it is true."""
    evidence, files = served()
    assert shown(evidence, given(files))
    refused(change(evidence), kind, files=files)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[]", b'{"format": 2}', b'{"format": 1, "format": 1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_evidence_is_named_so(data: bytes) -> None:
    """Nothing, other JSON, a later format, a key twice."""
    refused(data, "format")


def test_the_files_are_those_that_were_signed() -> None:
    """A byte in the page, another request's page under its name, and a file that nobody signed."""
    evidence, files = served()
    _, others = served("r1")
    page = "certificate-r0.html"
    assert "another SHA-256" in refused(evidence, "file", files={page: files[page] + b" "})
    assert "another SHA-256" in refused(evidence, "file", files={page: others["certificate-r1.html"]})
    assert "not among" in refused(evidence, "file", files=others)


# The operator, who has the key, signs what is not true.


def set_in(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change to one place of a statement, such as `predicate.certificate.status`."""

    def change(body: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = body
        for step in way:
            place = place[int(step) if isinstance(place, list) else step]
        place[int(last) if isinstance(place, list) else last] = value

    return change


C = "predicate.certificate."


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (C + "status", "failed"),
        (C + "request.id", "r1"),
        (C + "request.target", [1]),
        (C + "request.lineage", "another"),
        (C + "request.received_at", "2025-06-01T11:00:00+00:00"),
        (C + "request.closed_at", "2025-06-01T12:00:59+00:00"),
        (C + "request.deadline", None),
        (C + "reason", "none"),
        (C + "run.method", "retrain"),
        (C + "run.config_hash", "beef"),
        (C + "run.config", {}),
        (C + "run.seeds.run", "7"),
        (C + "run.run_id", "run-1"),
        (C + "attempts", []),
        (C + "attempts.0.outcome", "failed"),
        (C + "attempts.0.version_before", "0" * 64),
        (C + "versions.after.version", "0" * 64),
        (C + "versions.after.path", "models/default/other.safetensors"),
        (C + "versions.after.classes_forgotten", [0, 1]),
        (C + "versions.before", None),
        (C + "purged.versions.0.purged_at", None),
        (C + "measures.synthetic.0.value", 0.75),
        (C + "measures.synthetic.0.count", 9),
        (C + "measures.synthetic", []),
        ("subject.2.digest.rayunlearnWeightsV1", "0" * 64),
    ],
)
def test_a_certificate_that_contradicts_its_own_rows_is_found(path: str, value: Any) -> None:
    """Whatever it says of request, run, versions, purges and figures; signed by the right key."""
    evidence, _ = served()
    refused(restated(evidence, set_in(path, value)), "claims")
    assert shown(restated(evidence, lambda body: None), given())


@pytest.mark.parametrize(
    "change",
    [
        set_in("predicate.log.entries.3.seq", 5),
        set_in("predicate.log.entries.3.table", "plans"),
        set_in("predicate.log.entries.3.proof.0", base64.b64encode(bytes(32)).decode()),
        set_in("predicate.log.entries.3.proof", []),
        set_in("predicate.log.entries.3.rows.0", "0" * 64),
        set_in("predicate.log.entries.3.shown.0.lineage", "another"),
        lambda body: body["predicate"]["log"]["entries"].pop(3),
        lambda body: body["predicate"]["log"]["entries"][3]["shown"].update({"1": {}}),
        lambda body: body["predicate"]["certificate"]["ledger"]["entries"].pop(3),
    ],
)
def test_an_entry_that_is_not_in_the_log_is_found(change: Callable[[dict[str, Any]], Any]) -> None:
    """Number, table, proof, digest and row of an entry, and one more or less than the certificate names."""
    refused(restated(served()[0], change), "inclusion")


def test_another_ledgers_rows_do_not_pass() -> None:
    """A ledger written anew for the auditor has rows and proofs that fit each other, and another root."""
    forged = story()
    forged[8][1]["reason"] = "forged"
    evidence, _ = served()
    mine = statement_of(made(told(forged))[0])

    def swap(body: dict[str, Any]) -> None:
        body["predicate"]["log"]["entries"] = [entry.to_json() for entry in mine.entries]

    refused(restated(evidence, swap), "inclusion")
    held = given(earlier=statement_of(evidence).checkpoint)
    with pytest.raises(NotVerified, match="consistency.*rewritten or forked"):
        shown(made(told(forged))[0], held)


def test_the_checkpoint_is_the_logs() -> None:
    """Unsigned, signed by another key, or of another log."""
    evidence, _ = served()
    note = statement_of(evidence).checkpoint
    place = "predicate.log.checkpoint"
    refused(restated(evidence, set_in(place, str(Note(text=note.text).signed(OTHER)))), "checkpoint")
    other = Checkpoint.of(note)
    renamed = Note(text=replace(other, origin="another.example.org").text).signed(KEY)
    refused(restated(evidence, set_in(place, str(renamed))), "checkpoint")
    resized = Note(text=replace(other, size=18).text).signed(KEY)
    refused(restated(evidence, set_in(place, str(resized))), "inclusion")


# The log between two checkpoints.


def test_a_log_that_only_grew_is_consistent() -> None:
    """With an earlier checkpoint on record, the same one, and a later one by a proof of `log prove`."""
    store = told(story()[:9])
    first, _ = checkpoint_now(store, KEY, log_of(store).tree)
    for table, row in story()[9:]:
        Ledger(store).append(table, [row])
    evidence, _ = made(store)
    assert any("begins with" in line for line in shown(evidence, given(earlier=first)))
    assert shown(evidence, given(earlier=statement_of(evidence).checkpoint))
    Ledger(store).append("plans", [row_of("plans")])
    tree = log_of(store).tree
    later, _ = checkpoint_now(store, KEY, tree)
    assert "log prove --first 19 --second 20" in refused(evidence, "consistency", earlier=later)
    held = given(earlier=later, proof=tree.consistency(19))
    assert any("is the beginning of" in line for line in shown(evidence, held))
    refused(evidence, "consistency", earlier=later, proof=tree.consistency(18))
    refused(evidence, "consistency", earlier=Note(text=first.text).signed(OTHER))


# Keys that were handed over.


def test_a_key_hands_over_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pinned the old key takes the new one's certificates by the hand-over that they carry."""
    store = told()
    old, files = made(store)
    envelope = hand_over(KEY, NEXT, MADE_AT + timedelta(days=1))
    keep_rotation(store, envelope)
    with pytest.raises(BadInput, match="to which it was handed over"):
        made(store)
    after = MADE_AT + timedelta(days=2)
    new, newer_files = made(store, key=NEXT, made_at=after)
    assert "handed over to" in shown(new, given(newer_files))[0]
    both = PINNED.extended(envelope)
    assert shown(old, given(files, keys=both)), "made while the old key was in force"
    assert shown(new, given(newer_files, keys=KeyHistory(keys=((NEXT.verifier, None),))))
    refused(replace(new, rotations=()), "signature", files=newer_files)


def test_a_key_that_is_not_in_force_is_refused() -> None:
    """Signed by the old key after the hand-over, or by the new one before; a hand-over to two keys."""
    envelope = hand_over(KEY, NEXT, MADE_AT - timedelta(days=1))
    both = PINNED.extended(envelope)
    evidence, _ = served()
    assert "was handed over at" in refused(evidence, "key", keys=both)
    early = hand_over(KEY, NEXT, MADE_AT + timedelta(days=1))
    assert "was taken over at" in refused(
        restated(evidence, lambda body: None, NEXT), "key", keys=PINNED.extended(early)
    )
    fork = replace(evidence, rotations=(hand_over(KEY, OTHER, MADE_AT + timedelta(days=2)),))
    assert "as pinned" in refused(fork, "key", keys=PINNED.extended(early))
    forged = Envelope.signed(envelope.payload_type, envelope.payload, [OTHER, NEXT])
    refused(replace(evidence, rotations=(forged,)), "key")


# Whatever is signed, the answer is one sentence.

ODD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just("9" * 30),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=300, deadline=None)
@given_by(value=ODD, data=st.data())
def test_odd_statements_end_in_a_sentence(value: Any, data: st.DataObject) -> None:
    """Any part of a statement of another value or type: shown, or `NotVerified`; no other error."""
    evidence, _ = served()

    def change(body: Any) -> None:
        place: Any = body
        while True:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.integers(0, 9)) == 0:
                place[key] = value
                return
            place = inner

    changed, kind = restated(evidence, change), None
    try:
        lines = shown(changed, given())
    except NotVerified as error:
        lines, kind = [], error.kind
    assert lines or kind in KINDS


@pytest.mark.parametrize(
    ("path", "value", "kind"),
    [
        ("ledger.entries", ["9"], "format"),
        ("ledger.entries", [{"number": 0}], "format"),
        ("ledger.entries", [{"number": 0, "table": "runs"}, {"number": "1", "table": "runs"}], "format"),
        ("ledger.entries", [], "inclusion"),
        ("versions", {"after": 3}, "claims"),
    ],
)
def test_what_a_certificate_names_may_be_of_any_kind(path: str, value: Any, kind: str) -> None:
    """Text for an entry, an entry without its table, numbers that cannot be sorted, none, no version."""
    refused(restated(served()[0], set_in(C + path, value)), kind)


def test_what_is_nested_too_deeply_ends_in_a_sentence() -> None:
    """A row, and a claim, of a thousand lists in each other."""
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    for path in ("predicate.log.entries.3.shown.0.lineage", C + "request.target", C + "versions"):
        with pytest.raises(NotVerified):
            shown(restated(served()[0], set_in(path, deep)), given())


# The weights.


def test_a_model_file_is_the_version_that_is_named() -> None:
    """By its tensors, in whatever file; another version, a cut off file and a missing version are refused."""
    evidence, files = served("r1")
    lines = shown(evidence, given(files, models={"after": BytesIO(BYTES[2]), "before": BytesIO(BYTES[1])}))
    assert lines[-1].endswith("byte for byte") and lines[-2].endswith("in another file")
    refused(evidence, "model", models={"after": BytesIO(BYTES[1])})
    refused(evidence, "model", models={"after": BytesIO(BYTES[2][:-1])})
    refused(restated(evidence, _without_versions), "claims")


def test_figures_of_an_audit_cannot_be_left_out() -> None:
    """Of rows on real data that are shown every one is told, but for what was left out and checkpoints'."""
    measured = {"run_id": "run-0", "lineage": "default", "version": IDS[1], "split": "test", "classes": [1]}
    audits = [
        row_of("audits", **measured, measure="accuracy", subject="unlearned", value=0.5),
        row_of("audits", **measured, measure="accuracy", subject="gold_1", value=0.75),
        row_of("audits", **measured, measure="relearn", subject="unlearned", parameters='{"left_out": "no"}'),
        row_of("audits", **measured, measure="accuracy", subject="checkpoint"),
    ]
    store = told()
    Ledger(store).append("audits", audits)
    evidence, files = made(store, "r0")
    assert shown(evidence, given(files))
    refused(restated(evidence, set_in(C + "measures.real", [])), "claims")
    body = json.loads(evidence.envelope.payload)["predicate"]["certificate"]
    assert sorted(body["measures"]["real"][0]["figures"]) == ["gold_1", "unlearned"]

    def without_gold(body: Any) -> None:
        del body["predicate"]["certificate"]["measures"]["real"][0]["figures"]["gold_1"]

    refused(restated(evidence, without_gold), "claims")


def _without_versions(body: dict[str, Any]) -> None:
    body["predicate"]["certificate"]["versions"] = {"before": None, "after": None}


def test_every_subject_is_told_apart_from_what_was_not_given() -> None:
    """What the auditor did not bring is said to be not shown, and not passed over."""
    from rayunlearn.evidence.verification import verify

    evidence, files = served()
    told_off = [said for is_shown, said in verify(evidence.to_json(), given()) if not is_shown]
    assert sum("not given" in said for said in told_off) == 2 + 2
    assert sum("was given" in said for said in told_off) == 3, "checkpoint, witness, authority"
    again = copy.deepcopy(evidence)
    assert [s for ok, s in verify(again.to_json(), given(files)) if not ok and s.startswith("file")] == []
